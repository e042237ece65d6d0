from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ml_project_template.utils.git import GitState, git_state, remember_git_state


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _no_commit_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_COMMIT", raising=False)


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


def test_what_is_remembered_is_told_whatever_is_edited_meanwhile(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "commit", "--allow-empty", "-m", "first")
    first = git_state(repository)
    remember_git_state(repository)
    (repository / "new.txt").write_text("x")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "second")
    (repository / "more.txt").write_text("x")
    assert git_state(repository) == git_state(str(repository)) == first
    monkeypatch.chdir(repository)
    assert git_state() == first
    # Remembered once for all: a second call does not look again.
    remember_git_state(repository)
    assert git_state(repository) == first


def test_another_directory_is_asked_for_itself(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init")
    git(other, "commit", "--allow-empty", "-m", "first")
    git(repository, "commit", "--allow-empty", "-m", "of the outer one")
    remember_git_state(repository)
    before = git_state(other)
    assert before != git_state(repository)
    git(other, "commit", "--allow-empty", "-m", "second")
    assert git_state(other).commit not in {None, before.commit}


def test_the_directory_of_the_process_is_remembered_for_itself(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "commit", "--allow-empty", "-m", "first")
    monkeypatch.chdir(repository)
    remember_git_state()
    first = git_state(repository)
    git(repository, "commit", "--allow-empty", "-m", "second")
    assert git_state(repository) == first
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(elsewhere.parent))
    assert git_state() == GitState(commit=None, dirty=None)


def test_that_nothing_is_known_is_remembered_as_well(repository: Path) -> None:
    remember_git_state(repository)
    git(repository, "commit", "--allow-empty", "-m", "first")
    assert git_state(repository) == GitState(commit=None, dirty=None)


@pytest.mark.parametrize(
    ("value", "state"),
    [
        ("a1" * 20, GitState(commit="a1" * 20, dirty=False)),
        ("a1" * 20 + "-dirty", GitState(commit="a1" * 20, dirty=True)),
        ("", GitState(commit=None, dirty=None)),
        ("main", GitState(commit=None, dirty=None)),
    ],
)
def test_an_image_tells_its_commit_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, state: GitState
) -> None:
    monkeypatch.setenv("GIT_COMMIT", value)
    assert git_state(tmp_path) == state


def test_a_repository_knows_better_than_the_environment(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "a.txt").write_text("a")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    monkeypatch.setenv("GIT_COMMIT", "a1" * 20)
    assert git_state(repository).commit != "a1" * 20
