"""Models by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.errors import RegistryError
from ml_project_template.models import BaseModel, GBClassifier, ModelRegistry, register

MODEL = """
import numpy as np
from ml_project_template import artifacts
from ml_project_template.models import BaseModel, register

@register
class NearestMean(BaseModel):
    def __init__(self, power: float = 2.0):
        super().__init__()
        self.power = power

    def _fit(self, train_data, val_data=None, *, patience: int = 1):
        codes = range(len(train_data.class_names))
        self.means_ = np.stack([train_data.X[train_data.y == code].mean(axis=0) for code in codes])

    def predict(self, X):
        distances = np.abs(self._features(X)[:, None] - self.means_) ** self.power
        return -distances.sum(axis=2)

    def _save_weights(self, directory):
        artifacts.save_tensors(directory / artifacts.WEIGHTS_SAFETENSORS, {"means": self.means_})

    def _load_weights(self, directory):
        self.means_ = artifacts.load_tensors(directory / artifacts.WEIGHTS_SAFETENSORS)["means"]
"""

TRAIN = """
import numpy as np, pandas as pd
from ml_project_template.data import TabularDataset
from their_package.models import NearestMean

rng = np.random.default_rng(0)
frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
data = TabularDataset(frame, ["u", "v"] * 30, target_column="y")
model = NearestMean(power=1.5)
model.train(experiment_name="x", train_data=data, model_path="model", tracking=False)
np.save("X.npy", data.X)
np.save("scores.npy", model.predict(data))
"""

LOAD = """
import numpy as np, sys
from ml_project_template.models import ModelRegistry

assert "their_package" not in sys.modules
model = ModelRegistry.load("model")
assert model.power == 1.5
assert "nearest_mean" in ModelRegistry.list()
assert ModelRegistry.trusted_packages() == ("ml_project_template", "their_package.models")
assert (model.predict(np.load("X.npy")) == np.load("scores.npy")).all()
"""


def _python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def their_package(tmp_path: Path) -> Path:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(MODEL)
    return tmp_path


def test_the_files_of_the_package_are_listed_without_being_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from ml_project_template.models import ModelRegistry\n"
        "assert {'gb_classifier', 'mlp_classifier'} <= set(ModelRegistry.list())\n"
        "assert ModelRegistry.list() == sorted(ModelRegistry.list())\n"
        "assert 'ml_project_template.models.gb_classifier' not in sys.modules\n"
        "assert not {'torch', 'sklearn', 'pandas', 'numpy'} & set(sys.modules)\n"
    )
    done = _python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_name_gives_its_class() -> None:
    assert ModelRegistry.get("gb_classifier") is GBClassifier
    assert ModelRegistry.name_of(GBClassifier) == "gb_classifier"


def test_an_unknown_name_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(RegistryError, match="Unknown model 'gb_clasifier'. Did you mean 'gb_clas"):
        ModelRegistry.get("gb_clasifier")


def test_a_second_class_of_a_name_is_refused() -> None:
    with pytest.raises(RegistryError, match="'gb_classifier' is taken by .*GBClassifier"):

        @register("gb_classifier")
        class Other(GBClassifier):
            pass

    assert ModelRegistry.get("gb_classifier") is GBClassifier


def test_the_name_of_a_file_is_taken_before_the_file_is_imported(tmp_path: Path) -> None:
    code = (
        "from ml_project_template.models import BaseModel, register\n"
        "@register\n"
        "class MLPClassifier(BaseModel): pass\n"
    )
    done = _python(code, tmp_path)
    assert "The model name 'mlp_classifier' is taken by" in done.stderr


def test_importing_a_module_again_registers_its_class_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ModelRegistry, "_classes", dict(ModelRegistry._classes))

    def define() -> type[BaseModel]:
        @register("again")
        class Again(GBClassifier):
            pass

        return Again

    define()
    second = define()
    assert ModelRegistry.get("again") is second


def test_a_class_that_is_not_registered_can_neither_train_nor_be_named(raw_iris: Any) -> None:
    class Nameless(GBClassifier):
        pass

    with pytest.raises(RegistryError, match="decorate the class with @register"):
        Nameless().train(experiment_name="x", train_data=raw_iris, tracking=False)


def test_a_model_of_another_package_is_saved_and_found_again(their_package: Path) -> None:
    trained = _python(TRAIN, their_package)
    assert trained.returncode == 0, trained.stderr
    loaded = _python(LOAD, their_package, ML_PROJECT_PACKAGES=" their_package.models ,")
    assert loaded.returncode == 0, loaded.stderr


def test_without_its_package_named_such_a_model_is_unknown(their_package: Path) -> None:
    assert _python(TRAIN, their_package).returncode == 0
    loaded = _python(LOAD, their_package)
    assert "Unknown model 'nearest_mean'." in loaded.stderr


def test_a_package_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PROJECT_PACKAGES", "no_such_package.models")
    with pytest.raises(RegistryError, match=r"names 'no_such_package\.models', which can't be"):
        ModelRegistry.get("mine")


def test_an_unknown_export_is_an_attribute_error() -> None:
    import ml_project_template.models as package

    with pytest.raises(AttributeError, match="no attribute 'XGB'"):
        _ = package.XGB
