"""Gradient-boosted trees for classification, by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ml_project_template.models._boosted import BoostedClasses
from ml_project_template.models._gb import Booster, GradientBoosting, Loss
from ml_project_template.models.registry import register

__all__ = ["GBClassifier"]


@register
class GBClassifier(BoostedClasses, GradientBoosting):
    """Gradient-boosted trees that minimise the cross entropy, see `GradientBoosting`."""

    losses: ClassVar[Mapping[Booster, tuple[Loss, ...]]] = {
        "histogram": ("log_loss",),
        "exact": ("log_loss",),
    }
