"""Gradient-boosted trees for classification, by scikit-learn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError, ConfigError, DataError
from ml_project_template.models._onnx import (
    ScoreGraph,
    check_trees,
    flatten_trees,
    tree_graph,
)
from ml_project_template.models._trees import (
    EXACT_TYPES,
    HISTOGRAM_TYPES,
    check_exact,
    check_histogram,
)
from ml_project_template.models.base import BaseModel, SaveModel
from ml_project_template.models.registry import register
from ml_project_template.training.early_stopping import EarlyStopping
from ml_project_template.training.metrics import (
    classification_metrics,
    resolve_class_weight,
    softmax,
)
from ml_project_template.training.reporting import StopTraining

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

__all__ = ["GBClassifier"]


@register
class GBClassifier(BaseModel):
    """Gradient-boosted trees (Friedman, 2001) that minimise the cross entropy.

    The ``histogram`` booster (after LightGBM; Ke et al., 2017) sorts each feature into at most 255
    bins: from some thousand rows on it is many times faster than the ``exact`` one, and it takes
    missing values as they are.

    Args:
        booster: ``histogram`` or ``exact``.
        learning_rate: What each tree's answer is multiplied with.
        max_iter: Boosting stages, at most; each grows a tree for each class (one for two classes).
        max_leaf_nodes: Leaves of a tree, at most; None sets no bound.
        max_depth: Depth of a tree, at most; None sets no bound.
        min_samples_leaf: Rows in a leaf, at least.
        l2_regularization: Of the leaves' values; ``histogram`` only.
        max_features: The part of the features tried at each split, in (0, 1].
        subsample: The part of the rows drawn for each stage, in (0, 1]; ``exact`` only.

    Attributes:
        estimator_: The fitted estimator of scikit-learn.

    Raises:
        ConfigError: A setting that the booster doesn't have.
    """

    packages: ClassVar[tuple[str, ...]] = (
        "numpy",
        "pandas",
        "safetensors",
        "scikit-learn",
        "skops",
    )
    seed_matters: ClassVar[bool] = False

    def __init__(
        self,
        booster: Literal["histogram", "exact"] = "histogram",
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        max_iter: Annotated[int, Field(gt=0)] = 200,
        max_leaf_nodes: Annotated[int, Field(gt=1)] | None = 31,
        max_depth: Annotated[int, Field(gt=0)] | None = None,
        min_samples_leaf: Annotated[int, Field(gt=0)] = 10,
        l2_regularization: Annotated[float, Field(ge=0)] = 0.0,
        max_features: Annotated[float, Field(gt=0, le=1)] = 1.0,
        subsample: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> None:
        super().__init__()
        if booster == "exact" and l2_regularization:
            raise ConfigError(
                f"model.l2_regularization={l2_regularization} belongs to booster histogram, not to "
                "exact: set it to 0."
            )
        if booster == "histogram" and subsample != 1:
            raise ConfigError(
                f"model.subsample={subsample} belongs to booster exact, not to histogram: set it "
                "to 1."
            )
        self.booster = booster
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.max_leaf_nodes = max_leaf_nodes
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.l2_regularization = l2_regularization
        self.max_features = max_features
        self.subsample = subsample
        self.estimator_: Any = None

    @classmethod
    def warm_up(cls) -> None:
        """Import scikit-learn's boosters, and what writes them."""
        importlib.import_module("sklearn.ensemble")
        importlib.import_module("safetensors.numpy")
        artifacts.import_skops()

    def get_params(self) -> dict[str, Any]:
        """Return the parameters, and those that scikit-learn sets by itself."""
        estimator = self._make_estimator()
        return {
            **super().get_params(),
            "estimator": type(estimator).__name__,
            # Those of the training are logged with the training.
            "estimator_params": {
                name: value
                for name, value in estimator.get_params().items()
                if name not in {"n_iter_no_change", "random_state", "tol"}
            },
        }

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        patience: Annotated[int, Field(gt=0)] | None = 20,
        tol: Annotated[float, Field(ge=0)] = 1e-7,
        class_weight: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None,
        save_model: SaveModel = "best",
        seed: int | None = None,
    ) -> None:
        """Grow the trees.

        Args:
            train_data: Training rows, prepared or raw.
            val_data: Validation rows.
            patience: Stages without a lower loss (of the validation rows, or of the training rows
                without them) after which the fit ends; None never ends it.
            tol: How much lower a loss must be to count.
            class_weight: Weights of the classes in the loss: ``balanced``, one number for each
                class, or None.
            save_model: Keep the trees up to the stage of the lowest validation loss, or all.
            seed: Of the drawing of rows and features.

        Raises:
            DataError: A class without a training row, or missing values for ``exact``.
        """
        num_classes = len(train_data.class_names)
        counts = np.bincount(train_data.y, minlength=num_classes)
        if (counts == 0).any():
            missing = train_data.class_names[int(counts.argmin())]
            raise DataError(f"The class '{missing}' has no training row.")
        weights = resolve_class_weight(class_weight, train_data.y, num_classes)
        estimator = self._make_estimator(seed)
        grow = self._grow_histogram if self.booster == "histogram" else self._grow_exact
        val_losses = grow(estimator, train_data, val_data, weights, patience, tol)
        if save_model == "best" and val_losses:
            _truncate(estimator, int(np.argmin(val_losses)) + 1)
        self.estimator_ = estimator

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Predict raw scores: sums of the trees' answers.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns.

        Returns:
            Scores of shape ``(n_samples, n_classes)``, float64. For two classes the log odds ``s``
            are split into ``(-s/2, s/2)``, so that their softmax are the probabilities.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or values that are no numbers.
        """
        features = self._features(X)
        if self.booster == "exact":
            self._require_finite(features, self._feature_names())
        if len(features) == 0:
            return np.empty((0, len(self.estimator_.classes_)))
        scores: NDArray[np.float64] = self.estimator_.decision_function(features)
        return np.column_stack([-scores / 2, scores / 2]) if scores.ndim == 1 else scores

    def feature_importances(self) -> NDArray[np.float64] | None:
        """Return the impurity-based importances of the exact booster.

        Returns:
            Shape ``(n_features,)``; None for the histogram booster, which has none.
        """
        self._check_fitted()
        if self.booster == "histogram":
            return None
        importances: NDArray[np.float64] = self.estimator_.feature_importances_
        return importances

    def _make_estimator(self, seed: int | None = None) -> Any:
        common = {
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.max_leaf_nodes,
            "max_depth": self.max_depth,
            "min_samples_leaf": self.min_samples_leaf,
            "max_features": self.max_features,
            "random_state": seed,
        }
        if self.booster == "histogram":
            from sklearn.ensemble import HistGradientBoostingClassifier

            return HistGradientBoostingClassifier(
                **common,
                max_iter=self.max_iter,
                l2_regularization=self.l2_regularization,
                # Losses are watched in any case, on our validation rows or on the training rows:
                # scikit-learn splits nothing off by itself.
                early_stopping=True,
                validation_fraction=None,
                scoring="loss",
            )
        from sklearn.ensemble import GradientBoostingClassifier

        return GradientBoostingClassifier(
            **common, n_estimators=self.max_iter, subsample=self.subsample
        )

    def _grow_histogram(
        self,
        estimator: Any,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        patience: int | None,
        tol: float,
    ) -> list[float]:
        """Fit the histogram booster; returns the validation loss of each stage."""
        # One more than there are stages: never reached.
        estimator.set_params(n_iter_no_change=patience or self.max_iter + 1, tol=tol)
        reported = 0

        def tell() -> bool:
            """Report the stages that are new; returns whether the fit is to end."""
            nonlocal reported
            # The first score is that of the constant before any tree.
            while reported < len(estimator.train_score_) - 1:
                reported += 1
                metrics = {"train_loss": -float(estimator.train_score_[reported])}
                if val is not None:
                    metrics["val_loss"] = -float(estimator.validation_score_[reported])
                try:
                    self.report(reported, metrics, total=self.max_iter)
                except StopTraining:
                    return True
            return False

        with _after_each_stage(estimator, tell):
            estimator.fit(
                _without_empty_columns(train.X),
                train.y,
                sample_weight=_of_rows(weights, train.y),
                **(
                    {}
                    if val is None
                    else {
                        "X_val": val.X,
                        "y_val": val.y,
                        "sample_weight_val": _of_rows(weights, val.y),
                    }
                ),
            )
        tell()
        return [] if val is None else [-float(score) for score in estimator.validation_score_[1:]]

    def _grow_exact(
        self,
        estimator: Any,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        patience: int | None,
        tol: float,
    ) -> list[float]:
        """Fit the exact booster; returns the validation loss of each stage."""
        for data in (train, val):
            if data is not None:
                self._require_finite(data.X, data.feature_names)
        stopping = EarlyStopping(patience, tol)
        val_losses: list[float] = []
        staged: Iterator[Any] | None = None
        # Scikit-learn tells the deviance of two classes, which is twice the log loss.
        per_deviance = 0.5 if len(train.class_names) == 2 else 1.0

        def monitor(stage: int, booster: Any, _: dict[str, Any]) -> bool:
            nonlocal staged
            metrics = {"train_loss": per_deviance * float(booster.train_score_[stage])}
            if val is not None:
                # The generator goes on from the stage before: each tree is asked once.
                staged = staged or booster.staged_decision_function(val.X)
                metrics["val_loss"] = _log_loss(next(staged), val.y, weights)
                val_losses.append(metrics["val_loss"])
            try:
                self.report(stage + 1, metrics, total=self.max_iter)
            except StopTraining:
                return True
            return stopping.update(metrics["train_loss" if val is None else "val_loss"])

        estimator.fit(train.X, train.y, sample_weight=_of_rows(weights, train.y), monitor=monitor)
        return val_losses

    def _save_weights(self, directory: Path) -> None:
        artifacts.save_estimator(directory / artifacts.WEIGHTS_SKOPS, self.estimator_)

    def inference_tensors(self) -> dict[str, NDArray[Any]]:
        """Give the trees as plain arrays; see `BaseModel.inference_tensors`."""
        self._check_fitted()
        return flatten_trees(*_trees_of(self.estimator_))

    @classmethod
    def accepts_missing(cls, params: Mapping[str, Any]) -> bool:
        """The histogram booster learns where rows with a gap go; the exact one can't."""
        return bool(params["booster"] == "histogram")

    @classmethod
    def score_graph(
        cls,
        params: Mapping[str, Any],  # noqa: ARG003
        tensors: Mapping[str, NDArray[Any]],
        n_features: int,
        num_classes: int,
    ) -> ScoreGraph | None:
        """Make an ONNX graph of the trees; see `BaseModel.score_graph`."""
        return tree_graph(check_trees(tensors, n_features, num_classes))

    def _load_weights(self, directory: Path) -> None:
        histogram = self.booster == "histogram"
        estimator = artifacts.load_estimator(
            directory / artifacts.WEIGHTS_SKOPS,
            trusted=HISTOGRAM_TYPES if histogram else EXACT_TYPES,
        )
        if self.signature is None:
            raise ArtifactError("signature.json: it is needed to check the booster.")
        check = check_histogram if histogram else check_exact
        check(estimator, self._check_fitted(), len(self.signature.class_names))
        self.estimator_ = estimator


