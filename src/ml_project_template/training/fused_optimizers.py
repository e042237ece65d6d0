"""Adam, AdamW and SGD by torch's fused kernels, without ``torch.optim``.

Torch's optimizers loop over parameters and their groups in Python, which takes longer than the step
of a small network; and their first use imports torch's compiler, which takes longer than many a
fit. The kernels are theirs, and so are the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ml_project_template.training.optimization import OptimizerSettings

__all__ = ["FlatOptimizer", "FusedOptimizer"]

# Those of torch.optim.
_BETAS = (0.9, 0.999)
_EPS = 1e-8


class FusedOptimizer:
    """Takes the steps of ``torch.optim`` on the parameters of a module.

    As there, a parameter without a gradient is left as it is.

    Args:
        parameters: Of a floating type, on a device that has the kernels.
        settings: Which steps.

    Attributes:
        lr: The learning rate.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], settings: OptimizerSettings
    ) -> None:
        self.parameters = list(parameters)
        self.lr = settings.lr
        self._settings = settings
        n_moments = 2 if settings.name != "sgd" else int(bool(settings.momentum))
        self._moments = [[torch.zeros_like(p) for p in self.parameters] for _ in range(n_moments)]
        self._steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def state(self) -> dict[str, torch.Tensor]:
        """Give the moments and counts of steps by name, for `restore`."""
        named = {f"step/{place}": step for place, step in enumerate(self._steps)}
        for number, moment in enumerate(self._moments):
            named |= {f"moment_{number}/{place}": each for place, each in enumerate(moment)}
        return named

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients."""
        parameters: list[Any] = self.parameters
        moments, steps = self._moments, self._steps
        gradients = [parameter.grad for parameter in parameters]
        if any(gradient is None for gradient in gradients):
            there = [place for place, gradient in enumerate(gradients) if gradient is not None]
            if not there:
                return
            parameters = [parameters[place] for place in there]
            gradients = [gradients[place] for place in there]
            moments = [[moment[place] for place in there] for moment in moments]
            steps = [steps[place] for place in there]
        if self._settings.name == "sgd":
            _step_sgd(self._settings, parameters, gradients, moments, self.lr)
        else:
            torch._foreach_add_(steps, 1)
            decay = self._settings.weight_decay
            _step_adam(self._settings, parameters, gradients, moments, steps, self.lr, decay)


class FlatOptimizer:
    """Takes the steps of ``torch.optim`` on parameters that lie side by side in one tensor.

    Several fits of the same optimizer can have their parameters there, each with its own rate,
    decay and momentum.

    Args:
        parameters: Float32, of one dimension.
        gradients: Of the same shape.
        settings: Of each fit; all of the same name.
        owner: For each number in ``parameters`` the index of its fit; None if there is one fit.
    """

    def __init__(
        self,
        parameters: torch.Tensor,
        gradients: torch.Tensor,
        settings: Sequence[OptimizerSettings],
        owner: torch.Tensor | None = None,
    ) -> None:
        self._parameters = parameters
        self._gradients = gradients
        self._settings = settings
        self._owner = owner
        self._name = settings[0].name
        # Adam's first and second moments, or the momentum of SGD.
        n_moments = 2 if self._name != "sgd" else int(any(s.momentum for s in settings))
        self._moments = [torch.zeros_like(parameters) for _ in range(n_moments)]
        self._steps = torch.zeros((), device=parameters.device)
        self._lr = 0.0
        self._rates = parameters
        self._decays: torch.Tensor | None = None
        self._momenta: torch.Tensor | None = None
        self._update = parameters
        if owner is not None:
            self._update = torch.zeros_like(parameters)
            if any(s.momentum for s in settings):
                self._momenta = self._of_each([s.momentum for s in settings])
        self.set_rates([s.lr for s in settings])

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rate of each fit."""
        self._lr = rates[0]
        if self._owner is None:
            return
        self._rates = self._of_each(rates)
        decays = [s.weight_decay for s in self._settings]
        if self._name == "adamw":
            decays = [lr * decay for lr, decay in zip(rates, decays, strict=True)]
        self._decays = self._of_each(decays) if any(decays) else None

    def copy_state(self, other: FlatOptimizer, kept: torch.Tensor) -> None:
        """Go on where another optimizer is.

        Args:
            other: The other one.
            kept: Where in its tensor the numbers of this one are.
        """
        # Without momentum among those that go on there is less to go on from.
        for mine, theirs in zip(self._moments, other._moments, strict=False):
            torch.index_select(theirs, 0, kept, out=mine)
        self._steps.copy_(other._steps)

    def state(self) -> dict[str, torch.Tensor]:
        """Give the moments and the count of steps by name, for `restore`."""
        named = {f"moment_{number}": moment for number, moment in enumerate(self._moments)}
        return {"step": self._steps, **named}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def step(self) -> None:
        """Take one step along the gradients, which may be overwritten."""
        if self._name == "sgd":
            self._step_sgd()
            return
        self._steps.add_(1)
        decay = 0.0
        if self._owner is None:
            decay = self._settings[0].weight_decay
        elif self._decays is not None and self._name == "adam":
            self._gradients.addcmul_(self._parameters, self._decays)
        elif self._decays is not None:
            self._parameters.addcmul_(self._parameters, self._decays, value=-1)
        lr = self._lr
        if self._owner is not None:
            # The kernel knows one rate: it takes the step of rate 1 on zeros.
            self._update.zero_()
            lr = 1.0
        moments = [[moment] for moment in self._moments]
        settings = self._settings[0]
        _step_adam(settings, [self._update], [self._gradients], moments, [self._steps], lr, decay)
        if self._owner is not None:
            self._parameters.addcmul_(self._update, self._rates)

    def _step_sgd(self) -> None:
        if self._owner is None:
            moments = [[moment] for moment in self._moments]
            _step_sgd(self._settings[0], [self._parameters], [self._gradients], moments, self._lr)
            return
        if self._decays is not None:
            self._gradients.addcmul_(self._parameters, self._decays)
        direction = self._gradients
        if self._momenta is not None:
            direction = self._moments[0].mul_(self._momenta).add_(self._gradients)
        self._parameters.addcmul_(direction, self._rates, value=-1)

    def _of_each(self, values: Sequence[float]) -> torch.Tensor:
        assert self._owner is not None
        each = torch.tensor(values, dtype=torch.float32, device=self._owner.device)
        return each.index_select(0, self._owner)


def _step_adam(
    settings: OptimizerSettings,
    parameters: list[Any],
    gradients: list[Any],
    moments: list[list[torch.Tensor]],
    steps: list[torch.Tensor],
    lr: float,
    weight_decay: float,
) -> None:
    fused = torch._fused_adam_ if settings.name == "adam" else torch._fused_adamw_
    fused(
        *(parameters, gradients, *moments, [], steps),
        lr=lr,
        beta1=_BETAS[0],
        beta2=_BETAS[1],
        weight_decay=weight_decay,
        eps=_EPS,
        amsgrad=False,
        maximize=False,
    )


def _step_sgd(
    settings: OptimizerSettings,
    parameters: list[Any],
    gradients: list[Any],
    moments: list[list[torch.Tensor]],
    lr: float,
) -> None:
    torch._fused_sgd_(
        *(parameters, gradients, moments[0] if moments else []),
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        lr=lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        # The momentum of the first step is its gradient, as it is from zeros.
        is_first_step=False,
    )
