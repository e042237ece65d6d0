"""Adam, AdamW and SGD on one flat tensor, for one fit or for several with rates of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ml_project_template.training.optimization import OptimizerSettings

__all__ = ["FlatOptimizer"]

# Those of torch.optim.
_BETAS = (0.9, 0.999)
_EPS = 1e-8


class FlatOptimizer:
    """Takes the steps of ``torch.optim`` on parameters that lie side by side in one tensor.

    Torch's optimizers loop over parameters and their groups in Python; here each step is one fused
    kernel of torch, whatever the number of parameters. Several fits of the same optimizer can have
    their parameters in the same tensor, each with its own rate, decay and momentum.

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
        fused = torch._fused_adam_ if self._name == "adam" else torch._fused_adamw_
        if self._owner is not None:
            # The kernel knows one rate: it takes the step of rate 1 on zeros.
            self._update.zero_()
        fused(
            [self._update],
            [self._gradients],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._steps],
            lr=self._lr if self._owner is None else 1.0,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=decay,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )
        if self._owner is not None:
            self._parameters.addcmul_(self._update, self._rates)

    def _step_sgd(self) -> None:
        if self._owner is None:
            settings = self._settings[0]
            torch._fused_sgd_(
                [self._parameters],
                [self._gradients],
                self._moments,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                lr=self._lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                # The first step's momentum is the gradient, as it is from zeros.
                is_first_step=False,
            )
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
