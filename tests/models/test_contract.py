"""What every registered model promises. A new model is covered by being there."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from omegaconf import OmegaConf

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.signature import Task
from ml_project_template.errors import ConfigError, DataError, ModelError
from ml_project_template.inference import Inference
from ml_project_template.models import BaseModel, ModelRegistry, TrainingReport

CONF = Path(__file__).resolve().parents[2] / "conf"
Splits = tuple[TabularDataset, TabularDataset, TabularDataset]
RawSplits = tuple[TabularDataset, TabularDataset]


class Trained(NamedTuple):
    """A model that was trained and saved."""

    model: BaseModel
    report: TrainingReport
    path: Path


def _family(name: str) -> str:
    """Cut the task off a name: a classifier and a regressor share their YAML."""
    return name.removesuffix("_classifier").removesuffix("_regressor")


NAMES = ModelRegistry.list()
TASKS = {name: ModelRegistry.get(name).task for name in NAMES}
SCORE = {"classification": "train_accuracy", "regression": "train_r2"}

# Each of them does the same: a few tell as much as many.
FEWER = {"tabm": {"members": 8}, "random_forest": {"n_estimators": 30}}

every_model = pytest.mark.parametrize("name", NAMES)
every_classifier = pytest.mark.parametrize(
    "name", [name for name in NAMES if TASKS[name] == "classification"]
)
every_regressor = pytest.mark.parametrize(
    "name", [name for name in NAMES if TASKS[name] == "regression"]
)


# What costs a process of its own is tried with one model of those that share their code.
one_of_each_family = pytest.mark.parametrize(
    "name", list({_family(name): name for name in reversed(NAMES)}.values())
)


@functools.cache
def _files() -> dict[str, tuple[str, str]]:
    """Read each YAML of a model, and of its training, by the name of the model without its task."""
    found = {}
    for file in sorted((CONF / "model").glob("*.yaml")):
        model: Any = OmegaConf.to_container(OmegaConf.load(file))
        package, _, class_name = model.pop("_target_").rpartition(".")
        name = ModelRegistry.name_of(getattr(importlib.import_module(package), class_name))
        (training,) = (
            choice[key]
            for choice in model.pop("defaults")
            if isinstance(choice, dict)
            for key in choice
            if key.startswith("/training")
        )
        arguments = OmegaConf.to_container(OmegaConf.load(CONF / "training" / f"{training}.yaml"))
        found[_family(name)] = (json.dumps(model), json.dumps(arguments))
    return found


def _settings(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model's arguments and its training arguments from its own YAML files."""
    model, training = map(json.loads, _files().get(_family(name), ("{}", "{}")))
    return {**model, **FEWER.get(_family(name), {})}, training


def _briefly(name: str) -> dict[str, Any]:
    """Give the training arguments of a fit that need not be good."""
    return {"max_epochs": 3} if "max_epochs" in _settings(name)[1] else {}


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


@pytest.fixture
def table(name: str, iris: Splits, petals: Splits) -> Splits:
    """Rows with a target that the model is for, and four columns."""
    return petals if TASKS[name] == "regression" else iris


@pytest.fixture(scope="module")
def trainings() -> dict[str, Trained]:
    """What `trained` has made so far."""
    return {}


