"""Gradient-boosted trees by scikit-learn: what classification and regression have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.data.one_hot import OneHot
from ml_project_template.errors import ArtifactError, ConfigError
from ml_project_template.models._boosted import Boosted
from ml_project_template.models._onnx import (
    SET_BYTES,
    ScoreGraph,
    check_trees,
    flatten_trees,
    split_by_level,
    tree_graph,
)
from ml_project_template.models._targets import row_weights
from ml_project_template.models._trees import (
    check_exact,
    check_histogram,
    exact_types,
    histogram_types,
)
from ml_project_template.models.base import SaveModel
from ml_project_template.training.early_stopping import EarlyStopping
from ml_project_template.training.metrics import classification_metrics, softmax
from ml_project_template.training.reporting import StopTraining
from ml_project_template.utils.collecting import import_large

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

__all__ = ["Booster", "GradientBoosting", "Loss"]

Booster = Literal["histogram", "exact"]
Loss = Literal["absolute_error", "gamma", "huber", "log_loss", "poisson", "squared_error"]

_FIRST_ROWS = 1024
_RATES = frozenset({"gamma", "poisson"})  # losses of which the trees add up to a logarithm


class GradientBoosting(Boosted):
    """Gradient-boosted trees (Friedman, 2001).

    The ``histogram`` booster (after LightGBM; Ke et al., 2017) sorts each feature into at most 255
    bins: from some thousand rows on it is many times faster than the ``exact`` one, and it takes
    missing values and categories as they are. The ``exact`` one needs numbers: it is given a column
    of zeros and ones for each level of a category.

    Args:
        booster: ``histogram`` or ``exact``.
        loss: What the trees minimise; None for the first of ``losses``.
        learning_rate: What each tree's answer is multiplied with.
        max_iter: Boosting stages, at most; each grows a tree for each class (one for two classes,
            and for a number).
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
    takes_categories: ClassVar[bool] = True

    losses: ClassVar[Mapping[Booster, tuple[Loss, ...]]]
    """What each booster can minimise, the usual one first."""

    def __init__(
        self,
        booster: Booster = "histogram",
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        max_iter: Annotated[int, Field(gt=0)] = 200,
        max_leaf_nodes: Annotated[int, Field(gt=1)] | None = 31,
        max_depth: Annotated[int, Field(gt=0)] | None = None,
        min_samples_leaf: Annotated[int, Field(gt=0)] = 10,
        l2_regularization: Annotated[float, Field(ge=0)] = 0.0,
        max_features: Annotated[float, Field(gt=0, le=1)] = 1.0,
        subsample: Annotated[float, Field(gt=0, le=1)] = 1.0,
        loss: Loss | None = None,
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
        if loss is not None and loss not in self.losses.get(booster, ()):
            raise ConfigError(
                f"model.loss={loss} is not for a {self.task} by booster {booster}: set it to "
                f"{', '.join(self.losses.get(booster, ()))} or null."
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
        self.loss = loss
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
        features = self._features(X)
        if self.booster == "exact":
            self._require_finite(features, self._feature_names(), self._cardinalities())
            features = OneHot(self._cardinalities()).transform(features)
        if self.task == "regression":
            numbers: NDArray[np.float64] = (
                self.estimator_.predict(features) if len(features) else np.empty(0)
            )
            return numbers
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
        return OneHot(self._cardinalities()).sum_by_feature(self.estimator_.feature_importances_)

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
        estimator = self._make_estimator(seed)
        grow = self._grow_histogram if self.booster == "histogram" else self._grow_exact
        val_losses = grow(estimator, train, val, weights, patience, tol)
        if save_model == "best" and val_losses:
            _truncate(estimator, int(np.argmin(val_losses)) + 1)
        self.estimator_ = estimator

    def _loss(self) -> Loss:
        """Name the loss that is minimised."""
        return self.loss or self.losses[self.booster][0]

    def _make_estimator(self, seed: int | None = None) -> Any:
        import_large("sklearn.ensemble")
        from sklearn import ensemble

        common = {
            "loss": self._loss(),
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.max_leaf_nodes,
            "max_depth": self.max_depth,
            "min_samples_leaf": self.min_samples_leaf,
            "max_features": self.max_features,
            "random_state": seed,
        }
        kind = "Regressor" if self.task == "regression" else "Classifier"
        if self.booster == "histogram":
            return getattr(ensemble, f"HistGradientBoosting{kind}")(
                **common,
                max_iter=self.max_iter,
                l2_regularization=self.l2_regularization,
                # Losses are watched in any case, on our validation rows or on the training rows:
                # scikit-learn splits nothing off by itself.
                early_stopping=True,
                validation_fraction=None,
                scoring="loss",
                categorical_features=None,  # see `_with_categories`
            )
        return getattr(ensemble, f"GradientBoosting{kind}")(
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
        # A score is a loss below zero, and that of squared errors is half of their mean.
        sign = -2.0 if estimator.loss == "squared_error" else -1.0

        def tell() -> bool:
            """Report the stages that are new; returns whether the fit is to end."""
            nonlocal reported
            # The first score is that of the constant before any tree.
            while reported < len(estimator.train_score_) - 1:
                reported += 1
                metrics = {"train_loss": sign * float(estimator.train_score_[reported])}
                if val is not None:
                    metrics["val_loss"] = sign * float(estimator.validation_score_[reported])
                try:
                    self.report(reported, metrics, total=self.max_iter)
                except StopTraining:
                    return True
            return False

        with _after_each_stage(estimator, tell), _with_categories(estimator, train.cardinalities):
            estimator.fit(
                _without_empty_columns(train.X),
                train.y,
                sample_weight=row_weights(weights, train.y),
                **(
                    {}
                    if val is None
                    else {
                        "X_val": val.X,
                        "y_val": val.y,
                        "sample_weight_val": row_weights(weights, val.y),
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
                self._require_finite(data.X, data.feature_names, data.cardinalities)
        encoder = OneHot(train.cardinalities)
        val_X = None if val is None else encoder.transform(val.X)
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
                staged = staged or (
                    booster.staged_predict(val_X)
                    if self.task == "regression"
                    else booster.staged_decision_function(val_X)
                )
                metrics["val_loss"] = _loss_of(booster, next(staged), val.y, weights)
                val_losses.append(metrics["val_loss"])
            try:
                self.report(stage + 1, metrics, total=self.max_iter)
            except StopTraining:
                return True
            return stopping.update(metrics["train_loss" if val is None else "val_loss"])

        estimator.fit(
            encoder.transform(train.X),
            train.y,
            sample_weight=row_weights(weights, train.y),
            monitor=monitor,
        )
        return val_losses

    def _save_weights(self, directory: Path) -> None:
        artifacts.save_estimator(directory / artifacts.WEIGHTS_SKOPS, self.estimator_)

    def inference_tensors(self) -> dict[str, NDArray[Any]]:
        """Give the trees as plain arrays; see `BaseModel.inference_tensors`."""
        self._check_fitted()
        return flatten_trees(*_trees_of(self.estimator_, OneHot(self._cardinalities())))

    @classmethod
    def accepts_missing(cls, params: Mapping[str, Any]) -> bool:
        """The histogram booster learns where rows with a gap go; the exact one can't."""
        return bool(params["booster"] == "histogram")

    @classmethod
    def score_graph(
        cls,
        params: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        n_features: int,
        num_classes: int,
    ) -> ScoreGraph | None:
        """Make an ONNX graph of the trees; see `BaseModel.score_graph`."""
        trees = check_trees(tensors, n_features, num_classes)
        if cls.task == "classification":
            return tree_graph(trees)
        return tree_graph(trees, "exponential" if params["loss"] in _RATES else "sum")

    def _load_weights(self, directory: Path) -> None:
        histogram = self.booster == "histogram"
        types = histogram_types if histogram else exact_types
        estimator = artifacts.load_estimator(
            directory / artifacts.WEIGHTS_SKOPS, trusted=types(self._loss())
        )
        if self.signature is None:
            raise ArtifactError("signature.json: it is needed to check the booster.")
        num_classes = len(self.signature.class_names)
        if histogram:
            check_histogram(estimator, self._cardinalities(), num_classes, self._loss())
        else:
            width = OneHot(self._cardinalities()).width
            check_exact(estimator, width, num_classes, self._loss())
        self.estimator_ = estimator

    def _cardinalities(self) -> tuple[int, ...]:
        """Tell how many levels each prepared feature has, 0 for a number."""
        n_features = self._check_fitted()
        return (0,) * n_features if self.preprocessor is None else self.preprocessor.cardinalities_


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


@contextmanager
def _with_categories(estimator: Any, cardinalities: Sequence[int]) -> Iterator[None]:
    """Have the histogram booster take codes as categories while it fits.

    Told by ``categorical_features``, scikit-learn would put an encoder and a reordering of the
    columns before the trees, to be saved with them and asked for each row. Codes from 0 on are
    what these make, so the trees are grown on ours as they are.
    """
    if not any(cardinalities):
        yield
        return
    levels = [np.arange(count, dtype=np.float64) if count else None for count in cardinalities]
    preprocess = estimator._preprocess_X

    def preprocess_codes(X: Any, *, reset: bool) -> Any:
        if not reset:
            return preprocess(X, reset=False)
        features, _ = preprocess(X, reset=True)
        estimator._is_categorical_remapped = np.asarray(cardinalities) > 0
        return features, levels

    estimator._preprocess_X = preprocess_codes
    try:
        yield
    finally:
        del estimator._preprocess_X
    # Only a fit needs them: the thresholds of the bins are the same.
    estimator._bin_mapper.known_categories = None


def _truncate(estimator: Any, stages: int) -> None:
    """Keep the trees of the first stages only."""
    if hasattr(estimator, "_predictors"):
        estimator._predictors = estimator._predictors[:stages]
    else:
        estimator.estimators_ = estimator.estimators_[:stages]
        estimator.n_estimators_ = stages


def _trees_of(
    estimator: Any, encoder: OneHot
) -> tuple[list[dict[str, NDArray[Any]]], NDArray[np.float64]]:
    """Read the trees of a fitted booster, and what their values are added to."""
    if hasattr(estimator, "_predictors"):
        fitted = [tree for stage in estimator._predictors for tree in stage]
        return [_histogram_tree(tree) for tree in fitted], estimator._baseline_prediction.ravel()
    exact = [regressor.tree_ for regressor in estimator.estimators_.ravel()]
    trees = [
        split_by_level(
            {
                "leaf": tree.children_left == -1,
                "feature": tree.feature,
                "threshold": tree.threshold,
                "left": tree.children_left,
                "right": tree.children_right,
                "missing_left": np.zeros(tree.node_count, dtype=np.uint8),
                "value": tree.value[:, 0, 0] * estimator.learning_rate,
            },
            encoder,
        )
        for tree in exact
    ]
    # Scikit-learn's own start: a number, the log priors, or the log odds of two classes.
    features = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    return trees, np.asarray(estimator._raw_predict_init(features), dtype=np.float64).ravel()


def _histogram_tree(fitted: Any) -> dict[str, NDArray[Any]]:
    """Read one tree of the histogram booster, see `flatten_trees`."""
    nodes = fitted.nodes
    names = {
        "leaf": "is_leaf",
        "feature": "feature_idx",
        "threshold": "num_threshold",
        "left": "left",
        "right": "right",
        "missing_left": "missing_go_to_left",
        "value": "value",
    }
    tree = {name: nodes[field] for name, field in names.items()}
    by_level = nodes["is_categorical"].astype(bool)
    if by_level.any():
        sets = fitted.raw_left_cat_bitsets[nodes["bitset_idx"][by_level]]
        tree["levels"] = np.zeros((len(nodes), SET_BYTES), dtype=np.uint8)
        tree["levels"][by_level] = np.ascontiguousarray(sets, dtype="<u4").view(np.uint8)
        # Where missing values alone go to the left, no level does: as if below any code.
        tree["threshold"] = np.where(by_level, -np.inf, tree["threshold"])
    return tree


def _loss_of(
    booster: Any, answers: NDArray[np.float64], y: NDArray[Any], weights: NDArray[np.float64] | None
) -> float:
    """Compute the loss of a stage of the exact booster.

    Args:
        booster: The estimator.
        answers: Numbers of shape ``(n,)``, or raw scores of shape ``(n, 1)`` or
            ``(n, n_classes)``.
        y: The target.
        weights: The weight of each class.
    """
    if answers.ndim == 1:
        # As for the training rows: the mean of the squared errors, not half of it.
        factor = 2.0 if booster.loss == "squared_error" else 1.0
        return factor * float(booster._loss(y_true=y, raw_prediction=answers))
    if answers.shape[1] == 1:
        answers = np.hstack([-answers / 2, answers / 2])
    return classification_metrics(y, softmax(answers), class_weight=weights)["loss"]


def _without_empty_columns(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make constants of columns without any value, which scikit-learn's binning can't take.

    No tree splits on a constant, so the column is ignored when predicting, whatever it holds then.
    """
    # Of most columns the first rows have a value, so that the others need not be looked at.
    maybe = np.flatnonzero(np.isnan(X[:_FIRST_ROWS]).all(axis=0))
    empty = [place for place in maybe if np.isnan(X[:, place]).all()]
    if not empty:
        return X
    X = X.copy()
    X[:, empty] = 0.0
    return X
