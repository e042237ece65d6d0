"""Random forests by scikit-learn: what classification and regression have in common."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError
from ml_project_template.models._features import without_infinite
from ml_project_template.models._onnx import (
    ScoreGraph,
    check_trees,
    flatten_trees,
    forest_graph,
    tree_graph,
)
from ml_project_template.models._targets import row_weights
from ml_project_template.models._trees import FOREST_TYPES, check_forest
from ml_project_template.models.base import BaseModel
from ml_project_template.training.metrics import classification_metrics, regression_metrics
from ml_project_template.training.reporting import StopTraining

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

__all__ = ["RandomForest"]

_SMALLEST = 1e-7  # a probability that no tree sees is taken for this one, which has a logarithm
_REPORTS = 20  # of a fit
_MOST_NODES = 2_000_000  # a graph of more takes longer to build than the model to load


class RandomForest(BaseModel):
    """A random forest (Breiman, 2001): the mean of trees that were grown on drawn rows.

    Missing values go the way at each split that suited the training rows. More trees never
    overfit, so there is nothing to stop early: all of them are kept.

    Args:
        n_estimators: How many trees.
        max_depth: Depth of a tree, at most; None sets no bound.
        max_leaf_nodes: Leaves of a tree, at most; None sets no bound.
        min_samples_leaf: Rows in a leaf, at least.
        max_features: The features tried at each split: ``sqrt`` or ``log2`` of them, or a part in
            (0, 1]; None takes ``sqrt`` for classes and all for a number.
        max_samples: The part of the rows drawn for each tree, in (0, 1]; None draws as many as
            there are. They are drawn with replacement.

    Attributes:
        estimator_: The fitted estimator of scikit-learn.
    """

    packages: ClassVar[tuple[str, ...]] = (
        "numpy",
        "pandas",
        "safetensors",
        "scikit-learn",
        "skops",
    )

    def __init__(
        self,
        n_estimators: Annotated[int, Field(gt=0)] = 200,
        max_depth: Annotated[int, Field(gt=0)] | None = None,
        max_leaf_nodes: Annotated[int, Field(gt=1)] | None = None,
        min_samples_leaf: Annotated[int, Field(gt=0)] = 1,
        max_features: Literal["sqrt", "log2"] | Annotated[float, Field(gt=0, le=1)] | None = None,
        max_samples: Annotated[float, Field(gt=0, le=1)] | None = None,
    ) -> None:
        super().__init__()
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.max_samples = max_samples
        self.estimator_: Any = None

    @classmethod
    def warm_up(cls) -> None:
        """Import scikit-learn's forests, and what writes them."""
        importlib.import_module("sklearn.ensemble")
        importlib.import_module("safetensors.numpy")
        artifacts.import_skops()

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Predict the logarithms of probabilities, or numbers: means of the trees' answers.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns.

        Returns:
            Scores of shape ``(n_samples, n_classes)``, float64, whose softmax are the
            probabilities; or numbers of shape ``(n_samples,)``.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or values that are no numbers.
        """
        trees = self._trees()
        return self._as_answer(_sum(trees, self._features(X)) / len(trees))

    def feature_importances(self) -> NDArray[np.float64]:
        """Return the impurity-based importances, of the features as ``_features`` gives them."""
        self._check_fitted()
        importances: NDArray[np.float64] = self.estimator_.feature_importances_
        return importances

    def _grow(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        seed: int | None,
    ) -> None:
        """Grow the trees, with a weight for each class, and tell of some of them at a time."""
        from sklearn import ensemble

        kind = "Regressor" if self.task == "regression" else "Classifier"
        estimator = getattr(ensemble, f"RandomForest{kind}")(
            max_depth=self.max_depth,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_leaf=self.min_samples_leaf,
            max_features=self.max_features or ("sqrt" if self.task == "classification" else 1.0),
            max_samples=self.max_samples,
            # In several threads scikit-learn's workers overwrite each other's warning filters.
            n_jobs=None,
            # A seed of its own where none is given: each part goes on where the last one ended.
            random_state=np.random.randint(2**31) if seed is None else seed,
            warm_start=True,
        )
        splits = {"train": train, **({} if val is None else {"val": val})}
        sums: dict[str, Any] = dict.fromkeys(splits, 0.0)
        n_grown = 0
        for part in range(1, min(_REPORTS, self.n_estimators) + 1):
            n_trees = part * self.n_estimators // min(_REPORTS, self.n_estimators)
            estimator.set_params(n_estimators=n_trees)
            estimator.fit(train.X, train.y, sample_weight=row_weights(weights, train.y))
            metrics = {}
            for split, data in splits.items():
                sums[split] = sums[split] + _sum(estimator.estimators_[n_grown:], data.X)
                metrics[f"{split}_loss"] = self._loss(data.y, sums[split] / n_trees, weights)
            n_grown = n_trees
            try:
                self.report(n_trees, metrics, total=self.n_estimators)
            except StopTraining:
                break
        # What only the fit needs, the weight of each training row among it.
        estimator.set_params(warm_start=False)
        estimator._sample_weight = None
        self.estimator_ = estimator

    def _loss(
        self, y: NDArray[Any], means: NDArray[np.float64], weights: NDArray[np.float64] | None
    ) -> float:
        if self.task == "regression":
            return regression_metrics(y, means[:, 0])["loss"]
        chances = np.maximum(means, _SMALLEST)
        chances /= chances.sum(axis=1, keepdims=True)
        return classification_metrics(y, chances, class_weight=weights)["loss"]

    def _as_answer(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make of the trees' mean answers what ``predict`` returns."""
        if self.task == "regression":
            return means[:, 0]
        scores: NDArray[np.float64] = np.log(np.maximum(means, _SMALLEST))
        return scores

    def _trees(self) -> list[Any]:
        self._check_fitted()
        trees: list[Any] = self.estimator_.estimators_
        return trees

    def _save_weights(self, directory: Path) -> None:
        artifacts.save_estimator(directory / artifacts.WEIGHTS_SKOPS, self.estimator_)

    def inference_tensors(self) -> dict[str, NDArray[Any]]:
        """Give the trees as plain arrays, unless they are too many for a graph."""
        trees = [tree.tree_ for tree in self._trees()]
        if sum(tree.node_count for tree in trees) > _MOST_NODES:
            return {}
        flat = flatten_trees(
            [
                {
                    "leaf": tree.children_left == -1,
                    "feature": tree.feature,
                    "threshold": tree.threshold,
                    "left": tree.children_left,
                    "right": tree.children_right,
                    "missing_left": tree.missing_go_to_left,
                    "value": tree.value[:, 0, 0] / len(trees),
                }
                for tree in trees
            ],
            np.zeros(1),
        )
        if self.task == "classification":
            shares = [tree.value[tree.children_left == -1, 0] for tree in trees]
            flat["trees.shares"] = np.concatenate(shares).ravel()
        return flat

    @classmethod
    def score_graph(
        cls,
        params: Mapping[str, Any],  # noqa: ARG003
        tensors: Mapping[str, NDArray[Any]],
        n_features: int,
        num_classes: int,
    ) -> ScoreGraph | None:
        """Make an ONNX graph of the trees; see `BaseModel.score_graph`."""
        if "trees.feature" not in tensors:
            return None
        # Each tree answers for itself, whatever the number of classes.
        trees = check_trees(tensors, n_features, 0)
        if cls.task == "regression":
            return tree_graph(trees, "sum")
        shares = tensors.get("trees.shares", np.zeros(0))
        if shares.dtype != np.float64 or shares.shape != (len(trees["leaf_value"]) * num_classes,):
            raise ArtifactError("inference.safetensors: the trees' shares have another shape.")
        return forest_graph(trees, shares.reshape(-1, num_classes), _SMALLEST)

    def _load_weights(self, directory: Path) -> None:
        estimator = artifacts.load_estimator(
            directory / artifacts.WEIGHTS_SKOPS, trusted=FOREST_TYPES[self.task]
        )
        if self.signature is None:
            raise ArtifactError("signature.json: it is needed to check the forest.")
        check_forest(estimator, self._width(), len(self.signature.class_names))
        self.estimator_ = estimator


def _sum(trees: Sequence[Any], X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Add up the trees' answers, of shape ``(n, n_classes)``, or ``(n, 1)`` for numbers.

    One after the other, so that a row gets the same answer to the last bit each time.
    """
    # An infinite value goes the way of the largest one; scikit-learn refuses it.
    X = without_infinite(X)
    total: NDArray[np.float64] = sum(tree.tree_.predict(X) for tree in trees)
    return total
