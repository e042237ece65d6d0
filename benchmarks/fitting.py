"""How long a step of a fit takes, beside the loops and libraries that do the same.

    python -m benchmarks.fitting --rounds 9 --batches 32 256 4096
    python -m benchmarks.fitting --plot rows.png      # one epoch of 100 to 10,000,000 rows

The network has two hidden layers of 64 values, with a batch normalisation each where the table says
so; Adam, cross entropy, float32, one thread for everybody, rows shuffled anew each epoch. Every way
fits the same network to the same rows for as many steps, without validation; what it costs is CPU
seconds a step, without what it takes to get ready. *By hand* is a loop of plain torch calls whose
backward pass is written out, the unit of the table. *Arithmetic* is what nobody can do without: the
matrix products with memory of their own, the least that activations and normalisations need, and
one fused step of Adam, all on one batch.

*Any module* is our loop with a module that it knows nothing of, *ours* the network that we ship.
scikit-learn has no batch normalisation: it is compared on a network without.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Aim, Report, Samples, Way, compare, cpu_seconds
from ml_project_template.modules import FullyConnected
from ml_project_template.training.fabric import make_fabric
from ml_project_template.training.loop import FitJob, fit, fit_together
from ml_project_template.training.reporting import History

INPUTS, HIDDEN, CLASSES = 16, 64, 3
BATCHES = (32, 256, 4096)
_LR = 1e-3

Normalization = Literal["batch"] | None


@dataclass(frozen=True)
class Task:
    """What each way does.

    Attributes:
        batch_size: Rows in a batch.
        n_steps: Steps of an epoch.
        normalization: That of the network.
        epochs: How many.
    """

    batch_size: int
    n_steps: int
    normalization: Normalization
    epochs: int = 2

    @property
    def steps(self) -> int:
        """The steps of the whole fit."""
        return self.n_steps * self.epochs

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the rows."""
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(self.batch_size * self.n_steps, INPUTS, generator=generator)
        return X, X[:, :CLASSES].argmax(dim=1)

    def module(self, seed: int = 0) -> FullyConnected:
        """Make the network."""
        torch.manual_seed(seed)
        return FullyConnected([INPUTS, HIDDEN, HIDDEN, CLASSES], "relu", self.normalization)


class AnyModule(nn.Module):
    """A network that is no chain of layers as far as anybody can see."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Map features to outputs."""
        outputs: torch.Tensor = self.net(X)
        return outputs


def _timed(task: Task, work: Callable[[], object]) -> float:
    started = cpu_seconds()
    work()
    return (cpu_seconds() - started) / task.steps


