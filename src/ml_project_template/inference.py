"""Probabilities of raw rows, fast: what a server answers by.

An `Inference` is made from the model directory alone. Where the model can be written as an ONNX
graph (`BaseModel.score_graph`), ONNX Runtime computes it, the preparation of the rows included, and
neither PyTorch nor scikit-learn is imported. The graph is used only if it answers the probe rows as
the model itself did when it was saved; otherwise the model itself is loaded and asked.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ml_project_template import artifacts
from ml_project_template.data.preprocessing import Preprocessor
from ml_project_template.data.signature import Signature, Task, check_answers
from ml_project_template.errors import ArtifactError, ProjectError, RegistryError
from ml_project_template.models._onnx import PREPARED, SCORES, ScoreGraph
from ml_project_template.models.registry import ModelRegistry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ml_project_template.data.one_hot import OneHot
    from ml_project_template.models.base import BaseModel, ModelParts

__all__ = ["Backend", "Inference"]

Backend = Literal["onnxruntime", "model"]

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-6  # of a probability
_RAW, _PROBABILITIES = "raw", "probabilities"
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class _Engine(Protocol):
    def __call__(self, rows: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Turn raw rows into probabilities."""


class Inference:
    """A saved model that answers raw rows.

    Attributes:
        model_name: The registry name of the model.
        signature: The raw features and the class names.
        metadata: What is known of the training.
        version: The first digits of the digest of its manifest: another model has another one.
        accepts_missing: Whether a raw row may have missing values.
        backend: ``onnxruntime``, or ``model`` where the model's own ``predict`` is called.
    """

    def __init__(
        self,
        *,
        model_name: str,
        signature: Signature,
        preprocessor: Preprocessor,
        metadata: Mapping[str, Any],
        version: str,
        accepts_missing: bool,
        backend: Backend,
        engine: _Engine,
    ) -> None:
        self.model_name = model_name
        self.signature = signature
        self.metadata = metadata
        self.version = version
        self.accepts_missing = accepts_missing
        self.backend = backend
        self._preprocessor = preprocessor
        self._engine = engine
        self._bound = _bound(preprocessor)

    @classmethod
    def load(
        cls,
        path_or_uri: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        backend: Backend | Literal["auto"] = "auto",
    ) -> Inference:
        """Load a model.

        Args:
            path_or_uri: A model directory, local or remote, or a model on MLflow
                (``runs:/<run id>/model``, ``models:/<name>@<alias>``).
            storage_options: What a remote storage needs.
            backend: ``auto`` takes ONNX Runtime where it gives the model's own answers.

        Raises:
            ArtifactError: There is no model, or it was damaged; or ``onnxruntime`` was asked for
                and can't compute it.
            RegistryError: The model's class is not registered.
            TrackingError: The model can't be had from MLflow.
        """
        source = path_or_uri
        if source.startswith(("runs:/", "models:/")):
            from ml_project_template.tracking import download_model

            source, storage_options = download_model(source), None
        with artifacts.open_model_directory(source, storage_options=storage_options) as directory:
            try:
                return cls._read(directory, backend)
            except RegistryError:
                raise
            except ProjectError as error:
                raise ArtifactError(f"'{path_or_uri}': {error}") from error

    @classmethod
    def _read(cls, directory: Path, backend: Backend | Literal["auto"]) -> Inference:
        config = artifacts.read_config(directory)
        model_class: type[BaseModel] = ModelRegistry.get(config["name"])
        params = model_class.check_params(config["params"])
        parts = model_class.read_parts(directory)
        accepts_missing = model_class.takes_gaps(params, parts.preprocessor)
        read = functools.cache(lambda: model_class.read(directory))
        engine: _Engine | None = None
        if backend != "model":
            probe = parts.signature.probe_rows(missing=accepts_missing)
            engine = _graph_engine(model_class, params, parts, _tensors(directory), probe, read)
            if engine is None and backend == "onnxruntime":
                raise ArtifactError(f"a {config['name']} can't be computed by ONNX Runtime.")
        chosen: Backend = "onnxruntime" if engine is not None else "model"
        if engine is None:
            engine = _own(read(), parts.preprocessor)
        return cls(
            model_name=config["name"],
            signature=parts.signature,
            preprocessor=parts.preprocessor,
            metadata=parts.metadata,
            version=artifacts.digest(directory)[:12],
            accepts_missing=accepts_missing,
            backend=chosen,
            engine=engine,
        )

    def probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the probability of each class, or the number that a regression predicts.

        Args:
            rows: Raw rows of shape ``(n_rows, n_features)``, float64, C-contiguous, in the order
                of the features, as `Feature.encode` writes their values; NaN where missing, finite
                elsewhere.

        Returns:
            Shape ``(n_rows, n_classes)``, each row sums to 1; or ``(n_rows, 1)``.

        Raises:
            DataError: A value is too large for a 32-bit float, once it is prepared; or the model's
                answer is no finite number.
        """
        largest = np.fmax.reduce(np.abs(rows), axis=None, initial=0.0)
        if largest > self._bound:
            # Tells where, if it is really too large.
            self._preprocessor.transform_array(rows)
        return check_answers(self._engine(rows))


def _tensors(directory: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a model directory, where it has some."""
    tensors: dict[str, NDArray[Any]] = {}
    for name in (artifacts.WEIGHTS_SAFETENSORS, artifacts.INFERENCE):
        if (directory / name).exists():
            tensors |= artifacts.load_tensors(directory / name)
    return tensors


