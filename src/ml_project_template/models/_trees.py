"""Checks of loaded trees, before compiled code walks through them.

A type check alone lets a tampered file through whose trees point outside themselves: walking those
ends in a crash or never. Where every child comes after its parent and lies inside its tree, and
every feature is one of the model's, each walk ends at a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_project_template.errors import ArtifactError

__all__ = [
    "FOREST_TYPES",
    "check_exact",
    "check_forest",
    "check_histogram",
    "exact_types",
    "histogram_types",
]

# Every type of scikit-learn that a fitted booster is made of. Nothing else is ever loaded.
_LOSS_TYPES = {
    "absolute_error": ("CyAbsoluteError", "AbsoluteError", "IdentityLink"),
    "gamma": ("CyHalfGammaLoss", "HalfGammaLoss", "LogLink"),
    "huber": ("CyHuberLoss", "HuberLoss", "IdentityLink"),
    "log_loss": (
        *("CyHalfBinomialLoss", "HalfBinomialLoss", "LogitLink"),
        *("CyHalfMultinomialLoss", "HalfMultinomialLoss", "MultinomialLogit"),
    ),
    "poisson": ("CyHalfPoissonLoss", "HalfPoissonLoss", "LogLink"),
    "squared_error": ("CyHalfSquaredError", "HalfSquaredError", "IdentityLink"),
}
FOREST_TYPES = {
    task: (
        f"sklearn.ensemble._forest.RandomForest{kind}",
        f"sklearn.tree._classes.DecisionTree{kind}",
        "sklearn.tree._tree.Tree",
    )
    for task, kind in (("classification", "Classifier"), ("regression", "Regressor"))
}
_HISTOGRAM = "sklearn.ensemble._hist_gradient_boosting"


def _loss_types(loss: str) -> Iterator[str]:
    for name in ("Interval", *_LOSS_TYPES[loss]):
        is_link = name.endswith(("Link", "Logit", "Interval"))
        module = "link" if is_link else "_loss" if name.startswith("Cy") else "loss"
        yield f"sklearn._loss.{module}.{name}"


def histogram_types(loss: str) -> tuple[str, ...]:
    """Name the types that a histogram booster with a loss is made of."""
    kind = "Classifier" if loss == "log_loss" else "Regressor"
    return (
        *_loss_types(loss),
        f"{_HISTOGRAM}.binning._BinMapper",
        f"{_HISTOGRAM}.gradient_boosting.HistGradientBoosting{kind}",
        f"{_HISTOGRAM}.predictor.TreePredictor",
        *(["sklearn.preprocessing._label.LabelEncoder"] if loss == "log_loss" else []),
    )


def exact_types(loss: str) -> tuple[str, ...]:
    """Name the types that an exact booster with a loss is made of."""
    kind = "Classifier" if loss == "log_loss" else "Regressor"
    return (
        *_loss_types(loss),
        f"sklearn.dummy.Dummy{kind}",
        f"sklearn.ensemble._gb.GradientBoosting{kind}",
        "sklearn.tree._classes.DecisionTreeRegressor",
        "sklearn.tree._tree.Tree",
    )


def check_histogram(
    estimator: Any, cardinalities: Sequence[int], num_classes: int, loss: str
) -> None:
    """Check a loaded ``HistGradientBoostingClassifier`` or ``-Regressor``.

    Args:
        estimator: What was loaded.
        cardinalities: For each feature that the model takes the number of its levels, 0 for a
            number.
        num_classes: How many classes it knows; 0 for a regression.
        loss: What it minimised.

    Raises:
        ArtifactError: It would not predict as a fitted one does.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    n_features = len(cardinalities)
    is_category = np.asarray(cardinalities) > 0

    def check_levels(tree: Any) -> None:
        """Check the splits by level of one tree."""
        nodes, sets = tree.nodes, tree.raw_left_cat_bitsets
        inner = nodes["is_leaf"] == 0
        by_level = inner & (nodes["is_categorical"] != 0)
        _require(
            bool((by_level[inner] == is_category[nodes["feature_idx"][inner]]).all()),
            "a tree takes a category for a number, or a number for a category",
        )
        _require(
            isinstance(sets, np.ndarray)
            and sets.dtype == np.uint32
            and sets.ndim == 2
            and sets.shape[1] == 8
            and bool((nodes["bitset_idx"][by_level] < len(sets)).all()),
            "a tree's sets of levels are broken",
        )
        _require(
            not np.isnan(nodes["num_threshold"][inner & ~by_level]).any()
            and bool(np.isfinite(nodes["value"]).all()),
            "a tree's values are not finite",
        )

    def check() -> None:
        kind = HistGradientBoostingClassifier if num_classes else HistGradientBoostingRegressor
        width = _check_common(estimator, kind, n_features, num_classes, loss)
        mapper = estimator._bin_mapper
        _require("_in_fit" not in vars(estimator), "it was saved within its fit")
        _require("_preprocess_X" not in vars(estimator), "it was saved within its fit")
        _require(estimator._preprocessor is None, "it has a preprocessor")
        _require(estimator.is_categorical_ is None, "it has categorical features")
        _require(mapper.known_categories is None, "it has categories")
        _require(
            mapper.is_categorical_.shape == (n_features,)
            and bool(((mapper.is_categorical_ != 0) == is_category).all()),
            "its bins have other categories",
        )
        for feature in np.flatnonzero(is_category).tolist():
            levels = mapper.bin_thresholds_[feature]
            _require(
                isinstance(levels, np.ndarray)
                and levels.dtype == np.float64
                and np.array_equal(levels, np.arange(cardinalities[feature])),
                "its bins have other levels",
            )
        baseline = estimator._baseline_prediction
        _require(
            baseline.shape == (1, width) and baseline.dtype == np.float64, "its baseline is broken"
        )
        _require(bool(np.isfinite(baseline).all()), "its baseline is not finite")
        stages = estimator._predictors
        _require(isinstance(stages, list) and len(stages) > 0, "it has no trees")
        for stage in stages:
            _require(isinstance(stage, list) and len(stage) == width, "a stage is incomplete")
            for tree in stage:
                _require(type(tree) is TreePredictor, "a tree is of another type")
                nodes = tree.nodes
                _require(
                    nodes.ndim == 1 and nodes.dtype == PREDICTOR_RECORD_DTYPE,
                    "a tree's nodes are of another type",
                )
                _check_tree(
                    nodes["is_leaf"] == 0,
                    nodes["left"].astype(np.int64),
                    nodes["right"].astype(np.int64),
                    nodes["feature_idx"],
                    n_features,
                )
                check_levels(tree)

    _checked(check)


