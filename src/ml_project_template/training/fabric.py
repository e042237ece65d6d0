"""The one place where Lightning Fabric is imported and made."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Literal

from ml_project_template.utils.collecting import importing

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.strategy import Strategy

__all__ = ["Precision", "make_fabric"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@functools.cache
def make_fabric(accelerator: str, precision: Precision, devices: int = 1) -> Fabric:
    """Make a Fabric, or give the one that was made before.

    Each looks through all that is installed for callbacks of others: as long as a short training.

    Args:
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: Of the arithmetic; the weights are float32 in each of them.
        devices: How many devices of this machine; on the CPU processes.

    Returns:
        A Fabric on that device; on several it has a process for each to launch.

    Raises:
        ConfigError: The machine has no such accelerator, or not as many.
    """
    # Imported here: it takes a second, and only models on torch need it.
    if "lightning.fabric" not in sys.modules:
        with importing():
            importlib.import_module("ml_project_template.training.lean_imports").import_fabric()
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from ml_project_template.errors import ConfigError

    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            # Not by running the command anew, as the usual strategy does: that is a sweep, too.
            strategy="auto" if devices == 1 else _one_process_each(),
            precision=precision,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.accelerator={accelerator} can't be used with precision {precision} and "
            f"{devices} device(s) here: {reason}"
        ) from error


def _one_process_each() -> Strategy:
    from ml_project_template.training.spawning import SpawnStrategy

    return SpawnStrategy()
