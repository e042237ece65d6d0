"""Boosted trees of other libraries: what they have in common."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError, ConfigError
from ml_project_template.models._boosted import Boosted
from ml_project_template.models._features import without_infinite
from ml_project_template.models.base import SaveModel
from ml_project_template.training.early_stopping import EarlyStopping
from ml_project_template.training.reporting import StopTraining

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

__all__ = ["Boosting", "BoostingLoss", "Watch", "installed"]

BoostingLoss = Literal["absolute_error", "gamma", "log_loss", "poisson", "squared_error"]
Watch = Callable[[int, Mapping[str, float]], bool]
"""Takes a stage, counted from 1, and its losses; returns whether the fit is to end."""


def installed(*distributions: str) -> str:
    """Say which of several distributions of a library is installed; the first if none is."""
    for name in distributions:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return distributions[0]


class Boosting(Boosted):
    """Boosted trees of another library, which takes missing values and categories as they are.

    Args:
        learning_rate: What each tree's answer is multiplied with.
        max_iter: Boosting stages, at most.
        max_depth: Depth of a tree, at most.
        l2_regularization: Of the leaves' values.
        max_features: The part of the features drawn for each tree, in (0, 1].
        subsample: The part of the rows drawn for each tree, in (0, 1].
        loss: What the trees minimise; None: ``log_loss`` for classes, ``squared_error`` for a
            number.

    Attributes:
        booster_: The fitted trees, in the library's own form.

    Raises:
        ConfigError: The library is not installed, or doesn't have the loss for the task.
    """

    seed_matters: ClassVar[bool] = False
    takes_categories: ClassVar[bool] = True

    library: ClassVar[str]
    """The module to import; its extra has the same name."""

    weights_name: ClassVar[str]
    """The file of the trees in a model directory."""

    losses: ClassVar[Mapping[str, tuple[str, str]]]
    """What the library calls each loss of a number, as an objective and as a metric."""

    def __init__(
        self,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        max_iter: Annotated[int, Field(gt=0)] = 200,
        max_depth: Annotated[int, Field(gt=0, le=16)] = 6,
        l2_regularization: Annotated[float, Field(ge=0)] = 1.0,
        max_features: Annotated[float, Field(gt=0, le=1)] = 1.0,
        subsample: Annotated[float, Field(gt=0, le=1)] = 1.0,
        loss: BoostingLoss | None = None,
    ) -> None:
        super().__init__()
        if importlib.util.find_spec(self.library) is None:
            raise ConfigError(
                f"model: {self.library} is not installed. Install it: "
                f"uv sync --extra {self.library}"
            )
        choices = ("log_loss",) if self.task == "classification" else tuple(self.losses)
        if loss is not None and loss not in choices:
            raise ConfigError(
                f"model.loss={loss} is not for a {self.task} by {self.library}: set it to "
                f"{', '.join(choices)} or null."
            )
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.max_depth = max_depth
        self.l2_regularization = l2_regularization
        self.max_features = max_features
        self.subsample = subsample
        self.loss = loss
        self.booster_: Any = None

    @classmethod
    def warm_up(cls) -> None:
        """Import the library."""
        importlib.import_module("safetensors.numpy")
        importlib.import_module(cls.library)

    # ---- what a library implements

    @abstractmethod
    def _boost(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        seed: int,
        watch: Watch,
    ) -> Any:
        """Grow trees.

        Args:
            train: Training rows.
            val: Validation rows, for their loss alone.
            weights: The weight of each class.
            seed: Of the drawing of rows and features.
            watch: Has to be called after each stage, with ``train_loss`` and ``val_loss``.

        Returns:
            The booster.
        """

    @abstractmethod
    def _truncate(self, booster: Any, stages: int | None) -> Any:
        """Keep the trees of the first stages only, or all of them, and none of the rows."""

    @abstractmethod
    def _raw(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """Ask the trees: numbers, log odds of shape ``(n,)``, or scores ``(n, n_classes)``."""

    @abstractmethod
    def _read(self, path: Path) -> Any:
        """Read the file of the trees, and check it as far as its format allows."""

    # ---- the rest

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Predict raw scores or numbers: sums of the trees' answers.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns.

        Returns:
            Scores of shape ``(n_samples, n_classes)``, float64. For two classes the log odds ``s``
            are split into ``(-s/2, s/2)``, so that their softmax are the probabilities. For a
            regression numbers of shape ``(n_samples,)``.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or values that are no numbers.
        """
        # An infinite value goes the way of the largest one: some of the libraries refuse it.
        features = without_infinite(self._features(X))
        num_classes = self._num_classes()
        if len(features) == 0:
            return np.empty((0, num_classes) if num_classes else 0)
        raw: NDArray[np.float64] = np.asarray(self._raw(features), dtype=np.float64)
        return np.column_stack([-raw / 2, raw / 2]) if num_classes and raw.ndim == 1 else raw

    def _grow(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        *,
        patience: int | None,
        tol: float,
        save_model: SaveModel,
        seed: int | None,
    ) -> None:
        """Grow the trees, with a weight for each class; for the rest see the models' ``_fit``."""
        stopping = EarlyStopping(patience, tol)
        watched: list[float] = []

        def watch(stage: int, losses: Mapping[str, float]) -> bool:
            watched.append(losses["train_loss" if val is None else "val_loss"])
            try:
                self.report(stage, losses, total=self.max_iter)
            except StopTraining:
                return True
            return stopping.update(watched[-1])

        drawn = int(np.random.randint(2**31)) if seed is None else seed % 2**31
        booster = self._boost(train, val, weights, drawn, watch)
        is_best = save_model == "best" and val is not None
        self.booster_ = self._truncate(booster, int(np.argmin(watched)) + 1 if is_best else None)

    def _loss(self) -> str:
        """Name the loss of a regression."""
        return self.loss or "squared_error"

    def _num_classes(self) -> int:
        if self.signature is None:
            raise ArtifactError("signature.json: it is needed to read the trees.")
        return len(self.signature.class_names)

    def _levels(self) -> tuple[int, ...]:
        """Tell how many levels each prepared feature has, 0 for a number."""
        assert self.preprocessor is not None
        return self.preprocessor.cardinalities_

    def _load_weights(self, directory: Path) -> None:
        try:
            self.booster_ = self._read(directory / self.weights_name)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError) as error:
            if isinstance(error, ArtifactError):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ArtifactError(
                f"{self.weights_name}: the trees can't be used: {reason}"
            ) from error