def check_exact(estimator: Any, n_features: int, num_classes: int, loss: str) -> None:
    """Check a loaded ``GradientBoostingClassifier`` or ``-Regressor``.

    Args:
        estimator: What was loaded.
        n_features: How many columns it takes.
        num_classes: How many classes it knows; 0 for a regression.
        loss: What it minimised.

    Raises:
        ArtifactError: It would not predict as a fitted one does.
    """
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
    from sklearn.tree import DecisionTreeRegressor

    def check() -> None:
        kind = GradientBoostingClassifier if num_classes else GradientBoostingRegressor
        width = _check_common(estimator, kind, n_features, num_classes, loss)
        prior = estimator.init_
        if num_classes == 0:
            _require(
                type(prior) is DummyRegressor
                and prior.n_outputs_ == 1
                and prior.constant_.shape == (1, 1)
                and bool(np.isfinite(prior.constant_).all()),
                "its baseline is broken",
            )
        _require(
            num_classes == 0
            or (
                type(prior) is DummyClassifier
                and prior.strategy == "prior"
                and prior._strategy == "prior"
                and prior.n_outputs_ == 1
                and prior.n_classes_ == num_classes
                and prior.class_prior_.shape == (num_classes,)
                and bool(((prior.class_prior_ > 0) & (prior.class_prior_ <= 1)).all())
            ),
            "its baseline is broken",
        )
        trees = estimator.estimators_
        _require(
            isinstance(trees, np.ndarray)
            and trees.dtype == object
            and trees.ndim == 2
            and len(trees) > 0
            and trees.shape[1] == width,
            "it has no trees",
        )
        for regressor in trees.ravel():
            _require(type(regressor) is DecisionTreeRegressor, "a tree is of another type")
            _require(regressor.n_features_in_ == n_features, "a tree is of another shape")
            _check_compiled(regressor.tree_, n_features, 1)

    _checked(check)


