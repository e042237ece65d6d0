"""Which networks are a chain of layers whose derivatives are written out here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Chain", "Layer", "chain_of", "has_hooks"]

_ACTIVATIONS = (nn.ELU, nn.GELU, nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Tanh)


@dataclass(frozen=True)
class Layer:
    """A linear layer and what follows it.

    Attributes:
        linear: The linear layer.
        norm: The normalisation after it.
        activation: What comes then.
        dropout: The part of the values that are set to zero while training.
    """

    linear: nn.Linear
    norm: nn.BatchNorm1d | nn.LayerNorm | None
    activation: nn.Module | None
    dropout: float

    @property
    def shape(self) -> Hashable:
        """What layers must have in common to be stacked: all but weights and dropout."""
        linear, norm, activation = self.linear, self.norm, self.activation
        return (
            (linear.in_features, linear.out_features, linear.bias is None),
            None if norm is None else (type(norm), norm.eps, getattr(norm, "momentum", None)),
            # How an activation prints says which one it is, with all its numbers.
            repr(activation),
        )


@dataclass(frozen=True)
class Chain:
    """A network that is nothing but layers one after the other.

    Attributes:
        module: The whole network.
        encoder: What the features pass first: a function of the features that nothing changes.
        layers: The layers.
    """

    module: nn.Module
    encoder: nn.Module | None
    layers: tuple[Layer, ...]

    @property
    def shape(self) -> Hashable:
        """What chains must have in common to be stacked."""
        return tuple(layer.shape for layer in self.layers)


def chain_of(module: nn.Module) -> Chain | None:
    """Read a network as a chain, if it is one and nobody else takes part in it.

    It is one if it is an ``nn.Sequential`` of linear layers, each with a normalisation, an
    activation and a dropout after it, or none of them; or if its class has a method ``stages`` that
    gives an encoder (or None) and such an ``nn.Sequential``, which is then all that its ``forward``
    does. A subclass may do something else, and has to say so itself. Hooks, tied or frozen weights,
    or others than float32 on the CPU, are for autograd.

    Args:
        module: The network.

    Returns:
        The chain, or None.
    """
    encoder: nn.Module | None = None
    sequential = module
    if "stages" in type(module).__dict__:
        encoder, sequential = module.stages()  # type: ignore[operator]
    if type(sequential) is not nn.Sequential or has_hooks(module.modules()):
        return None
    if encoder is not None and not getattr(encoder, "is_fixed", False):
        return None
    layers = _layers(list(sequential))
    if layers is None:
        return None
    parameters = [
        parameter
        for layer in layers
        for part in (layer.linear, layer.norm)
        if part is not None
        for parameter in part.parameters()
    ]
    if len(set(map(id, parameters))) != len(parameters) or not all(map(_is_plain, parameters)):
        return None
    fixed = set() if encoder is None else set(map(id, encoder.parameters()))
    if set(map(id, module.parameters())) - fixed != set(map(id, parameters)):
        return None
    return Chain(module, encoder, tuple(layers))


def has_hooks(modules: Iterable[nn.Module]) -> bool:
    """Say whether somebody listens to modules, has compiled one or has put another forward in."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
        or "forward" in module.__dict__
        for module in modules
    )


def _layers(modules: list[nn.Module]) -> list[Layer] | None:
    layers: list[Layer] = []
    while modules:
        linear = modules.pop(0)
        if type(linear) is not nn.Linear:
            return None
        norm = activation = None
        dropout = 0.0
        if modules and _is_norm(modules[0], linear.out_features):
            norm = modules.pop(0)
        if modules and type(modules[0]) in _ACTIVATIONS:
            activation = modules.pop(0)
        if modules and type(modules[0]) is nn.Dropout:
            dropout = modules[0].p
            modules.pop(0)
        if layers and layers[-1].linear.out_features != linear.in_features:
            return None
        assert isinstance(norm, nn.BatchNorm1d | nn.LayerNorm | None)
        layers.append(Layer(linear, norm, activation, dropout))
    return layers or None


def _is_norm(module: nn.Module, width: int) -> bool:
    if type(module) is nn.BatchNorm1d:
        has_all = module.affine and module.track_running_stats and module.momentum is not None
        return has_all and module.num_features == width
    if type(module) is nn.LayerNorm:
        return module.elementwise_affine and module.normalized_shape == (width,)
    return False


def _is_plain(parameter: nn.Parameter) -> bool:
    return (
        type(parameter) is nn.Parameter
        and parameter.requires_grad
        and parameter.dtype == torch.float32
        and parameter.device.type == "cpu"
        and parameter.layout == torch.strided
        and not parameter._backward_hooks
        and not getattr(parameter, "_post_accumulate_grad_hooks", None)
    )
