"""The models that a server has loaded, by name, and how one is exchanged for a new version."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template import artifacts
from ml_project_template.errors import ArtifactError, ConfigError, DataError, ProjectError
from ml_project_template.inference import Backend, Inference
from ml_project_template.serving.batching import Batcher
from ml_project_template.serving.contract import Contract
from ml_project_template.serving.http import RefusalError
from ml_project_template.serving.metrics import ModelMetrics, ServerMetrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ml_project_template.data.signature import Signature

__all__ = ["ModelSource", "ServedModel", "ServedModels", "load_model"]

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What is sent for both is the same: a column of integers may have other numbers tomorrow.
_KINDS = {"int": "number", "float": "number"}
_SECONDS_AT_ONCE = 0.002
_MEASURED_ROWS = 256
_LEAST_AT_ONCE, _MOST_AT_ONCE = 16, 8_192


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        path: A model directory, local or remote, or a model on MLflow.
        storage_options: What a remote storage needs.
        backend: What computes it, see `Inference.load`.
    """

    path: str
    storage_options: Mapping[str, Any] | None = None
    backend: Backend | str = "auto"

    def load(self) -> Inference:
        """Load the model that is there now."""
        return Inference.load(
            self.path,
            storage_options=self.storage_options,
            backend=self.backend,  # type: ignore[arg-type]
        )

    def stamp(self) -> object:
        """Tell a changed place from an unchanged one without reading the model.

        Returns:
            Something that differs after a change; None where only reading it can tell.

        Raises:
            OSError: A remote storage can't be reached or refuses.
        """
        if self.path.startswith(("runs:/", "models:/")):
            return None
        return artifacts.stamp(self.path, storage_options=self.storage_options)


def load_model(
    path: str, *, storage_options: Mapping[str, Any] | None = None, backend: str = "auto"
) -> Inference:
    """Load a model to serve, see `Inference.load`."""
    return ModelSource(path, storage_options, backend).load()


