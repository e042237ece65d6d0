"""The derivatives that are written out, against those of autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ml_project_template.training import dense as dense_module
from ml_project_template.training.chain import Chain, chain_of
from ml_project_template.training.dense import DenseStack, TrainPass
from ml_project_template.training.dense_losses import DenseLoss, loss_kind_of
from ml_project_template.training.losses import MemberLoss

_ACTIVATIONS: list[Callable[[], nn.Module]] = [
    lambda: nn.ELU(0.7),
    nn.GELU,
    lambda: nn.GELU("tanh"),
    lambda: nn.LeakyReLU(0.2),
    nn.ReLU,
    nn.SiLU,
    nn.Tanh,
    nn.Identity,
]
_NORMS: list[Callable[[int], nn.Module] | None] = [
    None,
    lambda width: nn.BatchNorm1d(width, momentum=0.3, eps=1e-3),
    lambda width: nn.LayerNorm(width, eps=1e-3),
]


def _module(
    seed: int,
    activation: Callable[[], nn.Module],
    norm: Callable[[int], nn.Module] | None,
    dropout: float = 0.0,
    outputs: int = 3,
) -> nn.Sequential:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for inputs, width, bias in ((4, 6, True), (6, 5, False)):
        parts.append(nn.Linear(inputs, width, bias=bias))
        if norm is not None:
            parts.append(norm(width))
            with torch.no_grad():
                for parameter in parts[-1].parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
        if not isinstance(made := activation(), nn.Identity):
            parts.append(made)
        if dropout:
            parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(5, outputs))


def _chain(module: nn.Module) -> Chain:
    chain = chain_of(module)
    assert chain is not None
    return chain


def _compare(modules: list[nn.Sequential], losses: list[nn.Module], y: torch.Tensor) -> None:
    """Compare losses, gradients and running statistics of a step, and outputs after it."""
    n_networks, n_rows = len(modules), y.shape[1]
    X = torch.randn(n_networks, n_rows, 4)
    references = copy.deepcopy(modules)
    chains = [_chain(module) for module in modules]
    with torch.no_grad():
        stack = DenseStack(chains)
        kinds = [
            loss_kind_of(loss, targets, chains[0].layers[-1].linear.out_features)
            for loss, targets in zip(losses, y, strict=True)
        ]
        assert None not in kinds
        generators = [torch.Generator().manual_seed(number) for number in range(n_networks)]
        dropouts = list(
            zip(*([layer.dropout for layer in chain.layers] for chain in chains), strict=True)
        )
        loss = DenseLoss([kind for kind in kinds if kind is not None])
        step = TrainPass(stack, 0, n_networks, n_rows, loss, dropouts, generators)
        # Twice: nothing of the first step may be left over in the second.
        for _ in range(2):
            stack.gradients.fill_(7.0)
            found = step(X, y) if n_networks > 1 else step(X[0], y[0])[None]
        outputs = stack.outputs(0, n_networks, X if n_networks > 1 else X[0])
    for index, (module, loss_function) in enumerate(zip(references, losses, strict=True)):
        torch.manual_seed(index)
        for _ in range(2):
            module.zero_grad()
            expected = loss_function(module(X[index]), y[index])
            expected.backward()
        torch.testing.assert_close(found[index], expected.detach())
        with torch.no_grad():
            predicted = module.eval()(X[index])
        torch.testing.assert_close(outputs[index] if n_networks > 1 else outputs, predicted)
        with torch.no_grad():
            stack.write_back(index, stack.state, 2)
        for mine, theirs in zip(
            modules[index].state_dict().values(), module.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
    named = [parameter for module in references for parameter in module.parameters()]
    n_each = len(named) // n_networks
    for place, gradients in enumerate(stack.views(stack.gradients)):
        for index in range(n_networks):
            expected = named[index * n_each + place].grad
            torch.testing.assert_close(gradients[index], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("norm", _NORMS, ids=["none", "batch", "layer"])
@pytest.mark.parametrize("activation", _ACTIVATIONS, ids=lambda make: repr(make()))
def test_every_kind_of_layer_has_the_gradients_of_autograd(
    activation: Callable[[], nn.Module], norm: Any, n_networks: int
) -> None:
    modules = [_module(seed, activation, norm) for seed in range(n_networks)]
    y = torch.randint(0, 3, (n_networks, 9), generator=torch.Generator().manual_seed(0))
    _compare(modules, [nn.CrossEntropyLoss()] * n_networks, y)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("norm", _NORMS, ids=["none", "batch", "layer"])
def test_dropout_draws_what_torch_draws_from_such_a_seed(norm: Any, n_networks: int) -> None:
    # One of the three has none: it takes part all the same.
    modules = [
        _module(seed, nn.Tanh, norm, dropout=dropout)
        for seed, dropout in zip(range(n_networks), (0.2, 0.5, 0.0), strict=False)
    ]
    y = torch.randint(0, 3, (n_networks, 9), generator=torch.Generator().manual_seed(0))
    _compare(modules, [nn.CrossEntropyLoss()] * n_networks, y)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.HuberLoss(delta=0.3), MemberLoss(nn.MSELoss())],
    ids=repr,
)
@pytest.mark.parametrize("outputs", [1, 2])
def test_every_loss_of_numbers_has_the_gradients_of_autograd(
    loss: nn.Module, outputs: int, n_networks: int
) -> None:
    modules = [_module(seed, nn.ReLU, None, outputs=outputs) for seed in range(n_networks)]
    generator = torch.Generator().manual_seed(0)
    y = 2 * torch.randn(n_networks, 9, outputs, generator=generator)
    _compare(modules, [loss] * n_networks, y)


@pytest.mark.parametrize("n_networks", [1, 3])
def test_weights_of_classes_count_in_the_gradients(n_networks: int) -> None:
    modules = [_module(seed, nn.ReLU, None) for seed in range(n_networks)]
    y = torch.randint(0, 3, (n_networks, 9), generator=torch.Generator().manual_seed(0))
    losses: list[nn.Module] = [
        MemberLoss(nn.CrossEntropyLoss(torch.tensor([1.0, 2.0 + index, 0.3])))
        for index in range(n_networks)
    ]
    _compare(modules, losses, y)


def test_many_rows_have_the_gradients_of_autograd_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_module, "_FUSED_NORM_ROWS", 8)
    monkeypatch.setattr(dense_module, "_CHUNK_VALUES", 20)
    y = torch.randint(0, 3, (1, 9), generator=torch.Generator().manual_seed(0))
    _compare([_module(0, nn.ReLU, _NORMS[1])], [nn.CrossEntropyLoss()], y)


def _hooked(module: nn.Sequential) -> None:
    module[1].register_forward_hook(lambda *_: None)


def _frozen(module: nn.Sequential) -> None:
    module[0].weight.requires_grad = False


def _tied(module: nn.Sequential) -> None:
    module.insert(2, module[0])
    module.insert(2, nn.Linear(6, 4))


def _wide(module: nn.Sequential) -> None:
    module.double()


def _other_forward(module: nn.Sequential) -> None:
    module[1].forward = lambda X: X.abs()


def _other_layer(module: nn.Sequential) -> None:
    module[1] = nn.Softplus()


def _subclass(module: nn.Sequential) -> None:
    class Mine(nn.ReLU):
        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return X.abs()

    module[1] = Mine()


@pytest.mark.parametrize(
    "change", [_hooked, _frozen, _tied, _wide, _other_forward, _other_layer, _subclass]
)
def test_what_is_more_than_a_chain_is_for_autograd(
    change: Callable[[nn.Sequential], None],
) -> None:
    module = _module(0, nn.ReLU, None)
    assert chain_of(module) is not None
    change(module)
    assert chain_of(module) is None


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), torch.tensor([0, 1])),
        (nn.CrossEntropyLoss(reduction="sum"), torch.tensor([0, 1])),
        # Class -100 is the one that is passed over.
        (nn.CrossEntropyLoss(), torch.tensor([0, -100])),
        (nn.CrossEntropyLoss(), torch.rand(2, 3)),
        (nn.MSELoss(), torch.rand(2)),
        (nn.MSELoss(reduction="sum"), torch.rand(2, 3)),
        (nn.SmoothL1Loss(), torch.rand(2, 3)),
        (lambda outputs, y: (outputs - y).square().mean(), torch.rand(2, 3)),
    ],
)
def test_other_losses_are_for_autograd(loss: Any, y: torch.Tensor) -> None:
    assert loss_kind_of(loss, y, 3) is None
