"""Keeping the weights of an epoch, such as the best one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["KeptWeights"]


class KeptWeights:
    """A copy of a module's state at some moment, on the module's own device.

    Args:
        module: The module.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._copy: dict[str, torch.Tensor] = {}

    def keep(self) -> None:
        """Copy the weights of now, in the place of what was kept before."""
        for name, tensor in self._module.state_dict().items():
            if name in self._copy:
                # The memory of the first copy is used again: no allocation at each improvement.
                self._copy[name].copy_(tensor)
            else:
                self._copy[name] = tensor.detach().clone()

    def restore(self) -> None:
        """Put what was kept back into the module, if there is anything."""
        if self._copy:
            self._module.load_state_dict(self._copy)

    def are_finite(self) -> bool:
        """Say whether the weights of now are numbers."""
        tensors = [t for t in self._module.state_dict().values() if t.is_floating_point()]
        return not tensors or bool(torch.stack([t.isfinite().all() for t in tensors]).all())

    def state(self) -> Mapping[str, torch.Tensor]:
        """Give what is kept, for ``load``; empty before there is anything."""
        return self._copy

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Keep what ``state`` gave."""
        for name, tensor in self._module.state_dict().items():
            if name in state:
                self._copy[name] = state[name].to(tensor.device)