def _job(task: Task, module: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> FitJob:
    return FitJob(
        module,
        nn.CrossEntropyLoss(),
        data,
        max_epochs=task.epochs,
        batch_size=task.batch_size,
        seed=0,
        reporter=History(),
    )


def ours(task: Task) -> float:
    """The network that we ship, by the loop of this project."""
    job = _job(task, task.module(), task.data())
    fabric = make_fabric("cpu", "32-true")
    return _timed(task, lambda: fit(fabric, job))


def any_module(task: Task) -> float:
    """The same network in a module that the loop knows nothing of."""
    job = _job(task, AnyModule(task.module()), task.data())
    fabric = make_fabric("cpu", "32-true")
    return _timed(task, lambda: fit(fabric, job))


def by_hand(task: Task) -> float:
    """A loop of torch calls with the backward pass written out."""
    X, y = task.data()
    module = task.module()
    linears = [layer for layer in module.layers if isinstance(layer, nn.Linear)]
    norms = [layer for layer in module.layers if isinstance(layer, nn.BatchNorm1d)]
    parameters = [parameter.detach() for parameter in module.parameters()]
    update = _adam(parameters)
    (W1, b1), (W2, b2), (W3, b3) = (
        (linear.weight.detach(), linear.bias.detach()) for linear in linears
    )
    scales = [(n.weight.detach(), n.bias.detach(), n.running_mean, n.running_var) for n in norms]

    def normalize(Z: torch.Tensor, place: int) -> tuple[torch.Tensor, Any, Any]:
        if not scales:
            return Z, None, None
        found: tuple[torch.Tensor, Any, Any] = torch.native_batch_norm(
            Z, *scales[place], True, 0.1, 1e-5
        )
        return found

    def normalize_back(
        gradient: torch.Tensor, Z: torch.Tensor, place: int, mean: Any, inverse: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if not scales:
            return gradient, []
        scale, _, running_mean, running_var = scales[place]
        found, *own = torch.ops.aten.native_batch_norm_backward(
            *(gradient, Z, scale, running_mean, running_var, mean, inverse, True, 1e-5),
            [True, True, True],
        )
        return found, own

    def step(X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        Z1 = torch.addmm(b1, X, W1.t())
        N1, mean1, inverse1 = normalize(Z1, 0)
        H1 = torch.relu(N1)
        Z2 = torch.addmm(b2, H1, W2.t())
        N2, mean2, inverse2 = normalize(Z2, 1)
        H2 = torch.relu(N2)
        logs = torch.log_softmax(torch.addmm(b3, H2, W3.t()), 1)
        loss = -logs.gather(1, y[:, None]).mean()
        gradient = logs.exp()
        gradient.scatter_add_(1, y[:, None], gradient.new_full((1, 1), -1.0).expand(len(y), 1))
        gradient /= len(y)
        gW3, gb3 = gradient.t() @ H2, gradient.sum(0)
        gradient = torch.ops.aten.threshold_backward(gradient @ W3, N2, 0)
        gradient, own2 = normalize_back(gradient, Z2, 1, mean2, inverse2)
        gW2, gb2 = gradient.t() @ H1, gradient.sum(0)
        gradient = torch.ops.aten.threshold_backward(gradient @ W2, N1, 0)
        gradient, own1 = normalize_back(gradient, Z1, 0, mean1, inverse1)
        gW1, gb1 = gradient.t() @ X, gradient.sum(0)
        update([gW1, gb1, *own1, gW2, gb2, *own2, gW3, gb3])
        return loss

    def epochs() -> None:
        for _ in range(task.epochs):
            order = torch.randperm(len(X))
            shuffled, targets = X[order], y[order]
            total = torch.zeros(())
            for start in range(0, len(X), task.batch_size):
                stop = start + task.batch_size
                total += step(shuffled[start:stop], targets[start:stop])
            float(total)

    return _timed(task, epochs)


def _adam(parameters: list[torch.Tensor]) -> Callable[[list[torch.Tensor]], None]:
    first = [torch.zeros_like(parameter) for parameter in parameters]
    second = [torch.zeros_like(parameter) for parameter in parameters]
    counts = [torch.zeros(()) for _ in parameters]

    def update(gradients: list[torch.Tensor]) -> None:
        torch._foreach_add_(counts, 1)
        torch._fused_adam_(
            *(parameters, gradients, first, second, [], counts),
            lr=_LR,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    return update


def arithmetic(task: Task) -> float:
    """What no way can do without."""
    rows = task.batch_size
    widths = [INPUTS, HIDDEN, HIDDEN, CLASSES]
    X = [torch.randn(rows, width) for width in widths]
    G = [torch.randn(rows, width) for width in widths]
    W = [torch.randn(out, into) for into, out in itertools.pairwise(widths)]
    gW = [torch.empty_like(w) for w in W]
    n_numbers = sum(parameter.numel() for parameter in task.module().parameters())
    update = _adam([torch.randn(n_numbers)])
    gradient = [torch.randn(n_numbers)]
    factor = torch.randn(HIDDEN)

    def step() -> None:
        for layer, w in enumerate(W):
            torch.mm(X[layer], w.t(), out=X[layer + 1])
            if layer < len(W) - 1:
                if task.normalization:
                    torch.mul(X[layer + 1], factor, out=X[layer + 1])
                torch.clamp_min(X[layer + 1], 0, out=X[layer + 1])
        for layer in reversed(range(len(W))):
            torch.mm(G[layer + 1].t(), X[layer], out=gW[layer])
            if layer:
                torch.mm(G[layer + 1], W[layer], out=G[layer])
                torch.mul(G[layer], X[layer], out=G[layer])
                if task.normalization:
                    torch.mul(G[layer], factor, out=G[layer])
                # Or the numbers leave what floats can hold.
                G[layer].clamp_(-1, 1)
        update(gradient)

    def all_steps() -> None:
        for _ in range(task.steps):
            step()

    return _timed(task, all_steps)


def _eager(
    task: Task,
    batches: Callable[[], Iterable[Sequence[torch.Tensor]]],
    module: nn.Module,
    optimizer: Any,
    backward: Callable[[torch.Tensor], object],
) -> float:
    loss_function = nn.CrossEntropyLoss()

    def epochs() -> None:
        for _ in range(task.epochs):
            for X, y in batches():
                optimizer.zero_grad()
                backward(loss_function(module(X), y))
                optimizer.step()

    return _timed(task, epochs)


def slicing(task: Task) -> float:
    """A plain loop over slices of shuffled tensors, with fused Adam."""
    X, y = task.data()
    module = task.module()

    def batches() -> Iterable[Sequence[torch.Tensor]]:
        order = torch.randperm(len(X))
        return zip(
            torch.split(X[order], task.batch_size),
            torch.split(y[order], task.batch_size),
            strict=True,
        )

    optimizer = torch.optim.Adam(module.parameters(), lr=_LR, fused=True)
    return _eager(task, batches, module, optimizer, torch.Tensor.backward)


def _loader(task: Task) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*task.data()), batch_size=task.batch_size, shuffle=True)


def data_loader(task: Task) -> float:
    """The loop of the tutorials: a DataLoader, and Adam as it comes."""
    loader, module = _loader(task), task.module()
    optimizer = torch.optim.Adam(module.parameters(), lr=_LR)
    return _eager(task, lambda: loader, module, optimizer, torch.Tensor.backward)


def fabric_loader(task: Task) -> float:
    """The loop of the documentation of Lightning Fabric."""
    fabric = make_fabric("cpu", "32-true")
    loader, module = _loader(task), task.module()
    optimizer = torch.optim.Adam(module.parameters(), lr=_LR)
    wrapped, wrapped_optimizer = fabric.setup(module, optimizer)
    batches: Any = fabric.setup_dataloaders(loader)
    return _eager(task, lambda: batches, wrapped, wrapped_optimizer, fabric.backward)


def lightning_trainer(task: Task) -> float:
    """Lightning's Trainer with all that can be left out left out."""
    import lightning

    times: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.module()
            self.loss = nn.CrossEntropyLoss()

        def training_step(self, batch: Sequence[torch.Tensor], _: int) -> torch.Tensor:
            loss: torch.Tensor = self.loss(self.net(batch[0]), batch[1])
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=_LR)

        def on_train_start(self) -> None:
            times.append(cpu_seconds())

        def on_train_end(self) -> None:
            times.append(cpu_seconds())

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=task.epochs, barebones=True)
        trainer.fit(Module(), _loader(task))
    return (times[-1] - times[0]) / task.steps


