"""Boosted trees for classification, by CatBoost."""

from __future__ import annotations

from ml_project_template.models._boosted import BoostedClasses
from ml_project_template.models._catboost import CatBoost
from ml_project_template.models.registry import register

__all__ = ["CatboostClassifier"]


@register
class CatboostClassifier(BoostedClasses, CatBoost):
    """Boosted trees that minimise the cross entropy, see `Boosting`."""
