"""A multilayer perceptron for classification, on PyTorch and Lightning Fabric."""

from __future__ import annotations

import importlib
import itertools
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError, ConfigError, ModelError, unknown
from ml_project_template.models._onnx import ScoreGraph, network_graph
from ml_project_template.models.base import BaseModel, SaveModel
from ml_project_template.models.registry import register
from ml_project_template.training.early_stopping import EarlyStopping
from ml_project_template.training.metrics import resolve_class_weight
from ml_project_template.utils.seed import seed_everything

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

    from ml_project_template.modules import FullyConnected

__all__ = ["MLPClassifier"]

Width = Annotated[int, Field(gt=0)]

# Imported by the first fit: they need PyTorch, which nobody should pay for who only asks for help.
_LATE_MODULES = (
    "ml_project_template.modules",
    "ml_project_template.training.fabric",
    "ml_project_template.training.loop",
    "ml_project_template.training.optimization",
    "ml_project_template.training.threads",
)


@register
class MLPClassifier(BaseModel):
    """A fully connected network that minimises the cross entropy.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output. The first and the
            last may be None: they are filled in from the data.
        activation: After each hidden layer.
        normalization: ``batch``, ``layer`` or None.
        dropout: The part of the hidden values set to zero while training, in [0, 1).
        accelerator: Where it runs: ``auto``, ``cpu``, ``cuda`` or ``mps``. No part of a saved
            model.
        precision: Of the arithmetic of the fit; the weights are float32 in each of them. No part of
            a saved model.

    Attributes:
        fabric: Lightning's Fabric of this model.
        layer_dims_: The widths, with those of the data filled in.
        module_: The network, once fitted or loaded.

    Raises:
        ConfigError: Fewer than two widths, or a hidden one left open; an accelerator that the
            machine doesn't have.
    """

    packages: ClassVar[tuple[str, ...]] = ("lightning", "numpy", "pandas", "safetensors", "torch")

    def __init__(
        self,
        layer_dims: list[Width | None],
        activation: Literal["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"] = "relu",
        normalization: Literal["batch", "layer"] | None = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        *,
        accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps", "tpu"] = "auto",
        precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    ) -> None:
        super().__init__()
        if len(layer_dims) < 2 or None in layer_dims[1:-1]:
            raise ConfigError(
                "model.layer_dims needs an input and an output width (null is filled in from the "
                f"data) and a number for each hidden layer between them, got {list(layer_dims)}."
            )
        self.layer_dims = list(layer_dims)
        self.layer_dims_ = self.layer_dims
        self.activation = activation
        self.normalization = normalization
        self.dropout = dropout
        self.module_: FullyConnected | None = None

        from ml_project_template.training.fabric import make_fabric

        self.fabric = make_fabric(accelerator, precision)

    @classmethod
    def warm_up(cls) -> None:
        """Import PyTorch, Fabric and the training loop."""
        for name in ("lightning.fabric", "safetensors.numpy", *_LATE_MODULES):
            importlib.import_module(name)

    def _adapt(self, train_data: BaseDataset) -> None:
        ends = {
            0: (len(train_data.feature_names), "starts", "features"),
            -1: (len(train_data.class_names), "ends", "classes"),
        }
        self.layer_dims_ = list(self.layer_dims)
        for end, (width, verb, what) in ends.items():
            if self.layer_dims[end] not in (None, width):
                raise ConfigError(
                    f"model.layer_dims {verb} with {self.layer_dims[end]} but the data has {width} "
                    f"{what}; use null to fill it in."
                )
            self.layer_dims_[end] = width
        self._model_params["layer_dims"] = list(self.layer_dims_)

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        lr: Annotated[float, Field(gt=0)] = 1e-3,
        weight_decay: Annotated[float, Field(ge=0)] = 0.0,
        max_epochs: Annotated[int, Field(gt=0)] = 100,
        batch_size: Annotated[int, Field(gt=0)] = 32,
        optimizer: Literal["adam", "adamw", "sgd"] = "adam",
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        schedule: Literal["cosine", "exponential", "plateau", "step"] | None = None,
        schedule_gamma: Annotated[float, Field(gt=0, lt=1)] | None = None,
        schedule_step_size: Annotated[int, Field(gt=0)] = 30,
        schedule_patience: Annotated[int, Field(ge=0)] = 10,
        patience: Annotated[int, Field(gt=0)] | None = 20,
        min_delta: Annotated[float, Field(ge=0)] = 0.0,
        gradient_clip_norm: Annotated[float, Field(gt=0)] | None = None,
        class_weight: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None,
        save_model: SaveModel = "best",
        seed: int | None = None,
    ) -> None:
        """Fit the network.

        Args:
            train_data: Prepared training rows, without gaps.
            val_data: Prepared validation rows.
            lr: The learning rate.
            weight_decay: The strength of the weight decay.
            max_epochs: Passes over the training rows, at most.
            batch_size: Rows in a batch.
            optimizer: ``adam``, ``adamw`` or ``sgd``.
            momentum: Of ``sgd``.
            schedule: Of the learning rate, stepped once an epoch: None, ``cosine``,
                ``exponential``, ``plateau`` or ``step``.
            schedule_gamma: What ``exponential`` (default 0.98), ``plateau`` (0.5) and ``step``
                (0.1) multiply the rate with.
            schedule_step_size: Epochs between two steps of ``step``.
            schedule_patience: Epochs that ``plateau`` waits for a lower loss.
            patience: Epochs without a lower loss (of the validation rows, or of the training rows
                without them) after which the fit ends; None never ends it.
            min_delta: How much lower a loss must be to count.
            gradient_clip_norm: The largest 2-norm of all gradients together; None clips nothing.
            class_weight: Weights of the classes in the loss: ``balanced``, one number for each
                class, or None.
            save_model: End with the weights of the lowest validation loss, or the final ones.
            seed: Of the initial weights, the order of the rows and the dropout.

        Raises:
            ConfigError: Settings that don't go together.
            DataError: A missing or infinite value, or a single training row for ``batch``.
            DivergenceError: The loss is no longer a number.
        """
        import torch

        from ml_project_template.training.loop import fit
        from ml_project_template.training.optimization import make_optimizer, make_scheduler
        from ml_project_template.training.threads import intra_op_threads

        if self.normalization == "batch" and min(batch_size, len(train_data)) < 2:
            raise ConfigError(
                "model.normalization=batch needs batches of two rows at least, got "
                f"training.batch_size={batch_size} and {len(train_data)} training rows."
            )
        for data in (train_data, val_data):
            if data is not None:
                self._require_finite(data.X, data.feature_names)
        if seed is None:
            seed = secrets.randbits(32)
        # Again, for torch may not have been imported when train() did it.
        seed_everything(seed)

        weights = resolve_class_weight(class_weight, train_data.y, len(train_data.class_names))
        loss_function = torch.nn.CrossEntropyLoss(
            weight=None if weights is None else torch.from_numpy(weights).float()
        ).to(self.fabric.device)
        module = self._make_module()
        raw_optimizer = make_optimizer(
            optimizer,
            module.parameters(),
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            # Scaled gradients can't be clipped before a fused step that unscales them itself.
            fused=not (self._scales_gradients and gradient_clip_norm is not None),
        )
        with intra_op_threads(self._multiply_adds(batch_size)):
            fit(
                self.fabric,
                module,
                loss_function,
                _tensors(train_data),
                None if val_data is None else _tensors(val_data),
                optimizer=raw_optimizer,
                schedule=make_scheduler(
                    schedule,
                    raw_optimizer,
                    max_epochs=max_epochs,
                    gamma=schedule_gamma,
                    step_size=schedule_step_size,
                    patience=schedule_patience,
                ),
                max_epochs=max_epochs,
                batch_size=batch_size,
                generator=torch.Generator().manual_seed(seed),
                reporter=self,
                early_stopping=EarlyStopping(patience, min_delta),
                gradient_clip_norm=gradient_clip_norm,
                keep_best=save_model == "best",
                val_metrics=_accuracy,
            )
        self.module_ = module

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float32]:
        """Predict logits.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns.

        Returns:
            Logits of shape ``(n_samples, n_classes)``, float32.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or a value that is missing or no number.
        """
        features = self._features(X)
        self._require_finite(features, self._feature_names())
        module = self._fitted_module()

        from ml_project_template.training.loop import forward_in_chunks
        from ml_project_template.training.threads import intra_op_threads

        device = next(module.parameters()).device
        with intra_op_threads(self._multiply_adds(len(features))):
            outputs = forward_in_chunks(module, _tensor(features).to(device))
        logits: NDArray[np.float32] = outputs.cpu().numpy()
        return logits

    def _save_weights(self, directory: Path) -> None:
        state = self._fitted_module().state_dict()
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
        artifacts.save_tensors(directory / artifacts.WEIGHTS_SAFETENSORS, tensors)

    def _load_weights(self, directory: Path) -> None:
        tensors = artifacts.load_tensors(directory / artifacts.WEIGHTS_SAFETENSORS)

        import torch

        if None in self.layer_dims:
            raise ArtifactError("config.json: layer_dims of a trained model has no null.")
        if self.layer_dims[0] != self._n_features:
            raise ArtifactError(
                f"config.json: layer_dims starts with {self.layer_dims[0]}, metadata.json tells of "
                f"{self._n_features} features."
            )
        # Without memory until the shapes are known to be those of the file.
        with torch.device("meta"):
            module = self._make_module()
        _check_tensors(tensors, module.state_dict())
        module.load_state_dict(
            {name: torch.from_numpy(array) for name, array in tensors.items()}, assign=True
        )
        self.module_ = module.to(self.fabric.device).eval()

    @classmethod
    def accepts_missing(cls, params: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """A network needs a number for every feature."""
        return False

    @classmethod
    def score_graph(
        cls,
        params: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        n_features: int,
        num_classes: int,
    ) -> ScoreGraph:
        """Write the network out as an ONNX graph; see `BaseModel.score_graph`."""
        widths = params["layer_dims"]
        if (
            len(widths) < 2
            or None in widths
            or (widths[0], widths[-1]) != (n_features, num_classes)
        ):
            raise ArtifactError(
                f"config.json: layer_dims {widths} must lead from {n_features} features to "
                f"{num_classes} classes."
            )
        return network_graph(
            widths,
            params["activation"],
            params["normalization"],
            dropout=bool(params["dropout"]),
            tensors=tensors,
        )

    @property
    def _scales_gradients(self) -> bool:
        return getattr(self.fabric.strategy.precision, "scaler", None) is not None

    def _make_module(self) -> FullyConnected:
        from ml_project_template.modules import FullyConnected

        return FullyConnected(
            [width for width in self.layer_dims_ if width is not None],
            self.activation,
            self.normalization,
            self.dropout,
        )

    def _fitted_module(self) -> FullyConnected:
        self._check_fitted()
        if self.module_ is None:
            raise ModelError(f"This {type(self).__qualname__} has no weights: call train() on it.")
        return self.module_

    def _multiply_adds(self, rows: int) -> int:
        widths = [width or 0 for width in self.layer_dims_]
        return rows * max(a * b for a, b in itertools.pairwise(widths))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Share an array's memory with a tensor that is only read from."""
    import torch

    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        # Torch has no read-only tensors. Nothing here writes to the features of a data set, and a
        # copy would double the memory of a training.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _tensors(data: BaseDataset) -> tuple[torch.Tensor, torch.Tensor]:
    return _tensor(data.X), _tensor(data.y)


def _accuracy(outputs: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"accuracy": (outputs.argmax(dim=1) == y).float().mean()}


def _check_tensors(tensors: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> None:
    """Compare names, shapes and types of a file's tensors with those of the network."""
    file_name = artifacts.WEIGHTS_SAFETENSORS
    for name in tensors:
        if name not in expected:
            raise ArtifactError(f"{file_name}: {unknown('tensor', name, expected)}")
    for name, tensor in expected.items():
        if name not in tensors:
            raise ArtifactError(f"{file_name}: the tensor '{name}' is missing.")
        found = tensors[name]
        shape, kind = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if found.shape != shape or str(found.dtype) != kind:
            raise ArtifactError(
                f"{file_name}: the tensor '{name}' is {found.dtype}{list(found.shape)}, "
                f"config.json asks for {kind}{list(shape)}."
            )
