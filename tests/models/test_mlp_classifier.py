"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.errors import ArtifactError, ConfigError, DataError, DivergenceError
from ml_project_template.models import MLPClassifier, TrainingReport

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]
Make = Callable[[int], TabularDataset]


def _mlp(*hidden: int, **arguments: Any) -> MLPClassifier:
    return MLPClassifier([None, *hidden, None], **{"accelerator": "cpu", **arguments})


def _train(
    model: MLPClassifier,
    train: TabularDataset,
    val: TabularDataset | None = None,
    **arguments: Any,
) -> TrainingReport:
    return model.train(
        experiment_name="test",
        train_data=train,
        val_data=val,
        **{"seed": 0, "tracking": False, **arguments},
    )


def _weights(model: MLPClassifier) -> torch.Tensor:
    assert model.module_ is not None
    return torch.cat([parameter.detach().flatten() for parameter in model.module_.parameters()])


@pytest.mark.parametrize("seed", range(10))
def test_it_learns_iris_whatever_the_seed(seed: int, iris: Splits) -> None:
    report = _train(_mlp(64, 64), iris[0], iris[1], seed=seed)
    assert report.metrics["val_accuracy"] >= 0.93


def test_open_widths_are_filled_in_from_the_data(iris: Splits, tmp_path: Path) -> None:
    model = _mlp(8)
    assert model.get_params()["layer_dims"] == [None, 8, None]
    _train(model, iris[0], max_epochs=1, model_path=tmp_path / "model")
    assert model.get_params()["layer_dims"] == [4, 8, 3]
    assert MLPClassifier.load(tmp_path / "model").layer_dims == [4, 8, 3]


def test_open_widths_are_filled_in_anew_for_each_training(iris: Splits, tmp_path: Path) -> None:
    model = MLPClassifier([None, 8, None], accelerator="cpu")
    _train(model, iris[0], max_epochs=1)
    wider = _wider(iris[0])
    _train(model, wider, max_epochs=1)
    assert model.layer_dims == [None, 8, None]
    assert model.get_params()["layer_dims"] == [5, 8, 3]


def _wider(data: TabularDataset) -> TabularDataset:
    features = data.features.assign(more=1.0)
    return TabularDataset(
        features, data.y, target_column="target", class_names=[str(k) for k in range(3)]
    )


@pytest.mark.parametrize(
    ("layer_dims", "message"),
    [
        ([5, 8, None], "starts with 5 but the data has 4 features; use null"),
        ([4, 8, 2], "ends with 2 but the data has 3 classes; use null"),
    ],
)
def test_widths_that_do_not_fit_the_data_are_told(
    layer_dims: list[int | None], message: str, iris: Splits
) -> None:
    with pytest.raises(ConfigError, match=message):
        _train(MLPClassifier(layer_dims, accelerator="cpu"), iris[0])


@pytest.mark.parametrize("layer_dims", [[], [None], [None, None, None]])
def test_widths_that_nothing_fills_in_are_told(layer_dims: list[int | None]) -> None:
    with pytest.raises(ConfigError, match="needs an input and an output width"):
        MLPClassifier(layer_dims)


def test_no_hidden_layer_is_a_linear_model(iris: Splits) -> None:
    report = _train(_mlp(), iris[0], iris[1], lr=0.1)
    assert report.metrics["val_accuracy"] > 0.9


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize("activation", ["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"])
def test_every_kind_of_network_is_saved_and_loaded(
    normalization: Any, activation: Any, iris: Splits, tmp_path: Path
) -> None:
    # Where a model that is loaded runs, too.
    place = {"accelerator": "auto", "dropout": 0.1}
    model = _mlp(8, 8, normalization=normalization, activation=activation, **place)
    report = _train(model, iris[0], iris[1], max_epochs=3, model_path=tmp_path / "model")
    loaded = MLPClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(iris[2]), model.predict(iris[2]))
    assert loaded.get_params() == model.get_params()
    assert len(report.history) == 3


