"""Boosted trees by CatBoost: what classification and regression have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError
from ml_project_template.models._boosting import Boosting, Watch
from ml_project_template.models._features import without_infinite
from ml_project_template.models._targets import row_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CatBoost"]


class CatBoost(Boosting):
    """Boosted trees by CatBoost (Prokhorenkova et al., 2018), see `Boosting`."""

    packages: ClassVar[tuple[str, ...]] = ("catboost", "numpy", "pandas", "safetensors")
    # The order of the rows is drawn: a level stands for the targets of the rows before.
    seed_matters: ClassVar[bool] = True
    library: ClassVar[str] = "catboost"
    weights_name: ClassVar[str] = artifacts.WEIGHTS_CATBOOST
    losses: ClassVar[Mapping[str, tuple[str, str]]] = {
        "squared_error": ("RMSE", "RMSE"),
        "absolute_error": ("MAE", "MAE"),
    }

    _content: bytes | None = None  # of the file that the trees were loaded from

    def _boost(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        seed: int,
        watch: Watch,
    ) -> Any:
        import catboost

        self._content = None
        loss = self._name(len(train.class_names))

        class Watching:
            def after_iteration(self, info: Any) -> bool:
                # CatBoost tells the root of the mean squared error.
                power = 2 if loss == "RMSE" else 1
                names = {"learn": "train_loss", "validation": "val_loss"}
                losses = {
                    names[split]: float(found[loss][-1]) ** power
                    for split, found in info.metrics.items()
                }
                return not watch(info.iteration, losses)

        booster = catboost.CatBoost(
            {
                "loss_function": loss,
                "iterations": self.max_iter,
                "learning_rate": self.learning_rate,
                "depth": self.max_depth,
                "l2_leaf_reg": self.l2_regularization,
                "rsm": self.max_features,
                "bootstrap_type": "Bernoulli" if self.subsample < 1 else "Bayesian",
                **({"subsample": self.subsample} if self.subsample < 1 else {}),
                "random_seed": seed,
                "use_best_model": False,
                "allow_writing_files": False,
                "verbose": False,
            }
        )
        pools = [
            self._pool(without_infinite(data.X), data.y, row_weights(weights, data.y))
            for data in (train, val)
            if data is not None
        ]
        booster.fit(
            pools[0], eval_set=pools[1] if val is not None else None, callbacks=[Watching()]
        )
        return booster

    def _name(self, num_classes: int) -> str:
        """Name the loss as CatBoost does."""
        if num_classes == 0:
            return self.losses[self._loss()][0]
        return "Logloss" if num_classes == 2 else "MultiClass"

    def _pool(
        self,
        X: NDArray[np.float32],
        y: NDArray[Any] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> Any:
        import catboost

        is_category = np.array(self._levels()) > 0
        # CatBoost has no missing category: it is one of its own.
        codes = np.nan_to_num(X[:, is_category], nan=-1).astype(np.int64)
        names = np.array([str(code).encode() for code in range(-1, 1 + codes.max(initial=0))])
        features = catboost.FeaturesData(
            num_feature_data=np.ascontiguousarray(X[:, ~is_category]),
            cat_feature_data=names.astype(object)[codes + 1] if is_category.any() else None,
        )
        return catboost.Pool(features, y, weight=weights)

    def _truncate(self, booster: Any, stages: int | None) -> Any:
        if stages is not None:
            booster.shrink(stages)
        return booster

    def _raw(self, X: NDArray[np.float32]) -> NDArray[Any]:
        answers: NDArray[Any] = self.booster_.predict(
            self._pool(X), prediction_type="RawFormulaVal"
        )
        return answers

    def feature_importances(self) -> NDArray[np.float64]:
        """Return how much the answer changes with each feature, of shape ``(n_features,)``."""
        self._check_fitted()
        is_category = np.array(self._levels()) > 0
        # CatBoost was given the numbers first.
        order = np.concatenate([np.flatnonzero(~is_category), np.flatnonzero(is_category)])
        found = np.zeros(len(order))
        found[order] = self.booster_.get_feature_importance(type="PredictionValuesChange")
        return found / found.sum() if found.sum() > 0 else found

    def _save_weights(self, directory: Path) -> None:
        if self._content is not None:
            # Written by CatBoost again, the same trees would make another file.
            (directory / self.weights_name).write_bytes(self._content)
            return
        # What would make another file of the same fit.
        metadata = self.booster_.get_metadata()
        for name in ("model_guid", "train_finish_time"):
            metadata[name] = ""
        self.booster_.save_model(str(directory / self.weights_name), format="cbm")

    def _read(self, path: Path) -> Any:
        import catboost

        try:
            booster = catboost.CatBoost().load_model(str(path), format="cbm")
        except catboost.CatBoostError as error:
            raise ArtifactError(f"{path.name}: {' '.join(str(error).split())[:200]}") from error
        num_classes = self._num_classes()
        n_features = len(self._levels())
        if len(booster.feature_names_) != n_features:
            raise ArtifactError(f"{path.name}: it does not take {n_features} features.")
        if np.size(booster.get_scale_and_bias()[1]) != (num_classes if num_classes > 2 else 1):
            raise ArtifactError(f"{path.name}: it does not know {num_classes} classes.")
        self._content = path.read_bytes()
        return booster