def check_forest(estimator: Any, n_features: int, num_classes: int) -> None:
    """Check a loaded ``RandomForestClassifier`` or ``-Regressor``.

    Args:
        estimator: What was loaded.
        n_features: How many columns it takes.
        num_classes: How many classes it knows; 0 for a regression.

    Raises:
        ArtifactError: It would not predict as a fitted one does.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = RandomForestClassifier if num_classes else RandomForestRegressor
    kind_of_tree = DecisionTreeClassifier if num_classes else DecisionTreeRegressor

    def check() -> None:
        _require(type(estimator) is kind, f"it is a {type(estimator).__name__}")
        _require(estimator.n_features_in_ == n_features, f"it does not take {n_features} features")
        trees = estimator.estimators_
        _require(isinstance(trees, list) and len(trees) > 0, "it has no trees")
        for tree in trees:
            _require(type(tree) is kind_of_tree, "a tree is of another type")
            _check_compiled(tree.tree_, n_features, num_classes or 1)
            _require(
                num_classes == 0 or bool((tree.tree_.value >= 0).all()),
                "a tree's values are no probabilities",
            )

    _checked(check)


def _check_compiled(tree: Any, n_features: int, width: int) -> None:
    """Check the arrays of a tree of scikit-learn's, whose answers have the shape ``(width,)``."""
    from sklearn.tree._tree import Tree

    _require(type(tree) is Tree, "a tree is of another type")
    _require(
        tree.n_features == n_features
        and tree.n_outputs == 1
        and tree.value.shape == (tree.node_count, 1, width)
        and tree.node_count > 0,
        "a tree is of another shape",
    )
    inner = tree.children_left != -1
    _check_tree(inner, tree.children_left, tree.children_right, tree.feature, n_features)
    # An infinite threshold parts what is missing from all else.
    _require(
        not np.isnan(tree.threshold).any() and bool(np.isfinite(tree.value).all()),
        "a tree's values are not finite",
    )


def _check_common(estimator: Any, kind: type, n_features: int, num_classes: int, loss: str) -> int:
    """Check what both boosters have; returns the number of trees of a stage."""
    _require(type(estimator) is kind, f"it is a {type(estimator).__name__}")
    _require(estimator.loss == loss, f"it has another loss than {loss}")
    _require(estimator.n_features_in_ == n_features, f"it does not take {n_features} features")
    if num_classes:
        _require(
            estimator.classes_.shape == (num_classes,)
            and bool((estimator.classes_ == np.arange(num_classes)).all()),
            f"it does not know {num_classes} classes",
        )
    width = 1 if num_classes in (0, 2) else num_classes
    _require(estimator.n_trees_per_iteration_ == width, "a stage is incomplete")
    return width


def _check_tree(
    inner: NDArray[np.bool_],
    left: NDArray[np.integer[Any]],
    right: NDArray[np.integer[Any]],
    feature: NDArray[np.integer[Any]],
    n_features: int,
) -> None:
    """Check the splits of one tree; all arrays have the shape ``(n_nodes,)``."""
    _require(len(inner) > 0, "a tree is empty")
    places = np.arange(len(inner))[inner]
    for children in (left[inner], right[inner]):
        _require(
            bool(((children > places) & (children < len(inner))).all()),
            "a tree's child is not after its parent",
        )
    split_by = feature[inner]
    _require(
        bool(((split_by >= 0) & (split_by < n_features)).all()),
        "a tree splits by a feature that is not there",
    )


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ArtifactError(f"weights.skops: the trees can't be used: {problem}.")


def _checked(check: Callable[[], None]) -> None:
    """Run a check; what it stumbles over is as wrong as what it finds."""
    try:
        check()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        reason = " ".join(str(error).split())
        raise ArtifactError(f"weights.skops: the trees can't be used: {reason}") from error