def skorch(task: Task) -> float:
    """The scikit-learn interface of PyTorch."""
    from skorch import NeuralNetClassifier  # type: ignore[import-untyped]
    from skorch.callbacks import Callback  # type: ignore[import-untyped]

    times: list[float] = []

    class Times(Callback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(cpu_seconds())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            times.append(cpu_seconds())

    X, y = (tensor.numpy() for tensor in task.data())
    net = NeuralNetClassifier(
        task.module(),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=_LR,
        max_epochs=task.epochs,
        batch_size=task.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        callbacks=[Times()],
    )
    net.fit(X, y)
    return (times[-1] - times[0]) / task.steps


def scikit_learn(task: Task) -> float:
    """scikit-learn's own network, in float32 as all others."""
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    X, y = (tensor.numpy() for tensor in task.data())
    model = MLPClassifier(
        (HIDDEN, HIDDEN),
        alpha=0.0,
        batch_size=task.batch_size,
        learning_rate_init=_LR,
        max_iter=task.epochs,
        n_iter_no_change=task.epochs + 1,
        random_state=0,
    )
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        return _timed(task, lambda: model.fit(X, y))


NORMALIZED: dict[str, Callable[[Task], float]] = {
    "by hand": by_hand,
    "arithmetic": arithmetic,
    "ours": ours,
    "any module": any_module,
    "slicing": slicing,
    "DataLoader": data_loader,
    "Fabric, DataLoader": fabric_loader,
    "skorch": skorch,
    "lightning.Trainer": lightning_trainer,
}
PLAIN: dict[str, Callable[[Task], float]] = {
    "by hand": by_hand,
    "arithmetic": arithmetic,
    "ours": ours,
    "any module": any_module,
    "scikit-learn": scikit_learn,
}
# Steps of an epoch for each number of rows in a batch, so that each table takes as long.
_STEPS = {32: 200, 256: 80, 4096: 8}


def _steps(batch_size: int, scale: float) -> int:
    nearest = min(_STEPS, key=lambda size: abs(np.log(size / batch_size)))
    return max(2, round(_STEPS[nearest] * scale))


def _samples(ways: dict[str, Callable[[Task], float]], task: Task, rounds: int) -> Samples:
    def bound(way: Callable[[Task], float]) -> Callable[[], float]:
        return lambda: way(task)

    return compare([Way(name, bound(way)) for name, way in ways.items()], rounds=rounds)


def measure_steps(batches: Sequence[int], rounds: int, scale: float) -> list[Report]:
    """Compare the steps of all ways."""
    reports = []
    for title, normalization, ways in (
        ("with batch normalisation", "batch", NORMALIZED),
        ("without normalisation", None, PLAIN),
    ):
        report = Report(
            "fitting",
            f"A step of {INPUTS}-{HIDDEN}-{HIDDEN}-{CLASSES} {title}, times that by hand",
            ["way", *(f"batch {size}" for size in batches)],
            notes=["by hand = 1; microseconds of CPU in the last row"],
        )
        found: dict[int, Samples] = {}
        for size in batches:
            task = Task(size, _steps(size, scale), normalization)  # type: ignore[arg-type]
            found[size] = _samples(ways, task, rounds)
            report.samples[str(size)] = found[size].costs
        for name in ways:
            report.rows.append([name, *(found[size].ratio(name, "by hand") for size in batches)])
        microseconds = [1e6 * found[size].median("by hand") for size in batches]
        report.rows.append(["by hand, µs", *microseconds])
        report.aims = _aims(found, plain=normalization is None)
        reports.append(report)
    return reports


def _aims(found: dict[int, Samples], *, plain: bool) -> list[Aim]:
    aims = []
    for size, samples in found.items():
        if plain:
            ratio = samples.ratio("scikit-learn", "ours")
            aims.append(Aim(f"batch {size}: scikit-learn, times ours", ratio, 1.0, at_least=True))
            if size == 256:
                ratio = samples.ratio("ours", "arithmetic")
                aims.append(Aim("batch 256: ours, times the arithmetic", ratio, 3.0))
            continue
        if size in (32, 4096):
            limit = 2.0 if size == 32 else 1.1
            ratio = samples.ratio("any module", "by hand")
            aims.append(Aim(f"batch {size}: any module, times by hand", ratio, limit))
        if size == 256:
            ratio = samples.ratio("ours", "arithmetic")
            aims.append(Aim("batch 256, normalised: ours, times the arithmetic", ratio, 3.0))
        for peer, limit in (("DataLoader", 2.5), ("lightning.Trainer", 5.0)):
            for mine in ("any module", "ours"):
                ratio = samples.ratio(peer, mine)
                aims.append(Aim(f"batch {size}: {peer}, times {mine}", ratio, limit, at_least=True))
    return aims


def measure_together(
    batches: Sequence[int], numbers: Sequence[int], rounds: int, scale: float
) -> Report:
    """Compare fits in one go with the same fits one after the other."""
    report = Report(
        "fitting",
        "Fits one after the other, times the same fits in one go (batch normalisation)",
        ["fits", *(f"batch {size}" for size in batches)],
    )
    fabric = make_fabric("cpu", "32-true")
    for number in numbers:
        row: list[Any] = [str(number)]
        for size in batches:
            task = Task(size, max(_steps(size, scale) // number, 2), "batch")
            data = task.data()

            def jobs(task: Task = task, data: Any = data, number: int = number) -> list[FitJob]:
                return [_job(task, task.module(seed), data) for seed in range(number)]

            def alone(jobs: Callable[[], list[FitJob]] = jobs) -> None:
                for job in jobs():
                    fit(fabric, job)

            def together(jobs: Callable[[], list[FitJob]] = jobs) -> None:
                fit_together(fabric, jobs())

            samples = compare([Way("alone", alone), Way("together", together)], rounds=rounds)
            report.samples[f"{number} at {size}"] = samples.costs
            row.append(samples.ratio("alone", "together"))
        report.rows.append(row)
    return report


def measure(
    batches: Sequence[int] = BATCHES,
    *,
    numbers: Sequence[int] = (4, 16),
    rounds: int = 5,
    scale: float = 1.0,
) -> list[Report]:
    """Run the comparison.

    Args:
        batches: Rows in a batch.
        numbers: How many fits are done in one go.
        rounds: How often each way is run.
        scale: Of the number of steps.

    Returns:
        A table of steps with batch normalisation, one without, and one of fits in one go.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            *measure_steps(batches, rounds, scale),
            measure_together(batches, numbers, rounds, scale),
        ]
    finally:
        torch.set_num_threads(before)


def plot(path: Path, most_rows: int) -> None:
    """Draw the seconds of one epoch over the number of rows.

    Args:
        path: The PNG file.
        most_rows: The largest number of rows.
    """
    from matplotlib.figure import Figure

    rows = [10**power for power in range(2, 9) if 10**power <= most_rows]
    ways = {"ours": ours, "any module": any_module, "DataLoader": data_loader}
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, way in ways.items():
        # What is ten times slower is seen as well from a tenth of the rows.
        own = [n for n in rows if name == "ours" or n <= most_rows // 10]
        seconds = []
        for n_rows in own:
            task = Task(min(256, n_rows), max(n_rows // 256, 1), "batch", epochs=1)
            seconds.append(way(task) * task.steps)
            print(f"  {name}: {n_rows} rows, {seconds[-1]:.3g} s", file=sys.stderr, flush=True)
        axes.loglog(own, seconds, marker="o", label=name)
    torch.set_num_threads(before)
    axes.set(xlabel="rows", ylabel="CPU seconds of an epoch", title="Batches of 256 rows")
    axes.legend()
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--numbers", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--plot", type=Path, help="draw an epoch over the rows into this PNG")
    parser.add_argument("--most-rows", type=int, default=10**7, help="of the plot")
    options = parser.parse_args(arguments)
    if options.plot:
        plot(options.plot, options.most_rows)
        return 0
    reports = measure(
        options.batches, numbers=options.numbers, rounds=options.rounds, scale=options.scale
    )
    print("\n\n".join(map(str, reports)))
    if options.json:
        import json

        found = [report.to_dict() for report in reports]
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
