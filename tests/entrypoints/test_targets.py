"""Which classes a configuration may name."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from entrypoints._targets import build
from ml_project_template.errors import ConfigError
from ml_project_template.models import BaseModel, MLPClassifier

MODEL = "ml_project_template.models.MLPClassifier"


def test_a_model_is_made_of_its_name_and_arguments() -> None:
    node = OmegaConf.create({"_target_": MODEL, "layer_dims": [4, 8, 3]})
    model = build(node, BaseModel, where="model")  # type: ignore[type-abstract]
    assert isinstance(model, MLPClassifier)
    assert model.layer_dims == [4, 8, 3]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "none of the trusted packages"),
        ("ml_project_templateX.models.MLPClassifier", "none of the trusted packages"),
        ("ml_project_template.artifacts.shutil.rmtree", "no module"),
        ("ml_project_template.artifacts.shutil", "is no BaseModel"),
        ("ml_project_template.models.ModelRegistry", "is no BaseModel"),
        ("ml_project_template.models.BaseModel", "is abstract"),
        ("ml_project_template.models.MPLClassifier", "Did you mean 'MLPClassifier'"),
    ],
)
def test_whatever_else_is_named_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(OmegaConf.create({"_target_": target}), BaseModel, where="model")  # type: ignore[type-abstract]
    assert str(caught.value).startswith("model._target_: ")


@pytest.mark.parametrize("argument", [{"_target_": "os.system"}, [4, {"_partial_": True}]])
def test_arguments_are_plain_values(argument: object) -> None:
    node = OmegaConf.create({"_target_": MODEL, "layer_dims": argument})
    with pytest.raises(ConfigError, match="not allowed here"):
        build(node, BaseModel, where="model")  # type: ignore[type-abstract]
