"""What the networks of this package have in common, on PyTorch and Lightning Fabric."""

from __future__ import annotations

import functools
import importlib
import secrets
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.data.columns import power_of_two
from ml_project_template.data.signature import MAX_LEVELS
from ml_project_template.errors import (
    ArtifactError,
    ConfigError,
    DivergenceError,
    ModelError,
    unknown,
)
from ml_project_template.models._encoding import Encoding, NumericEmbedding
from ml_project_template.models._onnx import TARGET_MEAN, TARGET_SCALE, read_target
from ml_project_template.models._steps import Fit, Steps
from ml_project_template.models.base import BaseModel, SaveModel
from ml_project_template.training.metrics import resolve_class_weight
from ml_project_template.utils.seed import seed_everything

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

    from ml_project_template.training.loop import FitJob
    from ml_project_template.training.reporting import Reporter

__all__ = ["Accelerator", "Devices", "Levels", "NetworkModel", "Precision", "Width"]

Width = Annotated[int, Field(gt=0)]
Devices = Annotated[int, Field(ge=1, le=64)]
Levels = Annotated[int, Field(ge=0, le=MAX_LEVELS)]
Accelerator = Literal["auto", "cpu", "cuda", "gpu", "mps", "tpu"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

# Imported by the first fit: they need PyTorch, which nobody should pay for who only asks for help.
_LATE_MODULES = (
    "ml_project_template.modules.category_embedding",
    "ml_project_template.modules.feature_encoder",
    "ml_project_template.modules.tabm",
    "ml_project_template.training.fabric",
    "ml_project_template.training.loop",
    "ml_project_template.training.losses",
    "ml_project_template.training.optimization",
    "ml_project_template.training.threads",
    # By the first backward pass.
    "torch.nested._internal.nested_tensor",
    "torch.utils._device",
)

# More than a model directory can name.
_MOST_FEATURES = 10_000_000


class NetworkModel(BaseModel):
    """A network that minimises the cross entropy, or the error of a number.

    Of a regression the target is brought to mean 0 and standard deviation 1 for the fit, whatever
    its units; both are saved with the weights.

    A subclass has a constructor with the arguments of this one, and makes the network of them.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output. The first and the
            last may be None: they are filled in from the data.
        cardinalities: For each feature the number of its levels if it is a category, else 0; None
            is filled in from the data.
        one_hot_levels: A category with at most so many levels is one-hot, others are embedded.
        numeric_embedding: What numbers become, see `Encoding`.
        frequencies: Of a periodic embedding.
        frequency_scale: Of a periodic embedding.
        frequency_width: Of a periodic embedding.
        bins: Of a piecewise linear encoding.
        accelerator: Where it runs.
        devices: On how many devices of this machine it is fitted, a process for each.
        precision: Of the arithmetic of the fit.

    Raises:
        ConfigError: Fewer than two widths, or a hidden one left open; an accelerator that the
            machine doesn't have.
    """

    takes_categories: ClassVar[bool] = True

    packages: ClassVar[tuple[str, ...]] = ("lightning", "numpy", "pandas", "safetensors", "torch")

    def __init__(
        self,
        *,
        layer_dims: Sequence[int | None],
        cardinalities: Sequence[int] | None,
        one_hot_levels: int,
        numeric_embedding: NumericEmbedding | None,
        frequencies: int,
        frequency_scale: float,
        frequency_width: int,
        bins: int,
        accelerator: Accelerator,
        devices: int,
        precision: Precision,
    ) -> None:
        super().__init__()
        if len(layer_dims) < 2 or None in layer_dims[1:-1]:
            raise ConfigError(
                "model.layer_dims needs an input and an output width (null is filled in from the "
                f"data) and a number for each hidden layer between them, got {list(layer_dims)}."
            )
        self.layer_dims = list(layer_dims)
        self.layer_dims_ = self.layer_dims
        self.cardinalities = None if cardinalities is None else list(cardinalities)
        self.cardinalities_ = self.cardinalities
        self.one_hot_levels = one_hot_levels
        self.numeric_embedding = numeric_embedding
        self.frequencies = frequencies
        self.frequency_scale = frequency_scale
        self.frequency_width = frequency_width
        self.bins = bins
        self.module_: torch.nn.Module | None = None
        self.target_mean_, self.target_scale_ = 0.0, 1.0

        from ml_project_template.training.fabric import make_fabric

        self.fabric = make_fabric(accelerator, precision, devices)

    @abstractmethod
    def _make_module(self) -> torch.nn.Module:
        """Make the network, with new weights, for the widths of the data."""

    @classmethod
    def warm_up(cls) -> None:
        """Import PyTorch, Fabric and the training loop."""
        for name in ("safetensors.numpy", *_LATE_MODULES):
            importlib.import_module(name)
        importlib.import_module("ml_project_template.training.lean_imports").import_fabric()

    @classmethod
    def training_problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        """Check training arguments without training; see `BaseModel.training_problems`."""
        problems = super().training_problems(arguments)
        if cls.task == "regression" and arguments.get("class_weight") is not None:
            problems.append(
                "training.class_weight: is for classes, and the target is a number: set it to null"
            )
        return problems

    def _adapt(self, train_data: BaseDataset) -> None:
        if self.task == "regression":
            outputs, what = 1, "number to predict"
        else:
            outputs, what = len(train_data.class_names), "classes"
        ends = {
            0: (len(train_data.feature_names), "starts", "features"),
            -1: (outputs, "ends", what),
        }
        self.layer_dims_ = list(self.layer_dims)
        for end, (width, verb, what) in ends.items():
            if self.layer_dims[end] not in (None, width):
                raise ConfigError(
                    f"model.layer_dims {verb} with {self.layer_dims[end]} but the data has {width} "
                    f"{what}; use null to fill it in."
                )
            self.layer_dims_[end] = width
        found = list(train_data.cardinalities)
        if self.cardinalities not in (None, found):
            raise ConfigError(
                f"model.cardinalities is {self.cardinalities} but the data has {found}; use null "
                "to fill it in."
            )
        self.cardinalities_ = found
        self._model_params["layer_dims"] = list(self.layer_dims_)
        self._model_params["cardinalities"] = list(found)

    def fit_job(
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
        loss: Literal["mse", "mae", "huber"] | None = None,
        class_weight: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None,
        save_model: SaveModel = "best",
        seed: int | None = None,
    ) -> FitJob:
        """Say all that is needed to fit the network, and give it its initial weights.

        Nothing is fitted yet: jobs of several models can be run together, and `finish_fit` ends
        what this begins. The arguments are those of the training.

        What is reported as ``train_loss`` and ``val_loss`` is the loss that is minimised. Of a
        regression it is told in the units of the target (of ``mse`` and ``huber`` in their square),
        with ``val_rmse`` beside it: with ``mse`` it is the loss of the final metrics.

        Args:
            train_data: Prepared training rows, without gaps in what is a number.
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
            min_delta: How much lower a loss must be to count; of a regression, that of the
                standardised target.
            gradient_clip_norm: The largest 2-norm of all gradients together; None clips nothing.
            loss: Of a regression: ``mse``, ``mae`` or ``huber``, which turns linear at one standard
                deviation of the target. None is ``mse``, and the cross entropy of classes, which
                have no other.
            class_weight: Weights of the classes in the loss: ``balanced``, one number for each
                class, or None.
            save_model: End with the weights of the lowest validation loss, or the final ones.
            seed: Of the initial weights, the order of the rows and the dropout.

        Returns:
            The job.

        Raises:
            ConfigError: Settings that don't go together.
            DataError: A missing or infinite value.
        """
        import torch

        from ml_project_template.training.loop import FitJob
        from ml_project_template.training.losses import MemberLoss, make_regression_loss
        from ml_project_template.training.optimization import OptimizerSettings, ScheduleSettings

        if self.task == "classification" and loss is not None:
            raise ConfigError(
                f"training.loss={loss} is for a number, and the target is a class, of which the "
                "cross entropy is minimised: set it to null."
            )
        self._check_batches(batch_size, len(train_data))
        for data in (train_data, val_data):
            if data is not None:
                self._require_finite(data.X, data.feature_names, data.cardinalities)
        if seed is None:
            seed = secrets.randbits(32)
            if self._checkpoints is not None:
                seed = self._checkpoints.seed(seed)
        # Again, for torch may not have been imported when train() did it.
        seed_everything(seed)

        reporter: Reporter = self
        if self.task == "regression":
            loss = loss or "mse"
            self._learn_target(train_data.y)
            single = make_regression_loss(loss)
            reporter = _InUnits(self, self.target_scale_, squared=loss != "mae")
        else:
            weights = resolve_class_weight(class_weight, train_data.y, len(train_data.class_names))
            single = torch.nn.CrossEntropyLoss(
                weight=None if weights is None else torch.from_numpy(weights).float()
            )
        module = self._make_module()
        train = self._tensors(train_data)
        encoder = getattr(module, "encoder", None)
        if encoder is not None:
            encoder.learn(train[0])
        return FitJob(
            module,
            MemberLoss(single).to(self.fabric.device),
            train,
            None if val_data is None else self._tensors(val_data),
            max_epochs=max_epochs,
            batch_size=batch_size,
            seed=seed,
            reporter=reporter,
            optimizer=OptimizerSettings(optimizer, lr, weight_decay, momentum),
            schedule=ScheduleSettings(
                schedule, schedule_gamma, schedule_step_size, schedule_patience
            ),
            patience=patience,
            min_delta=min_delta,
            gradient_clip_norm=gradient_clip_norm,
            keep_best=save_model == "best",
            val_metrics=_rmse if self.task == "regression" else _accuracy,
            checkpoints=self._checkpoints,
        )

    # With the signature of `fit_job`: its arguments are the settings of a training.
    @functools.wraps(fit_job, assigned=("__doc__",))
    def _fit(  # type: ignore[override]
        self, train_data: BaseDataset, val_data: BaseDataset | None = None, **arguments: Any
    ) -> None:
        from ml_project_template.training.loop import fit

        job = self.fit_job(train_data, val_data, **arguments)
        try:
            fit(self.fabric, job)
        except DivergenceError as error:
            self._take_good(job, error)
            raise
        self.finish_fit(job)

    def _steps_of_fit(
        self, train_data: BaseDataset, val_data: BaseDataset | None, **arguments: Any
    ) -> Steps[None]:
        if type(self)._fit is not NetworkModel._fit:
            # Somebody's own way to fit.
            yield from super()._steps_of_fit(train_data, val_data, **arguments)
            return
        job = self.fit_job(train_data, val_data, **arguments)
        (outcome,) = yield [Fit(self.fabric, job)]
        if isinstance(outcome, DivergenceError):
            self._take_good(job, outcome)
        if isinstance(outcome, BaseException):
            raise outcome
        self.finish_fit(job)

    def _take_good(self, job: FitJob, error: DivergenceError) -> None:
        """Take over the last weights that were good, if there are any."""
        if error.good_epoch:
            self.finish_fit(job)

    def finish_fit(self, job: FitJob) -> None:
        """Take over what a job of this model has fitted.

        Args:
            job: What `fit_job` gave, after its fit.
        """
        self.module_ = job.module

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[Any]:
        """Predict logits, or numbers.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns. A category that is NaN or no code of the training rows counts
                as missing.

        Returns:
            Logits of shape ``(n_samples, n_classes)``, float32; of a regression numbers in the
            units of the target, of shape ``(n_samples,)``, float64.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or a value that is missing or no number.
        """
        features = self._features(X)
        self._require_finite(features, self._feature_names(), self.cardinalities_ or ())
        module = self._fitted_module()

        from ml_project_template.training.loop import forward_in_chunks
        from ml_project_template.training.threads import intra_op_threads, multiply_adds

        device = next(module.parameters()).device
        with intra_op_threads(multiply_adds(module, len(features))):
            found = forward_in_chunks(module, _tensor(features).to(device))
        outputs: NDArray[np.float32] = found.cpu().numpy()
        if self.task == "classification":
            return outputs
        return outputs[:, 0].astype(np.float64) * self.target_scale_ + self.target_mean_

    def _save_weights(self, directory: Path) -> None:
        state = self._fitted_module().state_dict()
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
        if self.task == "regression":
            tensors[TARGET_MEAN] = np.array([self.target_mean_])
            tensors[TARGET_SCALE] = np.array([self.target_scale_])
        artifacts.save_tensors(directory / artifacts.WEIGHTS_SAFETENSORS, tensors)

    def _load_weights(self, directory: Path) -> None:
        tensors = artifacts.load_tensors(directory / artifacts.WEIGHTS_SAFETENSORS)

        import torch

        if None in self.layer_dims:
            raise ArtifactError("config.json: layer_dims of a trained model has no null.")
        n_features = self._check_fitted()
        if self.layer_dims[0] != n_features:
            raise ArtifactError(
                f"config.json: layer_dims starts with {self.layer_dims[0]}, metadata.json tells of "
                f"{n_features} features."
            )
        self.cardinalities_ = _checked_cardinalities(self.cardinalities, n_features)
        if self.task == "regression":
            mean, scale = read_target(tensors)
            self.target_mean_, self.target_scale_ = mean, scale
            tensors = {
                name: array
                for name, array in tensors.items()
                if name not in (TARGET_MEAN, TARGET_SCALE)
            }
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
        """A network needs a number for every feature that is no category."""
        return False

    def _check_batches(self, batch_size: int, n_rows: int) -> None:
        """Refuse batches that the network can't learn from."""

    def _encoding(self) -> Encoding:
        return Encoding(
            cardinalities=self.cardinalities_ or [0] * (self.layer_dims_[0] or 0),
            one_hot_levels=self.one_hot_levels,
            numeric_embedding=self.numeric_embedding,
            frequencies=self.frequencies,
            frequency_scale=self.frequency_scale,
            frequency_width=self.frequency_width,
            bins=self.bins,
        )

    @classmethod
    def _graph_encoding(
        cls, params: Mapping[str, Any], n_features: int, num_classes: int
    ) -> tuple[list[int], Encoding]:
        """Check the widths out of a ``config.json``.

        Returns:
            Those of the layers, as the network has them, and what stands before.
        """
        widths = params["layer_dims"]
        outputs = num_classes if cls.task == "classification" else 1
        if len(widths) < 2 or None in widths or (widths[0], widths[-1]) != (n_features, outputs):
            what = f"{num_classes} classes" if num_classes else "1 number"
            raise ArtifactError(
                f"config.json: layer_dims {widths} must lead from {n_features} features to {what}."
            )
        encoding = Encoding(
            cardinalities=_checked_cardinalities(params["cardinalities"], n_features),
            **{
                name: params[name]
                for name in (
                    *("one_hot_levels", "numeric_embedding", "bins"),
                    *("frequencies", "frequency_scale", "frequency_width"),
                )
            },
        )
        return [encoding.width, *widths[1:]], encoding

    def _fitted_module(self) -> torch.nn.Module:
        self._check_fitted()
        if self.module_ is None:
            raise ModelError(f"This {type(self).__qualname__} has no weights: call train() on it.")
        return self.module_

    def _learn_target(self, y: NDArray[np.float64]) -> None:
        """Find what brings the target to mean 0 and standard deviation 1."""
        factor = power_of_two(y)
        scaled = y / factor
        self.target_mean_ = float(scaled.mean() * factor)
        # The spread of equal numbers is nothing, or nothing but rounding.
        constant = bool((y == y[0]).all())
        self.target_scale_ = 1.0 if constant else float(scaled.std() * factor) or 1.0

    def _tensors(self, data: BaseDataset) -> tuple[torch.Tensor, torch.Tensor]:
        if self.task == "classification":
            return _tensor(data.X), _tensor(data.y)
        y = (data.y - self.target_mean_) / self.target_scale_
        return _tensor(data.X), _tensor(y.astype(np.float32)[:, None])


class _InUnits:
    """Tells of errors in the units of the target.

    Args:
        reporter: Who is told.
        scale: The standard deviation of the target.
        squared: Whether the losses have the square of its units.
    """

    def __init__(self, reporter: Reporter, scale: float, *, squared: bool) -> None:
        self._reporter = reporter
        loss = scale * scale if squared else scale
        self._factors = {"train_loss": loss, "val_loss": loss, "val_rmse": scale}

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        """Report one epoch."""
        scaled = {name: value * self._factors.get(name, 1.0) for name, value in metrics.items()}
        self._reporter.report(step, scaled, total)


def _checked_cardinalities(cardinalities: Sequence[int] | None, n_features: int) -> list[int]:
    """Read them out of a ``config.json``; a model of before there were any has numbers alone."""
    if cardinalities is None:
        if n_features > _MOST_FEATURES:
            raise ArtifactError(f"metadata.json: num_features of {n_features} can't be.")
        return [0] * n_features
    if len(cardinalities) != n_features:
        raise ArtifactError(
            f"config.json: cardinalities has {len(cardinalities)} entries for {n_features} "
            "features."
        )
    return list(cardinalities)


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


def _accuracy(outputs: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"accuracy": (outputs.argmax(dim=-1) == y).float().mean(dim=-1)}


def _rmse(outputs: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"rmse": (outputs - y).square().mean(dim=(-2, -1)).sqrt()}


def _check_tensors(tensors: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> None:
    """Compare a file's tensors with those of the network; variances of a batch are none below 0."""
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
        if name.endswith(".running_var") and (found < 0).any():
            raise ArtifactError(f"{file_name}: the tensor '{name}' has a variance below zero.")
