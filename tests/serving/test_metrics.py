"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from ml_project_template.data import Signature, TabularDataset
from ml_project_template.serving.contract import UNSEEN
from ml_project_template.serving.metrics import ServerMetrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _signature(**columns: NDArray[np.generic]) -> Signature:
    frame = pd.DataFrame(columns)
    labels = ["no", "yes"] * (len(frame) // 2)
    return Signature.from_dataset(TabularDataset(frame, labels, target_column="y"))


def _samples(metrics: ServerMetrics) -> Samples:
    page = metrics.page().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def _of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def _drift(rows: NDArray[np.float64], signature: Signature) -> dict[str, float]:
    metrics = ServerMetrics()
    answers = np.tile([0.4, 0.6], (len(rows), 1))
    metrics.of_model("m", signature).observe(rows, answers)
    return {
        dict(labels)["feature"]: value
        for (name, labels), value in _samples(metrics).items()
        if name == "model_feature_drift_psi"
    }


def test_requests_are_counted_by_route_and_status_and_their_times_add_up() -> None:
    metrics = ServerMetrics()
    for seconds in (0.0004, 0.0005, 0.02, 99.0):
        metrics.request("/predict", 200, seconds)
    metrics.request("/predict", 422, 0.02)
    metrics.request("/a", 200, 0.02)
    samples = _samples(metrics)
    assert _of(samples, "http_requests_total", route="/predict", status="200") == 4
    assert _of(samples, "http_requests_total", route="/predict", status="422") == 1
    name = "http_request_duration_seconds"
    assert _of(samples, f"{name}_count", route="/predict") == 5
    assert _of(samples, f"{name}_sum", route="/predict") == pytest.approx(99.0409)
    # A bound belongs to its bucket, and each bucket holds those below it.
    counts = [
        (float(dict(labels)["le"]), value)
        for (found, labels), value in samples.items()
        if found == f"{name}_bucket" and dict(labels)["route"] == "/predict"
    ]
    assert len(counts) == 15
    assert counts == [
        (bound, sum(seconds <= bound for seconds in (0.0004, 0.0005, 0.02, 0.02, 99.0)))
        for bound, _ in sorted(counts)
    ]


def test_rows_classes_and_places_of_values_are_counted() -> None:
    signature = _signature(a=np.linspace(0, 10, 20), b=np.full(20, np.nan))
    metrics = ServerMetrics()
    model = metrics.of_model("m", signature)
    rows = np.array([[-1, 1], [0, 1], [10, np.nan], [11, 1], [np.nan, np.nan]], dtype=float)
    model.observe(rows[:2], np.array([[0.9, 0.1], [0.2, 0.8]]))
    model.observe(rows[2:], np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    samples = _samples(metrics)
    assert _of(samples, "model_rows_total", model="m") == 5
    classes = [
        _of(samples, "model_predictions_total", model="m", class_name=name)
        for name in ("no", "yes")
    ]
    assert classes == [3, 2]
    for feature, expected in (("a", [1, 1, 2, 1]), ("b", [2, 0, 3, 0])):
        assert expected == [
            _of(samples, "model_feature_values_total", model="m", feature=feature, place=place)
            for place in ("missing", "below", "within", "above")
        ]
    assert _of(samples, "model_batch_rows_bucket", model="m", le="2.0") == 1
    assert _of(samples, "model_batch_rows_bucket", model="m", le="+Inf") == 2
    assert _of(samples, "model_batch_rows_sum", model="m") == 5
    # Once counted, nothing is counted again.
    assert _of(_samples(metrics), "model_rows_total", model="m") == 5


def test_many_rows_are_looked_into_without_being_asked() -> None:
    signature = _signature(a=np.arange(20.0))
    model = ServerMetrics().of_model("m", signature)
    for _ in range(10):
        model.observe(np.ones((1_000, 1)), np.tile([0.4, 0.6], (1_000, 1)))
        assert sum(len(rows) for rows, _ in model._pending) < 3_000


def _columns(rng: np.random.Generator, n: int, shift: float) -> Iterator[tuple[str, object]]:
    normal = rng.normal(shift, 1, n)
    yield "normal", normal
    yield "gaps", np.where(rng.random(n) < 0.2 + shift / 2, np.nan, rng.normal(size=n))
    yield "heavy", rng.standard_cauchy(n) + shift
    yield "coin", rng.random(n) < 0.5 + 0.4 * shift
    yield "rare", rng.random(n) < 0.04 + 0.4 * shift
    yield "often", rng.random(n) < 0.96 - 0.4 * shift
    yield "few", rng.integers(0, 4, n) + int(shift)
    yield "many_zeros", np.maximum(normal - 1, 0) + shift
    yield "count", rng.poisson(3 + 3 * shift, n)
    yield "large_count", rng.poisson(30 + 30 * shift, n)
    yield "rounded", np.round(5.8 + 0.8 * (normal + shift), 1)
    yield "constant", np.full(n, 0.1) + shift
    yield "tiny", 1 + rng.random(n) * 1e-9 + shift * 1e-9
    yield "largest", np.where(rng.random(n) < 0.5 - 0.4 * shift, -1, 1) * np.finfo(np.float64).max
    yield "void", np.where(np.full(n, shift > 0), 1.0, np.nan)


def _rows(shift: float, seed: int, n: int = 4_000) -> NDArray[np.float64]:
    columns = [values for _, values in _columns(np.random.default_rng(seed), n, shift)]
    return np.column_stack([np.asarray(values, dtype=np.float64) for values in columns])


@pytest.fixture(scope="module")
def training() -> Signature:
    columns = dict(_columns(np.random.default_rng(0), 4_000, 0.0))
    return _signature(**{name: np.asarray(values) for name, values in columns.items()})


def test_rows_like_those_of_the_training_have_not_drifted(training: Signature) -> None:
    for n in (1_000, 4_000):
        drift = _drift(_rows(0.0, seed=1, n=n), training)
        assert list(drift) == list(training.feature_names)
        assert {name: value for name, value in drift.items() if not 0 <= value < 0.1} == {}


def test_rows_unlike_those_of_the_training_have_drifted(training: Signature) -> None:
    drift = _drift(_rows(1.0, seed=1), training)
    assert {name: value for name, value in drift.items() if not value > 0.25} == {}


def test_a_few_rows_say_nothing_of_a_drift(training: Signature) -> None:
    assert _drift(_rows(1.0, seed=1, n=99), training) == {}
    assert len(_drift(_rows(1.0, seed=1, n=100), training)) == len(training.features)


def _cities(rng: np.random.Generator, n: int, shift: float) -> NDArray[np.float64]:
    return rng.choice(4, n, p=[0.5 - shift, 0.3, 0.15 + shift, 0.05]).astype(np.float64)


def test_categories_are_counted_by_level_and_drift_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c", "d"], dtype=object)
    signature = _signature(city=names[_cities(rng, 2_000, 0.0).astype(int)], x=np.arange(2_000.0))
    answers = np.tile([0.4, 0.6], (1_000, 1))
    for shift, low, high in [(0.0, 0.0, 0.05), (0.4, 0.25, 10.0)]:
        metrics = ServerMetrics()
        rows = np.column_stack([_cities(rng, 1_000, shift), np.full(1_000, 5.0)])
        rows[:5, 0], rows[5:12, 0] = np.nan, UNSEEN
        metrics.of_model("m", signature).observe(rows, answers)
        samples = _samples(metrics)
        place = {"model": "m", "feature": "city"}
        values = "model_feature_values_total"
        assert _of(samples, values, place="missing", **place) == 5
        assert _of(samples, values, place="unseen", **place) == 7
        assert _of(samples, values, place="within", **place) == 988
        a = (rows[:, 0] == 0).sum()
        assert _of(samples, "model_feature_levels_total", level="a", **place) == a
        assert low <= _of(samples, "model_feature_drift_psi", **place) < high
    # Only what is missing has become more.
    rows[:, 0] = np.where(rng.random(1_000) < 0.5, np.nan, _cities(rng, 1_000, 0.0))
    metrics = ServerMetrics()
    metrics.of_model("m", signature).observe(rows, answers)
    assert _of(_samples(metrics), "model_feature_drift_psi", **place) > 0.25


def test_many_rare_levels_have_not_drifted_by_chance() -> None:
    rng = np.random.default_rng(0)
    names = np.array([f"l{index:03}" for index in range(200)], dtype=object)
    signature = _signature(code=names[rng.integers(0, 200, 4_000)], x=np.arange(4_000.0))
    rows = np.column_stack([rng.integers(0, 200, 300), np.arange(300)]).astype(np.float64)
    assert _drift(rows, signature)["code"] < 0.1


def test_a_category_without_shares_has_no_drift() -> None:
    signature = _signature(code=np.array(["a", "b"] * 50, dtype=object))
    old = replace(signature, features=(replace(signature.features[0], shares=None),))
    assert _drift(np.ones((500, 1)), old) == {}


def test_the_threshold_decides_which_class_is_counted() -> None:
    metrics = ServerMetrics()
    signature = replace(_signature(a=np.arange(20.0)), threshold=0.3)
    chances = np.array([[0.6, 0.4], [0.8, 0.2], [0.1, 0.9]])
    metrics.of_model("m", signature).observe(np.ones((3, 1)), chances)
    samples = _samples(metrics)
    assert _of(samples, "model_predictions_total", model="m", class_name="yes") == 2
    assert _of(samples, "model_predictions_total", model="m", class_name="no") == 1


def test_numbers_are_counted_by_the_tenths_of_the_training_and_drift_by_them() -> None:
    frame = pd.DataFrame({"a": np.arange(1_000.0)})
    target = np.linspace(0, 100, 1_000)
    data = TabularDataset(frame, target, target_column="y", task="regression")
    signature = Signature.from_dataset(data)
    rows = np.ones((1_000, 1))
    metrics = ServerMetrics()
    numbers = np.linspace(0, 100, 1_000)
    numbers[:3], numbers[-2:] = -1.0, 101.0
    metrics.of_model("m", signature).observe(rows, numbers[:, None])
    samples = _samples(metrics)
    name = "model_predicted_numbers_total"
    assert _of(samples, name, model="m", place="below") == 3
    assert _of(samples, name, model="m", place="above") == 2
    assert [_of(samples, name, model="m", place=str(tenth)) for tenth in range(2, 10)] == [100] * 8
    assert _of(samples, "model_prediction_drift_psi", model="m") < 0.05
    assert not any(family == "model_predictions_total" for family, _ in samples)
    metrics.of_model("m", signature).observe(rows, np.full((1_000, 1), 95.0))
    assert _of(_samples(metrics), "model_prediction_drift_psi", model="m") > 0.25


def _observe(metrics: ServerMetrics, rows: int) -> None:
    metrics.request("/predict", 200, 0.001)
    model = metrics.of_model("m", _signature(a=np.arange(20.0)))
    model.observe(np.ones((rows, 1)), np.tile([0.4, 0.6], (rows, 1)))


def test_each_worker_answers_for_all(tmp_path: Path) -> None:
    workers = [ServerMetrics(tmp_path, number) for number in range(3)]
    for number, worker in enumerate(workers):
        _observe(worker, 60 + number)
        worker.write()
    for worker in workers:
        samples = _samples(worker)
        assert _of(samples, "http_requests_total", route="/predict", status="200") == 3
        assert _of(samples, "model_rows_total", model="m") == 183
        assert _of(samples, "http_request_duration_seconds_count", route="/predict") == 3
        assert _of(samples, "model_batch_rows_sum", model="m") == 183
        # Too few rows for one of them, but not for all.
        assert _of(samples, "model_feature_drift_psi", model="m", feature="a") > 0.25
    # What one has not written yet, it tells of itself.
    _observe(workers[0], 1)
    assert _of(_samples(workers[0]), "model_rows_total", model="m") == 184
    assert _of(_samples(workers[1]), "model_rows_total", model="m") == 183


def test_a_worker_that_is_started_again_goes_on(tmp_path: Path) -> None:
    first = ServerMetrics(tmp_path, 0)
    _observe(first, 60)
    first.write()
    again = ServerMetrics(tmp_path, 0)
    _observe(again, 60)
    for _ in range(2):
        samples = _samples(again)
        assert _of(samples, "model_rows_total", model="m") == 120
        assert _of(samples, "http_request_duration_seconds_count", route="/predict") == 2
        assert _of(samples, "model_feature_drift_psi", model="m", feature="a") > 0.25
        again.write()


@pytest.mark.parametrize("content", [b"", b"{", b'{"counters":'])
def test_a_damaged_file_of_another_worker_is_passed_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_bytes(content)
    metrics = ServerMetrics(tmp_path, 0)
    _observe(metrics, 5)
    assert _of(_samples(metrics), "model_rows_total", model="m") == 5
    assert _of(_samples(ServerMetrics(tmp_path, 1)), "process_open_fds") > 0


def test_a_new_version_goes_on_counting_and_drifts_by_its_own_training() -> None:
    metrics = ServerMetrics()
    rows = np.linspace(0, 1, 1_000)[:, None]
    answers = np.tile([0.4, 0.6], (1_000, 1))
    metrics.of_model("m", _signature(a=np.linspace(5, 6, 100))).observe(rows, answers)
    assert _of(_samples(metrics), "model_feature_drift_psi", model="m", feature="a") > 1
    model = metrics.of_model("m", _signature(a=np.linspace(0, 1, 100)))
    assert ("model_feature_drift_psi", (("feature", "a"), ("model", "m"))) not in _samples(metrics)
    model.observe(rows, answers)
    samples = _samples(metrics)
    assert _of(samples, "model_feature_drift_psi", model="m", feature="a") < 0.02
    assert _of(samples, "model_rows_total", model="m") == 2_000


def test_versions_that_differ_in_the_last_digits_are_told_apart() -> None:
    metrics = ServerMetrics()
    rows, answers = np.ones((200, 1)), np.tile([0.4, 0.6], (200, 1))
    for step in (0.0, 1e-9):
        signature = _signature(a=1 + np.arange(20) * step)
        metrics.of_model("m", signature).observe(rows, answers)
        assert _of(_samples(metrics), "model_feature_drift_psi", model="m", feature="a") >= 0


def test_names_of_any_kind_are_written_so_that_they_can_be_read() -> None:
    names = ['say "hi"', "back\\slash", "two\nlines", "é 長", "{}", ""]
    signature = _signature(**{name: np.arange(200.0) for name in names})
    metrics = ServerMetrics()
    metrics.of_model('"m"\n', signature).observe(
        np.zeros((200, len(names))), np.tile([0.4, 0.6], (200, 1))
    )
    samples = _samples(metrics)
    for name in names:
        assert _of(samples, "model_feature_drift_psi", model='"m"\n', feature=name) > 0


def test_numbers_are_asked_for_when_the_page_is_made() -> None:
    metrics = ServerMetrics()
    queue = [3.0]
    metrics.gauge(lambda: [("model_queue", "Waiting", {"model": name}, queue[0]) for name in "ab"])
    assert _of(_samples(metrics), "model_queue", model="a") == 3
    queue[0] = 4
    assert _of(_samples(metrics), "model_queue", model="b") == 4
