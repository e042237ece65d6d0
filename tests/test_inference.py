"""A server's answers: the model's own, by another way, and nothing else ever."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.errors import ArtifactError, DataError
from ml_project_template.inference import Inference
from ml_project_template.models import (
    BaseModel,
    GBClassifier,
    MLPClassifier,
    ModelRegistry,
    register,
)
from ml_project_template.predictor import Predictor
from tests.conftest import ROOT

NAMES = ("width", "height", "count", "constant", "on")


def _table(num_classes: int = 3, *, gaps: bool = False, rows: int = 150) -> TabularDataset:
    """Make a table with columns of very different kinds."""
    rng = np.random.default_rng(num_classes)
    frame = pd.DataFrame(
        {
            "width": rng.normal(size=rows),
            "height": rng.normal(1e4, 1e3, rows),
            "count": rng.integers(0, 5, rows),
            "constant": np.full(rows, 0.1),
            "on": rng.random(rows) < 0.3,
        }
    )
    score = frame["width"] + (frame["height"] - 1e4) / 1e3 + rng.normal(0, 0.5, rows)
    labels = pd.qcut(score, num_classes, labels=[f"c{i}" for i in range(num_classes)])
    if gaps:
        frame.loc[::7, "width"] = np.nan
        frame.loc[::11, "height"] = np.nan
    return TabularDataset(frame, labels.astype(str).tolist(), target_column="y", name="mixed")


def _save(
    model: BaseModel,
    path: Path,
    data: TabularDataset,
    preprocessor: Preprocessor | None = None,
    **training: Any,
) -> Path:
    train = data if preprocessor is None else preprocessor.fit(data).transform(data)
    model.train(
        experiment_name="x", train_data=train, tracking=False, model_path=path, seed=0, **training
    )
    return path


def _random_rows(inference: Inference, factor: float, n: int = 1_000) -> NDArray[np.float64]:
    """Draw rows within and far out of the training's ranges, on its values, and with gaps."""
    rng = np.random.default_rng(1)
    columns = []
    for feature in inference.signature.features:
        deciles = np.array(feature.quantiles or [0.0] * 11)
        low, high = deciles[0], deciles[-1]
        spread = high - low or 1.0
        column = rng.uniform(low - spread, high + spread, n)
        kind = rng.integers(0, 10, n)
        column = np.where(kind < 3, rng.choice(deciles, n), column)
        column = np.where(kind == 3, np.nextafter(np.float32(column), np.float32(np.inf)), column)
        column = np.where(kind == 4, low + factor * spread * rng.normal(size=n), column)
        column = np.where(kind == 5, rng.choice([0.0, -0.0, 1e-300, -1e-45], n), column)
        if inference.accepts_missing:
            column = np.where(kind == 6, np.nan, column)
        columns.append(column)
    rows = np.ascontiguousarray(np.column_stack(columns))
    if inference.accepts_missing:
        rows[0] = np.nan
    return rows


def _assert_same(path: Path, *, factor: float, backend: str = "onnxruntime") -> Inference:
    inference = Inference.load(str(path))
    assert inference.backend == backend
    rows = _random_rows(inference, factor)
    expected = Predictor.load(str(path)).predict(rows).probabilities
    answers = inference.probabilities(rows)
    assert answers.dtype == np.float64
    # Of random rows, which lie far from those of the training: sums in float32 differ in order.
    np.testing.assert_allclose(answers, expected, rtol=0, atol=2e-6)
    single = np.concatenate([inference.probabilities(rows[row : row + 1]) for row in range(50)])
    np.testing.assert_allclose(single, expected[:50], rtol=0, atol=2e-6)
    return inference