def _own(model: BaseModel, preprocessor: Preprocessor) -> _Engine:
    """Answer by the model's own ``predict_proba``."""

    def engine(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return model.answer(preprocessor.transform_array(rows))

    return engine


def _graph_engine(
    model_class: type[BaseModel],
    params: Mapping[str, Any],
    parts: ModelParts,
    tensors: Mapping[str, NDArray[Any]],
    probe: NDArray[np.float64],
    read: Callable[[], BaseModel],
) -> _Engine | None:
    """Have ONNX Runtime compute a model; None if it can't, or not as the model itself does."""
    if artifacts.PROBE not in tensors:
        # Saved before there were answers to compare with, or without any: ask for them.
        tensors = {**tensors, **read().inference_tensors()}
    encoder = model_class.encoder(parts.preprocessor)
    width = parts.num_features if encoder is None else encoder.width
    graph = model_class.score_graph(params, tensors, width, len(parts.signature.class_names))
    if graph is None:
        return None
    try:
        expected = tensors.get(artifacts.PROBE)
        if expected is None:
            expected = _own(read(), parts.preprocessor)(probe)
        engine = _session(graph, parts.preprocessor, encoder, parts.signature.task)
        # All rows at once, and one by one.
        together = engine(probe)
        single = np.concatenate([engine(probe[row : row + 1]) for row in range(len(probe))])
    except Exception as error:  # whatever a graph of somebody's model may run into
        _log.warning("ONNX Runtime can't compute the model, which is loaded itself: %s", error)
        return None
    if expected.shape != together.shape:
        raise ArtifactError(f"{artifacts.INFERENCE}: '{artifacts.PROBE}' has another shape.")
    # Probabilities are of size 1; a number is as exact as the largest allows.
    size = 1.0
    if parts.signature.task == "regression":
        size = float(np.abs(expected).max()) or 1.0
    worst = max(float((np.abs(answers - expected) / size).max()) for answers in (together, single))
    if not worst <= _TOLERANCE:
        _log.warning(
            "ONNX Runtime's answers differ from the model's own by %.1e: it is loaded itself.",
            worst,
        )
        return None
    return engine


def _session(
    graph: ScoreGraph, preprocessor: Preprocessor, encoder: OneHot | None, task: Task
) -> _Engine:
    """Give ONNX Runtime a graph of scores, between the preparation and the softmax."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants = dict(graph.constants)
    value = _RAW

    def add(operator: str, *inputs: str, to: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [to], **attributes))
        return to

    if preprocessor.fill_ is not None:
        constants["fill"] = preprocessor.fill_[None, :]
        gaps = add("IsNaN", value, to="is_missing")
        if preprocessor.levels_:
            constants["is_number"] = ~preprocessor.is_category_[None, :]
            gaps = add("And", gaps, "is_number", to="is_filled")
        value = add("Where", gaps, "fill", value, to="filled")
    if preprocessor.mean_ is not None and preprocessor.scale_ is not None:
        constants["mean"], constants["scale"] = (
            preprocessor.mean_[None, :],
            preprocessor.scale_[None, :],
        )
        value = add("Div", add("Sub", value, "mean", to="centred"), "scale", to="scaled")
    prepared = PREPARED if encoder is None else "codes"
    nodes.append(helper.make_node("Cast", [value], [prepared], to=TensorProto.FLOAT))
    if encoder is not None:
        constants["sources"] = encoder.sources
        constants["levels"] = encoder.codes.astype(np.float32)[None, :]
        constants["is_level"] = encoder.codes[None, :] >= 0
        spread = add("Gather", prepared, "sources", to="spread", axis=1)
        equal = add("Equal", spread, "levels", to="equals_level")
        nodes.append(helper.make_node("Cast", [equal], ["hot"], to=TensorProto.FLOAT))
        add("Where", "is_level", "hot", spread, to=PREPARED)
    nodes += graph.nodes
    if task == "classification":
        add("Softmax", SCORES, to=_PROBABILITIES, axis=1)
    else:
        add("Identity", SCORES, to=_PROBABILITIES)
    shape = [None, len(preprocessor.output_names_)]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "model",
            [helper.make_tensor_value_info(_RAW, TensorProto.DOUBLE, shape)],
            [helper.make_tensor_value_info(_PROBABILITIES, TensorProto.DOUBLE, [None, None])],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 5)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    # Rows come one by one: a second thread costs more than it gives, and workers are processes.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [_PROBABILITIES]

    def engine(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        answers: NDArray[np.float64] = session.run(outputs, {_RAW: preprocessor.expand(rows)})[0]
        return answers

    return engine


def _bound(preprocessor: Preprocessor) -> float:
    """Find the size of a raw value from which on it may be too large for a 32-bit float."""
    if preprocessor.mean_ is None or preprocessor.scale_ is None:
        return _LARGEST_FLOAT32 / 2
    return float(
        np.min(
            _LARGEST_FLOAT32 / 2 * np.minimum(preprocessor.scale_, 1.0) - np.abs(preprocessor.mean_)
        )
    )
