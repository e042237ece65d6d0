"""Boosted trees by LightGBM: what classification and regression have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError
from ml_project_template.models._boosting import Boosting, BoostingLoss, Watch
from ml_project_template.models._features import without_infinite
from ml_project_template.models._targets import row_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LightGBM"]


class LightGBM(Boosting):
    """Boosted trees by LightGBM (Ke et al., 2017), see `Boosting`.

    Args:
        min_samples_leaf: Rows in a leaf, at least.
    """

    packages: ClassVar[tuple[str, ...]] = ("lightgbm", "numpy", "pandas", "safetensors")
    library: ClassVar[str] = "lightgbm"
    weights_name: ClassVar[str] = artifacts.WEIGHTS_LIGHTGBM
    losses: ClassVar[Mapping[str, tuple[str, str]]] = {
        "squared_error": ("regression", "l2"),
        "absolute_error": ("regression_l1", "l1"),
        "gamma": ("gamma", "gamma"),
        "poisson": ("poisson", "poisson"),
    }

    def __init__(
        self,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        max_iter: Annotated[int, Field(gt=0)] = 200,
        max_depth: Annotated[int, Field(gt=0, le=16)] = 6,
        min_samples_leaf: Annotated[int, Field(gt=0)] = 10,
        l2_regularization: Annotated[float, Field(ge=0)] = 1.0,
        max_features: Annotated[float, Field(gt=0, le=1)] = 1.0,
        subsample: Annotated[float, Field(gt=0, le=1)] = 1.0,
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
        self.min_samples_leaf = min_samples_leaf

    def _boost(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        seed: int,
        watch: Watch,
    ) -> Any:
        import lightgbm

        num_classes = len(train.class_names)
        objective, metric = self._names(num_classes)
        settings = {
            "objective": objective,
            "metric": metric,
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            # As many as the depth allows.
            "num_leaves": min(2**self.max_depth, 131_072),
            "min_data_in_leaf": self.min_samples_leaf,
            # Of a set of levels; 100 of LightGBM's own is half of a small table.
            "min_data_per_group": self.min_samples_leaf,
            "min_data_in_bin": 1,
            "lambda_l2": self.l2_regularization,
            "feature_fraction": self.max_features,
            "bagging_fraction": self.subsample,
            "bagging_freq": 1 if self.subsample < 1 else 0,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            **({"num_class": num_classes} if num_classes > 2 else {}),
        }

        def tell(stage: Any) -> None:
            losses = {f"{found[0]}_loss": float(found[2]) for found in stage.evaluation_result_list}
            if watch(stage.iteration + 1, losses):
                raise lightgbm.callback.EarlyStopException(
                    stage.iteration, stage.evaluation_result_list
                )

        rows = self._rows(train, weights, settings)
        watched = {"train": rows}
        if val is not None:
            watched["val"] = self._rows(val, weights, settings, rows)
        return lightgbm.train(
            settings,
            rows,
            self.max_iter,
            valid_sets=list(watched.values()),
            valid_names=list(watched),
            callbacks=[tell],
            # Else the trees are written as text and read again, as `_truncate` does.
            keep_training_booster=True,
        )

    def _rows(
        self,
        data: BaseDataset,
        weights: NDArray[np.float64] | None,
        settings: Mapping[str, Any],
        reference: Any = None,
    ) -> Any:
        import lightgbm

        return lightgbm.Dataset(
            without_infinite(data.X),
            data.y,
            weight=row_weights(weights, data.y),
            categorical_feature=[place for place, count in enumerate(self._levels()) if count],
            params=dict(settings),
            reference=reference,
        )

    def _names(self, num_classes: int) -> tuple[str, str]:
        """Name the objective and its metric as LightGBM does."""
        if num_classes == 0:
            return self.losses[self._loss()]
        return ("binary", "binary_logloss") if num_classes == 2 else ("multiclass", "multi_logloss")

    def _truncate(self, booster: Any, stages: int | None) -> Any:
        import lightgbm

        # Through text in any case: the trained one holds the rows.
        return lightgbm.Booster(
            model_str=booster.model_to_string(num_iteration=-1 if stages is None else stages)
        )

    def _raw(self, X: NDArray[np.float32]) -> NDArray[Any]:
        answers: NDArray[Any] = self.booster_.predict(X, raw_score=self.task == "classification")
        return answers

    def feature_importances(self) -> NDArray[np.float64]:
        """Return each feature's part of all gains of the splits, of shape ``(n_features,)``."""
        self._check_fitted()
        gains: NDArray[np.float64] = self.booster_.feature_importance("gain").astype(np.float64)
        return gains / gains.sum() if gains.sum() > 0 else gains

    def _save_weights(self, directory: Path) -> None:
        text = self.booster_.model_to_string(num_iteration=-1)
        (directory / self.weights_name).write_text(text, encoding="utf-8")

    def _read(self, path: Path) -> Any:
        import lightgbm

        try:
            booster = lightgbm.Booster(model_str=path.read_text(encoding="utf-8"))
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactError(f"{path.name}: {' '.join(str(error).split())[:200]}") from error
        num_classes = self._num_classes()
        if booster.num_feature() != len(self._levels()):
            raise ArtifactError(f"{path.name}: it does not take {len(self._levels())} features.")
        if booster.num_model_per_iteration() != (num_classes if num_classes > 2 else 1):
            raise ArtifactError(f"{path.name}: it does not know {num_classes} classes.")
        return booster