@pytest.mark.parametrize(
    "name", [n for n in ModelRegistry.list() if ModelRegistry.get(n).task == "classification"]
)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_registered_classifier_answers_as_its_predictor(
    name: str, num_classes: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {}
    for file in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        found: Any = OmegaConf.to_container(OmegaConf.load(file))
        if found.pop("_target_").rsplit(".", 1)[-1] == ModelRegistry.get(name).__name__:
            del found["defaults"]
            settings = found
    model_class = ModelRegistry.get(name)
    # As it is set, but not for as long.
    settings |= {"max_iter": 10} if "max_iter" in settings else {}
    training = {} if model_class.training_problems({"max_epochs": 3}) else {"max_epochs": 3}
    data = _table(num_classes)
    path = _save(model_class(**settings), tmp_path / "m", data, Preprocessor(), **training)
    own = [c for c in model_class.__mro__ if "score_graph" in vars(c) and c is not BaseModel]
    inference = _assert_same(path, factor=10, backend="onnxruntime" if own else "model")
    assert inference.model_name == name
    assert inference.signature.feature_names == NAMES
    with artifacts.open_model_directory(path) as directory:
        assert artifacts.digest(directory).startswith(inference.version)


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize("activation", ["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"])
def test_networks_of_every_kind_answer_as_their_predictor(
    activation: Any, normalization: Any, tmp_path: Path
) -> None:
    classes = 2 if activation in {"elu", "silu", "tanh"} else 5
    model = MLPClassifier(
        [None, 16, 8, None],
        activation=activation,
        normalization=normalization,
        dropout=0.2 if activation in {"gelu", "relu", "tanh"} else 0.0,
        accelerator="cpu",
    )
    path = _save(model, tmp_path / "m", _table(classes), Preprocessor(), max_epochs=2)
    _assert_same(path, factor=10)


def test_a_network_without_hidden_layers_answers_as_its_predictor(tmp_path: Path) -> None:
    model = MLPClassifier([None, None], accelerator="cpu", normalization="batch", dropout=0.5)
    path = _save(model, tmp_path / "m", _table(gaps=True), Preprocessor("median"), max_epochs=2)
    assert _assert_same(path, factor=10).accepts_missing


def test_a_network_of_raw_rows_takes_no_gaps(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    data = TabularDataset(frame, ["p", "q"] * 30, target_column="y")
    model = MLPClassifier([None, 4, None], accelerator="cpu")
    path = _save(model, tmp_path / "m", data, max_epochs=2)
    assert not _assert_same(path, factor=10).accepts_missing


BOOSTERS: dict[str, tuple[dict[str, Any], int, bool, Preprocessor | None]] = {
    "histogram, two classes, gaps": ({}, 2, True, Preprocessor(None)),
    "histogram, two classes, raw": ({}, 2, True, None),
    "histogram, many classes": ({"max_leaf_nodes": 7}, 6, False, Preprocessor("zero")),
    "histogram, gaps filled in": ({}, 3, True, Preprocessor("median", None)),
    "histogram, single leaves": ({"min_samples_leaf": 1_000}, 3, True, None),
    "histogram, single leaf": ({"min_samples_leaf": 1_000}, 2, False, None),
    "exact, two classes": ({"booster": "exact"}, 2, False, None),
    "exact, gaps filled in": ({"booster": "exact"}, 3, True, Preprocessor()),
    "exact, many classes": ({"booster": "exact", "subsample": 0.5}, 5, False, None),
    "exact, single leaves": ({"booster": "exact", "min_samples_leaf": 1_000}, 3, False, None),
    "exact, one class against another": (
        {"booster": "exact", "learning_rate": 1.0, "max_leaf_nodes": None},
        2,
        False,
        Preprocessor(),
    ),
}


@pytest.mark.parametrize("kind", BOOSTERS)
def test_boosters_of_every_kind_answer_as_their_predictor(kind: str, tmp_path: Path) -> None:
    settings, classes, gaps, preprocessor = BOOSTERS[kind]
    model = GBClassifier(**{"max_iter": 10, "min_samples_leaf": 3, **settings})
    path = _save(model, tmp_path / "m", _table(classes, gaps=gaps), preprocessor)
    inference = _assert_same(path, factor=1e6)
    imputes = preprocessor is not None and preprocessor.impute is not None
    assert inference.accepts_missing == (imputes or settings.get("booster") != "exact")


def test_a_column_without_any_value_is_of_no_account(tmp_path: Path) -> None:
    frame = _table().features.assign(void=np.nan)
    data = TabularDataset(frame, _table().labels.tolist(), target_column="y")
    for preprocessor in (None, Preprocessor(None), Preprocessor()):
        path = _save(GBClassifier(max_iter=5), tmp_path / "m", data, preprocessor)
        _assert_same(path, factor=1e3)


@pytest.fixture(scope="module")
def booster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A booster of three classes, which no test may change."""
    path = tmp_path_factory.mktemp("booster") / "m"
    return _save(GBClassifier(max_iter=8), path, _table(gaps=True), Preprocessor(None))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes, which no test may change."""
    model = MLPClassifier([None, 8, None], normalization="batch", accelerator="cpu")
    path = tmp_path_factory.mktemp("network") / "m"
    return _save(model, path, _table(), Preprocessor(), max_epochs=2)


def test_no_rows_get_no_answers(booster: Path, network: Path) -> None:
    for path in (booster, network):
        assert Inference.load(str(path)).probabilities(np.empty((0, 5))).shape == (0, 3)


LIGHT = """
import json, sys
import numpy as np
from ml_project_template.inference import Inference

inference = Inference.load(sys.argv[1])
inference.probabilities(inference.signature.probe_rows())
heavy = {"torch", "sklearn", "scipy", "pandas", "mlflow", "lightning", "skops", "matplotlib"}
print(json.dumps([inference.backend, sorted(heavy & set(sys.modules))]))
"""


@pytest.mark.parametrize("kind", ["booster", "network"])
def test_loading_imports_nothing_that_a_training_needs(
    kind: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(path)], check=True, capture_output=True, timeout=120
    )
    assert json.loads(done.stdout) == ["onnxruntime", []]


def _changed(source: Path, target: Path, change: Callable[[Path], object]) -> Path:
    """Copy a model with a change, and with a manifest that knows of it."""

    def write(directory: Path) -> None:
        for file in source.iterdir():
            if file.name != artifacts.MANIFEST:
                shutil.copyfile(file, directory / file.name)
        change(directory)

    return Path(artifacts.write_model_directory(target, write))


def _with_tensors(
    change: Callable[[dict[str, NDArray[Any]]], object],
) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        tensors = artifacts.load_tensors(directory / artifacts.INFERENCE)
        change(tensors)
        artifacts.save_tensors(directory / artifacts.INFERENCE, tensors)

    return edit


@pytest.mark.parametrize("kind", ["booster", "network"])
def test_a_model_of_before_there_were_arrays_to_serve_from_is_served(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(kind)
    path = _changed(
        source, tmp_path / "old", lambda directory: (directory / artifacts.INFERENCE).unlink()
    )
    rows = _random_rows(Inference.load(str(source)), 10)
    answers = _assert_same(path, factor=10).probabilities(rows)
    np.testing.assert_array_equal(answers, Inference.load(str(source)).probabilities(rows))


def test_arrays_without_answers_are_compared_with_the_model(booster: Path, tmp_path: Path) -> None:
    def edit(tensors: dict[str, NDArray[Any]]) -> None:
        del tensors[artifacts.PROBE]
        tensors["trees.leaf_value"] += 1.0

    _assert_same(_changed(booster, tmp_path / "m", _with_tensors(edit)), factor=10)


@pytest.mark.parametrize("name", [artifacts.PROBE, "trees.leaf_value", "trees.threshold"])
def test_trees_that_do_not_answer_as_the_model_did_are_not_used(
    name: str, booster: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(tensors: dict[str, NDArray[Any]]) -> None:
        tensors[name][...] = tensors[name][::-1].copy()

    path = _changed(booster, tmp_path / "m", _with_tensors(edit))
    _assert_same(path, factor=10, backend="model")
    (warning,) = {record.getMessage() for record in caplog.records}
    assert "ONNX Runtime's answers differ from the model's own" in warning


def _first(name: str, value: float) -> Callable[[dict[str, NDArray[Any]]], None]:
    def edit(tensors: dict[str, NDArray[Any]]) -> None:
        tensors[f"trees.{name}"][0] = value

    return edit


def _as(name: str, kind: Any) -> Callable[[dict[str, NDArray[Any]]], None]:
    def edit(tensors: dict[str, NDArray[Any]]) -> None:
        tensors[name] = tensors[name].astype(kind)

    return edit


REFUSED: dict[str, tuple[Callable[[dict[str, NDArray[Any]]], object], str]] = {
    "a child that points to its parent": (_first("left", 0), "not after its parent"),
    "a child out of range": (_first("left", 2**31 - 1), "not after its parent"),
    "a leaf out of range": (_first("left", -(2**31)), "a leaf is missing"),
    "another feature": (_first("feature", 5), "a feature is missing"),
    "a negative feature": (_first("feature", -2), "a feature is missing"),
    "a root out of place": (_first("root", 1), "a root is out of place"),
    "a default direction": (_first("missing_left", 2), "neither 0 nor 1"),
    "another type": (_as("trees.leaf_value", np.float32), "no array 'leaf_value'"),
    "answers of another shape": (
        lambda tensors: tensors.update({artifacts.PROBE: tensors[artifacts.PROBE][:, :2]}),
        "has another shape",
    ),
    "a missing array": (lambda tensors: tensors.pop("trees.root"), "no array 'root'"),
    "a missing baseline": (
        lambda tensors: tensors.update({"trees.baseline": np.zeros(1)}),
        "the baseline has another length",
    ),
    "an array of two dimensions": (
        lambda tensors: tensors.update({"trees.left": tensors["trees.left"][None]}),
        "no array 'left'",
    ),
    "no nodes": (
        lambda tensors: tensors.update({"trees.feature": np.zeros(0, np.int32)}),
        "lengths differ",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_damaged_trees_are_refused_in_one_line(what: str, booster: Path, tmp_path: Path) -> None:
    change, message = REFUSED[what]
    path = _changed(booster, tmp_path / "m", _with_tensors(change))
    with pytest.raises(ArtifactError, match=message) as caught:
        Inference.load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


MUTATIONS = """
import collections, faulthandler, json, logging, shutil, sys
from pathlib import Path
import numpy as np
from ml_project_template import artifacts
from ml_project_template.errors import ProjectError
from ml_project_template.inference import Inference

logging.disable(logging.CRITICAL)
source, target, first, last = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
kinds = [np.int8, np.int32, np.int64, np.uint8, np.float32, np.float64, np.bool_]
extremes = [-(2**31), -2, -1, 0, 1, 2, 5, 1000, 2**31 - 1]
outcomes = collections.Counter()


def mutate(directory, rng):
    places = [artifacts.INFERENCE, artifacts.WEIGHTS_SAFETENSORS]
    place = directory / rng.choice([name for name in places if (directory / name).exists()])
    if rng.random() < 0.2:
        content = bytearray(place.read_bytes())
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        place.write_bytes(content[: rng.integers(len(content)) if rng.random() < 0.3 else None])
        return
    tensors = artifacts.load_tensors(place)
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice(sorted(tensors)))
        array = tensors[name].copy()
        way = rng.integers(8)
        if way == 0:
            del tensors[name]
            break
        if way == 1:
            array = array.astype(rng.choice(kinds))
        elif way == 2:
            array = array[: rng.integers(len(array) + 1)] if array.ndim else array
        elif way == 3:
            array = np.concatenate([array, array]) if array.ndim else array
        elif way == 4:
            array = array.reshape(1, *array.shape)
        elif array.size:
            flat = array.reshape(-1)
            spots = rng.integers(flat.size, size=rng.integers(1, 6))
            with np.errstate(all="ignore"):
                if way == 5:
                    flat[spots] = np.array(rng.choice(extremes)).astype(array.dtype)
                elif way == 6:
                    flat[spots] = flat[rng.integers(flat.size, size=len(spots))]
                else:
                    rng.shuffle(flat)
        tensors[name] = array
    artifacts.save_tensors(place, tensors)


for seed in range(first, last):
    print("seed", seed, file=sys.stderr, flush=True)
    faulthandler.dump_traceback_later(20, exit=True)
    rng = np.random.default_rng(seed)
    def write(directory):
        for file in source.iterdir():
            if file.name != artifacts.MANIFEST:
                shutil.copyfile(file, directory / file.name)
        mutate(directory, rng)
    artifacts.write_model_directory(target, write)
    try:
        inference = Inference.load(str(target))
    except ProjectError as error:
        assert "\\n" not in str(error), error
        outcomes["refused"] += 1
        continue
    answers = inference.probabilities(inference.signature.probe_rows())
    assert np.allclose(answers.sum(axis=1), 1)
    outcomes[inference.backend] += 1
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize(("kind", "count"), [("booster", 80), ("network", 40)])
def test_whatever_is_in_the_arrays_the_server_neither_crashes_nor_hangs(
    kind: str, count: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(kind)
    done = subprocess.run(
        [sys.executable, "-c", MUTATIONS, str(source), str(tmp_path / "m"), "0", str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == count
    assert outcomes["refused"] > count / 4


def test_a_config_without_the_defaults_is_served_as_it_is_loaded(
    booster: Path, network: Path, tmp_path: Path
) -> None:
    def edit(directory: Path) -> None:
        config = artifacts.read_config(directory)
        params = {key: value for key, value in config["params"].items() if key == "layer_dims"}
        params |= {"normalization": "batch"} if params else {}
        artifacts.write_config(directory, name=config["name"], params=params)

    for source in (booster, network):
        _assert_same(_changed(source, tmp_path / source.parent.name, edit), factor=10)


@pytest.mark.parametrize("widths", [[], [5], [None], [5, None], [4, 8, 3], [5, 8, 2], [5, 7, 3]])
def test_widths_that_are_not_those_of_the_weights_are_refused(
    widths: list[int | None], network: Path, tmp_path: Path
) -> None:
    def edit(directory: Path) -> None:
        config = artifacts.read_config(directory)
        config["params"]["layer_dims"] = widths
        artifacts.write_config(directory, name=config["name"], params=config["params"])

    with pytest.raises(ArtifactError) as caught:
        Inference.load(str(_changed(network, tmp_path / "m", edit)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["booster", "network"])
def test_a_value_that_is_too_large_is_told_with_row_and_feature(
    kind: str, request: pytest.FixtureRequest
) -> None:
    inference = Inference.load(str(request.getfixturevalue(kind)))
    rows = np.array([list(inference.signature.sample[1].values())] * 3, dtype=np.float64)
    rows = np.nan_to_num(rows)
    inference.probabilities(rows)
    for value in (1e300, -1e300, np.finfo(np.float64).max):
        rows[2, 1] = value
        with pytest.raises(DataError, match=r"Row 3: feature 'height': .* is too large"):
            inference.probabilities(rows)


@pytest.mark.parametrize("preprocessor", [None, Preprocessor()])
def test_the_largest_values_that_fit_are_answered(
    preprocessor: Preprocessor | None, tmp_path: Path
) -> None:
    path = _save(GBClassifier(max_iter=5), tmp_path / "m", _table(), preprocessor)
    inference, predictor = Inference.load(str(path)), Predictor.load(str(path))
    for factor in (1e-3, 0.3, 0.6, 0.999):
        rows = np.full((2, 5), factor * float(np.finfo(np.float32).max))
        if preprocessor is not None and preprocessor.scale_ is not None:
            rows = np.where(preprocessor.scale_ > 1, rows, rows * preprocessor.scale_)
        np.testing.assert_allclose(
            inference.probabilities(rows), predictor.predict(rows).probabilities, atol=1e-6
        )


class _Nearest(BaseModel):
    """The class of the nearest mean: a model that somebody has written."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.means_: NDArray[np.float64] = np.empty(0)

    def _fit(  # type: ignore[override]
        self, train_data: Any, val_data: Any = None
    ) -> None:
        classes = range(len(train_data.class_names))
        self.means_ = np.array([train_data.X[train_data.y == c].mean(axis=0) for c in classes])

    def predict(self, X: Any) -> NDArray[np.float64]:
        features = self._features(X).astype(np.float64)
        distances = np.square(features[:, None, :] - self.means_).sum(axis=2)
        scores: NDArray[np.float64] = -self.sharpness * distances
        return scores

    def _save_weights(self, directory: Path) -> None:
        artifacts.save_tensors(directory / artifacts.WEIGHTS_SAFETENSORS, {"means": self.means_})

    def _load_weights(self, directory: Path) -> None:
        self.means_ = artifacts.load_tensors(directory / artifacts.WEIGHTS_SAFETENSORS)["means"]


@pytest.fixture
def own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after the test what it registers."""
    monkeypatch.setattr(ModelRegistry, "_classes", dict(ModelRegistry._classes))


@pytest.mark.usefixtures("own_models")
def test_a_model_of_ones_own_is_asked_itself(tmp_path: Path) -> None:
    register("nearest")(_Nearest)
    path = _save(_Nearest(0.5), tmp_path / "m", _table(gaps=True), Preprocessor())
    inference = _assert_same(path, factor=10, backend="model")
    assert inference.model_name == "nearest"
    with pytest.raises(ArtifactError, match="a nearest can't be computed by ONNX Runtime") as told:
        Inference.load(str(path), backend="onnxruntime")
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("own_models")
def test_a_model_that_fails_on_gaps_is_saved_and_served_all_the_same(tmp_path: Path) -> None:
    @register("picky")
    class Picky(_Nearest):
        def predict(self, X: Any) -> NDArray[np.float64]:
            if np.isnan(self._features(X)).any():
                raise ValueError("Input X contains NaN.")
            return super().predict(X)

    path = _save(Picky(1e-6), tmp_path / "m", _table())
    inference = Inference.load(str(path))
    assert inference.backend == "model"
    rows = inference.signature.probe_rows()
    np.testing.assert_array_equal(
        inference.probabilities(rows), Predictor.load(str(path)).predict(rows).probabilities
    )


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize("what", ["no node", "unknown operator", "another input"])
def test_a_graph_that_can_not_be_computed_is_not_used(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from onnx import helper

    from ml_project_template.models._onnx import SCORES, ScoreGraph

    nodes: dict[str, list[Any]] = {
        "no node": [],
        "unknown operator": [helper.make_node("Guess", ["prepared"], [SCORES])],
        "another input": [helper.make_node("Relu", ["nowhere"], [SCORES])],
    }

    @register("broken")
    class Broken(_Nearest):
        @classmethod
        def score_graph(
            cls,
            params: Mapping[str, Any],
            tensors: Mapping[str, NDArray[Any]],
            n_features: int,
            num_classes: int,
        ) -> ScoreGraph | None:
            return ScoreGraph(nodes[what], {})

    path = _save(Broken(), tmp_path / "m", _table(), Preprocessor())
    _assert_same(path, factor=1, backend="model")
    assert "ONNX Runtime can't compute the model" in caplog.text


@pytest.mark.usefixtures("own_models")
def test_an_answer_that_is_no_number_is_told_with_its_row(tmp_path: Path) -> None:
    @register("overflowing")
    class Overflowing(_Nearest):
        def predict(self, X: Any) -> NDArray[np.float64]:
            scores = super().predict(X)
            scores[self._features(X)[:, 0] > 50] = np.nan
            return scores

    path = _save(Overflowing(), tmp_path / "m", _table(), Preprocessor())
    inference = Inference.load(str(path))
    rows = inference.signature.probe_rows()[:3].copy()
    rows[1, 0] = 1e4
    with pytest.raises(DataError, match=r"^Row 2: the model has no finite answer"):
        inference.probabilities(rows)


def test_the_model_itself_answers_if_it_is_asked_for(booster: Path) -> None:
    inference = Inference.load(str(booster), backend="model")
    assert inference.backend == "model"
    rows = _random_rows(inference, 10)
    np.testing.assert_allclose(
        inference.probabilities(rows),
        Inference.load(str(booster), backend="onnxruntime").probabilities(rows),
        rtol=0,
        atol=1e-6,
    )


def test_no_model_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        Inference.load(str(tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in str(caught.value)
    assert "\n" not in str(caught.value)
