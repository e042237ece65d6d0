"""TabM for numbers, on PyTorch and Lightning Fabric."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ml_project_template.models._tabm import TabMModel
from ml_project_template.models.registry import register

if TYPE_CHECKING:
    from ml_project_template.data.signature import Task

__all__ = ["TabMRegressor"]


@register("tabm_regressor")
class TabMRegressor(TabMModel):
    """An ensemble of networks in one for numbers; its arguments are those of `TabMModel`.

    Gorishniy, Kotelnikov and Babenko, "TabM: Advancing Tabular Deep Learning with
    Parameter-Efficient Ensembling" (ICLR 2025). The members are trained side by side, each by its
    own error; the answer is the mean of their numbers.
    """

    task: ClassVar[Task] = "regression"
