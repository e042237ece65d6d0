from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ml_project_template.utils.git import GitState, git_state


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    return tmp_path


def test_a_clean_repository_has_a_commit_and_is_not_dirty(repository: Path) -> None:
    (repository / "a.txt").write_text("a")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    state = git_state(repository)
    assert state.commit is not None
    assert len(state.commit) == 40
    assert state.dirty is False


@pytest.mark.parametrize("name", ["a.txt", "new.txt"])
def test_a_changed_or_a_new_file_makes_it_dirty(repository: Path, name: str) -> None:
    (repository / "a.txt").write_text("a")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    (repository / name).write_text("b")
    assert git_state(str(repository)).dirty is True


def test_a_repository_without_a_commit_is_not_known(repository: Path) -> None:
    assert git_state(repository) == GitState(commit=None, dirty=None)


def test_outside_a_repository_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == GitState(commit=None, dirty=None)


def test_a_directory_that_is_not_there_is_not_known(tmp_path: Path) -> None:
    assert git_state(tmp_path / "nowhere") == GitState(commit=None, dirty=None)


def test_without_git_nothing_is_known(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert git_state(repository) == GitState(commit=None, dirty=None)
