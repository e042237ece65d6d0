"""Which commit the code stands at, so that a model can be traced back to it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GitState", "git_state"]

_TIMEOUT = 5.0  # seconds for each call of git


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

    Args:
        directory: Any directory inside the working tree.

    Returns:
        The state; both fields None where git can't tell.
    """
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return GitState(commit=None, dirty=None)
    status = _git(directory, "status", "--porcelain")
    return GitState(commit=commit, dirty=None if status is None else bool(status))


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
