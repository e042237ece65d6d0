"""Packages whose modules are imported without their ``__init__``, which runs when it is needed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["late_package"]

_lock = threading.RLock()


@contextlib.contextmanager
def late_package(name: str) -> Iterator[ModuleType | None]:
    """Import modules of a package without running its ``__init__``.

    The package is there as its own module all the same, and remains so: the first name that is
    asked of it, and that neither it has yet (PEP 562) nor one of its modules, runs its
    ``__init__``. Where the block fails it is taken back.

    Args:
        name: The package; those above it are imported.

    Yields:
        The package; None if it was imported before, or is not there.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        yield None
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
        with contextlib.suppress(AttributeError):
            load("__all__")
        return dir(package)

    def offer() -> None:
        package.__getattr__ = load  # type: ignore[method-assign]
        package.__dir__ = names  # type: ignore[method-assign]

    offer()
    above, _, last = name.rpartition(".")
    if not above:
        # Its own modules ask for this one.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            package.__dict__["__version__"] = importlib.metadata.version(name)
    sys.modules[name] = package
    if above:
        setattr(sys.modules[above], last, package)
    try:
        yield package
    except BaseException:
        sys.modules.pop(name, None)
        if above and getattr(sys.modules[above], last, None) is package:
            delattr(sys.modules[above], last)
        raise
