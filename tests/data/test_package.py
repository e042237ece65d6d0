"""The names that the package gives, and what it costs to ask for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ml_project_template import data

HEAVY = {"numpy", "pandas", "pyarrow", "sklearn", "torch", "mlflow", "matplotlib"}


def _imported(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not HEAVY & _imported("import ml_project_template.data")


def test_the_data_classes_need_neither_torch_nor_mlflow_nor_sklearn() -> None:
    modules = _imported(
        "from ml_project_template.data import *\nimport ml_project_template.data.prepare"
    )
    assert "pandas" in modules
    assert not {"torch", "mlflow", "sklearn", "matplotlib"} & modules


@pytest.mark.parametrize("name", data.__all__)
def test_every_exported_name_exists(name: str) -> None:
    assert getattr(data, name).__name__ == name
    assert name in dir(data)


def test_the_exported_names_are_sorted() -> None:
    assert data.__all__ == sorted(data.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Tabular"):
        _ = data.Tabular
