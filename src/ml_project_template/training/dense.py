"""Forward and backward of chains of layers, written out, for one network or for several at once.

What autograd does for each step anew is done once here: the order of the operations is known, each
has its memory, and gradients are written to where the optimizer reads them. The numbers are those
of autograd up to rounding, with one exception: the gradient of a bias before a batch normalisation
is zero, where autograd finds the rounding of zero.

A single network is computed with matrices ``(rows, width)``, several with ``(networks, rows,
width)``; dimensions are therefore counted from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ml_project_template.training.chain import Chain, Layer
from ml_project_template.training.dense_losses import DenseLoss

__all__ = ["DenseStack", "TrainPass"]

aten = torch.ops.aten

# The kernel of the backward pass of a batch normalisation goes through a matrix against its rows:
# above so many rows it was seen to take three times as long as the formula written out.
_FUSED_NORM_ROWS = 1024

# Floats of a layer's values while predicting: more no longer lie in the cache of a core.
_CHUNK_VALUES = 131_072


class DenseStack:
    """Networks of one shape, each parameter of all of them in one piece of one flat tensor.

    Args:
        chains: The networks.
        state: The ``state`` that the stack begins with; None copies the weights of the networks.

    Attributes:
        parameters: All parameters of all networks, of one dimension.
        gradients: Their gradients.
        state: The parameters and the running statistics behind them.
        owner: For each number in ``parameters`` the index of its network.
    """

    def __init__(self, chains: Sequence[Chain], state: torch.Tensor | None = None) -> None:
        self.chains = list(chains)
        parameters, statistics = _tensors(chains[0])
        self._shapes = [tensor.shape for tensor in (*parameters, *statistics)]
        sizes = [len(chains) * shape.numel() for shape in self._shapes]
        n_parameters = sum(sizes[: len(parameters)])
        self.state = torch.empty(sum(sizes)) if state is None else state
        self.parameters = self.state[:n_parameters]
        self.gradients = torch.zeros(n_parameters)
        self._values = self.views(self.state)
        self._gradients = self.views(self.gradients)
        if state is None:
            for index, chain in enumerate(chains):
                parameters, statistics = _tensors(chain)
                for mine, theirs in zip(self._values, (*parameters, *statistics), strict=True):
                    mine[index].copy_(theirs)
        self.owner = self._owner(n_parameters)

    def __len__(self) -> int:
        return len(self.chains)

    def _owner(self, n_numbers: int) -> torch.Tensor:
        n_networks = len(self)
        numbers = torch.arange(n_networks)
        owners = [numbers.repeat_interleave(shape.numel()) for shape in self._shapes]
        return torch.cat(owners)[:n_numbers]

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Cut a flat tensor into those of ``(networks, ...)`` that it begins with."""
        found, start = [], 0
        for shape in self._shapes:
            stop = start + len(self) * shape.numel()
            if stop > len(flat):
                break
            found.append(flat[start:stop].view(len(self), *shape))
            start = stop
        return found

    def places(self, indices: Sequence[int]) -> torch.Tensor:
        """Find where in ``state`` some networks are, in the order of a stack of these alone."""
        numbers = self.views(torch.arange(len(self.state)))
        kept = torch.tensor(indices)
        return torch.cat([view.index_select(0, kept).flatten() for view in numbers])

    def select(self, indices: Sequence[int]) -> DenseStack:
        """Make a stack of some of the networks, as they are now."""
        state = self.state.index_select(0, self.places(indices))
        return DenseStack([self.chains[index] for index in indices], state)

    def write_back(self, index: int, flat: torch.Tensor, n_steps: int) -> None:
        """Give a network its weights.

        Args:
            index: Which one.
            flat: ``state``, or a copy of it of another time.
            n_steps: The steps that were taken until then.
        """
        chain = self.chains[index]
        parameters, statistics = _tensors(chain)
        for view, tensor in zip(self.views(flat), (*parameters, *statistics), strict=True):
            tensor.data.copy_(view[index])
        for layer in chain.layers:
            if (
                isinstance(layer.norm, nn.BatchNorm1d)
                and layer.norm.num_batches_tracked is not None
            ):
                layer.norm.num_batches_tracked += n_steps

    def clip(self, max_norms: torch.Tensor) -> None:
        """Shorten the gradients of each network; see ``torch.nn.utils.clip_grad_norm_``.

        Args:
            max_norms: The largest 2-norm for each network, of shape ``(networks,)``.
        """
        flat = [view.view(len(self), -1) for view in self._gradients]
        norms = torch.stack([torch.linalg.vector_norm(view, dim=1) for view in flat])
        factors = max_norms / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)
        factors = factors.clamp_(max=1.0)[:, None]
        for view in flat:
            view.mul_(factors)

    def layer_values(self, first: int, last: int, *, gradients: bool) -> list[_Values]:
        """Give the parameters of each layer of the networks ``first`` to ``last``, without it.

        Of a single network they have no dimension of networks.
        """
        views = iter(self._gradients if gradients else self._values)
        layers = self.chains[0].layers

        def take(*, row: bool = True) -> torch.Tensor:
            view = next(views)
            if last - first == 1:
                return view[first]
            return view[first:last, None] if row else view[first:last]

        found = []
        for layer in layers:
            values = _Values(weight=take(row=False))
            if layer.linear.bias is not None:
                values.bias = take()
            if layer.norm is not None:
                values.scale, values.shift = take(), take()
            found.append(values)
        if not gradients:
            for layer, values in zip(layers, found, strict=True):
                if isinstance(layer.norm, nn.BatchNorm1d):
                    values.mean, values.variance = take(), take()
        return found

    def outputs(self, first: int, last: int, X: torch.Tensor) -> torch.Tensor:
        """Predict, with the weights and statistics of now.

        Args:
            first: The first network.
            last: The one behind the last.
            X: Shape ``(rows, width)`` for a single network, else ``(networks, rows, width)``.

        Returns:
            Outputs of the same number of dimensions.
        """
        layers = self.chains[0].layers
        values = self.layer_values(first, last, gradients=False)
        widest = max(layer.linear.out_features for layer in layers)
        rows = max(_CHUNK_VALUES // (widest * (last - first)), 1)
        chunks = []
        for chunk in torch.split(X, rows, dim=-2):
            for layer, own in zip(layers, values, strict=True):
                chunk = _linear(chunk, own, None)
                chunk = _normalize(chunk, layer, own)
                if layer.activation is not None:
                    chunk = _activate(layer.activation, chunk)
            chunks.append(chunk)
        return torch.cat(chunks, dim=-2) if len(chunks) > 1 else chunks[0]


class TrainPass:
    """A step of some networks of a stack, for batches of one number of rows.

    Args:
        stack: The networks.
        first: The first one that takes part.
        last: The one behind the last.
        rows: Rows in a batch.
        loss: What is minimised.
        dropouts: For each layer the dropout of each network of the stack.
        generators: What draws the dropout of each network.
    """

    def __init__(
        self,
        stack: DenseStack,
        first: int,
        last: int,
        rows: int,
        loss: DenseLoss,
        dropouts: Sequence[Sequence[float]],
        generators: Sequence[torch.Generator],
    ) -> None:
        self._loss = loss
        self._parts: list[Any] = []
        values = stack.layer_values(first, last, gradients=False)
        gradients = stack.layer_values(first, last, gradients=True)
        for index, layer in enumerate(stack.chains[0].layers):
            own, its = values[index], gradients[index]
            shape: tuple[int, ...] = (rows, layer.linear.out_features)
            if last - first > 1:
                shape = (last - first, *shape)
            self._parts.append(_Linear(layer, own, its, shape, is_first=index == 0))
            if isinstance(layer.norm, nn.BatchNorm1d):
                fused = last - first == 1 and rows <= _FUSED_NORM_ROWS
                self._parts.append(
                    (_FusedBatchNorm if fused else _BatchNorm)(layer.norm, own, its, shape)
                )
            elif layer.norm is not None:
                self._parts.append(_LayerNorm(layer.norm, own, its))
            if layer.activation is not None:
                self._parts.append(_Activation(layer.activation))
            if any(dropouts[index][first:last]):
                self._parts.append(
                    _Dropout(dropouts[index][first:last], generators[first:last], shape)
                )
        self._backward = self._parts[::-1]

    def __call__(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch, and its gradients, into those of the stack.

        Args:
            X: Shape ``(rows, width)`` for a single network, else ``(networks, rows, width)``.
            y: Targets, ``(rows, ...)`` or ``(networks, rows, ...)``.

        Returns:
            The loss, of shape ``()`` or ``(networks,)``.
        """
        for part in self._parts:
            X = part.forward(X)
        loss, gradient = self._loss.with_gradient(X, y)
        for part in self._backward:
            gradient = part.backward(gradient)
        return loss


class _Values:
    """The tensors of a layer: parameters, or their gradients."""

    __slots__ = ("bias", "mean", "scale", "shift", "variance", "weight")

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight
        self.bias: torch.Tensor | None = None
        self.scale = self.shift = self.mean = self.variance = weight


class _Linear:
    """``y = x W^T + b``."""

    def __init__(
        self,
        layer: Layer,
        values: _Values,
        gradients: _Values,
        shape: tuple[int, ...],
        *,
        is_first: bool,
    ) -> None:
        self._values, self._gradients = values, gradients
        self._product = torch.mm if len(shape) == 2 else torch.bmm
        self._outputs = torch.empty(shape)
        inputs = (*shape[:-1], layer.linear.in_features)
        # Nobody asks for the gradient of the features.
        self._gradient = None if is_first else torch.empty(inputs)
        self._bias_is_moot = isinstance(layer.norm, nn.BatchNorm1d)
        self._X = self._outputs

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        self._X = X
        return _linear(X, self._values, self._outputs)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor | None:
        self._product(gradient.mT, self._X, out=self._gradients.weight)
        bias = self._gradients.bias
        if bias is not None:
            if self._bias_is_moot:
                # The normalisation takes away what is added to all rows alike.
                bias.zero_()
            else:
                torch.sum(gradient, -2, keepdim=bias.ndim == 3, out=bias)
        if self._gradient is None:
            return None
        return self._product(gradient, self._values.weight, out=self._gradient)


class _FusedBatchNorm:
    """A batch normalisation of one network, by torch's kernels."""

    def __init__(
        self, norm: nn.BatchNorm1d, values: _Values, gradients: _Values, shape: tuple[int, ...]
    ) -> None:
        assert norm.momentum is not None
        self._values, self._gradients = values, gradients
        self._momentum, self._eps = norm.momentum, norm.eps
        self._outputs = (torch.empty(shape), torch.empty(shape[-1]), torch.empty(shape[-1]))
        self._X = self._outputs[0]

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        self._X = X
        own = self._values
        torch.native_batch_norm(
            X,
            own.scale,
            own.shift,
            own.mean,
            own.variance,
            True,
            self._momentum,
            self._eps,
            out=self._outputs,
        )
        return self._outputs[0]

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        own = self._values
        _, mean, inverse = self._outputs
        found, scale, shift = aten.native_batch_norm_backward(
            gradient,
            self._X,
            own.scale,
            own.mean,
            own.variance,
            mean,
            inverse,
            True,
            self._eps,
            (True, True, True),
        )
        self._gradients.scale.copy_(scale)
        self._gradients.shift.copy_(shift)
        return found  # type: ignore[no-any-return]


class _BatchNorm:
    """A batch normalisation of several networks, or of many rows.

    Ioffe and Szegedy, "Batch Normalization" (ICML 2015), with the gradient of their section 3.
    """

    def __init__(
        self, norm: nn.BatchNorm1d, values: _Values, gradients: _Values, shape: tuple[int, ...]
    ) -> None:
        assert norm.momentum is not None
        self._values, self._gradients = values, gradients
        self._momentum, self._eps = norm.momentum, norm.eps
        self._rows = shape[-2]
        row = (1, shape[-1]) if len(shape) == 2 else (shape[0], 1, shape[-1])
        # Sums over the rows are products with ones: faster than a reduction of that dimension.
        self._ones = torch.ones(*shape[:-2], 1, self._rows)
        self._product = torch.mm if len(shape) == 2 else torch.bmm
        self._sums = (torch.empty(row), torch.empty(row))
        self._inverse = torch.empty(row)
        self._normal, self._outputs = torch.empty(shape), torch.empty(shape)
        self._row = shape[-1:] if len(shape) == 2 else row

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        own, normal, outputs = self._values, self._normal, self._outputs
        mean, variance = self._sums
        self._product(self._ones, X, out=mean).div_(self._rows)
        torch.sub(X, mean, out=normal)
        torch.mul(normal, normal, out=outputs)
        self._product(self._ones, outputs, out=variance).div_(self._rows)
        torch.add(variance, self._eps, out=self._inverse).rsqrt_()
        normal.mul_(self._inverse)
        torch.addcmul(own.shift, normal, own.scale, out=outputs)
        own.mean.lerp_(mean.view(self._row), self._momentum)
        unbiased = variance.mul_(self._rows / (self._rows - 1))
        own.variance.lerp_(unbiased.view(self._row), self._momentum)
        return outputs

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        normal, product, its = self._normal, self._outputs, self._gradients
        shift, scale = self._sums
        self._product(self._ones, gradient, out=shift)
        torch.mul(gradient, normal, out=product)
        self._product(self._ones, product, out=scale)
        its.shift.copy_(shift.view(self._row))
        its.scale.copy_(scale.view(self._row))
        # (gradient - mean(gradient) - normal * mean(gradient * normal)) * inverse * scale
        factor = self._inverse.mul_(self._values.scale)
        torch.mul(gradient, factor, out=product)
        product.addcmul_(normal, scale.mul_(factor), value=-1 / self._rows)
        product.sub_(shift.mul_(factor), alpha=1 / self._rows)
        return product


class _LayerNorm:
    """A layer normalisation (Ba, Kiros and Hinton, 2016), by torch's kernels."""

    def __init__(self, norm: nn.LayerNorm, values: _Values, gradients: _Values) -> None:
        self._values, self._gradients = values, gradients
        self._shape, self._eps = list(norm.normalized_shape), norm.eps
        self._X = self._normal = self._mean = self._inverse = values.scale

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        self._X = X
        self._normal, self._mean, self._inverse = torch.native_layer_norm(
            X, self._shape, None, None, self._eps
        )
        return torch.addcmul(self._values.shift, self._normal, self._values.scale)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        its = self._gradients
        keepdim = gradient.ndim == 3
        torch.sum(gradient, -2, keepdim=keepdim, out=its.shift)
        torch.sum(gradient * self._normal, -2, keepdim=keepdim, out=its.scale)
        found, _, _ = aten.native_layer_norm_backward(
            gradient.mul_(self._values.scale),
            self._X,
            self._shape,
            self._mean,
            self._inverse,
            None,
            None,
            (True, False, False),
        )
        return found  # type: ignore[no-any-return]


class _Activation:
    """An activation; its gradient takes the place of the one that came."""

    def __init__(self, activation: nn.Module) -> None:
        self._activation = activation
        self._X = self._outputs = torch.empty(0)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        self._X = X
        self._outputs = _activate(self._activation, X)
        return self._outputs

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        activation = self._activation
        if isinstance(activation, nn.ReLU):
            aten.threshold_backward.grad_input(gradient, self._outputs, 0, grad_input=gradient)
        elif isinstance(activation, nn.Tanh):
            aten.tanh_backward.grad_input(gradient, self._outputs, grad_input=gradient)
        elif isinstance(activation, nn.SiLU):
            aten.silu_backward.grad_input(gradient, self._X, grad_input=gradient)
        elif isinstance(activation, nn.GELU):
            aten.gelu_backward.grad_input(
                gradient, self._X, approximate=activation.approximate, grad_input=gradient
            )
        elif isinstance(activation, nn.LeakyReLU):
            aten.leaky_relu_backward.grad_input(
                gradient, self._X, activation.negative_slope, False, grad_input=gradient
            )
        else:
            assert isinstance(activation, nn.ELU)
            aten.elu_backward.grad_input(
                gradient, activation.alpha, 1, 1, False, self._X, grad_input=gradient
            )
        return gradient


class _Dropout:
    """Sets values to zero at random, as ``nn.Dropout`` does, each network by its own generator."""

    def __init__(
        self,
        dropouts: Sequence[float],
        generators: Sequence[torch.Generator],
        shape: tuple[int, ...],
    ) -> None:
        self._mask = torch.ones(shape)
        masks = self._mask if len(shape) == 3 else self._mask[None]
        self._draws = [
            (mask, 1 - dropout, generator)
            for mask, dropout, generator in zip(masks, dropouts, generators, strict=True)
            if dropout
        ]
        factors = torch.tensor([1 / (1 - dropout) for dropout in dropouts])
        self._factors = factors[:, None, None] if len(shape) == 3 else factors

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        for mask, kept, generator in self._draws:
            mask.bernoulli_(kept, generator=generator)
        return X * self._mask.mul_(self._factors)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.mul_(self._mask)


def _linear(X: torch.Tensor, values: _Values, out: torch.Tensor | None) -> torch.Tensor:
    weight = values.weight.mT
    if values.bias is None:
        return torch.matmul(X, weight, out=out)
    if X.ndim == 2:
        return torch.addmm(values.bias, X, weight, out=out)
    return torch.baddbmm(values.bias, X, weight, out=out)


def _normalize(X: torch.Tensor, layer: Layer, values: _Values) -> torch.Tensor:
    """Normalise in place, as while predicting."""
    if isinstance(layer.norm, nn.BatchNorm1d):
        factor = values.scale * torch.rsqrt(values.variance + layer.norm.eps)
        return torch.addcmul(values.shift - values.mean * factor, X, factor, out=X)
    if isinstance(layer.norm, nn.LayerNorm):
        normal = torch.native_layer_norm(
            X, list(layer.norm.normalized_shape), None, None, layer.norm.eps
        )[0]
        return torch.addcmul(values.shift, normal, values.scale, out=X)
    return X


def _activate(activation: nn.Module, X: torch.Tensor) -> torch.Tensor:
    if isinstance(activation, nn.ReLU):
        return torch.clamp_min(X, 0)
    return activation(X)  # type: ignore[no-any-return]


def _tensors(chain: Chain) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """List the parameters of a chain, and its running statistics."""
    parameters: list[torch.Tensor] = []
    statistics: list[torch.Tensor] = []
    for layer in chain.layers:
        for part in (layer.linear, layer.norm):
            if part is not None:
                parameters += [part.weight] if part.bias is None else [part.weight, part.bias]
        if isinstance(layer.norm, nn.BatchNorm1d):
            assert layer.norm.running_mean is not None
            assert layer.norm.running_var is not None
            statistics += [layer.norm.running_mean, layer.norm.running_var]
    return parameters, statistics
