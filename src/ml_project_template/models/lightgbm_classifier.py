"""Boosted trees for classification, by LightGBM."""

from __future__ import annotations

from ml_project_template.models._boosted import BoostedClasses
from ml_project_template.models._lightgbm import LightGBM
from ml_project_template.models.registry import register

__all__ = ["LightgbmClassifier"]


@register
class LightgbmClassifier(BoostedClasses, LightGBM):
    """Boosted trees that minimise the cross entropy, see `Boosting`."""
