"""Building blocks of networks (``torch.nn.Module``), loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_project_template.modules.fully_connected import FullyConnected

__all__ = ["FullyConnected"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ml_project_template.modules import fully_connected

    return getattr(fully_connected, name)
