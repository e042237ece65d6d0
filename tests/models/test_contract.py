"""What every registered model promises. A new model is covered by being there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from ml_project_template.data import TabularDataset
from ml_project_template.errors import ConfigError, DataError, ModelError
from ml_project_template.models import BaseModel, ModelRegistry, TrainingReport
from ml_project_template.utils.names import snake_case

CONF = Path(__file__).resolve().parents[2] / "conf"
Splits = tuple[TabularDataset, TabularDataset, TabularDataset]

pytestmark = pytest.mark.parametrize("name", ModelRegistry.list())


def _settings(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model's arguments and its training arguments from its own YAML files."""
    for file in sorted((CONF / "model").glob("*.yaml")):
        model: Any = OmegaConf.to_container(OmegaConf.load(file))
        if snake_case(model["_target_"].rsplit(".", 1)[-1]) == name:
            training: Any = OmegaConf.to_container(OmegaConf.load(CONF / "training" / file.name))
            del model["_target_"], model["defaults"]
            return model, training
    return {}, {}


def _build(name: str) -> BaseModel:
    model: BaseModel = ModelRegistry.get(name)(**_settings(name)[0])
    return model


def _train(
    name: str,
    splits: Splits,
    *,
    path: Path | None = None,
    seed: int | None = 0,
    save_model: Any = "best",
    arguments: Mapping[str, Any] | None = None,
) -> tuple[BaseModel, TrainingReport]:
    model = _build(name)
    report = model.train(
        experiment_name="contract",
        train_data=splits[0],
        val_data=splits[1],
        test_data=splits[2],
        model_path=path,
        seed=seed,
        save_model=save_model,
        tracking=False,
        **{**_settings(name)[1], **(arguments or {})},
    )
    return model, report


def _weights_digest(path: Path) -> str:
    (weights,) = path.glob("weights.*")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def test_it_has_a_configuration_file(name: str) -> None:
    assert _settings(name)[0], f"conf/model has no YAML for {name}"


def test_it_learns_iris(name: str, iris: Splits) -> None:
    _, report = _train(name, iris)
    assert report.metrics["val_accuracy"] >= 0.93
    assert report.metrics["test_accuracy"] >= 0.9
    assert {"train_loss", "val_log_loss", "test_f1_macro", "val_roc_auc"} <= report.metrics.keys()
    assert report.history
    assert {"step", "train_loss", "val_loss"} <= report.history[0].keys()


def test_scores_have_a_column_for_each_class_and_their_argmax_is_the_class(
    name: str, iris: Splits
) -> None:
    model, _ = _train(name, iris)
    scores = model.predict(iris[0])
    assert scores.shape == (90, 3)
    assert (scores.argmax(axis=1) == iris[0].y).mean() > 0.9


