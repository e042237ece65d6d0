"""Fabric without what it would import and a fit does not use.

``import lightning.fabric`` runs the whole of ``lightning`` with its Trainer, asks torchmetrics for
its version by importing it with scipy and matplotlib, and imports torch's compiler for the name of
one class. It is twice what torch itself takes. Here all of that is imported when something of it is
used, by whoever uses it: nothing is replaced or left out, so that ``torch.compile``,
``lightning.Trainer``, torchmetrics and torch's own optimizers work as ever.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ml_project_template.utils.late_packages import late_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["import_fabric"]

_COMPILER = "torch._dynamo"

_lock = threading.RLock()


def import_fabric() -> ModuleType:
    """Import ``lightning.fabric``.

    Returns:
        The module.
    """
    with _lock:
        if "lightning.fabric" not in sys.modules:
            try:
                with late_package("lightning"), _version_alone("torchmetrics"), _late_compiler():
                    importlib.import_module("lightning.fabric")
            except (ImportError, AttributeError):
                # A release of it that goes another way is imported as it stands.
                for name in [name for name in sys.modules if name.startswith("lightning.")]:
                    del sys.modules[name]
        fabric = importlib.import_module("lightning.fabric")
        # Its advice on GPUs (the matrix units in less than float32) is what `precision` is for.
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        return fabric


@contextlib.contextmanager
def _version_alone(distribution: str) -> Iterator[None]:
    """Have the version of a package read from its metadata, not by importing it."""
    from lightning_utilities.core import imports
    from packaging.version import Version

    compare = imports.compare_version

    def compare_version(
        package: str, op: Callable[..., Any], version: str, use_base_version: bool = False
    ) -> bool:
        if package != distribution or package in sys.modules:
            return bool(compare(package, op, version, use_base_version))
        try:
            found = Version(importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            return False
        used = Version(found.base_version) if use_base_version else found
        return bool(op(used, Version(version)))

    imports.compare_version = compare_version
    try:
        yield
    finally:
        imports.compare_version = compare


class _LateType(type):
    """Of a class that stands for one of the compiler's, for ``isinstance`` alone."""

    def __instancecheck__(cls, instance: object) -> bool:
        # There is no compiled module before the compiler is imported.
        real = getattr(sys.modules.get(f"{_COMPILER}.eval_frame"), cls.__name__, None)
        return real is not None and isinstance(instance, real)


@contextlib.contextmanager
def _late_compiler() -> Iterator[None]:
    """Give the type of compiled modules to who imports it, without importing the compiler."""
    if _COMPILER in sys.modules:
        yield
        return
    stand_in: Any = ModuleType(_COMPILER)
    stand_in.OptimizedModule = _LateType("OptimizedModule", (), {})

    def ask_compiler(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)

    stand_in.__getattr__ = ask_compiler
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]
