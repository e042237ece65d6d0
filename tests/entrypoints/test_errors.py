"""What a user sees who gets something wrong: one line, in seconds, and nothing half-written."""

from __future__ import annotations

import importlib.metadata
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrypoints import _shell
from entrypoints._composition import composition_problems
from entrypoints._shell import explain
from ml_project_template.errors import ArtifactError
from tests.conftest import CommandLine

CONF = Path(__file__).resolve().parents[2] / "conf"

IRIS_LIKE = "length,width,species\n" + "\n".join(
    f"{row % 7}.5,{row % 5}.25,{'ab'[row % 2]}" for row in range(40)
)

Table = Callable[[str], None]

# What is typed, the table in my.csv, and what has to be in the only line.
MISTAKES = {
    "a model": (["model=mpl"], "", ["Unknown model 'mpl'", "Did you mean 'mlp'?", "gb, "]),
    "a key": (["training.lrr=1"], "", ["training.lrr: unknown key", "'lr'"]),
    "a group": (["modle=gb"], "", ["modle: unknown key", "'model'"]),
    "no setting": (["hello"], "", ["'hello' is no setting", "key=value"]),
    "a type": (["training.lr=abc"], "", ["training.lr: must be a number", "'abc'"]),
    "a bound": (["training.lr=-1"], "", ["training.lr: must be greater than 0"]),
    "a choice": (["model.activation=relo"], "", ["model.activation", "relu", "'relo'"]),
    "a seed": (["seed=x"], "", ["seed: must be a whole number", "'x'"]),
    "what to keep": (["save_model=bst"], "", ["save_model", "best", "final"]),
    "a fraction": (["data.test_size=1.5"], "", ["data.test_size", "1.5"]),
    "a missing file": (
        ["data=csv", "data.path=no.csv", "data.target_column=y"],
        "",
        ["data.path:", "no.csv"],
    ),
    "no file": (["data=csv", "data.target_column=y"], "", ["data.path: is required"]),
    "no target": (["data=csv", "data.path=my.csv"], IRIS_LIKE, ["data.target_column: is required"]),
    "the target": (
        ["data=csv", "data.path=my.csv", "data.target_column=specis"],
        IRIS_LIKE,
        ["specis", "Did you mean 'species'?"],
    ),
    "text": (
        ["data=csv", "data.path=my.csv", "data.target_column=species"],
        IRIS_LIKE.replace("6.5", "six", 1),
        ["'length'", "row 7", "'six'", "drop_columns=[length]"],
    ),
    "an empty file": (["data=csv", "data.path=my.csv", "data.target_column=y"], "", ["my.csv"]),
    "a header alone": (
        ["data=csv", "data.path=my.csv", "data.target_column=y"],
        "a,y\n",
        ["my.csv", "no rows"],
    ),
    "one class": (
        ["data=csv", "data.path=my.csv", "data.target_column=species"],
        IRIS_LIKE.replace("b\n", "a\n").removesuffix("b") + "a",
        ["one class", "'a'"],
    ),
    "an untrusted target": (
        ["model._target_=os.system", "+model.command=touch hacked"],
        "",
        ["os.system", "trusted"],
    ),
    "a nested target": (["+model.x._target_=os.getcwd"], "", ["model.x._target_"]),
    "a target of another kind": (
        ["model._target_=ml_project_template.data.Preprocessor"],
        "",
        ["Preprocessor", "BaseModel"],
    ),
    "a name in a module": (
        ["model._target_=ml_project_template.models.MLPClasifier"],
        "",
        ["model._target_", "Did you mean 'MLPClassifier'?"],
    ),
    "a module": (
        ["model._target_=ml_project_template.modls.MLPClassifier"],
        "",
        ["model._target_", "'ml_project_template.modls'"],
    ),
    "settings that don't go together": (
        ["model=gb", "model.booster=exact", "model.l2_regularization=1"],
        "",
        ["model.l2_regularization", "histogram"],
    ),
    "a switch": (["tracking.enabled=maybe"], "", ["tracking.enabled: must be true or false"]),
    "an empty path": (["model_path="], "", ["model_path: must not be empty"]),
    "a list": (["data.drop_columns=target"], "", ["data.drop_columns: must be a list"]),
    "a large seed": (["seed=4294967296"], "", ["seed: must be less than 4294967296"]),
    "a folder in the way": (["model_path=."], "", ["'.'", "no model of ours"]),
    "a width": (["model.layer_dims=[5,8,3]"], "", ["layer_dims", "5", "4"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_that_names_it(
    mistake: str, workspace: Path, in_process: Callable[..., tuple[int, str, str]]
) -> None:
    overrides, table, expected = MISTAKES[mistake]
    (workspace / "my.csv").write_text(table)
    status, _, stderr = in_process("train", *overrides)
    lines = stderr.strip().splitlines()
    assert status == 1
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    for words in expected:
        assert words in lines[0]
    assert not (workspace / ".models").exists()
    assert not (workspace / "hacked").exists()


def test_several_mistakes_are_told_at_once(
    workspace: Path, in_process: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, stderr = in_process("train", "model=mpl", "training.lrr=1", "sed=3")
    assert status == 1
    assert [line.split(":")[1].split()[0] for line in stderr.strip().splitlines()] == [
        "Unknown",
        "training.lrr",
        "sed",
    ]


def test_a_process_of_its_own_ends_with_a_line_and_without_a_traceback(
    command_line: CommandLine,
) -> None:
    done = command_line("train", "model=mpl")
    assert done.returncode == 1
    models = ", ".join(sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
    message = f"Unknown model 'mpl'. Did you mean 'mlp'? Available: {models}."
    assert done.stderr == f"error: {message}\n"


def test_a_traceback_is_shown_when_asked_for(command_line: CommandLine) -> None:
    done = command_line("train", "seed=x", env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "seed: must be a whole number" in done.stderr


def test_an_override_of_letters_that_hydra_cannot_read_shows_how_to_quote_it() -> None:
    (problem,), _ = composition_problems("train", ["data=csv", "data.path=ü.csv"])
    assert problem.startswith("data.path: can't read 'ü.csv'")
    problems, cfg = composition_problems("train", ["data=csv", 'data.path="ü.csv"'])
    assert problems == []
    assert cfg.data.path == "ü.csv"


def test_a_setting_of_the_training_of_ones_own_model_is_told_how_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own.yaml").write_text(
        "_target_: ml_project_template.models.LinearClassifier\n"
    )
    monkeypatch.setenv("ML_PROJECT_CONFIG", str(tmp_path))
    (problem,), _ = composition_problems("train", ["model=own", "training.loss=mse"])
    assert problem == (
        "training.loss: the model's YAML has no such settings. Add it: +training.loss=mse"
    )
    problems, cfg = composition_problems("train", ["model=own", "+training.loss=mse"])
    assert problems == []
    assert cfg.training.loss == "mse"


def test_a_value_may_depend_on_a_choice_that_comes_later() -> None:
    assert composition_problems("train", ["training.patience=3", "model=gb"])[0] == []


def test_an_error_that_nobody_foresaw_says_how_to_see_more() -> None:
    (line,) = explain(RuntimeError("first\nsecond"))
    assert line == "RuntimeError: first (HYDRA_FULL_ERROR=1 shows the traceback)"


@pytest.mark.parametrize(
    ("torch_says", "told"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee also",
            "Tried to allocate 2.00 GiB.",
        ),
        ("CUDA error: out of memory\nCompile with", "CUDA error: out of memory."),
    ],
)
def test_a_full_gpu_is_told_with_what_to_try(torch_says: str, told: str) -> None:
    (line,) = explain(RuntimeError(torch_says))
    advice = "Try a smaller training.batch_size or network, or model.accelerator=cpu."
    assert line.endswith(f"{told} {advice}")


def test_an_error_of_the_operating_system_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "x").read_text()
    assert explain(caught.value) == [f"{tmp_path / 'x'}: No such file or directory"]


def test_a_package_that_is_missing_is_told_where_the_project_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    (line,) = explain(missing)
    assert "comes with the extra 'train'" in line

    def find_none(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", find_none)
    (line,) = explain(missing)
    assert line.startswith("ModuleNotFoundError: No module named 'mlflow' (")


def test_a_group_that_is_none_here_is_told() -> None:
    (problem,), _ = composition_problems("evaluate", ["model=mlp"])
    assert problem == (
        "model: holds settings, and there is nothing to choose here. Set: model.path"
    )


@pytest.mark.parametrize(
    ("number", "came_of_it", "status", "told"),
    [
        (signal.SIGTERM, AttributeError("half done"), 143, ""),
        (signal.SIGINT, AttributeError("half done"), 130, "error: Interrupted.\n"),
        (signal.SIGTERM, ArtifactError("No room for it."), 1, "error: No room for it.\n"),
    ],
)
def test_a_stop_is_no_mistake_though_a_library_stumbles_over_it(
    number: signal.Signals,
    came_of_it: Exception,
    status: int,
    told: str,
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped() -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise came_of_it from None

    main: Any = stopped
    with pytest.raises(SystemExit) as ended:
        _shell.run(main)
    assert ended.value.code == status
    assert capsys.readouterr() == ("", told)
