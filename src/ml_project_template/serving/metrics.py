"""What Prometheus is told: requests, latencies, batches, predictions, and inputs against training.

The hot path only adds to plain numbers; the text is made by prometheus-client when it is asked for.
Workers of one server write their numbers to files beside one another once a second, so that any of
them can answer for all.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ml_project_template.data.signature import Feature, Signature

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from prometheus_client.metrics_core import Metric

__all__ = ["CONTENT_TYPE", "ModelMetrics", "ServerMetrics"]

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0, 16384.0)
_SETTLE_ROWS = 2_048
_MIN_ROWS_FOR_DRIFT = 100
_FEWEST_EXPECTED = 5.0  # rows of a level
_PLACES = ("below", *map(str, range(1, 11)), "above")

Key = tuple[str, ...]

# name, help, labels
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "http_requests": ("Requests answered", ("route", "status")),
    "model_rows": ("Rows predicted", ("model",)),
    "model_predictions": ("Rows by predicted class", ("model", "class_name")),
    "model_predicted_numbers": (
        "Rows by predicted number: the tenth of the training's targets in which it lies, from 1 to "
        "10, or below or above all of them",
        ("model", "place"),
    ),
    "model_feature_values": (
        "Values of a feature: missing, below or above all of the training, or within; of a "
        "category missing, a level unseen in the training, or within",
        ("model", "feature", "place"),
    ),
    "model_feature_levels": ("Values of a category by level", ("model", "feature", "level")),
}
_HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "http_request_duration_seconds": ("From a request to its answer", ("route",), _SECONDS),
    "model_batch_rows": ("Rows computed in one call", ("model",), _ROWS),
}


class _State:
    """Numbers that can be added to those of other workers."""

    def __init__(self) -> None:
        self.counters: defaultdict[Key, float] = defaultdict(float)
        self.histograms: dict[Key, list[float]] = {}
        self.bins: dict[Key, list[float]] = {}

    def add(self, other: dict[str, list[tuple[list[str], Any]]]) -> None:
        """Add what `plain` of another state gave."""
        for key, value in other["counters"]:
            self.counters[tuple(key)] += value
        for name in ("histograms", "bins"):
            mine: dict[Key, list[float]] = getattr(self, name)
            for key, values in other[name]:
                before = mine.get(tuple(key), [0.0] * len(values))
                if len(before) == len(values):
                    mine[tuple(key)] = [a + b for a, b in zip(before, values, strict=True)]

    def plain(self) -> dict[str, list[tuple[list[str], Any]]]:
        return {
            name: [(list(key), value) for key, value in getattr(self, name).items()]
            for name in ("counters", "histograms", "bins")
        }


class ServerMetrics:
    """The numbers of one worker, and the page that sums up all of them.

    Args:
        directory: Where workers leave their numbers for one another; None if there is one only.
        worker: The number of this worker.
    """

    def __init__(self, directory: Path | None = None, worker: int = 0) -> None:
        self._state = _State()
        self._directory = directory
        self._worker = worker
        self._gauges: list[Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]] = []
        self._models: dict[str, ModelMetrics] = {}
        if directory is not None:
            # The numbers of a worker that died go on, so that no counter ever falls.
            self._state.add(_read(directory / f"{worker}.json"))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            route: The path as it was declared.
            status: The HTTP status of the answer.
            seconds: How long it took.
        """
        self._state.counters["http_requests", route, str(status)] += 1
        self._observe(("http_request_duration_seconds", route), _SECONDS, seconds)

    def of_model(self, name: str, signature: Signature) -> ModelMetrics:
        """Give the numbers of one served model; those of its former version go on.

        Args:
            name: The name it is served by.
            signature: Its features and classes.
        """
        before = self._models.get(name)
        if before is not None:
            before.settle()
        self._models[name] = ModelMetrics(self._state, name, signature)
        return self._models[name]

    def gauge(self, read: Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]) -> None:
        """Add numbers that are asked for when the page is made: name, help, labels, value."""
        self._gauges.append(read)

    def write(self) -> None:
        """Leave the numbers for the other workers."""
        if self._directory is None:
            return
        for model in self._models.values():
            model.settle()
        place = self._directory / f"{self._worker}.json"
        draft = place.with_suffix(".draft")
        draft.write_bytes(msgspec.json.encode(self._state.plain()))
        draft.replace(place)

    def page(self) -> bytes:
        """Write the numbers of all workers in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        for model in self._models.values():
            model.settle()
        total = _State()
        total.add(self._state.plain())
        if self._directory is not None:
            own = f"{self._worker}.json"
            for file in sorted(self._directory.glob("*.json")):
                if file.name != own:
                    total.add(_read(file))
        registry = CollectorRegistry()
        registry.register(_Collector(lambda: self._families(total)))
        ProcessCollector(registry=registry)
        page: bytes = generate_latest(registry)
        return page

    def _observe(self, key: Key, bounds: tuple[float, ...], value: float) -> None:
        _observe(self._state, key, bounds, value)

    def _families(self, total: _State) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for name, (text, labels) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=labels)
            for (found, *values), count in sorted(total.counters.items()):
                if found == name:
                    counter.add_metric(values, count)
            yield counter
        for name, (text, labels, bounds) in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for (found, *values), numbers in sorted(total.histograms.items()):
                if found != name:
                    continue
                *counts, summed = numbers
                running, buckets = 0.0, []
                for bound, count in zip((*bounds, float("inf")), counts, strict=True):
                    running += count
                    buckets.append(("+Inf" if bound == float("inf") else repr(bound), running))
                histogram.add_metric(values, buckets, sum_value=summed)
            yield histogram
        drift = GaugeMetricFamily(
            "model_feature_drift_psi",
            "Population stability index of a feature against the training, by its deciles or "
            "levels: above 0.1 it has shifted a little, above 0.25 much",
            labels=("model", "feature"),
        )
        predicted = GaugeMetricFamily(
            "model_prediction_drift_psi",
            "Population stability index of the predicted numbers against the training's targets, "
            "by their deciles",
            labels=("model",),
        )
        for model in self._models.values():
            for feature, index in model.drift(total.bins).items():
                drift.add_metric((model.name, feature), index)
            of_predictions = model.prediction_drift(total.bins)
            if of_predictions is not None:
                predicted.add_metric((model.name,), of_predictions)
        yield drift
        yield predicted
        gauges: dict[str, GaugeMetricFamily] = {}
        for read in self._gauges:
            for name, text, labels_of, value in read():
                if name not in gauges:
                    gauges[name] = GaugeMetricFamily(name, text, labels=tuple(labels_of))
                gauges[name].add_metric(tuple(labels_of.values()), value)
        yield from gauges.values()


class ModelMetrics:
    """The numbers of one served model.

    Args:
        state: Where they are added.
        name: The name it is served by.
        signature: Its features and classes.
    """

    def __init__(self, state: _State, name: str, signature: Signature) -> None:
        self.name = name
        self._state = state
        self._signature = signature
        self._bins: list[_Bins | _Levels] = [
            _Bins(feature) if feature.levels is None else _Levels(feature)
            for feature in signature.features
        ]
        self._targets = _target_bins(signature)
        self._pending: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self._rows = 0
        self._batches = ("model_batch_rows", name)

    def observe(self, rows: NDArray[np.float64], answers: NDArray[np.float64]) -> None:
        """Count a call of the model; looked into later, many rows at once.

        Args:
            rows: Raw rows of shape ``(n_rows, n_features)``.
            answers: Their probabilities, of shape ``(n_rows, n_classes)``, or numbers, of
                ``(n_rows, 1)``.
        """
        _observe(self._state, self._batches, _ROWS, len(rows))
        self._pending.append((rows, answers))
        self._rows += len(rows)
        if self._rows >= _SETTLE_ROWS:
            self.settle()

    def settle(self) -> None:
        """Look into the rows that were only noted so far."""
        if not self._pending:
            return
        pending, self._pending, self._rows = self._pending, [], 0
        rows = np.concatenate([part for part, _ in pending])
        answers = np.concatenate([part for _, part in pending])
        counters = self._state.counters
        counters["model_rows", self.name] += len(rows)
        if self._signature.task == "regression":
            self._settle_numbers(answers[:, 0])
        else:
            names = self._signature.class_names
            chosen = np.bincount(self._signature.decide(answers), minlength=len(names))
            for name, count in zip(names, chosen.tolist(), strict=True):
                counters["model_predictions", self.name, name] += count
        for column, bins in enumerate(self._bins):
            feature = bins.feature.name
            counts, places = bins.count(rows[:, column])
            self._add((self.name, feature, bins.identity), counts)
            for place, count in places.items():
                counters["model_feature_values", self.name, feature, place] += count
            for level, count in zip(bins.feature.levels or (), counts, strict=False):
                if count:
                    counters["model_feature_levels", self.name, feature, level] += count

    def _settle_numbers(self, numbers: NDArray[np.float64]) -> None:
        if self._targets is None:
            return
        counts, _ = self._targets.count(numbers)
        self._add((self.name, self._targets.identity), counts)
        deciles = np.asarray(self._signature.target_quantiles)
        tenths = np.searchsorted(deciles[1:-1], numbers, side="right") + 1
        tenths = np.where(numbers < deciles[0], 0, np.where(numbers > deciles[-1], 11, tenths))
        for place, count in zip(_PLACES, np.bincount(tenths, minlength=12).tolist(), strict=True):
            self._state.counters["model_predicted_numbers", self.name, place] += count

    def _add(self, key: Key, counts: list[float]) -> None:
        before = self._state.bins.get(key, [0.0] * len(counts))
        self._state.bins[key] = [a + b for a, b in zip(before, counts, strict=True)]

    def drift(self, counted: dict[Key, list[float]]) -> dict[str, float]:
        """Compute how far each feature has moved away from the training.

        Args:
            counted: Counts by model, feature and the identity of its bins.

        Returns:
            Feature name to population stability index (Siddiqi, 2006), for those with at least
            100 values.
        """
        found = {}
        for bins in self._bins:
            counts = counted.get((self.name, bins.feature.name, bins.identity))
            if counts is not None and sum(counts) >= _MIN_ROWS_FOR_DRIFT and bins.is_comparable:
                found[bins.feature.name] = bins.stability_index(counts)
        return found

    def prediction_drift(self, counted: dict[Key, list[float]]) -> float | None:
        """Compute how far predicted numbers lie away from the targets of the training.

        Args:
            counted: As for `drift`.

        Returns:
            The population stability index; None for classes, and for less than 100 rows.
        """
        if self._targets is None:
            return None
        counts = counted.get((self.name, self._targets.identity))
        if counts is None or sum(counts) < _MIN_ROWS_FOR_DRIFT:
            return None
        return self._targets.stability_index(counts)


def _target_bins(signature: Signature) -> _Bins | None:
    """Make bins of the targets of a regression."""
    deciles = signature.target_quantiles
    if deciles is None:
        return None
    return _Bins(Feature(signature.target, "float", deciles[0], deciles[-1], None, 0.0, deciles))


class _Bins:
    """Bins between the deciles of a feature in training, and what part of it lay in each."""

    is_comparable = True

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        deciles = np.asarray(feature.quantiles or [0.0] * 11, dtype=np.float64)
        values = np.unique(deciles[1:-1])
        first = np.searchsorted(deciles, values, side="left")
        end = np.searchsorted(deciles, values, side="right")
        # Where many rows share a value it has a bin of its own, and of the parts of the training
        # below and above it all that is known is between which deciles they end.
        shared = feature.type != "float" or (end - first > 1).any() or (values % 1 == 0).all()
        edges, least, most = values, first, first
        if shared:
            with np.errstate(over="ignore"):
                edges = np.concatenate([values, np.nextafter(values, np.inf)])
            least = np.concatenate([np.maximum(first - 1, 0), end - 1])
            most = np.concatenate([first, np.minimum(end, len(deciles) - 1)])
        order = np.argsort(edges, kind="stable")
        self._edges = edges[order]
        self._least_below, self._most_below = least[order] / 10, most[order] / 10
        self.identity = ",".join(map(repr, deciles.tolist()))

    def count(self, values: NDArray[np.float64]) -> tuple[list[float], dict[str, int]]:
        """Count values of shape ``(n,)`` by bin, the missing ones last, and by place."""
        missing = np.isnan(values)
        there = values[~missing]
        counts = np.bincount(
            np.searchsorted(self._edges, there, side="right"), minlength=len(self._edges) + 1
        )
        gaps = int(missing.sum())
        low, high = self.feature.min, self.feature.max
        below = int((there < low).sum()) if low is not None else 0
        above = int((there > high).sum()) if high is not None else 0
        places = {
            "missing": gaps,
            "below": below,
            "above": above,
            "within": len(there) - below - above,
        }
        return [*counts.astype(float).tolist(), float(gaps)], places

    def stability_index(self, counts: list[float]) -> float:
        """Compare counts with the training; half a row a bin keeps logarithms of zero away."""
        found = (np.asarray(counts) + 0.5) / (sum(counts) + 0.5 * len(counts))
        there = found[:-1].cumsum()
        # Of what the training may have been, what is nearest to the counts.
        below = np.clip(there[:-1] / there[-1], self._least_below, self._most_below)
        parts = np.diff(below, prepend=0.0, append=1.0) * (1 - self.feature.missing)
        expected = np.clip([*parts, self.feature.missing], 1e-3, None)
        expected /= expected.sum()
        return float(((found - expected) * np.log(found / expected)).sum())


class _Levels:
    """The levels of a category, and what part of the training had each."""

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self.levels = feature.levels or ()
        # A model that was saved before there were shares has none.
        self.is_comparable = feature.shares is not None
        shares = feature.shares or (0.0,) * len(self.levels)
        self.identity = repr((self.levels, shares))
        # What is rarer than the levels is missing to the model.
        expected = np.clip([*shares, 1.0 - sum(shares)], 1e-3, None)
        self._expected = expected / expected.sum()

    def count(self, values: NDArray[np.float64]) -> tuple[list[float], dict[str, int]]:
        """Count values of shape ``(n,)`` by level, those of none last, and by place."""
        missing = np.isnan(values)
        counts = np.bincount(values[~missing].astype(np.int64), minlength=len(self.levels))
        gaps = int(missing.sum())
        # See `UNSEEN`.
        unseen = int(np.signbit(values[missing]).sum())
        places = {
            "missing": gaps - unseen,
            "unseen": unseen,
            "within": len(values) - gaps,
        }
        return [*counts.astype(float).tolist(), float(gaps)], places

    def stability_index(self, counts: list[float]) -> float:
        """Compare counts with the training; half a row a level keeps logarithms of zero away.

        Levels of which only a few rows are expected are taken as one: by chance alone each of them
        would differ.
        """
        rare = self._expected * sum(counts) < _FEWEST_EXPECTED
        rare[-1] = False  # what is missing or unseen is always looked at
        of_counts, expected = (
            np.append(values[~rare], values[rare].sum()) if rare.any() else values
            for values in (np.asarray(counts), self._expected)
        )
        found = (of_counts + 0.5) / (sum(counts) + 0.5 * len(of_counts))
        return float(((found - expected) * np.log(found / expected)).sum())


class _Collector:
    """What prometheus-client calls a collector."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect


def _observe(state: _State, key: Key, bounds: tuple[float, ...], value: float) -> None:
    numbers = state.histograms.get(key)
    if numbers is None:
        numbers = state.histograms[key] = [0.0] * (len(bounds) + 2)
    numbers[bisect_left(bounds, value)] += 1
    numbers[-1] += value


def _read(file: Path) -> dict[str, list[tuple[list[str], Any]]]:
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        found: dict[str, list[tuple[list[str], Any]]] = msgspec.json.decode(file.read_bytes())
        return found
    return {"counters": [], "histograms": [], "bins": []}
