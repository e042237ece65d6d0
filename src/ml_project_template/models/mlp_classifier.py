"""A multilayer perceptron for classes, on PyTorch and Lightning Fabric."""

from __future__ import annotations

from ml_project_template.models._mlp import MLP
from ml_project_template.models.registry import register

__all__ = ["MLPClassifier"]


@register
class MLPClassifier(MLP):
    """A fully connected network that minimises the cross entropy; see `MLP` for its arguments."""
