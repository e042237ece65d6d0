"""TabM: the ensemble of networks in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template import artifacts
from ml_project_template.data import TabularDataset
from ml_project_template.errors import ArtifactError
from ml_project_template.inference import Inference
from ml_project_template.models import TabMClassifier, TabMRegressor

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]


def _train(model: TabMClassifier | TabMRegressor, data: TabularDataset, **arguments: Any) -> None:
    model.train(
        experiment_name="test",
        train_data=data,
        **{"seed": 0, "tracking": False, "max_epochs": 3, **arguments},
    )


@pytest.mark.parametrize("variant", ["tabm", "tabm-mini"])
@pytest.mark.parametrize("hidden", [[], [8], [8, 6]])
def test_every_kind_is_saved_and_served(
    variant: Any, hidden: list[int], iris: Splits, petals: Splits, tmp_path: Path
) -> None:
    for cls, data in ((TabMClassifier, iris), (TabMRegressor, petals)):
        model = cls([None, *hidden, None], variant=variant, members=3, numeric_embedding="periodic")
        _train(model, data[0], model_path=tmp_path / cls.__name__)
        loaded = cls.load(tmp_path / cls.__name__)
        np.testing.assert_array_equal(loaded.predict(data[2]), model.predict(data[2]))
        served = Inference.load(str(tmp_path / cls.__name__), backend="onnxruntime")
        assert model.preprocessor is not None
        raw = np.random.default_rng(0).normal(3, 3, (20, 4))
        expected = model.answer(model.preprocessor.transform_array(raw))
        np.testing.assert_allclose(served.probabilities(raw), expected, rtol=1e-5, atol=1e-6)


def test_its_scores_are_the_mean_of_what_its_members_say(iris: Splits) -> None:
    model = TabMClassifier([None, 8, None], members=5, dropout=0.0, accelerator="cpu")
    _train(model, iris[0])
    import torch

    module = model.module_
    assert module is not None
    module.train()
    with torch.inference_mode():
        each = torch.softmax(module(torch.from_numpy(iris[2].X.copy())), dim=2).numpy()
    assert np.ptp(each, axis=1).max() > 1e-3
    np.testing.assert_allclose(model.predict_proba(iris[2]), each.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("name", ["head", "layers.0.output_scale", "layers.0.bias"])
def test_tensors_that_do_not_fit_the_network_are_refused(
    name: str, iris: Splits, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    model = TabMClassifier([None, 8, None], members=3)
    _train(model, iris[0], max_epochs=1, model_path=path)
    tensors = artifacts.load_tensors(path / artifacts.WEIGHTS_SAFETENSORS)
    tensors[name] = tensors[name][:-1]
    with pytest.raises(ArtifactError, match=f"'{name}' must be float32"):
        TabMClassifier.score_graph(model.get_params(), tensors, 4, 3)
