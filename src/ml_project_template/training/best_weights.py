"""Keeping the weights of the best epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["BestWeights"]


class BestWeights:
    """A copy of a module's state at its lowest value so far, on the module's own device.

    Args:
        module: The module to watch.

    Attributes:
        value: The lowest value so far.
        step: When it was reached; 0 before the first update.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._copy: dict[str, torch.Tensor] = {}
        self.value = math.inf
        self.step = 0

    def update(self, value: float, step: int) -> bool:
        """Copy the weights if the value is lower than all before.

        Args:
            value: A loss: lower is better.
            step: The epoch it belongs to.

        Returns:
            Whether it was the lowest.
        """
        if not value < self.value:
            return False
        self.value, self.step = value, step
        for name, tensor in self._module.state_dict().items():
            if name in self._copy:
                # The memory of the first copy is used again: no allocation at each improvement.
                self._copy[name].copy_(tensor)
            else:
                self._copy[name] = tensor.detach().clone()
        return True

    def restore(self) -> None:
        """Put the best weights back into the module, if there are any."""
        if self._copy:
            self._module.load_state_dict(self._copy)
