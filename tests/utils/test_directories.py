from __future__ import annotations

import ctypes
import errno
import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ml_project_template.utils import directories
from ml_project_template.utils.directories import replacing_directory, restore_directory


def fill(place: Path, content: str) -> None:
    with replacing_directory(place) as new:
        (new / "a").write_text(content)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(params=["exchange", "two renames"])
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test as on a usual file system and as on one that can't exchange directories."""
    if request.param == "two renames":
        monkeypatch.setattr(directories, "_exchange", lambda *_: False)


@pytest.mark.usefixtures("_system")
def test_a_directory_is_made_and_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "model[1]"
    fill(place, "old")
    fill(place, "new")
    assert (place / "a").read_text() == "new"
    assert names(place.parent) == ["model[1]"]


def test_an_empty_directory_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    fill(tmp_path / "place", "new")
    assert names(tmp_path / "place") == ["a"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/a").read_text() == "new"


def test_a_failed_block_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "place", "old")

    def interrupted() -> None:
        with replacing_directory(tmp_path / "place") as new:
            (new / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "place/a").read_text() == "old"
    assert names(tmp_path) == ["place"]


def test_a_check_can_protect_what_appeared_while_the_block_ran(tmp_path: Path) -> None:
    place = tmp_path / "place"

    def check(there: Path) -> None:
        if there.exists():
            raise RuntimeError("protected")

    def rival() -> None:
        with replacing_directory(place, check=check) as new:
            (new / "a").write_text("new")
            place.mkdir()
            (place / "mine").write_text("user")

    with pytest.raises(RuntimeError, match="protected"):
        rival()
    assert names(tmp_path) == ["place"]
    assert (place / "mine").read_text() == "user"


def test_a_second_rename_that_fails_puts_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "place", "old")

    def lose(new: Path, _: Path) -> bool:
        shutil.rmtree(new)
        return False

    monkeypatch.setattr(directories, "_exchange", lose)
    with pytest.raises(FileNotFoundError):
        fill(tmp_path / "place", "new")
    assert (tmp_path / "place/a").read_text() == "old"
    assert names(tmp_path) == ["place"]


def test_a_directory_left_aside_is_put_back_by_a_reader(tmp_path: Path) -> None:
    fill(tmp_path / "place", "old")
    (tmp_path / "place").rename(tmp_path / ".place.old-123")
    assert restore_directory(tmp_path / "place")
    assert (tmp_path / "place/a").read_text() == "old"
    assert names(tmp_path) == ["place"]


def test_nothing_to_put_back_is_no_error(tmp_path: Path) -> None:
    assert not restore_directory(tmp_path / "place")
    assert not restore_directory(tmp_path / "nowhere" / "place")


def test_leftovers_of_dead_writers_are_swept_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for name in (
        f".place.staging-{dead.pid}-abc",
        f".place.staging-{other.pid}-abc",
        f".placebo.staging-{dead.pid}-abc",
        ".place.staging-mine",
        ".place.old-abc",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("left")
    fill(tmp_path / "place", "old")
    assert names(tmp_path) == sorted(
        [
            f".place.staging-{other.pid}-abc",
            ".place.staging-mine",
            f".placebo.staging-{dead.pid}-abc",
            "place",
        ]
    )
    other.communicate(b"\n")


def test_a_writer_whose_number_looks_dead_is_left_alone_while_it_holds_its_lock(
    tmp_path: Path,
) -> None:
    # A writer in another container: its process number says nothing here.
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    staging = tmp_path / f".place.staging-{dead.pid}-abc"
    staging.mkdir()
    with directories.held(staging):
        fill(tmp_path / "place", "new")
        assert staging.exists()
    fill(tmp_path / "place", "newer")
    assert not staging.exists()


def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    staging = tmp_path / f".place.staging-{dead.pid}-abc"
    staging.mkdir()
    fill(tmp_path / "place", "old")
    fill(tmp_path / "place", "new")
    assert (tmp_path / "place/a").read_text() == "new"
    # Without locks nobody can tell whether its writer lives in another container.
    assert staging.exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_system_that_refuses_the_exchange_is_helped_out_by_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Library:
        def __init__(self, *_: object, **__: object) -> None: ...

        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(code)
            return -1

        renamex_np = renameat2

    fill(tmp_path / "place", "old")
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", Library)
        fill(tmp_path / "place", "new")
    assert (tmp_path / "place/a").read_text() == "new"
    assert names(tmp_path) == ["place"]


def test_a_system_without_the_exchange_is_helped_out_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "place", "old")
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda *_, **__: object())
        fill(tmp_path / "place", "new")
    assert (tmp_path / "place/a").read_text() == "new"


def test_an_exchange_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        directories._exchange(tmp_path / "a", tmp_path / "b")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_syncing_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    directories.sync(tmp_path / "a")
    directories.sync(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