def test_best_ends_with_the_weights_of_the_lowest_validation_loss(noisy: Make) -> None:
    train, val = noisy(0), noisy(1)
    settings: dict[str, Any] = {"lr": 0.01, "max_epochs": 60, "patience": None}
    best, final = _mlp(64), _mlp(64)
    best_report = _train(best, train, val, save_model="best", **settings)
    final_report = _train(final, train, val, save_model="final", **settings)
    losses = [row["val_loss"] for row in best_report.history]
    assert best_report.history == final_report.history
    assert best_report.metrics["val_loss"] == pytest.approx(min(losses), rel=1e-5)
    assert final_report.metrics["val_loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert losses[-1] > min(losses)


def test_it_stops_when_the_validation_loss_gets_no_lower(noisy: Make) -> None:
    settings: dict[str, Any] = {"lr": 0.01, "max_epochs": 300}
    report = _train(_mlp(64), noisy(0), noisy(1), patience=7, **settings)
    losses = [row["val_loss"] for row in report.history]
    assert len(losses) == int(np.argmin(losses)) + 1 + 7


def test_without_validation_data_the_last_weights_are_the_best(noisy: Make) -> None:
    models = [_mlp(8), _mlp(8)]
    for model, save_model in zip(models, ("best", "final"), strict=True):
        _train(model, noisy(0), max_epochs=4, save_model=save_model)
    assert torch.equal(_weights(models[0]), _weights(models[1]))


def test_class_weights_find_more_of_a_rare_class(imbalanced: TabularDataset) -> None:
    found, losses = [], []
    for class_weight in (None, "balanced", [1.0, 10.0]):
        model = _mlp(16)
        report = _train(model, imbalanced, lr=0.01, max_epochs=20, class_weight=class_weight)
        found.append(int((model.predict(imbalanced).argmax(axis=1) == 1).sum()))
        losses.append((report.metrics["train_loss"], report.metrics["train_log_loss"]))
    assert found[1] > found[0]
    assert found[2] > found[0]
    # The reported loss is the one that was minimised; the log loss weighs all rows alike.
    assert losses[0][0] == losses[0][1]
    assert losses[1][0] != losses[1][1]


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ([1.0, 2.0, 3.0], "has 3 weights for 2 classes"),
        ([1.0, -2.0], "must be greater than 0"),
        ("balnced", "must be"),
    ],
)
def test_wrong_class_weights_are_told(
    class_weight: Any, message: str, imbalanced: TabularDataset
) -> None:
    with pytest.raises(ConfigError, match=rf"training\.class_weight.*{message}"):
        _train(_mlp(4), imbalanced, class_weight=class_weight)


def test_a_clipped_step_is_no_longer_than_the_bound(iris: Splits) -> None:
    def step(norm: float | None) -> float:
        weights = []
        for epochs in (1, 2):
            model = _mlp(8)
            _train(
                model,
                iris[0],
                optimizer="sgd",
                lr=1.0,
                batch_size=len(iris[0]),
                max_epochs=epochs,
                gradient_clip_norm=norm,
            )
            weights.append(_weights(model))
        return float(torch.linalg.vector_norm(weights[1] - weights[0]))

    assert step(None) > 0.1
    assert step(0.01) == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": None}, [0.1, 0.1, 0.1, 0.1]),
        ({"schedule": "exponential", "schedule_gamma": 0.5}, [0.1, 0.05, 0.025, 0.0125]),
        (
            {"schedule": "step", "schedule_step_size": 2, "schedule_gamma": 0.1},
            [0.1, 0.1, 0.01, 0.01],
        ),
        ({"schedule": "cosine"}, [0.1, 0.085355, 0.05, 0.014645]),
    ],
)
def test_the_rate_follows_its_schedule(
    settings: dict[str, Any], expected: list[float], iris: Splits
) -> None:
    report = _train(_mlp(4), iris[0], lr=0.1, max_epochs=4, **settings)
    assert [row["lr"] for row in report.history] == pytest.approx(expected, rel=1e-4)


def test_a_plateau_lowers_the_rate(noisy: Make) -> None:
    report = _train(
        _mlp(64),
        noisy(0),
        noisy(1),
        lr=0.02,
        max_epochs=40,
        patience=None,
        schedule="plateau",
        schedule_patience=3,
    )
    rates = [row["lr"] for row in report.history]
    assert rates[0] == 0.02
    assert rates[-1] < 0.02
    assert set(rates) <= {0.02 / 2**halvings for halvings in range(20)}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_lowers_the_loss(optimizer: str, iris: Splits) -> None:
    report = _train(_mlp(8), iris[0], optimizer=optimizer, lr=0.01, weight_decay=0.01)
    assert report.history[-1]["train_loss"] < report.history[0]["train_loss"]


def test_momentum_belongs_to_sgd(iris: Splits) -> None:
    assert _train(_mlp(8), iris[0], optimizer="sgd", momentum=0.9).history
    with pytest.raises(ConfigError, match="momentum=0.9 belongs to optimizer sgd, not to adam"):
        _train(_mlp(8), iris[0], momentum=0.9)


def test_a_divergence_is_told_with_what_to_try(iris: Splits, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"in epoch \d+ with training.lr=1e\+30") as caught:
        _train(
            _mlp(8),
            iris[0],
            iris[1],
            optimizer="sgd",
            lr=1e30,
            model_path=tmp_path / "model",
        )
    assert "gradient_clip_norm" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "what"), [(np.nan, "missing"), (np.inf, "infinite")])
def test_a_value_that_is_no_number_is_told_with_its_place(
    value: float, what: str, raw_iris: TabularDataset
) -> None:
    model = _mlp(4)
    _train(model, raw_iris, max_epochs=1)
    X = raw_iris.X.copy()
    X[2, 3] = value
    with pytest.raises(DataError, match=f"Row 3: feature 'petal_width' is {what}.*standardize"):
        model.predict(X)


