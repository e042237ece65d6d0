"""Boosted trees by XGBoost: what classification and regression have in common."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError
from ml_project_template.models._boosting import (
    Boosting,
    BoostingLoss,
    Watch,
    installed,
)
from ml_project_template.models._features import without_infinite
from ml_project_template.models._targets import row_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["XGBoost"]


class XGBoost(Boosting):
    """Boosted trees by XGBoost (Chen and Guestrin, 2016), see `Boosting`.

    Args:
        min_child_weight: The second derivatives of the loss of the rows in a leaf, at least: the
            number of rows for the squared error, less where a classification is sure.
        max_features: As for all, but half of them are drawn for each tree. XGBoost splits at values
            of rows, not between them: trees that differ make up for it on small tables.
        subsample: As for all, but half of the rows are drawn.
    """

    packages: ClassVar[tuple[str, ...]] = (
        "numpy",
        "pandas",
        "safetensors",
        installed("xgboost-cpu", "xgboost"),
    )
    seed_matters: ClassVar[bool] = True
    library: ClassVar[str] = "xgboost"
    weights_name: ClassVar[str] = artifacts.WEIGHTS_XGBOOST
    losses: ClassVar[Mapping[str, tuple[str, str]]] = {
        "squared_error": ("reg:squarederror", "rmse"),
        "absolute_error": ("reg:absoluteerror", "mae"),
        "gamma": ("reg:gamma", "gamma-nloglik"),
        "poisson": ("count:poisson", "poisson-nloglik"),
    }

    def __init__(
        self,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        max_iter: Annotated[int, Field(gt=0)] = 200,
        max_depth: Annotated[int, Field(gt=0, le=16)] = 6,
        min_child_weight: Annotated[float, Field(ge=0)] = 1.0,
        l2_regularization: Annotated[float, Field(ge=0)] = 1.0,
        max_features: Annotated[float, Field(gt=0, le=1)] = 0.5,
        subsample: Annotated[float, Field(gt=0, le=1)] = 0.5,
        loss: BoostingLoss | None = None,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            max_iter=max_iter,
            max_depth=max_depth,
            l2_regularization=l2_regularization,
            max_features=max_features,
            subsample=subsample,
            loss=loss,
        )
        self.min_child_weight = min_child_weight

    def _boost(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        seed: int,
        watch: Watch,
    ) -> Any:
        import xgboost

        splits = {"train": train, **({} if val is None else {"val": val})}
        matrices = {
            split: self._matrix(without_infinite(data.X), data.y, row_weights(weights, data.y))
            for split, data in splits.items()
        }
        objective, metric = self._names(len(train.class_names))

        class Watching(xgboost.callback.TrainingCallback):
            def after_iteration(self, _: Any, epoch: int, evals_log: Any) -> bool:
                # XGBoost tells the root of the mean squared error.
                power = 2 if metric == "rmse" else 1
                losses = {
                    f"{split}_loss": float(found[metric][-1]) ** power
                    for split, found in evals_log.items()
                }
                return watch(epoch + 1, losses)

        settings = {
            "objective": objective,
            "eval_metric": metric,
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "min_child_weight": self.min_child_weight,
            "lambda": self.l2_regularization,
            "colsample_bytree": self.max_features,
            "subsample": self.subsample,
            "tree_method": "hist",
            "seed": seed,
            "verbosity": 0,
        }
        if len(train.class_names) > 2:
            settings["num_class"] = len(train.class_names)
        return xgboost.train(
            settings,
            matrices["train"],
            self.max_iter,
            evals=[(matrix, split) for split, matrix in matrices.items()],
            callbacks=[Watching()],
            verbose_eval=False,
        )

    def _names(self, num_classes: int) -> tuple[str, str]:
        """Name the objective and its metric as XGBoost does."""
        if num_classes == 0:
            return self.losses[self._loss()]
        return (
            ("binary:logistic", "logloss") if num_classes == 2 else ("multi:softprob", "mlogloss")
        )

    def _matrix(
        self,
        X: NDArray[np.float32],
        y: NDArray[Any] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> Any:
        import xgboost

        kinds = ["c" if count else "q" for count in self._levels()]
        return xgboost.DMatrix(X, y, weight=weights, feature_types=kinds, enable_categorical=True)

    def _truncate(self, booster: Any, stages: int | None) -> Any:
        return booster if stages is None else booster[:stages]

    def _raw(self, X: NDArray[np.float32]) -> NDArray[Any]:
        answers: NDArray[Any] = self.booster_.predict(
            self._matrix(X), output_margin=self.task == "classification"
        )
        return answers

    def feature_importances(self) -> NDArray[np.float64]:
        """Return each feature's part of all gains of the splits, of shape ``(n_features,)``."""
        n_features = self._check_fitted()
        gains = np.zeros(n_features)
        names = self.booster_.feature_names or [f"f{place}" for place in range(n_features)]
        for name, gain in self.booster_.get_score(importance_type="total_gain").items():
            gains[names.index(name)] = gain
        return gains / gains.sum() if gains.sum() > 0 else gains

    def _save_weights(self, directory: Path) -> None:
        content = self.booster_.save_raw(raw_format="json")
        (directory / self.weights_name).write_bytes(bytes(content))

    def _read(self, path: Path) -> Any:
        import xgboost

        content = path.read_bytes()
        num_classes = self._num_classes()
        _check_trees(
            artifacts.parse_json(content, f"'{path.name}'"),
            self._levels(),
            num_classes,
            self._names(num_classes)[0],
        )
        booster = xgboost.Booster()
        booster.load_model(bytearray(content))
        return booster


