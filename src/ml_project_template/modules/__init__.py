"""Building blocks of networks (``torch.nn.Module``), loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_project_template.modules.category_embedding import CategoryEmbedding
    from ml_project_template.modules.feature_encoder import FeatureEncoder
    from ml_project_template.modules.fully_connected import FullyConnected
    from ml_project_template.modules.periodic_embedding import PeriodicEmbedding
    from ml_project_template.modules.piecewise_linear_encoding import PiecewiseLinearEncoding
    from ml_project_template.modules.tabm import TabM

__all__ = [
    "CategoryEmbedding",
    "FeatureEncoder",
    "FullyConnected",
    "PeriodicEmbedding",
    "PiecewiseLinearEncoding",
    "TabM",
]

_MODULES = {
    "CategoryEmbedding": "category_embedding",
    "FeatureEncoder": "feature_encoder",
    "FullyConnected": "fully_connected",
    "PeriodicEmbedding": "periodic_embedding",
    "PiecewiseLinearEncoding": "piecewise_linear_encoding",
    "TabM": "tabm",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
