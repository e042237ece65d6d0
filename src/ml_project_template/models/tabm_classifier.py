"""TabM for classes, on PyTorch and Lightning Fabric."""

from __future__ import annotations

from ml_project_template.models._tabm import TabMModel
from ml_project_template.models.registry import register

__all__ = ["TabMClassifier"]


@register("tabm_classifier")
class TabMClassifier(TabMModel):
    """An ensemble of networks in one for classes; its arguments are those of `TabMModel`.

    Gorishniy, Kotelnikov and Babenko, "TabM: Advancing Tabular Deep Learning with
    Parameter-Efficient Ensembling" (ICLR 2025). The members are trained side by side, each with its
    own cross entropy; the answer is the mean of their probabilities.
    """
