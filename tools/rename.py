"""Give this project a name of its own: ``make rename NAME=my_project``.

Every file that git tracks is looked at: the name of the package and that of the distribution
(with hyphens) are replaced in paths and in text, whatever the format. Files that are no UTF-8 text
stay as they are, and so does the licence, whose copyright notice has to stay. Environment variables
(``ML_PROJECT_...``) keep their names, so that services, ``.env`` files and documents go on working.

All is planned first and written then; what fails on the way is undone. What was merged in from the
template later is renamed by running it again. Nothing but Python 3.11 and git is needed.
"""

from __future__ import annotations

import argparse
import functools
import keyword
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Change", "RenameError", "apply", "check_name", "main", "plan"]

# In pieces: this file is renamed by nobody, and works on what is merged in later.
OLD = "_".join(("ml", "project", "template"))
OLD_DISTRIBUTION = OLD.replace("_", "-")
# Whose text stays. The MIT licence asks for its notice in all copies; add your own line to it.
EXCEPTIONS = frozenset({"LICENSE"})

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LOCK_ENTRY = re.compile(r"^(?=\[\[package\]\]$)", re.MULTILINE)
_LOCK_LIST = re.compile(r"(?:^    \{ name = .*\n)+", re.MULTILINE)
_LOCK_NAME = re.compile(r'name = "([^"]+)"')
# Packages that are imported by another name than they are installed by.
_IMPORTED_AS = {"dotenv", "hydra", "hydra_plugins", "skimage", "sklearn", "swift", "yaml"}


class RenameError(Exception):
    """The project can't be renamed so; a line for each reason."""


@dataclass(frozen=True)
class Change:
    """What becomes of a file.

    Attributes:
        path: Where it is, from the root of the project.
        new_path: Where it will be.
        content: What will stand in it; None if that stays.
    """

    path: str
    new_path: str
    content: bytes | None


def check_name(name: str, root: Path) -> None:
    """See that a name can be that of this project's package.

    Args:
        name: The name, such as ``my_project``.
        root: The root of the project.

    Raises:
        RenameError: It is no lower-case package name, or something else is imported by it.
    """
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")
        hint = f" Did you mean '{near}'?" if len(near) > 1 and _NAME.fullmatch(near) else ""
        raise RenameError(
            f"'{name}' is no package name: lower-case letters, digits and single underscores, "
            f"beginning with a letter, such as my_project.{hint}"
        )
    if name == OLD:
        raise RenameError(f"'{name}' is the name that the project has.")
    if keyword.iskeyword(name):
        raise RenameError(f"'{name}' is a keyword of Python: choose another name.")
    if name in sys.stdlib_module_names:
        raise RenameError(f"'{name}' is a module of Python's own library: choose another name.")
    if name in _dependencies(root):
        raise RenameError(f"'{name}' is the name of a dependency: choose another name.")
    if name in _folders(root):
        raise RenameError(f"'{name}' is a folder of the project: choose another name.")


def plan(name: str, root: Path) -> list[Change]:
    """Say what becomes of each file that changes.

    Args:
        name: The new name of the package, checked.
        root: The root of the project, a git repository.

    Returns:
        The changes, by path; empty if the old name stands nowhere.

    Raises:
        RenameError: A file would be put where there is one already.
    """
    new_distribution = name.replace("_", "-")
    replacements = ((OLD, name), (OLD_DISTRIBUTION, new_distribution))

    def replaced(text: str) -> str:
        return functools.reduce(lambda done, pair: done.replace(*pair), replacements, text)

    changes = []
    for path in _tracked(root):
        file = root / path
        new_path = replaced(path)
        text = None if path in EXCEPTIONS else _text(file)
        new_text = None if text is None else replaced(text)
        if new_text is not None and Path(path).name == "uv.lock":
            new_text = _sorted_lock(new_text, new_distribution)
        content = None if new_text in (None, text) else new_text.encode()
        # What git tracks may be deleted here.
        if os.path.lexists(file) and (content is not None or new_path != path):
            changes.append(Change(path, new_path, content))
    taken = [change for change in changes if _is_taken(change, root)]
    if taken:
        raise RenameError(
            "\n".join(f"{c.new_path}: is there already, and {c.path} would go there" for c in taken)
        )
    return changes


def apply(changes: Sequence[Change], root: Path) -> None:
    """Write what was planned; whatever stops it, also Ctrl-C, has all put back as it was.

    Args:
        changes: From `plan`.
        root: The root of the project.
    """
    texts = [change for change in changes if change.content is not None]
    before = {change: (root / change.path).read_bytes() for change in texts}
    done: list[Change] = []
    try:
        for change in changes:
            done.append(change)
            _write(change, root)
    except BaseException:
        for change in done:
            old, new = root / change.path, root / change.new_path
            if new != old and os.path.lexists(new):
                new.replace(old)
            if change in before:
                old.write_bytes(before[change])
        _remove_empty({(root / change.new_path).parent for change in done}, root)
        raise
    _remove_empty({(root / c.path).parent for c in changes if c.new_path != c.path}, root)


