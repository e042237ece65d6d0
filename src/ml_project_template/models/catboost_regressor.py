"""Boosted trees for regression, by CatBoost."""

from __future__ import annotations

from ml_project_template.models._boosted import BoostedNumbers
from ml_project_template.models._catboost import CatBoost
from ml_project_template.models.registry import register

__all__ = ["CatboostRegressor"]


@register
class CatboostRegressor(BoostedNumbers, CatBoost):
    """Boosted trees that predict a number, see `Boosting`."""
