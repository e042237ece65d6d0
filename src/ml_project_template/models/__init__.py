"""Models: one file each, found by its name in ``ModelRegistry``.

The names are loaded when they are first used: a model on scikit-learn never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_project_template.models.base import BaseModel, TrainingReport
    from ml_project_template.models.catboost_classifier import CatboostClassifier
    from ml_project_template.models.catboost_regressor import CatboostRegressor
    from ml_project_template.models.gb_classifier import GBClassifier
    from ml_project_template.models.gb_regressor import GBRegressor
    from ml_project_template.models.lightgbm_classifier import LightgbmClassifier
    from ml_project_template.models.lightgbm_regressor import LightgbmRegressor
    from ml_project_template.models.linear_classifier import LinearClassifier
    from ml_project_template.models.linear_regressor import LinearRegressor
    from ml_project_template.models.mlp_classifier import MLPClassifier
    from ml_project_template.models.mlp_regressor import MLPRegressor
    from ml_project_template.models.random_forest_classifier import RandomForestClassifier
    from ml_project_template.models.random_forest_regressor import RandomForestRegressor
    from ml_project_template.models.registry import ModelRegistry, register
    from ml_project_template.models.tabm_classifier import TabMClassifier
    from ml_project_template.models.tabm_regressor import TabMRegressor
    from ml_project_template.models.xgboost_classifier import XgboostClassifier
    from ml_project_template.models.xgboost_regressor import XgboostRegressor

__all__ = [
    "BaseModel",
    "CatboostClassifier",
    "CatboostRegressor",
    "GBClassifier",
    "GBRegressor",
    "LightgbmClassifier",
    "LightgbmRegressor",
    "LinearClassifier",
    "LinearRegressor",
    "MLPClassifier",
    "MLPRegressor",
    "ModelRegistry",
    "RandomForestClassifier",
    "RandomForestRegressor",
    "TabMClassifier",
    "TabMRegressor",
    "TrainingReport",
    "XgboostClassifier",
    "XgboostRegressor",
    "register",
]

_MODULES = {
    "CatboostClassifier": "catboost_classifier",
    "CatboostRegressor": "catboost_regressor",
    "LightgbmClassifier": "lightgbm_classifier",
    "LightgbmRegressor": "lightgbm_regressor",
    "XgboostClassifier": "xgboost_classifier",
    "XgboostRegressor": "xgboost_regressor",
    "BaseModel": "base",
    "GBClassifier": "gb_classifier",
    "GBRegressor": "gb_regressor",
    "LinearClassifier": "linear_classifier",
    "LinearRegressor": "linear_regressor",
    "MLPClassifier": "mlp_classifier",
    "MLPRegressor": "mlp_regressor",
    "ModelRegistry": "registry",
    "TabMClassifier": "tabm_classifier",
    "TabMRegressor": "tabm_regressor",
    "RandomForestClassifier": "random_forest_classifier",
    "RandomForestRegressor": "random_forest_regressor",
    "TrainingReport": "base",
    "register": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