class ServedModel:
    """One version of a model, with all that answers for it.

    Attributes:
        name: The name it is served by.
        inference: What computes it.
        contract: What is sent and answered at ``/predict``.
    """

    def __init__(
        self,
        name: str,
        inference: Inference,
        *,
        metrics: ModelMetrics,
        max_rows: int,
        max_queue: int,
    ) -> None:
        self.name = name
        self.inference = inference
        self.signature = inference.signature
        self.class_names = inference.signature.class_names
        self.feature_names = inference.signature.feature_names
        self.contract = Contract(
            inference.signature, accepts_missing=inference.accepts_missing, max_rows=max_rows
        )
        self.batcher = Batcher(
            inference.probabilities,
            max_queue=max_queue,
            max_batch=_rows_at_once(inference),
            observe=metrics.observe,
        )

    async def probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the probabilities of raw rows, or the numbers that a regression predicts.

        Args:
            rows: Shape ``(n_rows, n_features)``, float64, C-contiguous; finite, or NaN where
                missing, if the model takes that: see `Contract.check_values`.

        Returns:
            Shape ``(n_rows, n_classes)``, or ``(n_rows, 1)``.

        Raises:
            RefusalError: 422 for a value that the model can't take, 429 if the queue is full.
        """
        try:
            return await self.batcher.probabilities(rows)
        except DataError as error:
            raise RefusalError(422, str(error)) from None

    def info(self) -> dict[str, Any]:
        """Describe the model: what it takes, what it answers, how it came about, how good it is."""
        inference, metadata = self.inference, self.inference.metadata
        signature = inference.signature.to_dict()

        def table(key: str) -> dict[str, Any]:
            value = metadata.get(key)
            return value if isinstance(value, dict) else {}

        return {
            "name": self.name,
            "model": inference.model_name,
            "version": inference.version,
            "created_at": metadata.get("created_at"),
            "run_id": metadata.get("run_id"),
            "git_commit": table("git").get("commit"),
            "data": table("data").get("name"),
            "task": signature["task"],
            "target": signature["target"],
            "target_quantiles": signature["target_quantiles"],
            "metrics": table("metrics"),
            "class_names": signature["class_names"],
            "threshold": signature["threshold"],
            "accepts_missing": inference.accepts_missing,
            "backend": inference.backend,
            "features": signature["features"],
            "sample": signature["sample"],
            "history": metadata.get("history") or [],
            "confusion_matrices": table("confusion_matrices"),
        }


class ServedModels:
    """All models of a server by the names they are served by; the first is the default.

    Args:
        sources: Name to where the model comes from, or to a model that is loaded already and so
            stays as it is.
        metrics: Where requests and rows are counted.
        max_rows: The most rows of a request.
        max_queue: The most requests that wait for a model.

    Raises:
        ConfigError: A name that could not stand in an address.
        ProjectError: A model can't be loaded.
    """

    def __init__(
        self,
        sources: Mapping[str, ModelSource | Inference],
        *,
        metrics: ServerMetrics,
        max_rows: int,
        max_queue: int,
    ) -> None:
        self._sources = dict(sources)
        for name in sources:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"models: {name!r} is no name: letters, digits, '.', '_' and '-'")
        self._metrics = metrics
        self._limits = {"max_rows": max_rows, "max_queue": max_queue}
        self._reloading = asyncio.Lock()
        self.problems: dict[str, str] = {}
        self._stamps = {
            name: source.stamp()
            for name, source in self._sources.items()
            if isinstance(source, ModelSource)
        }
        self._models = {
            name: self._serve(name, source if isinstance(source, Inference) else source.load())
            for name, source in self._sources.items()
        }
        self.default = next(iter(self._models))
        metrics.gauge(self._gauges)
        settle_garbage()

    def __getitem__(self, name: str) -> ServedModel:
        """Find the present version of a model."""
        return self._models[name]

    @property
    def names(self) -> list[str]:
        """The names in their order."""
        return list(self._models)

    async def reload(self, *, only_changed: bool = False) -> dict[str, str]:
        """Load each model that has changed; who is being answered keeps the version it came to.

        Args:
            only_changed: Leave a model alone whose place shows no change, without reading it.

        Returns:
            Name to what happened: ``unchanged``, ``loaded <version>`` or, where the new version
            can't be used, or has other features, and the old one stays, what is wrong with it.
        """
        async with self._reloading:
            return {name: await self._reload(name, only_changed) for name in self._sources}

    async def _reload(self, name: str, only_changed: bool) -> str:
        source, present = self._sources[name], self._models[name]
        if isinstance(source, Inference):
            return "unchanged"
        try:
            stamp = await asyncio.to_thread(source.stamp)
            if (
                only_changed
                and stamp is not None
                and stamp == self._stamps.get(name)
                # A place that is mended may look as it did before.
                and name not in self.problems
            ):
                return "unchanged"
            inference = await asyncio.to_thread(source.load)
            _check_same_question(present.signature, inference.signature)
        except Exception as error:
            # Anything may be at a path; what is served shall not suffer from it.
            known = isinstance(error, ProjectError)
            self.problems[name] = str(error) if known else f"{type(error).__name__}: {error}"
            version = present.inference.version
            _log.error("Model %s stays at version %s: %s", name, version, self.problems[name])
            return self.problems[name]
        # Not before: what could not be read this time is tried again.
        self._stamps[name] = stamp
        self.problems.pop(name, None)
        if inference.version == present.inference.version:
            return "unchanged"
        self._models[name] = self._serve(name, inference)
        settle_garbage()
        _log.info("Model %s is now at version %s", name, inference.version)
        return f"loaded {inference.version}"

    def _serve(self, name: str, inference: Inference) -> ServedModel:
        return ServedModel(
            name,
            inference,
            metrics=self._metrics.of_model(name, inference.signature),
            **self._limits,
        )

    def _gauges(self) -> Any:
        for name, model in self._models.items():
            labels = {"model": name}
            yield "model_queue", "Requests that wait for a model", labels, model.batcher.queue
            yield (
                "model_info",
                "The version that is served",
                {**labels, "version": model.inference.version, "kind": model.inference.model_name},
                1,
            )
            yield (
                "model_reload_failed",
                "1 if a newer version could not be loaded",
                labels,
                float(name in self.problems),
            )


def _check_same_question(served: Signature, new: Signature) -> None:
    """Refuse a new version that those who send requests now could not use.

    Raises:
        ArtifactError: It has other features, another order of them, or another task.
    """
    if new.task != served.task:
        raise ArtifactError(
            f"The new version is for {new.task}, and what is served is for {served.task}: to serve "
            "it, start the server anew."
        )
    before, after = (
        [(feature.name, _KINDS.get(feature.type, feature.type)) for feature in signature.features]
        for signature in (served, new)
    )
    if before == after:
        return
    what = "in another order"
    if set(before) != set(after):
        changes = [
            ("more", [pair for pair in after if pair not in before]),
            ("without", [pair for pair in before if pair not in after]),
        ]
        what = "; ".join(
            f"{word} {', '.join(f'{name} ({kind})' for name, kind in pairs[:10])}"
            for word, pairs in changes
            if pairs
        )
    raise ArtifactError(
        f"The new version has other features ({what}), which those who send requests do not know "
        "of: to serve it, start the server anew."
    )


def _rows_at_once(inference: Inference) -> int:
    """Measure how many rows may be computed between two turns of the event loop.

    It also warms the model up: the first answer of all is slower than the others.
    """
    probe = inference.signature.probe_rows()
    rows = np.resize(probe, (_MEASURED_ROWS, probe.shape[1]))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        inference.probabilities(rows)
        seconds.append(time.perf_counter() - started)
    per_row = min(seconds) / _MEASURED_ROWS
    return int(np.clip(_SECONDS_AT_ONCE / per_row, _LEAST_AT_ONCE, _MOST_AT_ONCE))


def settle_garbage() -> None:
    """Take all that lives now out of the garbage collector's sight.

    A full collection would walk through it again and again, in the middle of an answer: at 64
    clients the slowest answers took three to ten times as long.
    """
    # What an older version has left behind goes first.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