def test_probabilities_are_the_softmax_of_the_scores(name: str, iris: Splits) -> None:
    model, _ = _train(name, iris)
    scores = model.predict(iris[2]).astype(np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    probabilities = model.predict_proba(iris[2])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


def test_two_classes_have_two_scores(name: str, binary_iris: Splits) -> None:
    model, report = _train(name, binary_iris)
    assert model.predict(binary_iris[1]).shape == (20, 2)
    assert report.metrics["train_accuracy"] > 0.9
    assert report.metrics["train_roc_auc"] > 0.9


def test_a_saved_model_predicts_to_the_bit_as_before(
    name: str, iris: Splits, tmp_path: Path
) -> None:
    model, report = _train(name, iris, path=tmp_path / "model")
    assert report.model_path == str(tmp_path / "model")
    expected = model.predict(iris[2])
    for loaded in (
        type(model).load(tmp_path / "model"),
        BaseModel.load(tmp_path / "model"),
        ModelRegistry.load(tmp_path / "model"),
    ):
        assert type(loaded) is type(model)
        np.testing.assert_array_equal(loaded.predict(iris[2]), expected)
        assert loaded.signature == model.signature
        assert loaded.metadata == model.metadata


def test_a_model_of_another_process_predicts_to_the_bit_as_there(
    name: str, iris: Splits, tmp_path: Path
) -> None:
    model, _ = _train(name, iris, path=tmp_path / "model")
    np.save(tmp_path / "X.npy", iris[2].X)
    code = (
        "import numpy as np, sys\n"
        "from ml_project_template.models import ModelRegistry\n"
        "model = ModelRegistry.load('model')\n"
        "np.save('scores.npy', model.predict(np.load('X.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), model.predict(iris[2]))


def test_a_loaded_model_is_saved_again_with_the_same_weights(
    name: str, iris: Splits, tmp_path: Path
) -> None:
    _train(name, iris, path=tmp_path / "first")
    ModelRegistry.load(tmp_path / "first").save(tmp_path / "second")
    assert _weights_digest(tmp_path / "first") == _weights_digest(tmp_path / "second")


def test_the_same_seed_gives_the_same_weights_and_metrics(
    name: str, iris: Splits, tmp_path: Path
) -> None:
    _, first = _train(name, iris, path=tmp_path / "first", seed=0)
    _, second = _train(name, iris, path=tmp_path / "second", seed=0)
    assert first.metrics == second.metrics
    assert first.history == second.history
    assert _weights_digest(tmp_path / "first") == _weights_digest(tmp_path / "second")


def test_another_seed_gives_another_model_where_chance_has_a_part(name: str, iris: Splits) -> None:
    scores = [_train(name, iris, seed=seed)[0].predict(iris[2]) for seed in (0, 1)]
    assert (scores[0] != scores[1]).any() == ModelRegistry.get(name).seed_matters


def test_without_a_seed_chance_is_drawn_anew(name: str, iris: Splits) -> None:
    scores = [_train(name, iris, seed=None)[0].predict(iris[2]) for _ in range(2)]
    assert (scores[0] != scores[1]).any() == ModelRegistry.get(name).seed_matters


def test_its_config_builds_the_same_object(name: str, iris: Splits, tmp_path: Path) -> None:
    model, _ = _train(name, iris, path=tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["name"] == name
    rebuilt = type(model)(**config["params"])
    assert rebuilt.get_params() == model.get_params()
    assert config["params"].keys().isdisjoint({"accelerator", "precision"})


def test_its_parameters_are_plain_json(name: str) -> None:
    model = _build(name)
    params = model.get_params()
    assert json.loads(json.dumps(params, allow_nan=False)) == params
    params.clear()
    assert model.get_params() != params


def test_it_trains_without_validation_data(name: str, iris: Splits) -> None:
    model = _build(name)
    report = model.train(
        experiment_name="contract",
        train_data=iris[0],
        seed=0,
        tracking=False,
        **_settings(name)[1],
    )
    assert report.metrics["train_accuracy"] > 0.9
    assert not any(metric.startswith("val_") for metric in report.metrics)
    assert report.model_path is None
    assert report.run_id is None


def test_raw_rows_train_too(name: str, raw_iris: TabularDataset, tmp_path: Path) -> None:
    train, val = raw_iris.split(test_size=0.2, random_state=0)
    model, _ = _train(name, (train, val, val), path=tmp_path / "model")
    loaded = ModelRegistry.load(tmp_path / "model")
    assert loaded.preprocessor is not None
    prepared = loaded.preprocessor.transform(val)
    np.testing.assert_array_equal(loaded.predict(prepared), model.predict(val))


def test_an_unknown_training_argument_is_told_with_the_one_that_was_meant(
    name: str, iris: Splits
) -> None:
    known = next(iter(_settings(name)[1]))
    message = f"training.{known}e: unknown key. Did you mean '{known}'"
    with pytest.raises(ConfigError, match=message):
        _train(name, iris, arguments={f"{known}e": 3})


def test_a_training_argument_of_a_wrong_type_is_told(name: str, iris: Splits) -> None:
    known = next(iter(_settings(name)[1]))
    with pytest.raises(ConfigError, match=rf"training.{known}: must be .*, got {{'a': 1}}"):
        _train(name, iris, arguments={known: {"a": 1}})


def test_an_unknown_choice_of_weights_is_told(name: str, iris: Splits) -> None:
    with pytest.raises(ConfigError, match="Unknown save_model 'bets'. Did you mean 'best'"):
        _train(name, iris, save_model="bets")


def test_before_the_fit_it_neither_predicts_nor_saves(
    name: str, iris: Splits, tmp_path: Path
) -> None:
    model = _build(name)
    with pytest.raises(ModelError, match="is not fitted"):
        model.predict(iris[0])
    with pytest.raises(ModelError, match="is not fitted"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_wrong_input_is_told_in_one_line(name: str, iris: Splits) -> None:
    model, _ = _train(name, iris)
    wrong: list[tuple[Any, str]] = [
        (iris[0].X[:, :3], "takes 4 features, X has 3"),
        (iris[0].X[0], "a single row is"),
        ([["a", "b", "c", "d"]], "must hold numbers only"),
        (iris[0].features.rename(columns={"petal_width": "petal_widht"}), "lacks .*petal_width"),
    ]
    for X, message in wrong:
        with pytest.raises(DataError, match=message) as caught:
            model.predict(X)
        assert "\n" not in str(caught.value)


def test_one_row_gives_what_it_gives_among_many(name: str, iris: Splits) -> None:
    model, _ = _train(name, iris)
    single = np.concatenate([model.predict(iris[2].X[[row]]) for row in range(len(iris[2]))])
    np.testing.assert_allclose(single, model.predict(iris[2]), rtol=1e-5, atol=1e-6)


def test_no_rows_give_no_scores(name: str, iris: Splits) -> None:
    model, _ = _train(name, iris)
    assert model.predict(iris[2].X[:0]).shape == (0, 3)
    assert model.predict_proba(iris[2].X[:0]).shape == (0, 3)


def test_every_form_of_the_same_rows_gives_the_same_scores(name: str, iris: Splits) -> None:
    model, _ = _train(name, iris)
    test = iris[2]
    expected = model.predict(test)
    shuffled = test.features[list(reversed(test.feature_names))]
    for X in (test.X, test.X.astype(np.float64), test.X.tolist(), test.features, shuffled):
        np.testing.assert_array_equal(model.predict(X), expected)


def test_importances_belong_to_the_features(name: str, iris: Splits) -> None:
    model, _ = _train(name, iris)
    importances = model.feature_importances()
    assert importances is None or (
        importances.shape == (4,) and importances.sum() == pytest.approx(1)
    )


def test_its_metadata_tells_how_it_came_about(name: str, iris: Splits, tmp_path: Path) -> None:
    model, report = _train(name, iris, path=tmp_path / "model", seed=7)
    metadata = json.loads((tmp_path / "model" / "metadata.json").read_text())
    assert metadata["seed"] == 7
    assert metadata["metrics"] == report.metrics
    assert metadata["data"]["rows"] == {"train": 90, "val": 30, "test": 30}
    assert set(metadata["versions"]) == set(model.packages)
    assert metadata["training"].keys() >= _settings(name)[1].keys()


WARMED = """
import json, sys, threading
import numpy as np, pandas as pd
from ml_project_template.data import TabularDataset
from ml_project_template.models import ModelRegistry

name, arguments, training = sys.argv[1], *map(json.loads, sys.argv[2:])
values = np.random.default_rng(0).normal(size=(60, 4))
frame = pd.DataFrame(values, columns=list("abcd"))
data = TabularDataset(frame, ["u", "v"] * 30, target_column="y")
cls = ModelRegistry.get(name)
cls.warm_up()
warm = set(sys.modules)
threads = threading.active_count()
cuda = "torch" in warm and sys.modules["torch"].cuda.is_initialized()
cls(**arguments).train(
    experiment_name="x",
    train_data=data,
    val_data=data,
    model_path="model",
    seed=0,
    tracking=False,
    **training,
)
light = {"ml_project_template", "pydantic", *sys.stdlib_module_names}
late = [module for module in set(sys.modules) - warm if module.partition(".")[0] not in light]
print(json.dumps({
    "late": sorted(late), "threads": threads, "cuda": cuda, "torch": "torch" in sys.modules
}))
"""


def test_after_its_warm_up_a_training_imports_nothing_heavy(name: str, tmp_path: Path) -> None:
    # The workers of a sweep are forked after it: what is missing there, each imports for itself,
    # and a thread or a device would not survive the fork.
    arguments, training = _settings(name)
    done = subprocess.run(
        [sys.executable, "-c", WARMED, name, json.dumps(arguments), json.dumps(training)],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    assert json.loads(done.stdout) == {
        "late": [],
        "threads": 1,
        "cuda": False,
        "torch": "torch" in ModelRegistry.get(name).packages,
    }