@contextmanager
def _after_each_stage(estimator: Any, tell: Callable[[], bool]) -> Iterator[None]:
    """Have the histogram booster call ``tell`` after each stage; True ends its fit.

    Scikit-learn has no public way to look on while this booster fits. It asks its own
    ``_should_stop`` once a stage, so that is where to listen; a version without it is not stopped.
    """
    ask = getattr(estimator, "_should_stop", None)
    if ask is None:
        yield
        return

    def should_stop(scores: list[float]) -> bool:
        ended = tell()
        return bool(ask(scores)) or ended

    estimator._should_stop = should_stop
    try:
        yield
    finally:
        del estimator._should_stop


def _truncate(estimator: Any, stages: int) -> None:
    """Keep the trees of the first stages only."""
    if hasattr(estimator, "_predictors"):
        estimator._predictors = estimator._predictors[:stages]
    else:
        estimator.estimators_ = estimator.estimators_[:stages]
        estimator.n_estimators_ = stages


def _trees_of(estimator: Any) -> tuple[list[dict[str, NDArray[Any]]], NDArray[np.float64]]:
    """Read the trees of a fitted booster, and what their values are added to."""
    if hasattr(estimator, "_predictors"):
        fitted = [tree.nodes for stage in estimator._predictors for tree in stage]
        names = {
            "leaf": "is_leaf",
            "feature": "feature_idx",
            "threshold": "num_threshold",
            "left": "left",
            "right": "right",
            "missing_left": "missing_go_to_left",
            "value": "value",
        }
        trees = [{name: nodes[field] for name, field in names.items()} for nodes in fitted]
        return trees, estimator._baseline_prediction.ravel()
    exact = [regressor.tree_ for regressor in estimator.estimators_.ravel()]
    trees = [
        {
            "leaf": tree.children_left == -1,
            "feature": tree.feature,
            "threshold": tree.threshold,
            "left": tree.children_left,
            "right": tree.children_right,
            "missing_left": np.zeros(tree.node_count, dtype=np.uint8),
            "value": tree.value[:, 0, 0] * estimator.learning_rate,
        }
        for tree in exact
    ]
    # Scikit-learn's own start: of the log priors, or of the log odds where there are two classes.
    features = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    return trees, np.asarray(estimator._raw_predict_init(features), dtype=np.float64).ravel()


def _of_rows(
    weights: NDArray[np.float64] | None, y: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Give each row the weight of its class."""
    return None if weights is None else weights[y]


def _log_loss(
    scores: NDArray[np.float64], y: NDArray[np.int64], weights: NDArray[np.float64] | None
) -> float:
    """Compute the log loss of a stage's raw scores, of shape ``(n, 1)`` or ``(n, n_classes)``."""
    if scores.shape[1] == 1:
        scores = np.hstack([-scores / 2, scores / 2])
    return classification_metrics(y, softmax(scores), class_weight=weights)["loss"]


def _without_empty_columns(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make constants of columns without any value, which scikit-learn's binning can't take.

    No tree splits on a constant, so the column is ignored when predicting, whatever it holds then.
    """
    empty = np.isnan(X).all(axis=0)
    if not empty.any():
        return X
    X = X.copy()
    X[:, empty] = 0.0
    return X
