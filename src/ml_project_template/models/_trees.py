"""Checks of loaded trees, before compiled code walks through them.

A type check alone lets a tampered file through whose trees point outside themselves: walking those
ends in a crash or never. Where every child comes after its parent and lies inside its tree, and
every feature is one of the model's, each walk ends at a leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_project_template.errors import ArtifactError

__all__ = ["EXACT_TYPES", "HISTOGRAM_TYPES", "check_exact", "check_histogram"]

_LOSS_TYPES = (
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn._loss._loss.CyHalfMultinomialLoss",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
)
# Every type of scikit-learn that a fitted booster is made of. Nothing else is ever loaded.
HISTOGRAM_TYPES = (
    *_LOSS_TYPES,
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.preprocessing._label.LabelEncoder",
)
EXACT_TYPES = (
    *_LOSS_TYPES,
    "sklearn.dummy.DummyClassifier",
    "sklearn.ensemble._gb.GradientBoostingClassifier",
    "sklearn.tree._classes.DecisionTreeRegressor",
    "sklearn.tree._tree.Tree",
)


def check_histogram(estimator: Any, n_features: int, num_classes: int) -> None:
    """Check a loaded ``HistGradientBoostingClassifier``.

    Args:
        estimator: What was loaded.
        n_features: How many features the model takes.
        num_classes: How many classes it knows.

    Raises:
        ArtifactError: It would not predict as a fitted one does.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    def check() -> None:
        width = _check_common(estimator, HistGradientBoostingClassifier, n_features, num_classes)
        mapper = estimator._bin_mapper
        _require("_in_fit" not in vars(estimator), "it was saved within its fit")
        _require(estimator._preprocessor is None, "it has a preprocessor")
        _require(estimator.is_categorical_ is None, "it has categorical features")
        _require(mapper.known_categories is None, "it has categories")
        _require(
            mapper.is_categorical_.shape == (n_features,) and not mapper.is_categorical_.any(),
            "its bins have categories",
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
                _require(not nodes["is_categorical"].any(), "a tree splits by category")
                inner = nodes["is_leaf"] == 0
                _check_tree(
                    inner,
                    nodes["left"].astype(np.int64),
                    nodes["right"].astype(np.int64),
                    nodes["feature_idx"],
                    n_features,
                )
                _require(
                    not np.isnan(nodes["num_threshold"][inner]).any()
                    and bool(np.isfinite(nodes["value"]).all()),
                    "a tree's values are not finite",
                )

    _checked(check)


def check_exact(estimator: Any, n_features: int, num_classes: int) -> None:
    """Check a loaded ``GradientBoostingClassifier``.

    Args:
        estimator: What was loaded.
        n_features: How many features the model takes.
        num_classes: How many classes it knows.

    Raises:
        ArtifactError: It would not predict as a fitted one does.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.tree import DecisionTreeRegressor
    from sklearn.tree._tree import Tree

    def check() -> None:
        width = _check_common(estimator, GradientBoostingClassifier, n_features, num_classes)
        prior = estimator.init_
        _require(
            type(prior) is DummyClassifier
            and prior.strategy == "prior"
            and prior._strategy == "prior"
            and prior.n_outputs_ == 1
            and prior.n_classes_ == num_classes
            and prior.class_prior_.shape == (num_classes,)
            and bool(((prior.class_prior_ > 0) & (prior.class_prior_ <= 1)).all()),
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
            tree = regressor.tree_
            _require(type(tree) is Tree, "a tree is of another type")
            _require(
                regressor.n_features_in_ == tree.n_features == n_features
                and tree.value.shape == (tree.node_count, 1, 1)
                and tree.node_count > 0,
                "a tree is of another shape",
            )
            inner = tree.children_left != -1
            _check_tree(inner, tree.children_left, tree.children_right, tree.feature, n_features)
            _require(
                bool(np.isfinite(tree.threshold).all() and np.isfinite(tree.value).all()),
                "a tree's values are not finite",
            )

    _checked(check)


def _check_common(estimator: Any, kind: type, n_features: int, num_classes: int) -> int:
    """Check what both boosters have; returns the number of trees of a stage."""
    _require(type(estimator) is kind, f"it is a {type(estimator).__name__}")
    _require(estimator.n_features_in_ == n_features, f"it does not take {n_features} features")
    _require(
        estimator.classes_.shape == (num_classes,)
        and bool((estimator.classes_ == np.arange(num_classes)).all()),
        f"it does not know {num_classes} classes",
    )
    width = 1 if num_classes == 2 else num_classes
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
        raise ArtifactError(f"weights.skops: the booster can't be used: {problem}.")


def _checked(check: Callable[[], None]) -> None:
    """Run a check; what it stumbles over is as wrong as what it finds."""
    try:
        check()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        reason = " ".join(str(error).split())
        raise ArtifactError(f"weights.skops: the booster can't be used: {reason}") from error
