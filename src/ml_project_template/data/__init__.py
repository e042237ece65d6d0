"""Tables: read, checked, split, described and preprocessed.

The names are loaded when they are first used, so that importing this package stays cheap. The
function that writes the prepared splits is ``ml_project_template.data.prepare.prepare``: a name
here can't stand for that function and for its module alike.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ml_project_template.utils.collecting import importing

if TYPE_CHECKING:
    from ml_project_template.data.base import BaseDataset
    from ml_project_template.data.folds import Fold, prepare_folds
    from ml_project_template.data.parts import SplitSettings
    from ml_project_template.data.prepare import Prepared
    from ml_project_template.data.preprocessing import Preprocessor
    from ml_project_template.data.signature import Feature, Signature
    from ml_project_template.data.sources import Onboarded, onboard
    from ml_project_template.data.table import RawTable
    from ml_project_template.data.tabular import TabularDataset

__all__ = [
    "BaseDataset",
    "Feature",
    "Fold",
    "Onboarded",
    "Prepared",
    "Preprocessor",
    "RawTable",
    "Signature",
    "SplitSettings",
    "TabularDataset",
    "onboard",
    "prepare_folds",
]

_MODULES = {
    "BaseDataset": "base",
    "Feature": "signature",
    "Fold": "folds",
    "Onboarded": "sources",
    "Prepared": "prepare",
    "Preprocessor": "preprocessing",
    "RawTable": "table",
    "Signature": "signature",
    "SplitSettings": "parts",
    "TabularDataset": "tabular",
    "onboard": "sources",
    "prepare_folds": "folds",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing():
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
