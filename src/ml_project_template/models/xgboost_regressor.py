"""Boosted trees for regression, by XGBoost."""

from __future__ import annotations

from ml_project_template.models._boosted import BoostedNumbers
from ml_project_template.models._xgboost import XGBoost
from ml_project_template.models.registry import register

__all__ = ["XgboostRegressor"]


@register
class XgboostRegressor(BoostedNumbers, XGBoost):
    """Boosted trees that predict a number, see `Boosting`."""
