"""Overrides from the environment: nothing of them is lost or changed."""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from entrypoints._composition import compose_config
from entrypoints._pipeline import environment_overrides, split_overrides
from ml_project_template.errors import ConfigError
from ml_project_template.sweeps.space import quoted

InProcess = Callable[..., tuple[int, str, str]]

NASTY = [
    "two words",
    "a,b",
    "[1,2]",
    "{a:1}",
    "(x)",
    "$HOME",
    "$(id)",
    "$$(id)",
    "$$",
    "`id`",
    "it's",
    'say "hi"',
    "'\"'\"",
    "back\\slash",
    "ends with \\",
    "\\'",
    "a=b=c",
    "key=value",
    "#no comment",
    "a;b|c&d>e<f",
    "*?~!",
    "-m",
    "--config-name=x",
    "null",
    "true",
    "1e3",
    "",
    " ",
    "tab\there",
    "line\nbreak",
    "ümlaut ✓ 漢字",
    "a:b@c/d%20",
    "{{workflow.name}}",
    "\\${not.resolved}",
    "{'json': [\"x\", null]}",
]
STAGES = ["onboard", "preprocess", "evaluate", "sweeps"]


@pytest.fixture(autouse=True)
def _no_hydra_left() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def _composed(
    monkeypatch: pytest.MonkeyPatch, stage: str, text: str, *arguments: str
) -> DictConfig:
    monkeypatch.setenv("PIPELINE_OVERRIDES", text)
    return compose_config(stage, [*environment_overrides(stage, arguments), *arguments])


def _as_text(*words: str) -> str:
    """Write words as a user does on the command line of `argo submit`."""
    return " ".join(shlex.quote(word) for word in words)


def _texts() -> list[str]:
    """Texts that shells and parsers stumble over, and some drawn at random."""
    draw = random.Random(1)
    drawn = ["".join(draw.choices("ab '\"\\$()[]{},=;|&#\n\t*é", k=k % 9 + 1)) for k in range(200)]
    return [*NASTY, *(text for text in drawn if "${" not in text)]


