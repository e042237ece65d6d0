"""Choices and models of packages beside this one, and of folders that the environment names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from entrypoints._composition import compose_config, composition_problems, own_words
from entrypoints._own import GROUP, own_folders, trust_own_packages
from ml_project_template.errors import ConfigError
from ml_project_template.models import ModelRegistry

InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture
def install(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a package with an entry point where Python finds it."""
    monkeypatch.syspath_prepend(workspace / "site")
    monkeypatch.setenv("ML_PROJECT_PACKAGES", "")

    def put(name: str) -> Path:
        information = workspace / "site" / f"{name}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        (information / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}\n")
        package = workspace / "site" / name
        package.mkdir()
        # Looking for its folder must not import it.
        (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        return package

    return put


def _choice(folder: Path, group: str, name: str, text: str) -> None:
    (folder / group).mkdir(parents=True, exist_ok=True)
    (folder / group / f"{name}.yaml").write_text(text)


def test_an_installed_package_brings_choices_and_is_trusted(
    install: Callable[[str], Path], workspace: Path
) -> None:
    package = install("fruit_shop")
    _choice(package / "conf", "data", "kiwis", "defaults: [csv, _self_]\ntarget_column: ripe\n")
    assert own_folders() == [package / "conf"]
    assert compose_config("train", ["data=kiwis"]).data.target_column == "ripe"
    os.environ["ML_PROJECT_PACKAGES"] = "named.models"
    trust_own_packages()
    trust_own_packages()
    assert ModelRegistry.trusted_packages()[1:] == ("named.models", "fruit_shop")


def test_a_package_without_choices_is_trusted_alone(install: Callable[[str], Path]) -> None:
    install("only_models")
    assert own_folders() == []
    trust_own_packages()
    assert os.environ["ML_PROJECT_PACKAGES"] == "only_models"


def test_a_package_that_is_gone_is_told_by_its_name(install: Callable[[str], Path]) -> None:
    package = install("gone_away")
    (package / "__init__.py").unlink()
    package.rmdir()
    with pytest.raises(ConfigError, match="'gone_away' says that it brings the package"):
        trust_own_packages()


def test_the_environment_names_folders_and_the_first_wins(
    in_process: InProcess, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, size in (("first", 0.1), ("second", 0.3)):
        text = f"defaults: [csv, _self_]\ntarget_column: y\nval_size: {size}\n"
        _choice(workspace / folder, "data", "mine", text)
        # As a file of the project is called: the user's wins.
        _choice(workspace / folder, "preprocessing", "none", f"_target_: mine\nsize: {size}\n")
    (workspace / ".env").write_text("ML_PROJECT_CONFIG=first, second\n")
    # Set and taken back, so that what is read from .env goes with the test.
    monkeypatch.setenv("ML_PROJECT_CONFIG", "")
    monkeypatch.delenv("ML_PROJECT_CONFIG")
    status, out, _ = in_process("train", "data=mine", "preprocessing=none", "--cfg", "job")
    assert status == 0
    assert "val_size: 0.1" in out
    assert "size: 0.1" in out.split("preprocessing:")[1]
    status, out, _ = in_process("train", "--help")
    assert "data: breast_cancer, csv, digits, iris, mine, wine" in out


def test_a_folder_that_is_not_there_is_told_in_one_line(
    in_process: InProcess, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PROJECT_CONFIG", "conf_of_mine")
    status, _, error = in_process("check", "model=gb")
    assert status == 1
    wanted = workspace / "conf_of_mine"
    assert error == f"error: ML_PROJECT_CONFIG: there is no folder '{wanted}'\n"


def test_a_group_of_the_users_own_is_chosen_before_its_keys_are_looked_at(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _choice(workspace / "mine", "optimizer", "slow", "# @package optimizer\nsteps: 1\n")
    monkeypatch.setenv("ML_PROJECT_CONFIG", "mine")
    problems, cfg = composition_problems("train", ["optimizer.steps=2", "+optimizer=slow", "a=1"])
    assert cfg.optimizer.steps == 2
    assert [line.split(":")[0] for line in problems] == ["a"]


def test_folders_that_a_command_names_are_known_to_messages_and_to_the_next_command(
    workspace: Path,
) -> None:
    for folder, name in (("first", "mine"), ("second", "also_mine")):
        _choice(workspace / folder, "data", name, "defaults: [csv, _self_]\ntarget_column: y\n")
    first, second = (
        f"hydra.searchpath=[file://{workspace}/{name}]" for name in ("first", "second")
    )
    problems, _ = composition_problems(
        "train", ["--config-dir", "first", "data=mine", "data.sice=1", second]
    )
    assert [line.split(":")[0] for line in problems] == ["data.sice"]
    problems, _ = composition_problems("train", ["data=mien", "hydra.searchpath=mine", first])
    assert problems == [
        "hydra.searchpath: must be a list of folders, such as [file:///a/b]",
        "Unknown data 'mien'. Did you mean 'mine'? "
        "Available: breast_cancer, csv, digits, iris, mine, wine.",
    ]
    compose_config("train", [first])
    assert own_words(HydraConfig.get()) == ["--config-dir", str(workspace / "first")]
    both = f"hydra.searchpath=['file://{workspace}/first','file://{workspace}/second']"
    compose_config("train", [both, "data=also_mine"])
    assert own_words(HydraConfig.get()) == [both]
    compose_config("train")
    assert own_words(HydraConfig.get()) == []