def main(arguments: Sequence[str] | None = None, *, root: Path | None = None) -> int:
    """Rename the project from the command line.

    Args:
        arguments: The words of the command line; None: those of this process.
        root: The root of the project; None: the one that this file is in.

    Returns:
        The exit status: 0, or 1 if nothing was changed.
    """
    parser = argparse.ArgumentParser(
        prog="make rename NAME=my_project", description="Give the project a name of its own."
    )
    parser.add_argument("name", help="the new name of the package, such as my_project")
    parser.add_argument(
        "--force", action="store_true", help="also where there are changes that are not in git"
    )
    words = parser.parse_args(arguments)
    root = root or Path(__file__).resolve().parents[1]
    try:
        check_name(words.name, root)
        if not words.force:
            _require_clean(root)
        changes = plan(words.name, root)
        if not changes:
            raise RenameError(f"'{OLD}' stands nowhere any more: there is nothing to rename.")
        apply(changes, root)
    except (OSError, RenameError, tomllib.TOMLDecodeError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    moved = sum(change.path != change.new_path for change in changes)
    print(f"{OLD} is {words.name} now: {len(changes)} files changed, {moved} of them moved.")
    print("As they were: LICENSE (add a line of your own), the variables ML_PROJECT_...")
    formatted = _format(root)
    steps = [
        ("look", "git add --all && git diff --cached"),
        *([] if formatted else [("format", "make format")]),
        ("test", "make test"),
        ("keep", f'git commit --message "Rename to {words.name}" && git branch template'),
        ("later", "docs/extending.md says how to take updates of the template"),
    ]
    print("\n" + "\n".join(f"{word:<10}{text}" for word, text in steps))
    return 0


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", root, *words], capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise RenameError(
            "git is not installed, and says which files are the project's."
        ) from error
    except subprocess.CalledProcessError as error:
        raise RenameError(f"git {words[0]}: {error.stderr.strip()}") from error
    return done.stdout


def _tracked(root: Path) -> list[str]:
    # A file in a merge conflict is listed once for each side.
    return sorted({path for path in _git(root, "ls-files", "-z").split("\0") if path})


def _require_clean(root: Path) -> None:
    lines = _git(root, "status", "--porcelain").splitlines()
    if lines:
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        raise RenameError(
            f"There are changes that are not in git ({lines[0][3:]}{more}): commit or stash them, "
            "so that the rename can be seen and undone by itself, or give FORCE=1."
        )


def _dependencies(root: Path) -> set[str]:
    """Name what the dependencies are imported by, as far as can be told without them."""
    packages = tomllib.loads((root / "uv.lock").read_text(encoding="utf-8"))["package"]
    names = {
        re.sub(r"[-.]", "_", package["name"])
        for package in packages
        if package["source"] != {"editable": "."}
    }
    for folder in root.glob(".venv/lib/python*/site-packages"):
        names |= {path.name.split(".")[0] for path in folder.iterdir() if path.suffix != ".pth"}
    return names | _IMPORTED_AS


def _folders(root: Path) -> set[str]:
    """Name the folders that are imported from the root of the project, and the examples."""
    parts = [Path(path).parts for path in _tracked(root)]
    top = {names[0] for names in parts if len(names) > 1}
    return top | {names[1] for names in parts if names[0] == "examples"}


def _is_taken(change: Change, root: Path) -> bool:
    """Say whether a file would replace another; one that a killed run has left is the same."""
    new = root / change.new_path
    if change.new_path == change.path or not os.path.lexists(new):
        return False
    return change.content is None or not new.is_file() or new.read_bytes() != change.content


def _text(file: Path) -> str | None:
    """Read a file as text; None if it is none. A link has no text of its own."""
    if file.is_symlink() or not file.is_file():
        return None
    content = file.read_bytes()
    try:
        return None if b"\0" in content else content.decode()
    except UnicodeDecodeError:
        return None


def _sorted_lock(text: str, name: str) -> str:
    """Put the entries of a package where uv would put them: it sorts a lock file by name."""

    def by_name(entry: str) -> str:
        found = _LOCK_NAME.search(entry)
        assert found is not None
        return found[1]

    def sorted_list(lines: re.Match[str]) -> str:
        entries = lines[0].splitlines(keepends=True)
        mine = any(by_name(entry) == name for entry in entries)
        return "".join(sorted(entries, key=by_name)) if mine else lines[0]

    head, *packages = _LOCK_ENTRY.split(_LOCK_LIST.sub(sorted_list, text))
    return head + "\n\n".join(sorted((p.rstrip("\n") for p in packages), key=by_name)) + "\n"


def _write(change: Change, root: Path) -> None:
    old, new = root / change.path, root / change.new_path
    new.parent.mkdir(parents=True, exist_ok=True)
    if change.content is None:
        old.replace(new)
        return
    beside = new.with_name(f".{new.name}.new")
    try:
        beside.write_bytes(change.content)
        shutil.copymode(old, beside)
        beside.replace(new)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if new != old:
        old.unlink()


def _remove_empty(folders: Iterable[Path], root: Path) -> None:
    """Remove folders that nothing is left in but bytecode, and those above them."""
    for folder in sorted(folders, reverse=True):
        while folder != root and folder.is_dir():
            shutil.rmtree(folder / "__pycache__", ignore_errors=True)
            if any(folder.iterdir()):
                break
            folder.rmdir()
            folder = folder.parent


def _format(root: Path) -> bool:
    """Have ruff sort the imports and break the lines for the length of the new name.

    Returns:
        Whether it did; it is not there before the project was set up.
    """
    ruff = root / ".venv" / "bin" / "ruff"
    if not ruff.exists():
        return False
    sorting = ["check", "--quiet", "--select", "I", "--fix", "."]
    # A text that is too long by the new name alone can't be broken by a program.
    excusing = ["check", "--quiet", "--select", "E501", "--add-noqa", "."]
    for words in (sorting, ["format", "--quiet", "."], excusing):
        if subprocess.run([ruff, *words], cwd=root, check=False).returncode:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
