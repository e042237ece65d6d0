"""The rename of the project, on small repositories and on a clone of this one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools import rename

# In pieces, so that the project can be renamed without changing what is tested here.
OLD = rename.OLD
DASHED = rename.OLD_DISTRIBUTION
NEW = "my_project"
LOCK = """version = 1

[[package]]
name = "aiohttp"
version = "3.12.0"
source = { registry = "https://pypi.org/simple" }

[[package]]
name = "%s"
version = "0.1.0"
source = { editable = "." }

[package.metadata]
requires-dist = [
    { name = "aiohttp" },
    { name = "%s", extras = ["data"] },
    { name = "numpy" },
]

[[package]]
name = "numpy"
version = "2.4.0"
source = { registry = "https://pypi.org/simple" }
"""
IN_THE_TEMPLATE = pytest.mark.skipif(
    not (ROOT / "src" / OLD).is_dir(), reason="this project has a name of its own already"
)
_GIT = ("-c", "user.name=Test", "-c", "user.email=test@example.org")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *_GIT, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def _commit(folder: Path, message: str) -> None:
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", message)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with a file of each kind."""
    root = tmp_path / "small"
    package = root / "src" / OLD
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f'"""{OLD}."""\r\n')
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").touch()
    (root / ".gitignore").write_text("__pycache__/\n")
    (root / "uv.lock").write_text(LOCK % (DASHED, DASHED))
    (root / "LICENSE").write_text(f"Copyright (c) The {OLD} authors\n")
    (root / "picture.bin").write_bytes(b"\0" + OLD.encode())
    (root / f"{DASHED}.sh").write_text("#!/bin/sh\n")
    (root / f"{DASHED}.sh").chmod(0o755)
    (root / "link").symlink_to(f"src/{OLD}")
    (root / "notes.txt").write_text("nothing\n")
    _git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(root))
    _commit(root, "Begin")
    return root


def _contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


