"""The fit of chains of layers, one or several in one go; see `DenseStack`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ml_project_template.errors import DivergenceError
from ml_project_template.training.batches import BLOCK_ROWS, batch_bounds, blocks_of, row_order
from ml_project_template.training.chain import Chain, chain_of, has_hooks
from ml_project_template.training.checkpoints import FitState, below, check_kind, found_below
from ml_project_template.training.dense import DenseStack, TrainPass
from ml_project_template.training.dense_losses import DenseLoss, LossKind, loss_kind_of
from ml_project_template.training.fused_optimizers import FlatOptimizer
from ml_project_template.training.jobs import Course, FitJob, FitResult
from ml_project_template.training.optimization import OptimizerSettings

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["DenseJob", "dense_job", "fit_dense"]

_KIND = "with its derivatives written out"


@dataclass(frozen=True)
class DenseJob:
    """A job whose derivatives are written out here.

    Attributes:
        job: The job.
        chain: Its module.
        loss: Its loss.
        optimizer: The settings of its optimizer.
    """

    job: FitJob
    chain: Chain
    loss: LossKind
    optimizer: OptimizerSettings

    @property
    def key(self) -> Hashable:
        """What jobs must have in common to be fitted in one go.

        They may differ in their rows, as long as they have the same number of batches.
        """
        return (
            self.chain.shape,
            self.loss.key,
            self.optimizer.name,
            self.job.batch_size,
            len(batch_bounds(len(self.job.train[0]), self.job.batch_size)),
            self.job.val is None,
        )


def dense_job(fabric: Fabric, job: FitJob) -> DenseJob | None:
    """Read a job, if all of it is written out here.

    Args:
        fabric: Where the fit runs, and in which precision.
        job: The job.

    Returns:
        What it is; None if it is for autograd.
    """
    from lightning.fabric.plugins.precision import Precision

    optimizer = job.optimizer
    if fabric.device.type != "cpu" or fabric.world_size > 1:
        return None
    # The class itself: a subclass is another arithmetic.
    if type(fabric.strategy.precision) is not Precision:
        return None
    if not isinstance(optimizer, OptimizerSettings) or not len(job.train[0]):
        return None
    splits = [job.train] if job.val is None else [job.train, job.val]
    if any(X.dtype != torch.float32 or X.ndim != 2 or X.device.type != "cpu" for X, _ in splits):
        return None
    if any(not len(X) or X.requires_grad for X, _ in splits):
        return None
    if isinstance(job.loss_function, torch.nn.Module) and has_hooks(job.loss_function.modules()):
        return None
    chain = chain_of(job.module)
    if chain is None:
        return None
    (_, y), *others = splits
    width = chain.layers[-1].linear.out_features
    loss = loss_kind_of(job.loss_function, y, width, *(targets for _, targets in others))
    if loss is None or (chain.encoder is None and not _fits(chain, splits)):
        return None
    return DenseJob(job, chain, loss, optimizer)


def _fits(chain: Chain, splits: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return all(X.shape[1] == chain.layers[0].linear.in_features for X, _ in splits)


def fit_dense(jobs: Sequence[DenseJob]) -> list[FitResult | Exception]:
    """Fit jobs in one go.

    Args:
        jobs: Jobs of the same `DenseJob.key`.

    Returns:
        For each job how it ended, or what it raised.
    """
    members = [_Member(dense, place) for place, dense in enumerate(jobs)]
    # Jobs of as many rows stand side by side: a last batch of another length is a step of its own.
    members.sort(key=lambda member: (member.n_rows, member.n_val_rows))
    fit = _Fit(members)
    keeper = fit.keeper
    results: dict[int, FitResult | Exception] = {}
    with contextlib.nullcontext() if keeper is None else keeper.watching():
        try:
            if keeper is not None and keeper.state is not None:
                fit.restore(keeper.state)
            while members:
                results |= fit.go_on()
                members = [member for member in members if member.place not in results]
                fit = fit.without_ended(members)
        except BaseException:
            for index in range(len(members)):
                fit.write_back(index)
            raise
    return [results[place] for place in range(len(jobs))]


class _Member:
    """A job among those that are fitted."""

    def __init__(self, dense: DenseJob, place: int) -> None:
        self.dense = dense
        self.place = place
        self.job = dense.job
        self.n_rows = len(self.job.train[0])
        self.n_val_rows = 0 if self.job.val is None else len(self.job.val[0])
        self.course = Course(self.job, dense.optimizer.lr)
        self.order = torch.Generator().manual_seed(self.job.seed)
        self.dropout = torch.Generator().manual_seed(self.job.dropout_seed)
        self.bounds = batch_bounds(self.n_rows, self.job.batch_size)
        self.dropouts = [layer.dropout for layer in dense.chain.layers]
        self.metrics: dict[str, float] = {}
        self.encode: Callable[[torch.Tensor], torch.Tensor] = dense.chain.encoder or _as_it_is
        self.encoded: tuple[torch.Tensor, torch.Tensor | None] | None = None
        # Rows that fit into a block are encoded once, others block by block.
        if dense.chain.encoder is not None and self.n_rows + self.n_val_rows <= BLOCK_ROWS:
            with torch.no_grad():
                val = None if self.job.val is None else self.encode(self.job.val[0])
                self.encoded = (self.encode(self.job.train[0]), val)
            self.encode = _as_it_is

    @property
    def features(self) -> torch.Tensor:
        return self.job.train[0] if self.encoded is None else self.encoded[0]

    @property
    def val_features(self) -> torch.Tensor:
        assert self.job.val is not None
        if self.encoded is None:
            return self.job.val[0]
        assert self.encoded[1] is not None
        return self.encoded[1]


class _Fit:
    """The stack of the jobs that go on, until one of them ends.

    Args:
        members: These jobs.
        before: What they come from.
        kept: Which of those these are.
    """

    def __init__(
        self,
        members: Sequence[_Member],
        before: _Fit | None = None,
        kept: Sequence[int] = (),
    ) -> None:
        self._members = members
        self._steps = len(members[0].bounds)
        self.keeper = members[0].job.checkpoints if len(members) == 1 else None
        # Batches of the epoch that are done, and the generator of its order before it drew that.
        self._first = 0
        self._order = members[0].order.get_state()
        chains = [member.dense.chain for member in members]
        with torch.no_grad():
            stack = DenseStack(chains) if before is None else before._stack.select(kept)
            self._stack: DenseStack = stack
            self._kept = stack.state.clone()
            self._optimizer = FlatOptimizer(
                stack.parameters,
                stack.gradients,
                [member.dense.optimizer for member in members],
                stack.owner if len(members) > 1 else None,
            )
            if before is not None:
                places = before._stack.places(kept)
                torch.index_select(before._kept, 0, places, out=self._kept)
                self._optimizer.copy_state(before._optimizer, places[: len(stack.parameters)])
                self.set_rates()
        self._state_views = stack.views(stack.state)
        self._kept_views = stack.views(self._kept)
        norms = [member.job.gradient_clip_norm for member in members]
        self._max_norms: torch.Tensor | None = None
        if any(norm is not None for norm in norms):
            self._max_norms = torch.tensor([torch.inf if n is None else n for n in norms])
        self._passes: dict[tuple[int, int, int], TrainPass] = {}
        self._blocks = blocks_of(members[-1].bounds, max(BLOCK_ROWS // len(members), 1))
        self._totals = torch.zeros(len(members))
        self._losses: dict[tuple[int, int], DenseLoss] = {}
        self._val_groups = [] if members[0].job.val is None else self._group_validation()

    def go_on(self) -> dict[int, FitResult | Exception]:
        """Train for an epoch, or for what is left of it.

        Returns:
            How those jobs ended that did, by their places; their modules have their weights.
        """
        members = self._members
        # Gone on with after its last epoch, a fit has ended.
        if not members[0].course.ended:
            self.train_epoch()
            self.validate()
        results: dict[int, FitResult | Exception] = {}
        for index, member in enumerate(members):
            try:
                if member.course.ended or self.end_epoch(index):
                    results[member.place] = member.course.result()
            except Exception as error:
                results[member.place] = error
        self.set_rates()
        keeper, first = self.keeper, members[0]
        failed = isinstance(results.get(first.place), Exception)
        if keeper is not None and not failed and keeper.due(first.course.epoch):
            keeper.save(self.state(0))
            keeper.obey()
        for index, member in enumerate(members):
            if member.place in results:
                result = results[member.place]
                self.write_back(index, diverged=isinstance(result, DivergenceError))
        return results

    def without_ended(self, members: Sequence[_Member]) -> _Fit:
        """Give a stack of those jobs alone that go on."""
        if not members or len(members) == len(self._members):
            return self
        kept = [index for index, member in enumerate(self._members) if member in members]
        return _Fit(members, self, kept)

    def state(self, step: int) -> FitState:
        """Tell all that a single fit goes on from.

        Args:
            step: Batches of this epoch that are done; 0 between two epochs.
        """
        (member,) = self._members
        tensors = {
            "weights": self._stack.state,
            "kept": self._kept,
            "total": self._totals,
            # Between two epochs the order is that of the next one.
            "order": self._order if step else member.order.get_state(),
            "dropout": member.dropout.get_state(),
        }
        tensors |= below("optimizer", self._optimizer.state())
        return FitState(_KIND, {"course": member.course.state(), "step": step}, tensors)

    def restore(self, state: FitState) -> None:
        """Go on from what `state` told.

        Raises:
            ConfigError: It is of a fit that was computed otherwise.
        """
        check_kind(state, _KIND)
        (member,) = self._members
        tensors = state.tensors
        member.course.restore(state.numbers["course"])
        self._first = state.numbers["step"]
        with torch.no_grad():
            self._stack.state.copy_(tensors["weights"])
            self._kept.copy_(tensors["kept"])
            self._totals.copy_(tensors["total"])
            self._optimizer.restore(found_below("optimizer", tensors))
        member.order.set_state(tensors["order"])
        member.dropout.set_state(tensors["dropout"])
        self.set_rates()

    def set_rates(self) -> None:
        self._optimizer.set_rates([member.course.schedule.lr for member in self._members])

    @torch.no_grad()
    def train_epoch(self) -> None:
        members, keeper = self._members, self.keeper
        first_step, self._first = self._first, 0
        if not first_step:
            self._totals.zero_()
            for member in members:
                member.course.epoch += 1
        if keeper is not None:
            self._order = members[0].order.get_state()
        orders = [
            row_order(member.job.train[0], member.order) if self._steps > 1 else None
            for member in members
        ]
        step = 0
        for block in self._blocks:
            left_out = min(max(first_step - step, 0), len(block))
            step += left_out
            block = block[left_out:]
            if not block:
                continue
            first, last = block[0][0], block[-1][1]
            X, y = self._gather(orders, first, last)
            for start, _ in block:
                for low, high, stop in self._groups(step):
                    begin, end = start - first, stop - first
                    if len(members) == 1:
                        batch = X[begin:end], y[begin:end]
                    elif high - low == 1:
                        batch = X[low, begin:end], y[low, begin:end]
                    else:
                        batch = X[low:high, begin:end], y[low:high, begin:end]
                    losses = self._pass(low, high, end - begin)(*batch)
                    totals = self._totals
                    if high - low < len(members):
                        totals = totals[low:high]
                    totals.add_(losses, alpha=end - begin)
                if self._max_norms is not None:
                    self._stack.clip(self._max_norms)
                self._optimizer.step()
                step += 1
                # At the end of an epoch it is asked after all that belongs to it.
                if keeper is not None and step < self._steps and keeper.due():
                    keeper.save(self.state(step))
                    keeper.obey()
            if len(members) == 1 and not self._totals.isfinite():
                # Several go on until they are judged, each by itself.
                break
        for member, total in zip(members, self._totals.tolist(), strict=True):
            member.metrics = {"train_loss": total / member.n_rows}

    @torch.no_grad()
    def validate(self) -> None:
        for low, high, X, y in self._val_groups:
            first = self._members[low]
            encode = first.encode if X is None else _as_it_is
            chunks = [
                self._stack.outputs(low, high, encode(rows))
                for rows in torch.split(first.val_features if X is None else X, BLOCK_ROWS, dim=-2)
            ]
            outputs = torch.cat(chunks, dim=-2) if len(chunks) > 1 else chunks[0]
            found = {"loss": self._loss(low, high).value(outputs, y)}
            metrics = first.job.val_metrics
            if metrics is not None:
                found |= metrics(outputs, y)
            shape = (high - low,) if high - low > 1 else ()
            for name, values in found.items():
                if values.shape != shape and metrics is not None:
                    # It takes the outputs of one fit only.
                    values = torch.stack(
                        [metrics(outputs[k], y[k])[name] for k in range(high - low)]
                    )
                numbers = values.reshape(-1).tolist()
                for member, number in zip(self._members[low:high], numbers, strict=True):
                    member.metrics[f"val_{name}"] = number

    def end_epoch(self, index: int) -> bool:
        """Report the epoch of a job.

        Returns:
            Whether the job has ended.
        """
        member = self._members[index]
        member.course.check(member.metrics)
        now = [view[index] for view in self._state_views]
        if member.course.is_good(member.metrics, lambda: _are_finite(now)):
            torch._foreach_copy_([view[index] for view in self._kept_views], now)
        member.course.end_epoch(member.metrics)
        return member.course.ended

    def write_back(self, index: int, *, diverged: bool = False) -> None:
        """Give a job's module its best weights, or those it has now.

        Args:
            index: Which job.
            diverged: Give it the last weights that were good, if there are any.
        """
        course = self._members[index].course
        from_kept = (course.keeps_best or diverged) and course.good_epoch > 0
        epochs = course.good_epoch if from_kept else course.epoch
        with torch.no_grad():
            self._stack.write_back(
                index, self._kept if from_kept else self._stack.state, epochs * self._steps
            )
        self._members[index].job.module.eval()

    def _groups(self, step: int) -> list[tuple[int, int, int]]:
        """Find whose batches are of one length in a step: first, last and where they stop."""
        if step < self._steps - 2 or len(self._members) == 1:
            return [(0, len(self._members), self._members[0].bounds[step][1])]
        stops = [member.bounds[step][1] for member in self._members]
        found, low = [], 0
        for stop, group in itertools.groupby(stops):
            high = low + len(list(group))
            found.append((low, high, stop))
            low = high
        return found

    def _pass(self, low: int, high: int, rows: int) -> TrainPass:
        key = (low, high, rows)
        if key not in self._passes:
            members = self._members
            self._passes[key] = TrainPass(
                self._stack,
                low,
                high,
                rows,
                self._loss(low, high),
                list(zip(*(member.dropouts for member in members), strict=True)),
                [member.dropout for member in members],
            )
        return self._passes[key]

    def _loss(self, low: int, high: int) -> DenseLoss:
        if (low, high) not in self._losses:
            self._losses[low, high] = DenseLoss([m.dense.loss for m in self._members[low:high]])
        return self._losses[low, high]

    def _gather(
        self, orders: Sequence[torch.Tensor | None], first: int, last: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the rows of a block, in the order of each job.

        Returns:
            Features and targets, with a dimension of jobs in front if there are several. A job
            with fewer rows than others has its first rows once more at the end: nobody reads them.
        """
        found_X, found_y = [], []
        for member, order in zip(self._members, orders, strict=True):
            y = member.job.train[1]
            X = member.features
            if order is not None:
                rows = order[first:last]
                X, y = X.index_select(0, rows), y.index_select(0, rows)
            found_X.append(member.encode(X))
            found_y.append(y)
        if len(found_X) == 1:
            return found_X[0], found_y[0]
        longest = max(map(len, found_y))
        return (
            torch.stack([_filled(X, longest) for X in found_X]),
            torch.stack([_filled(y, longest) for y in found_y]),
        )

    def _group_validation(self) -> list[tuple[int, int, torch.Tensor | None, torch.Tensor]]:
        """Say which jobs are judged at once: first, last, features (None: their own), targets."""
        found: list[tuple[int, int, torch.Tensor | None, torch.Tensor]] = []
        low = 0
        keys = (
            (m.n_val_rows if m.n_val_rows <= BLOCK_ROWS else -m.place - 1, m.job.val_metrics)
            for m in self._members
        )
        for _, group in itertools.groupby(keys):
            high = low + len(list(group))
            members = self._members[low:high]
            targets = [member.job.val[1] for member in members if member.job.val is not None]
            if high - low == 1:
                found.append((low, high, None, targets[0]))
            else:
                features = [member.encode(member.val_features) for member in members]
                found.append((low, high, _stacked(features), _stacked(targets)))
            low = high
        return found


def _are_finite(tensors: Sequence[torch.Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _as_it_is(X: torch.Tensor) -> torch.Tensor:
    return X


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors; those that are the same one need no memory more."""
    if len({tensor.data_ptr() for tensor in tensors}) == 1:
        return tensors[0].expand(len(tensors), *tensors[0].shape)
    return torch.stack(list(tensors))


def _filled(tensor: torch.Tensor, n_rows: int) -> torch.Tensor:
    missing = n_rows - len(tensor)
    return tensor if not missing else torch.cat([tensor, tensor[:missing]])
