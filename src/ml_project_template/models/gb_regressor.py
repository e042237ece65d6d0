"""Gradient-boosted trees for regression, by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ml_project_template.models._boosted import BoostedNumbers
from ml_project_template.models._gb import Booster, GradientBoosting, Loss
from ml_project_template.models.registry import register

__all__ = ["GBRegressor"]


@register
class GBRegressor(BoostedNumbers, GradientBoosting):
    """Gradient-boosted trees that predict a number, see `GradientBoosting`.

    ``squared_error`` aims at the mean and ``absolute_error`` at the median, which a few wild
    values don't move; ``huber`` is between the two. ``poisson`` is for counts and ``gamma`` for
    positive numbers: both give positive answers.
    """

    losses: ClassVar[Mapping[Booster, tuple[Loss, ...]]] = {
        "histogram": ("squared_error", "absolute_error", "gamma", "poisson"),
        "exact": ("squared_error", "absolute_error", "huber"),
    }
