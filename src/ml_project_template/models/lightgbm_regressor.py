"""Boosted trees for regression, by LightGBM."""

from __future__ import annotations

from ml_project_template.models._boosted import BoostedNumbers
from ml_project_template.models._lightgbm import LightGBM
from ml_project_template.models.registry import register

__all__ = ["LightgbmRegressor"]


@register
class LightgbmRegressor(BoostedNumbers, LightGBM):
    """Boosted trees that predict a number, see `Boosting`."""
