"""Packages that run their ``__init__`` late."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_project_template.utils.late_packages import late_package


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from slow_package.light import answer\n"
        "from slow_package.heavy import trainer\n"
        "__all__ = ['answer', 'trainer']\n"
    )
    (folder / "light.py").write_text("import slow_package.light as itself\nanswer = 42\n")
    (folder / "heavy.py").write_text("trainer = 'made'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "slow_package"
    for name in [name for name in sys.modules if name.startswith("slow_package")]:
        del sys.modules[name]


def test_a_module_is_imported_without_its_package(package: str) -> None:
    with late_package(package):
        light = importlib.import_module(f"{package}.light")
    assert light.answer == 42
    assert f"{package}.heavy" not in sys.modules


def test_the_package_runs_when_something_of_it_is_asked_for(package: str) -> None:
    with late_package(package) as late:
        light = importlib.import_module(f"{package}.light")
    module = importlib.import_module(package)
    assert module is late
    assert module.light is light
    assert not hasattr(module, "__wrapped__")
    assert f"{package}.heavy" not in sys.modules
    assert module.trainer == "made"
    assert module.answer == 42
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_a_star_and_a_listing_find_every_name(package: str) -> None:
    with late_package(package):
        pass
    module = importlib.import_module(package)
    assert {"answer", "trainer", "light"} <= set(dir(module))
    names: dict[str, object] = {}
    exec(f"from {package} import *", names)  # noqa: S102 - how a user may import it
    assert (names["answer"], names["trainer"]) == (42, "made")


def test_a_package_that_fails_fails_again(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "heavy.py").write_text("raise ImportError('broken')\n")
    with late_package(package) as late:
        pass
    for _ in range(2):
        with pytest.raises(ImportError, match="broken"):
            _ = late.trainer  # type: ignore[union-attr]


def test_nothing_is_left_of_a_block_that_failed(package: str) -> None:
    with pytest.raises(KeyError), late_package(package):
        raise KeyError
    assert package not in sys.modules
    assert importlib.import_module(package).trainer == "made"


def test_a_package_that_is_there_stays_as_it_is(package: str) -> None:
    module = importlib.import_module(package)
    with late_package(package) as late:
        assert late is None
    assert sys.modules[package] is module
    with late_package("there_is_no_such_package") as late:
        assert late is None
