"""One suite over every YAML in ``conf/``: each can be chosen, and what it makes is right."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import cast

import pytest
from omegaconf import DictConfig, OmegaConf

from entrypoints._composition import CONFIG_DIRECTORY, compose_config
from entrypoints._problems import argument_problems

GROUPS = sorted(
    path
    for path in CONFIG_DIRECTORY.glob("*/*.yaml")
    if path.parent.name not in {"experiment", "debug", "hydra"}
)
ROOTS = sorted(CONFIG_DIRECTORY.glob("*.yaml"))
PRESETS = sorted(CONFIG_DIRECTORY.glob("experiment/*.yaml"))
VARIANTS = sorted(CONFIG_DIRECTORY.glob("debug/*.yaml"))
HYDRA = sorted(CONFIG_DIRECTORY.glob("hydra/*/*.yaml"))

# What a choice needs beside itself to be a whole command.
COMPANIONS = {
    "data/csv": ["data.path=my.csv", "data.target_column=y"],
    "training/gb": ["model=gb"],
    "debug/few_stages": ["model=gb"],
}


def _name(path: Path) -> str:
    return path.relative_to(CONFIG_DIRECTORY).with_suffix("").as_posix()


def _choose(path: Path) -> list[str]:
    name = _name(path)
    group, _, choice = name.rpartition("/")
    return [*COMPANIONS.get(name, []), f"{group}={choice}"]


def _resolved(cfg: DictConfig) -> dict[str, object]:
    return cast(dict[str, object], OmegaConf.to_container(cfg, resolve=True))


def test_every_file_of_the_folder_is_covered() -> None:
    covered = {*GROUPS, *ROOTS, *PRESETS, *VARIANTS, *HYDRA}
    assert covered == set(CONFIG_DIRECTORY.rglob("*.yaml"))
    assert set(CONFIG_DIRECTORY.rglob("*")) - covered == {
        path for path in CONFIG_DIRECTORY.rglob("*") if path.is_dir()
    }


@pytest.mark.parametrize("root", ROOTS, ids=_name)
def test_a_root_file_belongs_to_the_entrypoint_of_its_name(root: Path) -> None:
    cfg = compose_config(root.stem)
    assert (CONFIG_DIRECTORY.parent / "entrypoints" / f"{root.stem}.py").is_file()
    assert "storage" in cfg


@pytest.mark.parametrize("path", GROUPS, ids=_name)
def test_a_choice_of_a_group_composes_resolves_and_fits(path: Path, workspace: Path) -> None:
    (workspace / "my.csv").touch()
    cfg = compose_config("train", _choose(path))
    assert _resolved(cfg)
    assert argument_problems(cfg) == []


@pytest.mark.parametrize("path", [*PRESETS, *VARIANTS], ids=_name)
def test_a_preset_composes_resolves_and_fits(path: Path) -> None:
    cfg = compose_config("train", _choose(path))
    assert _resolved(cfg)
    assert argument_problems(cfg) == []
    assert _resolved(cfg) != _resolved(compose_config("train", COMPANIONS.get(_name(path), [])))


@pytest.mark.parametrize("path", HYDRA, ids=_name)
def test_a_hydra_setting_is_what_train_uses(path: Path) -> None:
    from hydra.core.hydra_config import HydraConfig

    compose_config("train")
    choices = HydraConfig.get().runtime.choices
    assert choices[path.parent.relative_to(CONFIG_DIRECTORY).as_posix()] == path.stem


def test_a_model_brings_its_training_defaults_along() -> None:
    assert "batch_size" in compose_config("train", ["model=mlp"]).training
    assert "batch_size" not in compose_config("train", ["model=gb"]).training


def test_a_debug_variant_wins_over_an_experiment() -> None:
    cfg = compose_config(
        "train", ["experiment=iris_gb", "debug=few_stages", "model.max_leaf_nodes=4"]
    )
    assert (cfg.model.max_iter, cfg.model.max_leaf_nodes, cfg.run_name) == (5, 4, "iris_gb")


def test_seed_zero_is_kept() -> None:
    assert compose_config("train", ["seed=0"]).seed == 0


def test_the_model_path_names_data_and_model() -> None:
    cfg = compose_config("train", ["data=csv", "data.path=/a/my.csv.gz", "model=gb"])
    assert cfg.model_path == ".models/my_gb"


def test_a_source_alone_puts_the_file_below_the_data_root() -> None:
    cfg = compose_config("onboard", ["data=csv", "data.source=https://example.org/a/b.csv"])
    assert cfg.data.path == ".data/raw/b.csv"


def test_no_configuration_holds_a_secret() -> None:
    from ml_project_template.utils.secrets import find_secrets

    for choice in ("local", "minio"):
        cfg = compose_config("train", [f"storage={choice}"])
        assert find_secrets(_resolved(cfg), {}) == set()


@pytest.mark.parametrize("choice", sorted(p.stem for p in CONFIG_DIRECTORY.glob("model/*.yaml")))
def test_every_setting_stands_in_the_yaml_with_the_default_of_the_code(choice: str) -> None:
    """A setting that is left out could not be changed without ``+``."""
    from entrypoints._targets import target_class
    from ml_project_template.models import BaseModel

    cfg = compose_config("train", [f"model={choice}"])
    model = target_class(cfg.model, BaseModel, where="model")  # type: ignore[type-abstract]
    constructor = inspect.signature(model).parameters
    assert set(cfg.model) - {"_target_"} == set(constructor)
    given = {"self", "train_data", "val_data", "save_model", "seed"}
    fit = {n: p for n, p in inspect.signature(model._fit).parameters.items() if n not in given}
    assert set(cfg.training) == set(fit)
    for name, parameter in {**constructor, **fit}.items():
        node = cfg.model if name in constructor else cfg.training
        if parameter.default is not parameter.empty:
            assert node[name] == parameter.default, name


def test_every_setting_of_the_preprocessing_stands_in_the_yaml() -> None:
    from ml_project_template.data import Preprocessor

    for path in CONFIG_DIRECTORY.glob("preprocessing/*.yaml"):
        cfg = compose_config("train", _choose(path))
        assert set(cfg.preprocessing) - {"_target_"} == set(
            inspect.signature(Preprocessor).parameters
        )


@pytest.mark.parametrize("path", sorted(CONFIG_DIRECTORY.glob("sweep/*.yaml")), ids=_name)
def test_a_sweep_is_valid_and_tries_settings_that_there_are(path: Path) -> None:
    from entrypoints.check import check

    assert check(compose_config("train", [f"sweep={path.stem}"])) == []


def test_a_search_of_settings_that_there_are_not_is_told() -> None:
    from entrypoints.check import check

    problems = check(compose_config("train", ["sweep=mlp", "model=gb"]))
    assert "sweep.search_space.model.dropout: there is no such setting" in problems
    problems = check(compose_config("train", ["sweep=gb", "sweep.pruner=nun"]))
    assert problems == [
        "sweep.pruner: Unknown pruner 'nun'. Did you mean 'none'? Available: halving, hyperband, "
        "median, none, percentile."
    ]


def test_every_setting_of_a_sweep_stands_in_the_yaml() -> None:
    from dataclasses import fields

    from ml_project_template.sweeps.options import SweepOptions

    names = {field.name for field in fields(SweepOptions)}
    for path in CONFIG_DIRECTORY.glob("sweep/*.yaml"):
        assert set(compose_config("train", [f"sweep={path.stem}"]).sweep) == names
