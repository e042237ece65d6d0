"""Checkpoints of a fit: all that it needs to go on as if it had never been stopped.

A checkpoint is one safetensors file: the tensors of the fit, and in the header, as JSON, its
numbers, what training it is of, and a digest. It is written whole or not at all, and it holds no
code: what is read from it are numbers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, cast

import numpy as np
from pydantic import Field

from ml_project_template.errors import ArtifactError, ConfigError
from ml_project_template.utils import io
from ml_project_template.utils.directories import held
from ml_project_template.utils.signals import StopRequest, stopping_on_request

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = [
    "CheckpointSettings",
    "Checkpoints",
    "FitState",
    "Keeper",
    "Resume",
    "below",
    "beside",
    "check_kind",
    "found_below",
    "open_checkpoints",
    "random_state",
    "restore_random_state",
]

Resume = bool | Literal["auto"]

_FOLDER = ".checkpoints"
_FILE = "fit.safetensors"
_FORMAT_VERSION = "1"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointSettings:
    """Where the checkpoints of a training are kept, and how often.

    One is also written when the process is asked to stop, by Ctrl-C, SIGTERM or SIGHUP. A training
    that comes to its end removes its checkpoint.

    Attributes:
        path: A directory of its own, local or remote; None is ``.checkpoints/<name>`` beside the
            model directory, and none where there is no such directory.
        every_epochs: Write one at the end of each so many epochs; None at none.
        every_minutes: Write one when so many minutes have passed, also within an epoch; None never.
        resume: True goes on from the checkpoint, ``auto`` does so if there is one.
    """

    path: str | None = None
    every_epochs: Annotated[int, Field(gt=0)] | None = None
    every_minutes: Annotated[float, Field(gt=0)] | None = 5.0
    resume: Resume = False


@dataclass(frozen=True)
class FitState:
    """Where a fit is.

    Attributes:
        kind: How it is computed, and on what: only the same can go on with it.
        numbers: Plain JSON.
        tensors: By name; on any device.
    """

    kind: str
    numbers: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(repr=False)


class Keeper(Protocol):
    """What a fit asks whether to keep its state, and gives that to."""

    @property
    def state(self) -> FitState | None:
        """Where to go on from; None begins anew."""

    @property
    def is_asked(self) -> bool:
        """Whether somebody has asked to stop."""

    def due(self, epoch: int | None = None) -> bool:
        """Say whether to write now.

        Args:
            epoch: The epoch that has just ended; None within one.
        """

    def save(self, state: FitState) -> None:
        """Keep a state."""

    def obey(self) -> None:
        """Raise what asked to stop, if anything did."""

    def watching(self) -> contextlib.AbstractContextManager[object]:
        """Have those who ask to stop wait for the next time that `due` is asked."""


class Checkpoints:
    """The checkpoints of one training; made by `open_checkpoints`.

    Attributes:
        path: The directory.
        state: Where the fit is to go on from; None begins anew.
        run_id: The tracker's run of the training that is gone on with; then that of this one.
        history: What its fit reported until then.
    """

    def __init__(
        self,
        path: str,
        settings: CheckpointSettings,
        identity: Callable[[], Mapping[str, Any]],
        storage_options: Mapping[str, Any] | None,
    ) -> None:
        self.path = path
        self.state: FitState | None = None
        self.run_id: str | None = None
        self.history: list[dict[str, float]] = []
        self._settings = settings
        # It reads through the targets of all rows, and does not change.
        self._identity = functools.cache(identity)
        self._storage_options = storage_options
        self._seed: int | None = None
        self._request = StopRequest()
        self._written_at = time.monotonic()
        self._exists = False

    def seed(self, drawn: int) -> int:
        """Give the seed of the training that is gone on with, where nobody has named one.

        Args:
            drawn: That of a new training; it is kept.
        """
        self._seed = drawn if self._seed is None else self._seed
        return self._seed

    def due(self, epoch: int | None = None) -> bool:
        """Say whether to write now; see `Keeper.due`."""
        if self.is_asked:
            return True
        settings = self._settings
        if settings.every_minutes is not None:
            passed = time.monotonic() - self._written_at
            if passed >= settings.every_minutes * 60:
                return True
        return (
            epoch is not None
            and settings.every_epochs is not None
            and epoch % settings.every_epochs == 0
        )

    def save(self, state: FitState) -> None:
        """Write a checkpoint in the place of the one before.

        Where that does not work, a line says so, and the fit goes on.
        """
        record = {
            "training": self._identity(),
            "run_id": self.run_id,
            "seed": self._seed,
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "history": self.history,
            "fit": {"kind": state.kind, "numbers": state.numbers},
        }
        where = f"epoch {state.numbers['course']['epoch']}"
        try:
            self._write(record, state.tensors)
        except (OSError, TypeError, ValueError) as error:
            # An optimizer of somebody's own may have a state that is no numbers.
            _logger.warning("No checkpoint of %s in '%s': %s", where, self.path, error)
        else:
            self._exists = True
            if self.is_asked:
                _logger.warning(
                    "Stopped in %s. The checkpoint is in '%s': the same command with resume=true "
                    "goes on from it.",
                    where,
                    self.path,
                )
        self._written_at = time.monotonic()

    def obey(self) -> None:
        """Do what the signal does that asked to stop, if there was one."""
        self._request.obey()

    @property
    def is_asked(self) -> bool:
        """Whether the process was asked to stop while the fit is watched."""
        return self._request.asked is not None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Have those who ask to stop wait for the next time that ``due`` is asked."""
        self._written_at = time.monotonic()
        with stopping_on_request() as request:
            self._request = request
            try:
                yield
            finally:
                self._request = StopRequest()

    def remove(self) -> None:
        """Remove the checkpoint: the training has come to its end."""
        if not self._exists:
            return
        try:
            io.remove_tree(io.join(self.path, _FILE), self._storage_options)
        except OSError as error:
            _logger.warning("The checkpoint in '%s' could not be removed: %s", self.path, error)
        self._exists = False

    def _write(self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        from safetensors.torch import save

        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(record)
        header = {
            "format_version": _FORMAT_VERSION,
            "record": text,
            "sha256": _digest(text, plain),
        }
        content = save(plain, header)
        io.write_bytes(io.join(self.path, _FILE), content, self._storage_options)

    def _read(self) -> None:
        """Take over the checkpoint that is there.

        Raises:
            ArtifactError: It is damaged.
            ConfigError: It is of another training.
        """
        record, tensors = _read_file(self.path, self._storage_options)
        differences = _differences(record["training"], json.loads(json.dumps(self._identity())))
        if differences:
            raise ConfigError(
                f"resume: the checkpoint in '{self.path}' is of another training: "
                f"{'; '.join(differences)}. Set that back, or begin anew with resume=false."
            )
        self.state = FitState(record["fit"]["kind"], record["fit"]["numbers"], tensors)
        self.run_id, self._seed = record["run_id"], record["seed"]
        self.history = record["history"]
        self._exists = True
        _logger.info(
            "Going on in epoch %d, from the checkpoint of %s.",
            self.state.numbers["course"]["epoch"],
            record["written_at"],
        )


@contextlib.contextmanager
def open_checkpoints(
    settings: CheckpointSettings,
    model_path: str | None,
    identity: Callable[[], Mapping[str, Any]],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Checkpoints | None]:
    """Have the checkpoints of a training for a block, and nobody else meanwhile.

    Args:
        settings: Where and how often.
        model_path: The model directory of the training; None if it has none.
        identity: Says what makes the training, as plain JSON: only the same one can be resumed.
        storage_options: For a remote directory.

    Yields:
        The checkpoints; None where there is no place for them, or another training has it. They
        are removed when the block ends well.

    Raises:
        ArtifactError: The checkpoint to go on from is damaged.
        ConfigError: There is none, it is of another training, or that is still at work.
    """
    path = settings.path
    if path is None and model_path is not None:
        path = beside(model_path, _FOLDER)
    if path is None:
        if settings.resume is True:
            raise ConfigError(
                "resume: there is no checkpoint without a model_path: give checkpoint.path."
            )
        yield None
        return
    with contextlib.ExitStack() as stack:
        if not io.is_remote(path) and not stack.enter_context(_alone_in(io.local_path(path))):
            if settings.resume:
                raise ConfigError(f"resume: another process is at the training of '{path}'.")
            _logger.warning(
                "Another training keeps its checkpoints in '%s': this one keeps none. Give it "
                "a checkpoint.path of its own.",
                path,
            )
            yield None
            return
        checkpoints = Checkpoints(path, settings, identity, storage_options)
        if io.is_file(io.join(path, _FILE), storage_options):
            if settings.resume:
                checkpoints._read()
            else:
                _logger.warning(
                    "In '%s' is the checkpoint of a training that was stopped; this one begins "
                    "anew and replaces it. resume=true would go on from it.",
                    path,
                )
                checkpoints._exists = True
        elif settings.resume is True:
            raise ConfigError(
                f"resume: there is no checkpoint in '{path}': the training has come to its end, "
                "was stopped before its first one, or its model keeps none, as all but networks. "
                "resume=auto begins anew where there is none."
            )
        yield checkpoints
        checkpoints.remove()


def beside(model_path: str, folder: str) -> str:
    """Name a directory for what belongs to a model directory and is no part of it.

    Args:
        model_path: The model directory, local or remote.
        folder: What is kept there, such as ``.checkpoints``.

    Returns:
        ``<parent>/<folder>/<name>``.
    """
    parent, slash, name = model_path.rstrip("/").rpartition("/")
    return f"{parent}{slash}{folder}/{name}"


def below(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put the tensors of a part of a fit below its name."""
    return {f"{name}/{key}": tensor for key, tensor in tensors.items()}


def found_below(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take the tensors that `below` has put below a name."""
    start = f"{name}/"
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


def check_kind(state: FitState, kind: str) -> None:
    """Refuse to go on with what was computed otherwise: it would not be the same fit.

    Args:
        state: Of the checkpoint.
        kind: How it is computed now.

    Raises:
        ConfigError: They differ.
    """
    if state.kind != kind:
        raise ConfigError(
            f"resume: the checkpoint is of a fit {state.kind}, and this one goes {kind}: run it "
            "where it ran before, or begin anew with resume=false."
        )


def random_state() -> tuple[list[Any], NDArray[np.uint32]]:
    """Tell the states of Python's and NumPy's own generators.

    Returns:
        Plain JSON of both, and the numbers of NumPy's.
    """
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast(
        "tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state(legacy=True)
    )
    return [[version, list(numbers), gauss], [name, position, has_gauss, cached]], keys


def restore_random_state(state: list[Any], keys: NDArray[np.uint32]) -> None:
    """Put Python's and NumPy's own generators where `random_state` has found them."""
    (version, numbers, gauss), (name, position, has_gauss, cached) = state
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state((name, keys, position, has_gauss, cached))


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[bool]:
    """Make a directory and hold it for a block, if nobody else does.

    At the end it is removed if it is empty, with those above that were made for it.
    """
    made = [above for above in directory.parents if not above.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(held(directory, wait=False))
        except BlockingIOError:
            yield False
            return
        except OSError:
            # Some network file systems know no locks.
            pass
        try:
            yield True
        finally:
            ours = [directory.parent] if directory.parent.name == _FOLDER else []
            # There may be something in it, or others may have theirs beside it.
            with contextlib.suppress(OSError):
                for empty in dict.fromkeys([directory, *ours, *made]):
                    empty.rmdir()


def _read_file(
    path: str, storage_options: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = io.read_bytes(io.join(path, _FILE), storage_options=storage_options)
    try:
        tensors = load(content)
        header = _header(content)
        text = header["record"]
        if header["format_version"] != _FORMAT_VERSION:
            raise ArtifactError(
                f"resume: the checkpoint in '{path}' has the format "
                f"{header['format_version']}, and only {_FORMAT_VERSION} can be read."
            )
        if header["sha256"] != _digest(text, tensors):
            raise ValueError("its digest is another one")
        record = json.loads(text)
    except (SafetensorError, KeyError, TypeError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"resume: the checkpoint in '{path}' is damaged ({error}): begin anew with "
            "resume=false."
        ) from error
    return record, tensors


def _header(content: bytes) -> dict[str, str]:
    """Read what safetensors calls the metadata of a file that it has read already."""
    size = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
    return found


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    import torch

    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """Tell what differs between two trainings, a few words each."""
    found = []
    for key in dict.fromkeys([*then, *now]):
        first, second = then.get(key), now.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            found += _differences(first, second, f"{where}{key}.")
        elif first != second:
            found.append(f"{where}{key} was {first} and is {second}")
    return found
