"""A multilayer perceptron for numbers, on PyTorch and Lightning Fabric."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ml_project_template.models._mlp import MLP
from ml_project_template.models.registry import register

if TYPE_CHECKING:
    from ml_project_template.data.signature import Task

__all__ = ["MLPRegressor"]


@register
class MLPRegressor(MLP):
    """A fully connected network that predicts a number; see `MLP` for its arguments."""

    task: ClassVar[Task] = "regression"