@pytest.fixture
def trained(
    name: str,
    table: Splits,
    trainings: dict[str, Trained],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """The model with seed 0, trained once for all tests that only look at it."""
    if name not in trainings:
        path = tmp_path_factory.mktemp(name) / "model"
        trainings[name] = Trained(*_train(name, table, path=path), path)
    return trainings[name]


@pytest.fixture
def begun(
    name: str,
    table: Splits,
    trained: Trained,
    trainings: dict[str, Trained],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """The model with seed 0 after the first of its training, made once."""
    if not _briefly(name):
        return trained
    if f"{name} begun" not in trainings:
        path = tmp_path_factory.mktemp(name) / "begun"
        begun = _train(name, table, path=path, arguments=_briefly(name))
        trainings[f"{name} begun"] = Trained(*begun, path)
    return trainings[f"{name} begun"]


def _weights_digest(path: Path) -> str:
    (weights,) = path.glob("weights.*")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


@every_model
def test_it_has_a_configuration_file(name: str) -> None:
    assert _settings(name)[0], f"conf/model has no YAML for {name}"


@every_classifier
def test_it_learns_iris(trained: Trained) -> None:
    metrics = trained.report.metrics
    assert metrics["val_accuracy"] >= 0.93
    assert metrics["test_accuracy"] >= 0.9
    assert {"train_loss", "val_log_loss", "test_f1_macro", "val_roc_auc"} <= metrics.keys()


@every_regressor
def test_it_learns_the_size_of_petals(trained: Trained) -> None:
    metrics = trained.report.metrics
    assert metrics["val_r2"] >= 0.85
    assert metrics["test_r2"] >= 0.85
    assert {"train_loss", "val_mae", "test_rmse"} <= metrics.keys()


@every_model
def test_it_reports_its_steps(trained: Trained) -> None:
    assert trained.report.history
    assert {"step", "train_loss", "val_loss"} <= trained.report.history[0].keys()


@every_classifier
def test_scores_have_a_column_for_each_class_and_their_argmax_is_the_class(
    trained: Trained, iris: Splits
) -> None:
    scores = trained.model.predict(iris[0])
    assert scores.shape == (90, 3)
    assert (scores.argmax(axis=1) == iris[0].y).mean() > 0.9


@every_classifier
def test_probabilities_are_the_softmax_of_the_scores(trained: Trained, iris: Splits) -> None:
    scores = trained.model.predict(iris[2]).astype(np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    probabilities = trained.model.predict_proba(iris[2])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


@every_classifier
def test_two_classes_have_two_scores(name: str, binary_iris: Splits) -> None:
    model, report = _train(name, binary_iris)
    assert model.predict(binary_iris[1]).shape == (20, 2)
    assert report.metrics["train_accuracy"] > 0.9
    assert report.metrics["train_roc_auc"] > 0.9


@every_regressor
def test_it_predicts_a_number_for_each_row_in_the_units_of_the_target(
    trained: Trained, petals: Splits
) -> None:
    predicted = trained.model.predict(petals[2])
    assert predicted.shape == (30,)
    error = float(np.sqrt(np.mean((predicted - petals[2].y) ** 2)))
    assert error == pytest.approx(trained.report.metrics["test_rmse"], rel=1e-6)
    with pytest.raises(ModelError, match="predicts numbers"):
        trained.model.predict_proba(petals[2])


@every_regressor
def test_weights_of_classes_are_no_setting_of_a_regression(name: str, petals: Splits) -> None:
    with pytest.raises(ConfigError, match=r"^training\.class_weight: ") as caught:
        _train(name, petals, arguments={"class_weight": "balanced"})
    assert "\n" not in str(caught.value)


@every_model
def test_data_of_another_task_are_told_with_the_model_for_them(
    name: str, iris: Splits, petals: Splits
) -> None:
    other = iris if TASKS[name] == "regression" else petals
    with pytest.raises(ConfigError, match=f"a {name} is for {TASKS[name]}"):
        _train(name, other)


@every_model
def test_a_saved_model_predicts_to_the_bit_as_before(trained: Trained, table: Splits) -> None:
    model, report, path = trained
    assert report.model_path == str(path)
    expected = model.predict(table[2])
    for loaded in (type(model).load(path), BaseModel.load(path), ModelRegistry.load(path)):
        assert type(loaded) is type(model)
        np.testing.assert_array_equal(loaded.predict(table[2]), expected)
        assert loaded.signature == model.signature
        assert loaded.metadata == model.metadata


@one_of_each_family
def test_a_model_of_another_process_predicts_to_the_bit_as_there(
    trained: Trained, table: Splits, tmp_path: Path, python: list[str]
) -> None:
    np.save(tmp_path / "X.npy", table[2].X)
    code = (
        "import numpy as np, sys\n"
        "from ml_project_template.models import ModelRegistry\n"
        "model = ModelRegistry.load(sys.argv[1])\n"
        "np.save('scores.npy', model.predict(np.load('X.npy')))"
    )
    command = [*python, "-c", code, str(trained.path)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    expected = trained.model.predict(table[2])
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), expected)


@every_model
def test_a_loaded_model_is_saved_again_with_the_same_weights(
    trained: Trained, tmp_path: Path
) -> None:
    ModelRegistry.load(trained.path).save(tmp_path / "second")
    assert _weights_digest(trained.path) == _weights_digest(tmp_path / "second")


@every_model
def test_the_same_seed_gives_the_same_weights_and_metrics(
    name: str, begun: Trained, table: Splits, tmp_path: Path
) -> None:
    _, again = _train(name, table, path=tmp_path / "again", arguments=_briefly(name))
    assert again.metrics == begun.report.metrics
    assert again.history == begun.report.history
    assert _weights_digest(tmp_path / "again") == _weights_digest(begun.path)


@every_model
def test_another_seed_gives_another_model_where_chance_has_a_part(
    name: str, begun: Trained, table: Splits
) -> None:
    other = _train(name, table, seed=1, arguments=_briefly(name))[0].predict(table[2])
    assert (other != begun.model.predict(table[2])).any() == type(begun.model).seed_matters


@every_model
def test_without_a_seed_chance_is_drawn_anew(name: str, table: Splits) -> None:
    scores = [
        _train(name, table, seed=None, arguments=_briefly(name))[0].predict(table[2])
        for _ in range(2)
    ]
    assert (scores[0] != scores[1]).any() == ModelRegistry.get(name).seed_matters


@every_model
def test_its_config_builds_the_same_object(name: str, trained: Trained) -> None:
    config = json.loads((trained.path / "config.json").read_text())
    assert config["name"] == name
    rebuilt = type(trained.model)(**config["params"])
    assert rebuilt.get_params() == trained.model.get_params()
    assert config["params"].keys().isdisjoint({"accelerator", "devices", "precision"})


@every_model
def test_its_parameters_are_plain_json(name: str) -> None:
    model = _build(name)
    params = model.get_params()
    assert json.loads(json.dumps(params, allow_nan=False)) == params
    params.clear()
    assert model.get_params() != params


@every_model
def test_it_trains_without_validation_data(name: str, table: Splits) -> None:
    model = _build(name)
    report = model.train(
        experiment_name="contract",
        train_data=table[0],
        seed=0,
        tracking=False,
        **_settings(name)[1],
    )
    assert report.metrics[SCORE[TASKS[name]]] > 0.9
    assert not any(metric.startswith("val_") for metric in report.metrics)
    assert report.model_path is None
    assert report.run_id is None


@every_model
def test_raw_rows_train_too(
    name: str, raw_iris: TabularDataset, raw_petals: TabularDataset, tmp_path: Path
) -> None:
    raw = raw_petals if TASKS[name] == "regression" else raw_iris
    train, val = raw.split(test_size=0.2, random_state=0)
    path = tmp_path / "model"
    model, _ = _train(name, (train, val, val), path=path, arguments=_briefly(name))
    loaded = ModelRegistry.load(path)
    assert loaded.preprocessor is not None
    prepared = loaded.preprocessor.transform(val)
    np.testing.assert_array_equal(loaded.predict(prepared), model.predict(val))


@every_model
def test_an_unknown_training_argument_is_told_with_the_one_that_was_meant(
    name: str, table: Splits
) -> None:
    known = next(iter(_settings(name)[1]))
    message = f"training.{known}e: unknown key. Did you mean '{known}'"
    with pytest.raises(ConfigError, match=message):
        _train(name, table, arguments={f"{known}e": 3})


@every_model
def test_a_training_argument_of_a_wrong_type_is_told(name: str, table: Splits) -> None:
    known = next(iter(_settings(name)[1]))
    with pytest.raises(ConfigError, match=rf"training.{known}: must be .*, got {{'a': 1}}"):
        _train(name, table, arguments={known: {"a": 1}})


@every_model
def test_an_unknown_choice_of_weights_is_told(name: str, table: Splits) -> None:
    with pytest.raises(ConfigError, match="Unknown save_model 'bets'. Did you mean 'best'"):
        _train(name, table, save_model="bets")


@every_model
def test_before_the_fit_it_neither_predicts_nor_saves(
    name: str, table: Splits, tmp_path: Path
) -> None:
    model = _build(name)
    with pytest.raises(ModelError, match="is not fitted"):
        model.predict(table[0])
    with pytest.raises(ModelError, match="is not fitted"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@every_model
def test_wrong_input_is_told_in_one_line(trained: Trained, table: Splits) -> None:
    X, features = table[0].X, table[0].features
    wrong: list[tuple[Any, str]] = [
        (X[:, :3], "takes 4 features, X has 3"),
        (X[0], "a single row is"),
        ([["a", "b", "c", "d"]], "must hold numbers only"),
        (features.rename(columns={"petal_width": "petal_widht"}), "lacks .*petal_width"),
    ]
    for values, message in wrong:
        with pytest.raises(DataError, match=message) as caught:
            trained.model.predict(values)
        assert "\n" not in str(caught.value)


@every_model
def test_one_row_gives_what_it_gives_among_many(trained: Trained, table: Splits) -> None:
    X, predict = table[2].X, trained.model.predict
    single = np.concatenate([predict(X[[row]]) for row in range(len(X))])
    np.testing.assert_allclose(single, predict(X), rtol=1e-5, atol=1e-6)


@every_model
def test_no_rows_give_no_answers(trained: Trained, table: Splits) -> None:
    nothing = table[2].X[:0]
    if trained.model.task == "regression":
        assert trained.model.predict(nothing).shape == (0,)
    else:
        assert trained.model.predict(nothing).shape == (0, 3)
        assert trained.model.predict_proba(nothing).shape == (0, 3)


@every_model
def test_every_form_of_the_same_rows_gives_the_same_answers(
    trained: Trained, table: Splits
) -> None:
    test = table[2]
    expected = trained.model.predict(test)
    shuffled = test.features[list(reversed(test.feature_names))]
    for X in (test.X, test.X.astype(np.float64), test.X.tolist(), test.features, shuffled):
        np.testing.assert_array_equal(trained.model.predict(X), expected)


@every_model
def test_importances_belong_to_the_features(trained: Trained) -> None:
    importances = trained.model.feature_importances()
    assert importances is None or (
        importances.shape == (4,) and importances.sum() == pytest.approx(1)
    )


@every_model
def test_its_metadata_tells_how_it_came_about(name: str, trained: Trained) -> None:
    metadata = json.loads((trained.path / "metadata.json").read_text())
    assert metadata["seed"] == 0
    assert metadata["metrics"] == trained.report.metrics
    assert metadata["data"]["rows"] == {"train": 90, "val": 30, "test": 30}
    assert set(metadata["versions"]) == set(trained.model.packages)
    assert metadata["training"].keys() >= _settings(name)[1].keys()


@every_model
def test_a_table_of_numbers_categories_and_dates_trains_and_is_served(
    name: str, mixed: Callable[[Task], RawSplits], tmp_path: Path
) -> None:
    raw = mixed(TASKS[name])
    preprocessor = Preprocessor().fit(raw[0])
    train, val = (preprocessor.transform(part) for part in raw)
    path = tmp_path / "model"
    model, report = _train(name, (train, val, val), path=path)
    score = {"classification": "val_accuracy", "regression": "val_r2"}[TASKS[name]]
    assert report.metrics[score] > 0.75

    loaded = ModelRegistry.load(path)
    np.testing.assert_array_equal(loaded.predict(val), model.predict(val))

    # What a service is sent: an unseen level is one that is missing.
    assert model.signature is not None
    rows: list[dict[str, object]] = [
        {"size": 90.0, "rooms": 3, "city": "Bonn", "garden": True, "built": "1990-05-01"},
        {"size": None, "rooms": 3, "city": None, "garden": False, "built": "2001-01-31"},
        {"size": None, "rooms": 3, "city": "Atlantis", "garden": False, "built": "2001-01-31"},
    ]
    values = model.signature.rows_to_frame(rows).to_numpy()
    expected = model.answer(preprocessor.transform_array(values))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(expected[1], expected[2], rtol=1e-6)
    assert not np.allclose(expected[0], expected[1], rtol=1e-4)
    np.testing.assert_array_equal(loaded.answer(preprocessor.transform_array(values)), expected)
    served = Inference.load(str(path))
    kinds = [kind for kind in type(model).__mro__ if kind is not BaseModel]
    has_graph = any("score_graph" in vars(kind) for kind in kinds)
    assert served.backend == ("onnxruntime" if has_graph else "model")
    np.testing.assert_allclose(served.probabilities(values), expected, rtol=1e-5, atol=1e-6)


WARMED = """
import json, sys, threading
import numpy as np, pandas as pd
from ml_project_template.data import TabularDataset
from ml_project_template.models import ModelRegistry

name, arguments, training = sys.argv[1], *map(json.loads, sys.argv[2:])
values = np.random.default_rng(0).normal(size=(60, 4))
frame = pd.DataFrame(values, columns=list("abcd"))
cls = ModelRegistry.get(name)
target = values.sum(axis=1) if cls.task == "regression" else ["u", "v"] * 30
data = TabularDataset(frame, target, target_column="y")
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


@one_of_each_family
def test_after_its_warm_up_a_training_imports_nothing_heavy(name: str, tmp_path: Path) -> None:
    # The workers of a sweep are forked after it: what is missing there, each imports for itself,
    # and a thread or a device would not survive the fork.
    arguments, training = _settings(name)
    training |= _briefly(name)
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