def test_gaps_in_the_training_rows_are_told_before_the_fit(raw_iris: TabularDataset) -> None:
    frame = raw_iris.features.copy()
    frame.iloc[0, 0] = np.nan
    holey = TabularDataset(frame, raw_iris.labels, target_column="species")
    with pytest.raises(DataError, match="Row 1: feature 'sepal_length' is missing"):
        _train(_mlp(4), holey)
    filled = Preprocessor().fit(holey).transform(holey)
    assert _train(_mlp(4), filled, max_epochs=1).history


def test_batch_normalisation_needs_batches_of_two(iris: Splits) -> None:
    with pytest.raises(ConfigError, match=r"needs batches of two rows at least.*batch_size=1"):
        _train(_mlp(4, normalization="batch"), iris[0], batch_size=1)
    # 90 rows in batches of 89 leave one over.
    assert _train(_mlp(4, normalization="batch"), iris[0], batch_size=89, max_epochs=1).history


def test_mixed_precision_saves_plain_weights(iris: Splits, tmp_path: Path) -> None:
    model = _mlp(8, precision="bf16-mixed")
    _train(model, iris[0], iris[1], model_path=tmp_path / "model", max_epochs=5)
    tensors = artifacts.load_tensors(tmp_path / "model" / artifacts.WEIGHTS_SAFETENSORS)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    loaded = MLPClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(iris[2]), model.predict(iris[2]))


def test_the_random_state_of_others_does_not_matter(iris: Splits) -> None:
    models = [_mlp(8), _mlp(8)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        np.random.seed(number)
        _train(model, iris[0], max_epochs=3)
    assert torch.equal(_weights(models[0]), _weights(models[1]))


@pytest.mark.parametrize("normalization", ["batch", None])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layers.0.weight"), "'layers.0.weight' is missing"),
        (lambda t: t.update(extra=np.zeros(2, dtype=np.float32)), "Unknown tensor 'extra'"),
        (
            lambda t: t.update({"layers.0.weight": np.zeros((8, 5), dtype=np.float32)}),
            r"is float32\[8, 5\], config.json asks for float32\[8, 4\]",
        ),
        (
            lambda t: t.update({"layers.0.bias": np.zeros(8)}),
            r"is float64\[8\], config.json asks for float32\[8\]",
        ),
        (
            lambda t: t.update({"layers.1.running_var": np.full(8, -1, dtype=np.float32)}),
            "'layers.1.running_var' has a variance below zero|Unknown tensor",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_network_are_refused(
    normalization: Any,
    change: Callable[[dict[str, Any]], Any],
    message: str,
    iris: Splits,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model"
    _train(_mlp(8, normalization=normalization), iris[0], max_epochs=1, model_path=path)
    parts = {file.name: file.read_bytes() for file in path.iterdir()}
    tensors = artifacts.load_tensors(path / artifacts.WEIGHTS_SAFETENSORS)
    change(tensors)

    def write(directory: Path) -> None:
        for name, content in parts.items():
            if name not in (artifacts.MANIFEST, artifacts.WEIGHTS_SAFETENSORS):
                (directory / name).write_bytes(content)
        artifacts.save_tensors(directory / artifacts.WEIGHTS_SAFETENSORS, tensors)

    artifacts.write_model_directory(path, write)
    with pytest.raises(ArtifactError, match=message):
        MLPClassifier.load(path)


@pytest.mark.parametrize(
    ("layer_dims", "message"),
    [
        ([None, 8, 3], "layer_dims of a trained model has no null"),
        ([5, 8, 3], "layer_dims starts with 5, metadata.json tells of 4 features"),
        ([4, 10**9, 3], "config.json asks for"),
        ([4, 8, 2], "config.json asks for"),
    ],
)
def test_widths_that_do_not_fit_the_tensors_are_refused(
    layer_dims: list[int | None], message: str, iris: Splits, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    _train(_mlp(8), iris[0], max_epochs=1, model_path=path)
    parts = {file.name: file.read_bytes() for file in path.iterdir()}

    def write(directory: Path) -> None:
        for name, content in parts.items():
            if name not in (artifacts.MANIFEST, artifacts.CONFIG):
                (directory / name).write_bytes(content)
        params = {"layer_dims": layer_dims}
        artifacts.write_config(directory, name="mlp_classifier", params=params)

    artifacts.write_model_directory(path, write)
    with pytest.raises(ArtifactError, match=message):
        MLPClassifier.load(path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_of_a_gpu_predicts_the_same_on_the_processor(iris: Splits, tmp_path: Path) -> None:
    model = _mlp(64, 64, accelerator="cuda", normalization="batch")
    report = _train(model, iris[0], iris[1], model_path=tmp_path / "model")
    assert report.metrics["val_accuracy"] >= 0.93
    scores = model.predict(iris[2])
    loaded = MLPClassifier.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(iris[2]), scores, rtol=1e-4, atol=1e-4)
    tensors = artifacts.load_tensors(tmp_path / "model" / artifacts.WEIGHTS_SAFETENSORS)
    on_processor = _mlp(64, 64, normalization="batch")
    on_processor._adapt(iris[0])
    module = on_processor._make_module().eval()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    with torch.inference_mode():
        expected = module(torch.from_numpy(iris[2].X.copy())).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
