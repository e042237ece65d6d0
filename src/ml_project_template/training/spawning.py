"""A process for each device that imports Fabric without what a fit does not use.

A process that is started afresh finds out by what it is sent what it has to import. If that were
Lightning's own launcher, it would import the whole of Lightning before anything of ours, and take
a quarter longer to start.
"""

from __future__ import annotations

from ml_project_template.training.lean_imports import import_fabric

import_fabric()

# After it: they would import all the rest.
from lightning.fabric.strategies.ddp import DDPStrategy  # noqa: E402
from lightning.fabric.strategies.launchers.multiprocessing import (  # noqa: E402
    _MultiProcessingLauncher,
)

__all__ = ["SpawnStrategy"]


class _Launcher(_MultiProcessingLauncher):
    """Lightning's own, by a name of this module."""


class SpawnStrategy(DDPStrategy):
    """Fabric's ``ddp_spawn``."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn")

    def _configure_launcher(self) -> None:
        self._launcher = _Launcher(self, start_method="spawn")