@pytest.mark.parametrize("stage", ["train", "onboard"])
def test_a_value_reaches_a_stage_unchanged(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {f"k{number}": text for number, text in enumerate(_texts())}
    words = [f"+data.read_options.{key}={quoted(text)}" for key, text in values.items()]
    cfg = _composed(monkeypatch, stage, _as_text("data=wine", *words))
    found = {key: cfg.data.read_options[key] for key in values}
    assert found == {key: text.replace("\\${", "${") for key, text in values.items()}
    assert cfg.data.name == "wine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model=gb data=wine seed=3", ["model=gb", "data=wine", "seed=3"]),
        ("  a=1\n\tb=2  ", ["a=1", "b=2"]),
        ("a='x y' b=\"x y\" c=x\\ y", ["a=x y", "b=x y", "c=x y"]),
        ("a=$HOME b=* c=~ d=`id` e=#f", ["a=$HOME", "b=*", "c=~", "d=`id`", "e=#f"]),
        ("model.layer_dims=[null,8,null]", ["model.layer_dims=[null,8,null]"]),
        ("", []),
        (" \n ", []),
    ],
    ids=["words", "blanks", "quotes", "nothing expands", "brackets", "empty", "blank"],
)
def test_a_text_is_split_as_a_shell_would_and_not_expanded(
    text: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE_OVERRIDES", text)
    assert split_overrides("STAGE_OVERRIDES") == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model=gb 'run_name=x", "PIPELINE_OVERRIDES: a quote is not closed: 'run_name=..."),
        ('model=gb token="abcd', "PIPELINE_OVERRIDES: a quote is not closed: token=..."),
        ("seed=1\\", "PIPELINE_OVERRIDES: a backslash has nothing after it: seed=..."),
        ("model=gb -m", "PIPELINE_OVERRIDES: '-m' is an option; only overrides"),
        ("--config-dir=/x", "PIPELINE_OVERRIDES: '--config-dir=/x' is an option"),
    ],
    ids=["single", "double", "backslash", "short option", "long option"],
)
def test_a_text_that_is_none_is_told_without_its_values(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_OVERRIDES", text)
    with pytest.raises(ConfigError) as told:
        split_overrides("PIPELINE_OVERRIDES")
    assert str(told.value).startswith(message)
    assert "abcd" not in str(told.value)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_in_common_with_a_training_what_it_has(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _as_text(
        *("model=gb", "data=wine", "storage=minio", "preprocessing=none", "seed=3"),
        *("data.test_size=0.3", "~data.drop_columns", "model.max_iter=5", "sweep=gb"),
        *("+storage.options.region='a b'", "+tracking.tags.workflow=w1", "training.patience=4"),
    )
    cfg = _composed(monkeypatch, stage, text)
    trained = compose_config("train", split_overrides("PIPELINE_OVERRIDES"))
    groups = {"data", "storage", "preprocessing", "tracking"} & set(cfg)
    assert "storage" in groups
    for group in groups:
        assert OmegaConf.to_container(cfg[group]) == OmegaConf.to_container(trained[group])


def test_what_a_preset_sets_reaches_the_stages_that_have_no_presets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /data: wine\n  - override /preprocessing: none\n"
        "data:\n  test_size: 0.35\n  drop_columns: [a, b]\n"
    )
    text = f"hydra.searchpath=[file://{tmp_path}] experiment=mine data.val_size=0.1"
    cfg = _composed(monkeypatch, "preprocess", text)
    assert (cfg.data.name, cfg.data.test_size, cfg.data.val_size) == ("wine", 0.35, 0.1)
    assert cfg.data.drop_columns == ["a", "b"]
    assert cfg.preprocessing.impute is None


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "data=wine seed=3 +data.read_options.skiprows=1"
    cfg = _composed(monkeypatch, "train", text, "seed=4", "+data.read_options.skiprows=2")
    assert (cfg.data.name, cfg.seed, cfg.data.read_options.skiprows) == ("wine", 4, 2)
    assert _composed(monkeypatch, "evaluate", text, "data=digits").data.name == "digits"


def test_a_stage_has_overrides_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE_OVERRIDES", "split=val data=digits 'output=\"a b\"'")
    cfg = _composed(monkeypatch, "evaluate", "data=wine model=gb", "split=all")
    assert (cfg.data.name, cfg.split, cfg.output) == ("digits", "all", "a b")


def test_what_a_sweep_tries_is_no_matter_for_other_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "data=wine model=mlp,gb seed=1,2 training.lr=interval(0.1,0.2)"
    assert _composed(monkeypatch, "onboard", text).data.name == "wine"
    monkeypatch.setenv("PIPELINE_OVERRIDES", text)
    assert environment_overrides("train", ["-m"]) == text.split()
    monkeypatch.setenv("PIPELINE_OVERRIDES", "data=wine,iris")
    with pytest.raises(ConfigError, match=r"data=wine,iris: this stage runs once"):
        environment_overrides("onboard", [])


def test_a_name_that_no_override_can_have_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_OVERRIDES", "'+tracking.tags={a.b: 1}'")
    with pytest.raises(ConfigError, match=r"tracking.tags: the name 'a.b' can't be given"):
        environment_overrides("sweeps", [])


def test_without_the_variable_nothing_is_added() -> None:
    assert environment_overrides("train", []) == []
    assert environment_overrides("evaluate", []) == []


def test_a_typo_is_told_by_every_stage(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_OVERRIDES", "data=wein seed=x=y")
    status, _, err = in_process("onboard")
    assert status == 1
    assert "error: PIPELINE_OVERRIDES: Unknown data 'wein'. Did you mean 'wine'?" in err
    status, _, err = in_process("check")
    assert status == 1
    assert "error: Unknown data 'wein'. Did you mean 'wine'?" in err
    monkeypatch.setenv("PIPELINE_OVERRIDES", "model=gb 'x")
    status, _, err = in_process("check")
    assert (status, err) == (1, "error: PIPELINE_OVERRIDES: a quote is not closed: 'x=...\n")


def test_a_stage_does_what_the_variable_says(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch, workspace: Any
) -> None:
    monkeypatch.setenv("PIPELINE_OVERRIDES", "model=gb data=wine")
    status, _, err = in_process("onboard")
    assert (status, err) == (0, "")
    assert (workspace / ".data" / "raw" / "wine.csv").is_file()
