"""Which commit the code stands at, so that a model can be traced back to it."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GitState", "git_state", "remember_git_state"]

_TIMEOUT = 5.0  # seconds for each call of git
_remembered: dict[Path, GitState] = {}


@dataclass(frozen=True)
class GitState:
    """The state of a working tree.

    Attributes:
        commit: The full hash of the checked-out commit; None outside a repository, in a repository
            without a commit, and without git.
        dirty: Whether tracked files differ from the commit or untracked ones lie beside them; None
            where it is not known.
    """

    commit: str | None
    dirty: bool | None


def git_state(directory: str | Path = ".") -> GitState:
    """Ask git for the commit of a directory and whether its files differ from it.

    An image holds the code without its repository; the environment variable ``GIT_COMMIT`` says
    there what it was built from, with ``-dirty`` at its end where files differed from the commit.

    Args:
        directory: Any directory inside the working tree.

    Returns:
        The state; both fields None where neither git nor the environment can tell.
    """
    if (remembered := _remembered.get(Path(directory).absolute())) is not None:
        return remembered
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return _state_of_image()
    status = _git(directory, "status", "--porcelain")
    return GitState(commit=commit, dirty=None if status is None else bool(status))


def remember_git_state(directory: str | Path = ".") -> None:
    """Ask git once, and have that answer given from now on in this process.

    For a process that runs many trainings: the code it runs is that of its start, whatever is
    edited meanwhile.

    Args:
        directory: Any directory inside the working tree.
    """
    place = Path(directory).absolute()
    if place not in _remembered:
        _remembered[place] = git_state(place)


def _state_of_image() -> GitState:
    found = re.fullmatch(r"([0-9a-f]{40}|[0-9a-f]{64})(-dirty)?", os.environ.get("GIT_COMMIT", ""))
    if found is None:
        return GitState(commit=None, dirty=None)
    return GitState(commit=found[1], dirty=found[2] is not None)


def _git(directory: str | Path, *arguments: str) -> str | None:
    # Without optional locks a look at the status never disturbs a git that the user runs meanwhile.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()
