"""Fabric and torch's optimizers without what they would import and a fit does not use.

``import lightning.fabric`` runs the whole of ``lightning`` with its Trainer, asks torchmetrics for
its version by importing it with scipy and matplotlib, and imports torch's compiler for the name of
one class; a torch optimizer imports that compiler at its first step. It is three times what torch
itself takes. Here all of that is imported when something of it is used, by whoever uses it: nothing
is replaced or left out, so that ``torch.compile``, ``lightning.Trainer``, torchmetrics and torch's
own optimizers work as ever.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["import_fabric", "without_compiler"]

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
                with _late_package("lightning"), _version_alone("torchmetrics"), _late_compiler():
                    importlib.import_module("lightning.fabric")
            except (ImportError, AttributeError):
                # A release of it that goes another way is imported as it stands.
                for name in [name for name in sys.modules if name.startswith("lightning.")]:
                    del sys.modules[name]
        return importlib.import_module("lightning.fabric")


@functools.cache
def _lean(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    unmarked = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    }
    plain_step = unmarked.pop("step")

    def step(self: torch.optim.Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain_step(self, closure)

    return type(kind.__name__, (kind,), {**unmarked, "step": functools.wraps(plain_step)(step)})


def without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Give an optimizer of torch whose use does not import torch's compiler.

    Torch marks some methods as not to be compiled, and the mark imports the compiler when one is
    called first, which takes longer than many a fit. In a step that is not compiled the marks do
    nothing.

    Args:
        kind: Such as ``torch.optim.Adam``; its ``step`` takes a closure and no more.

    Returns:
        A subclass without the marks; where the compiler is there already, ``kind`` itself.
    """
    return kind if _COMPILER in sys.modules else _lean(kind)


@contextlib.contextmanager
def _late_package(name: str) -> Iterator[None]:
    """Import modules of a package without running its ``__init__``, which runs when it is used.

    It is the package's own module all the same: the first name that is asked of it and that it has
    not yet (PEP 562) runs it.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        yield
        return
    loader = spec.loader
    package = importlib.util.module_from_spec(spec)

    def load(attribute: str) -> Any:
        # Python and its tools ask every module for such names.
        if attribute.startswith("__") and attribute != "__all__":
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        if (module := sys.modules.get(f"{name}.{attribute}")) is not None:
            # One of its own modules, while that is being imported.
            return module
        with _lock:
            if package.__dict__.get("__getattr__") is load:
                del package.__getattr__, package.__dir__
                try:
                    loader.exec_module(package)
                except BaseException:
                    offer()
                    raise
        return getattr(package, attribute)

    def names() -> list[str]:
        load("__all__")
        return dir(package)

    def offer() -> None:
        package.__getattr__ = load  # type: ignore[method-assign]
        package.__dir__ = names  # type: ignore[method-assign]

    offer()
    # Its own modules ask for this one.
    package.__dict__["__version__"] = importlib.metadata.version(name)
    sys.modules[name] = package
    try:
        yield
    except BaseException:
        sys.modules.pop(name, None)
        raise


@contextlib.contextmanager
def _version_alone(package: str) -> Iterator[None]:
    """Have the version of a package read from its metadata, not by importing it."""
    from lightning_utilities.core import imports
    from packaging.version import Version

    compare = imports.compare_version

    def compare_version(
        name: str,
        operation: Callable[[Any, Any], bool],
        version: str,
        use_base_version: bool = False,
    ) -> bool:
        if name != package or name in sys.modules:
            return bool(compare(name, operation, version, use_base_version))
        try:
            found = Version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            return False
        return operation(
            Version(found.base_version) if use_base_version else found, Version(version)
        )

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