def test_text_and_paths_change_and_nothing_else_does(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert rename.main([NEW], root=small) == 0
    assert not (small / "src" / OLD).exists()
    assert (small / "src" / NEW / "__init__.py").read_bytes() == b'"""my_project."""\r\n'
    assert OLD in (small / "LICENSE").read_text()
    assert (small / "picture.bin").read_bytes() == b"\0" + OLD.encode()
    assert os.access(small / "my-project.sh", os.X_OK)
    changed = {line[3:] for line in _git(small, "status", "--porcelain", "-uall").splitlines()}
    assert {"LICENSE", "picture.bin", "link", "notes.txt"}.isdisjoint(changed)
    told = capfd.readouterr().out
    assert "3 files changed, 2 of them moved" in told
    assert "make test" in told
    assert "make format" in told


def test_the_entries_of_the_lock_stay_in_their_order(small: Path) -> None:
    assert rename.main(["zebra"], root=small) == 0
    lock = (small / "uv.lock").read_text()
    assert re.findall(r'^name = "(.+)"', lock, re.MULTILINE) == ["aiohttp", "numpy", "zebra"]
    assert re.findall(r'^    \{ name = "([^"]+)"', lock, re.MULTILINE) == [
        *("aiohttp", "numpy", "zebra")
    ]
    assert lock.endswith('    { name = "zebra", extras = ["data"] },\n]\n')


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("My-Project", "Did you mean 'my_project'?"),
        ("9lives", "no package name"),
        ("a__b", "no package name"),
        ("", "no package name"),
        ("../up", "no package name"),
        ("größe", "no package name"),
        ("class", "keyword"),
        ("json", "Python's own library"),
        ("aiohttp", "dependency"),
        ("sklearn", "dependency"),
        ("src", "folder of the project"),
        (OLD, "the name that the project has"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused_in_one_line(
    small: Path, name: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = _contents(small)
    assert rename.main(["--", name], root=small) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert why in line
    assert _contents(small) == before


def test_changes_that_are_not_in_git_are_refused_unless_forced(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (small / "notes.txt").write_text(f"{OLD}\n")
    assert rename.main([NEW], root=small) == 1
    assert "not in git (notes.txt)" in capfd.readouterr().err
    assert rename.main([NEW, "--force"], root=small) == 0
    assert (small / "notes.txt").read_text() == "my_project\n"


def test_a_second_run_has_nothing_to_do_until_something_is_merged(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert rename.main([NEW], root=small) == 0
    _commit(small, "Rename")
    assert rename.main([NEW], root=small) == 1
    assert "nothing to rename" in capfd.readouterr().err
    (small / "src" / OLD).mkdir()
    (small / "src" / OLD / "more.py").write_text(f"import {OLD}\n")
    _commit(small, "Merge")
    assert rename.main([NEW], root=small) == 0
    assert (small / "src" / NEW / "more.py").read_text() == "import my_project\n"


def test_no_file_is_replaced_by_one_that_is_moved(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (small / "my-project.sh").write_text("mine\n")
    _commit(small, "Mine")
    before = _contents(small)
    assert rename.main([NEW], root=small) == 1
    assert "my-project.sh: is there already" in capfd.readouterr().err
    assert _contents(small) == before


def test_a_run_that_was_killed_is_gone_on_with(small: Path) -> None:
    changes = rename.plan(NEW, small)
    moved = next(change for change in changes if change.content and change.new_path != change.path)
    (small / moved.new_path).parent.mkdir()
    (small / moved.new_path).write_bytes(moved.content or b"")
    assert rename.main([NEW, "--force"], root=small) == 0
    assert (small / moved.new_path).read_bytes() == moved.content
    assert not (small / moved.path).exists()


@pytest.mark.parametrize("stopped_by", [OSError("disk full"), KeyboardInterrupt()])
def test_what_stops_it_on_the_way_has_all_put_back(
    small: Path, monkeypatch: pytest.MonkeyPatch, stopped_by: BaseException
) -> None:
    before = _contents(small)
    copymode = shutil.copymode
    # The first change is of a name alone, and has no mode to copy.
    reasons = iter([None, stopped_by])

    def stop_at_the_last(source: Path, target: Path) -> None:
        copymode(source, target)
        reason = next(reasons)
        if reason is not None:
            raise reason

    changes = rename.plan("zebra", small)
    assert [change.content is None for change in changes] == [True, False, False]
    monkeypatch.setattr(shutil, "copymode", stop_at_the_last)
    with pytest.raises(type(stopped_by)):
        rename.apply(changes, small)
    assert _contents(small) == before
    assert _git(small, "status", "--porcelain") == ""


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A repository with this project as it stands here, in one commit."""
    root = tmp_path / "upstream"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    _git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(root))
    _commit(root, "Begin")
    return root


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a program in the environment of a clone."""

    def run_there(clone: Path, *words: str) -> str:
        environment = {
            **os.environ,
            "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
            "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            words,
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    (tmp_path / "gitconfig").write_text("[user]\nname = Test\nemail = test@example.org\n")
    return run_there


def _clone(upstream: Path) -> Path:
    """Clone the project and set it up: with the packages that are here, but not the project."""
    clone = upstream.with_name("clone")
    _git(upstream.parent, "clone", "--quiet", "--origin", "upstream", str(upstream), str(clone))
    venv.create(clone / ".venv", symlinks=True)
    (clone / ".venv" / "bin" / "ruff").symlink_to(Path(sys.executable).with_name("ruff"))
    (packages,) = (clone / ".venv").glob("lib/python*/site-packages")
    paths = [clone / "src", sysconfig.get_path("purelib")]
    (packages / "here.pth").write_text("".join(f"{path}\n" for path in paths))
    return clone


def _commands(part: str) -> str:
    """Find the commands of the document that has one of these words in them."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if part in block]
    return str(found)


@pytest.mark.long
@IN_THE_TEMPLATE
def test_a_renamed_clone_works_and_has_no_trace_of_the_old_name(
    upstream: Path, run: Callable[..., str]
) -> None:
    clone = _clone(upstream)
    run(clone, "bash", "-ec", _commands("git branch template"))
    left = run(clone, "git", "grep", "-Iil", "ml[-_]project[-_]template")
    assert set(left.split()) == rename.EXCEPTIONS
    assert not [path for path in run(clone, "git", "ls-files").split() if OLD in path]
    run(clone, "ruff", "check", "--no-cache", ".")
    run(clone, "ruff", "format", "--no-cache", "--check", ".")
    place = run(clone, "python", "-c", f"import {NEW}; print({NEW}.__file__)").strip()
    assert place == str(clone / "src" / NEW / "__init__.py")
    told = run(clone, "python", "-m", "entrypoints.check", "model=gb", "data=iris")
    assert "Nothing is wrong" in told
    tests = ("tests/models/test_registry.py", "tests/data/test_splitting.py")
    # Those that start a process of their own take seconds each.
    quick = ("-k", "not another_package and not without_its_package")
    run(clone, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, *tests)
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is not None:
        run(clone, uv, "lock", "--check", "--offline")


@pytest.mark.long
@IN_THE_TEMPLATE
def test_what_is_new_upstream_is_merged_into_a_renamed_project(
    upstream: Path, run: Callable[..., str]
) -> None:
    clone = _clone(upstream)
    run(clone, "bash", "-ec", _commands("git branch template"))
    # Theirs: a line with the name in it changes, one beside it, and a file is new. Ours: two more.
    errors = Path("src") / OLD / "errors.py"
    theirs = (upstream / errors).read_text().replace("The errors that", "All errors that")
    (upstream / errors).write_text(theirs)
    init = Path("src") / OLD / "models" / "__init__.py"
    lines = (upstream / init).read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if f"{OLD}." in line)
    lines[place] = lines[place].rstrip("\n") + "  # theirs\n"
    (upstream / init).write_text("".join(lines))
    (upstream / "src" / OLD / "new.py").write_text(f'"""New in {OLD}."""\n')
    _commit(upstream, "Go on")
    mine = clone / "src" / NEW / "errors.py"
    mine.write_text(mine.read_text().replace("is one line:", "is a line:"))
    (clone / "src" / NEW / "mine.py").write_text('"""Mine."""\n')
    _commit(clone, "Mine")

    run(clone, "bash", "-ec", _commands("git fetch upstream"))
    merged = mine.read_text()
    assert "All errors that" in merged
    assert "is a line:" in merged
    assert "# theirs" in (clone / "src" / NEW / "models" / "__init__.py").read_text()
    assert (clone / "src" / NEW / "new.py").read_text() == '"""New in my_project."""\n'
    assert (clone / "src" / NEW / "mine.py").is_file()
    assert not (clone / "src" / OLD).exists()
    assert run(clone, "git", "status", "--porcelain") == ""
    # A further update is merged in the same way.
    (upstream / "src" / OLD / "newer.py").write_text(f'"""Newer in {OLD}."""\n')
    _commit(upstream, "Go on")
    run(clone, "bash", "-ec", _commands("git fetch upstream"))
    assert (clone / "src" / NEW / "newer.py").is_file()
