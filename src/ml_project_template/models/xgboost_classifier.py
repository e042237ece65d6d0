"""Boosted trees for classification, by XGBoost."""

from __future__ import annotations

from ml_project_template.models._boosted import BoostedClasses
from ml_project_template.models._xgboost import XGBoost
from ml_project_template.models.registry import register

__all__ = ["XgboostClassifier"]


@register
class XgboostClassifier(BoostedClasses, XGBoost):
    """Boosted trees that minimise the cross entropy, see `Boosting`."""