def _check_trees(model: Any, levels: tuple[int, ...], num_classes: int, objective: str) -> None:
    """Check a model of XGBoost's before its own code walks through the trees.

    Args:
        model: The content of its JSON.
        levels: For each feature the number of its levels, 0 for a number.
        num_classes: How many classes it knows; 0 for a regression.
        objective: XGBoost's name of its loss.

    Raises:
        ArtifactError: A walk would leave the trees, or never end.
    """
    learner = model["learner"]
    gbtree = learner["gradient_booster"]
    trees, groups = gbtree["model"]["trees"], num_classes if num_classes > 2 else 1
    shape = learner["learner_model_param"]
    kinds = ["c" if count else "q" for count in levels]
    _require(model.keys() == {"learner", "version"}, "it has other parts")
    _require(gbtree["name"] == "gbtree", "it is no gbtree")
    _require(learner["objective"]["name"] == objective, f"its loss is not {objective}")
    softmax = learner["objective"].get("softmax_multiclass_param", {"num_class": 1})
    _require(int(softmax["num_class"]) == groups, "its loss is for other classes")
    base = np.atleast_1d(np.array(json.loads(shape["base_score"]), dtype=np.float64))
    _require(
        base.shape in {(1,), (groups,)} and bool(np.isfinite(base).all()), "its start is broken"
    )
    _require(learner["feature_types"] == kinds, "its features are others")
    _require(learner["attributes"] == {} and learner["feature_names"] == [], "it has other parts")
    _require(
        int(shape["num_feature"]) == len(levels)
        and int(shape["num_class"]) == (groups if groups > 1 else 0)
        and int(shape["num_target"]) == 1,
        "it is of another shape",
    )
    _require(
        gbtree["model"].get("cats", {}).get("enc", []) == []
        and int(gbtree["model"]["gbtree_model_param"]["num_trees"]) == len(trees)
        and int(gbtree["model"]["gbtree_model_param"]["num_parallel_tree"]) == 1,
        "it is of another shape",
    )
    _require(
        len(trees) > 0
        and gbtree["model"]["tree_info"] == list(range(groups)) * (len(trees) // groups)
        and gbtree["model"]["iteration_indptr"] == list(range(0, len(trees) + 1, groups)),
        "a stage is incomplete",
    )
    for place, tree in enumerate(trees):
        _check_tree(tree, place, levels)


def _check_tree(tree: Any, place: int, levels: tuple[int, ...]) -> None:
    param = tree["tree_param"]
    n_nodes = int(param["num_nodes"])
    names = ("left_children", "right_children", "parents", "split_indices", "default_left")
    _require(tree["id"] == place, "a tree is out of its place")
    _require(
        0 < n_nodes < 2**24
        and int(param["num_feature"]) == len(levels)
        and int(param["size_leaf_vector"]) <= 1
        and int(param["num_deleted"]) == 0,
        "a tree is of another shape",
    )
    left, right, parents, feature, default = (np.array(tree[name]) for name in names)
    split_type = np.array(tree["split_type"])
    whole = (left, right, parents, feature, default, split_type)
    _require(
        all(array.shape == (n_nodes,) and array.dtype.kind == "i" for array in whole),
        "a tree's arrays are of another kind",
    )
    for name in ("split_conditions", "base_weights", "loss_changes", "sum_hessian"):
        values = np.array(tree[name], dtype=np.float64)
        _require(
            values.shape == (n_nodes,) and not np.isnan(values).any(), "a tree's values are broken"
        )
    inner = left != -1
    places = np.arange(n_nodes)[inner]
    children = np.concatenate([left[inner], right[inner]])
    _require(bool((right[~inner] == -1).all()), "a node has one child")
    _require(
        bool((children > np.concatenate([places, places])).all() and (children < n_nodes).all()),
        "a tree's child is not after its parent",
    )
    _require(
        len(np.unique(children)) == len(children) == n_nodes - 1
        and bool((parents[children] == np.concatenate([places, places])).all()),
        "a node has not one parent",
    )
    split_by = feature[inner]
    _require(
        bool(((split_by >= 0) & (split_by < len(levels))).all() and (default >= 0).all())
        and bool((default <= 1).all()),
        "a tree splits by a feature that is not there",
    )
    _require(
        bool((split_type[inner] == (np.array(levels)[split_by] > 0)).all())
        and not split_type[~inner].any(),
        "a tree takes a category for a number, or a number for a category",
    )
    nodes, codes = tree["categories_nodes"], np.array(tree["categories"], dtype=np.int64)
    sizes, segments = tree["categories_sizes"], tree["categories_segments"]
    _require(
        nodes == np.flatnonzero(split_type).tolist()
        and segments == [0, *itertools.accumulate(sizes)][: len(nodes)]
        and len(sizes) == len(nodes)
        and all(size > 0 for size in sizes)
        and sum(sizes) == len(codes)
        and bool(((codes >= 0) & (codes <= max(levels))).all()),
        "a tree's sets of levels are broken",
    )


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ArtifactError(f"{artifacts.WEIGHTS_XGBOOST}: the trees can't be used: {problem}.")
