from __future__ import annotations

import hashlib
import io as memory
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template import artifacts
from ml_project_template.artifacts import (
    check_target,
    copy_model_directory,
    load_estimator,
    load_tensors,
    open_model_directory,
    read_config,
    save_estimator,
    save_tensors,
    write_config,
    write_model_directory,
)
from ml_project_template.errors import ArtifactError
from ml_project_template.utils import io
from tests.object_store import ObjectStore
from tests.servers import wait_until

TRUSTED = (
    "sklearn._loss._loss.CyHalfMultinomialLoss",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn.dummy.DummyClassifier",
    "sklearn.ensemble._gb.GradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.preprocessing._label.LabelEncoder",
    "sklearn.tree._classes.DecisionTreeRegressor",
    "sklearn.tree._tree.Tree",
)

# A process that replaces a model again and again. All files of one model hold the same number.
WRITER = """
import sys
from ml_project_template.artifacts import write_config, write_model_directory

path, start = sys.argv[1], int(sys.argv[2])

def write(directory):
    write_config(directory, name="mlp", params={"number": number})
    (directory / "weights.safetensors").write_bytes(str(number).encode() * 20_000)

print("ready", flush=True)
for number in range(start, start + 100_000):
    write_model_directory(path, write)
"""

# The same on a file system that can't exchange two directories.
WRITER_BY_TWO_RENAMES = (
    "from ml_project_template.utils import directories\n"
    "directories._exchange = lambda *_: False\n" + WRITER
)


def model(number: int) -> Callable[[Path], None]:
    """Make a function that writes a model whose files all hold the same number."""

    def write(directory: Path) -> None:
        write_config(directory, name="mlp", params={"number": number})
        (directory / "weights.safetensors").write_bytes(str(number).encode() * 20_000)

    return write


def number_of(path: str | Path) -> int:
    """Read a model and say its number, having seen that all of its files agree."""
    with open_model_directory(path) as directory:
        number = int(read_config(directory)["params"]["number"])
        weights = (directory / "weights.safetensors").read_bytes()
        assert weights == str(number).encode() * 20_000
        assert sorted(file.name for file in directory.iterdir()) == [
            "config.json",
            "manifest.json",
            "weights.safetensors",
        ]
    return number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "models" / "x"
    write_model_directory(place, model(7))
    return place


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    return object_store.new_bucket()


@pytest.fixture
def remote(object_store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in a real store, empty, of the test's own."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket}/{uuid.uuid4().hex}/models/x"


def inside(place: str | Path) -> str:
    """Say where the files of a model lie: on a remote storage in the present version."""
    if not io.is_remote(str(place)):
        return str(place)
    pointer = io.read_json(io.join(str(place), "current.json"))
    return io.join(str(place), "versions", pointer["version"])


def refusal(path: str | Path) -> str:
    """Open a model that must be refused; returns the one line of the error."""
    with pytest.raises(ArtifactError) as caught, open_model_directory(path):
        pytest.fail("it was opened")
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


# --- round trips --------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was_written(path: Path) -> None:
    assert number_of(path) == 7
    assert sorted(file.name for file in path.parent.iterdir()) == ["x"]


def test_the_manifest_lists_every_other_file(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["files"].keys() == {"config.json", "weights.safetensors"}
    assert manifest["files"]["weights.safetensors"] == {
        "size": 20_000,
        "sha256": io.sha256(str(path / "weights.safetensors")),
    }


def test_a_model_is_replaced_whole(path: Path) -> None:
    def bigger(directory: Path) -> None:
        model(8)(directory)
        (directory / "metadata.json").write_text("{}")

    assert write_model_directory(str(path), bigger) == str(path)
    write_model_directory(path, model(9))
    assert number_of(path) == 9


def test_a_model_comes_back_from_a_remote_storage(remote: str) -> None:
    assert write_model_directory(remote, model(1)) == remote
    assert number_of(remote) == 1


def test_a_remote_model_is_replaced_with_nothing_of_the_old_one_left(remote: str) -> None:
    def bigger(directory: Path) -> None:
        model(1)(directory)
        (directory / "metadata.json").write_text("{}")

    write_model_directory(remote, bigger)
    write_model_directory(remote, model(2))
    assert number_of(remote) == 2
    assert "metadata.json" not in io.list_files(inside(remote))


def test_the_copy_is_private_and_gone_afterwards(path: Path) -> None:
    with open_model_directory(path) as directory:
        assert directory.stat().st_mode & 0o077 == 0
        (path / "weights.safetensors").write_bytes(b"changed later")
        assert (directory / "weights.safetensors").read_bytes() == b"7" * 20_000
    assert not directory.exists()


def test_the_copy_is_removed_when_the_block_fails(path: Path) -> None:
    def fail() -> None:
        with open_model_directory(path) as directory:
            places.append(directory)
            raise RuntimeError("of the caller")

    places: list[Path] = []
    with pytest.raises(RuntimeError, match="of the caller"):
        fail()
    assert not places[0].exists()


def test_a_model_behind_a_link_is_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(path)
    assert number_of(tmp_path / "latest") == 7


def test_a_model_in_a_folder_that_can_only_be_read_is_read(path: Path) -> None:
    path.parent.chmod(0o500)
    path.chmod(0o500)
    try:
        assert number_of(path) == 7
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o700)


def test_what_a_file_manager_leaves_does_no_harm(path: Path) -> None:
    (path / ".DS_Store").write_bytes(b"\0")
    assert number_of(path) == 7
    write_model_directory(path, model(8))
    assert number_of(path) == 8


# --- writers that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_model_and_nothing_else(
    path: Path, error: type[BaseException]
) -> None:
    def fail(directory: Path) -> None:
        model(8)(directory)
        raise error("in the middle")

    with pytest.raises(error):
        write_model_directory(path, fail)
    assert number_of(path) == 7
    assert sorted(file.name for file in path.parent.iterdir()) == ["x"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "config.json").write_text("{}")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_model_directory(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_remote_write_leaves_the_old_model(remote: str) -> None:
    def fail(directory: Path) -> None:
        model(8)(directory)
        raise RuntimeError("in the middle")

    write_model_directory(remote, model(7))
    with pytest.raises(RuntimeError):
        write_model_directory(remote, fail)
    assert number_of(remote) == 7


def link(directory: Path) -> None:
    model(8)(directory)
    (directory / "a.json").symlink_to("config.json")


def folder(directory: Path) -> None:
    model(8)(directory)
    (directory / "checkpoints").mkdir()


def hidden(directory: Path) -> None:
    model(8)(directory)
    (directory / ".hidden").write_bytes(b"")


def own_manifest(directory: Path) -> None:
    model(8)(directory)
    (directory / "manifest.json").write_bytes(b"")


def too_many(directory: Path) -> None:
    for number in range(100):
        (directory / f"{number}.bin").write_bytes(b"")


def large_json(directory: Path) -> None:
    with (directory / "config.json").open("wb") as sparse:
        sparse.truncate(17 * 1024**2)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (link, "plain files only, not 'a.json'"),
        (folder, "plain files only, not 'checkpoints'"),
        (hidden, "a file named '.hidden'"),
        (own_manifest, "a file named 'manifest.json'"),
        (too_many, "1 to 64 files, not 100"),
        (lambda _: None, "1 to 64 files, not 0"),
        (large_json, "'config.json' is larger than"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    path: Path, write: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        write_model_directory(path, write)
    assert number_of(path) == 7


# --- folders of somebody else -------------------------------------------------------------------


def write_foreign(place: str, content: dict[str, str]) -> None:
    for name, text in content.items():
        io.write_bytes(io.join(place, name), text.encode())


FOREIGN = [
    {"thesis.tex": "years of work"},
    {"config.json": '{"compilerOptions": {}}', "main.ts": ""},
    {"config.json": "not even JSON"},
    {"manifest.json": '{"name": "my web page"}', "index.html": ""},
    {"manifest.json": '{"format_version": 1, "files": {}}'},
    {".git/HEAD": "ref: refs/heads/main"},
]


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_folder_of_somebody_else_is_never_replaced(
    tmp_path: Path, remote: str, where: str, content: dict[str, str]
) -> None:
    place = str(tmp_path / "mine") if where == "local" else remote
    write_foreign(place, content)
    with pytest.raises(ArtifactError, match=r"not replaced\. Choose another path"):
        write_model_directory(place, model(1))
    assert {name: io.read_bytes(io.join(place, name)).decode() for name in content} == content
    assert io.list_files(place).keys() == content.keys()


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_file_added_to_a_model_by_its_user_is_never_removed(
    path: Path, remote: str, where: str
) -> None:
    place = str(path) if where == "local" else remote
    write_model_directory(place, model(7))
    write_foreign(place, {"notes.txt": "keep me"})
    with pytest.raises(ArtifactError, match=r"holds 'notes\.txt', which is no part of the model"):
        write_model_directory(place, model(8))
    assert io.read_bytes(io.join(place, "notes.txt")) == b"keep me"


def test_nothing_is_computed_for_a_place_that_can_not_be_used(tmp_path: Path) -> None:
    write_foreign(str(tmp_path), {"thesis.tex": "years of work"})

    def never(_: Path) -> None:
        pytest.fail("it was called")

    with pytest.raises(ArtifactError):
        write_model_directory(tmp_path, never)


@pytest.mark.parametrize("damage", ["manifest.json", "weights.safetensors", "both"])
def test_a_damaged_model_can_be_replaced(path: Path, damage: str) -> None:
    (path / "weights.safetensors").write_bytes(b"damaged")
    if damage == "manifest.json":
        (path / "manifest.json").write_bytes(b"damaged")
    if damage == "both":
        (path / "manifest.json").unlink()
    write_model_directory(path, model(8))
    assert number_of(path) == 8


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path, remote: str, where: str) -> None:
    place = str(tmp_path / "x") if where == "local" else remote
    io.write_bytes(place, b"mine")
    with pytest.raises(ArtifactError, match="is a file"):
        write_model_directory(place, model(1))
    assert io.read_bytes(place) == b"mine"


def test_a_file_in_the_place_of_a_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="models/x' can't be written: a file is in the way"):
        write_model_directory(tmp_path / "models" / "x", model(1))


# --- what a reader refuses ----------------------------------------------------------------------


def test_a_path_without_a_model_is_named(tmp_path: Path, remote: str) -> None:
    assert refusal(tmp_path / "x").endswith("x' is not a model directory: it does not exist.")
    assert refusal(tmp_path).endswith("is not a model directory: no manifest.json.")
    (tmp_path / "file").write_bytes(b"")
    assert refusal(tmp_path / "file").endswith("is not a model directory: it is a file.")
    assert refusal(remote) == f"'{remote}' is not a model directory: no manifest.json."


@pytest.mark.parametrize("where", ["local", "remote"])
@pytest.mark.parametrize("content", [b"8" * 20_000, b"7" * 19_999, b"7" * 20_001, b""])
def test_changed_weights_are_refused(path: Path, remote: str, where: str, content: bytes) -> None:
    place = str(path) if where == "local" else remote
    write_model_directory(place, model(7))
    io.write_bytes(io.join(inside(place), "weights.safetensors"), content)
    assert "weights.safetensors: " in refusal(place)
    assert "the file was changed or damaged" in refusal(place)


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_missing_file_is_refused(path: Path, remote: str, where: str) -> None:
    place = str(path) if where == "local" else remote
    write_model_directory(place, model(7))
    io.remove_tree(io.join(inside(place), "config.json"))
    assert refusal(place) == f"'{place}': config.json is missing."


@pytest.mark.parametrize("where", ["local", "remote"])
@pytest.mark.parametrize("name", ["extra.pkl", ".hidden"])
def test_a_file_that_the_manifest_does_not_list_is_refused(
    path: Path, remote: str, where: str, name: str
) -> None:
    place = str(path) if where == "local" else remote
    write_model_directory(place, model(7))
    io.write_bytes(io.join(inside(place), name), b"")
    assert refusal(place) == f"'{place}': '{name}' is not listed in the manifest."


def test_a_folder_inside_is_refused(path: Path) -> None:
    (path / "folder").mkdir()
    assert "'folder' is not listed" in refusal(path)


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_link_in_the_place_of_a_file_is_refused(path: Path, tmp_path: Path, name: str) -> None:
    (path / name).rename(tmp_path / "outside")
    (path / name).symlink_to(tmp_path / "outside")
    assert refusal(path) == f"'{path}': '{name}' is a link, not a plain file."


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused(path: Path, name: str) -> None:
    (path / name).unlink()
    os.mkfifo(path / name)
    assert refusal(path) == f"'{path}': '{name}' is not a plain file."
    (path / name).unlink()
    (path / name).mkdir()
    assert refusal(path) == f"'{path}': '{name}' is not a plain file."


def lie(name: str = "weights.safetensors", **entry: object) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["files"][name].update(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format_version 2 is newer than 1"),
        (lambda m: m.update(format_version=True), "must be a whole number, not True"),
        (lambda m: m.update(format_version=0), "must be a whole number, not 0"),
        (lambda m: m.update(extra=1), "'format_version' and 'files' only"),
        (lambda m: m.pop("files"), "'format_version' and 'files' only"),
        (lambda m: m.update(files={}), "'files' must list 1 to 64 files"),
        (lambda m: m.update(files=[]), "'files' must list 1 to 64 files"),
        (lie(sha256="0" * 64), "SHA-256 differs from the manifest"),
        (lie(sha256="A" * 64), "not 64 hexadecimal digits"),
        (lie(sha256=1), "not 64 hexadecimal digits"),
        (lie(size=19_999), "it has more than 19999 bytes"),
        (lie(size=20_001), "it has 20000 bytes, the manifest says 20001"),
        (lie(size=-1), "must be 0 to"),
        (lie(size=True), "must be 0 to"),
        (lie(size=17 * 1024**3), "must be 0 to"),
        (lie("config.json", size=17 * 1024**2), "must be 0 to"),
        (lie(mode="x"), "'size' and 'sha256' only"),
        (lambda m: m["files"].update({"../a": {}}), "'../a' is no name of a file"),
        (lambda m: m["files"].update({"/etc/passwd": {}}), "'/etc/passwd' is no name of a file"),
        (lambda m: m["files"].update({"manifest.json": {}}), "is no name of a file"),
        (lambda m: m["files"].update({"a\n": {}}), "is no name of a file"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change_manifest(path, change)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "'format_version' and 'files' only"),
        (b"{" + b" " * 1024**2 + b"}", "larger than 1048576 bytes"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"files": {}, "files": {}}', "the key 'files' stands twice"),
    ],
)
def test_a_broken_manifest_is_refused(path: Path, content: bytes, message: str) -> None:
    (path / "manifest.json").write_bytes(content)
    assert message in refusal(path)


# --- several at once, and killed ----------------------------------------------------------------


@pytest.mark.parametrize("writer", [WRITER, WRITER_BY_TWO_RENAMES], ids=["exchange", "renames"])
def test_a_killed_writer_always_leaves_a_whole_model(path: Path, writer: str) -> None:
    chance = random.Random(0)
    seen = []
    for turn in range(8):
        command = [sys.executable, "-c", writer, str(path), str(1000 * turn + 1000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.005, 0.08))
            process.send_signal(signal.SIGKILL)
        seen.append(number_of(path))
    assert seen == sorted(seen), "an older model came back"
    assert seen[-1] >= 1000, "no writer ever finished one model"
    write_model_directory(path, model(1))
    assert number_of(path) == 1
    assert sorted(file.name for file in path.parent.iterdir()) == ["x"]


@pytest.mark.parametrize("writer", [WRITER, WRITER_BY_TWO_RENAMES], ids=["exchange", "renames"])
def test_two_writers_and_a_reader_at_once_never_see_a_mixture(path: Path, writer: str) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", writer, str(path), str(start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for start in (1_000_000, 2_000_000)
    ]
    for process in writers:
        assert process.stdout is not None
        process.stdout.readline()
    seen = {number_of(path) for _ in range(60)}
    running = [process.poll() is None for process in writers]
    for process in writers:
        process.kill()
        _, errors = process.communicate()
        assert errors == b""
    assert running == [True, True], "a writer failed beside the other one"
    assert len(seen) > 1, "the model was never replaced while it was read"
    assert number_of(path) >= 1_000_000


def test_many_threads_write_one_place(path: Path) -> None:
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            write_model_directory(path, model(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert number_of(path) in range(10, 18)
    assert sorted(file.name for file in path.parent.iterdir()) == ["x"]


def test_a_reader_puts_back_a_model_that_a_dead_writer_had_moved_aside(path: Path) -> None:
    path.rename(path.with_name(".x.old-abc"))
    assert number_of(path) == 7


def test_a_reader_follows_a_model_that_is_replaced_while_it_copies(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file = artifacts._copy_file
    rivals = iter([8, 9])

    def interrupted(*arguments: Any) -> None:
        number = next(rivals, None)
        if number is not None:
            write_model_directory(path, model(number))
        copy_file(*arguments)

    monkeypatch.setattr(artifacts, "_copy_file", interrupted)
    assert number_of(path) == 9


def test_a_reader_gives_up_on_a_model_that_never_rests(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(*_: Any) -> None:
        write_model_directory(path, model(8))
        raise ArtifactError("half of this and half of that")

    monkeypatch.setattr(artifacts, "_copy_file", replaced)
    monkeypatch.setattr(artifacts, "_READ_ATTEMPTS", 3)
    assert "was replaced by somebody again and again" in refusal(path)


# --- versions on a remote storage ---------------------------------------------------------------


def versions_at(place: str) -> list[str]:
    return sorted({name.split("/")[1] for name in io.list_files(place) if "versions/" in name})


def test_a_remote_model_is_a_version_behind_a_pointer(remote: str) -> None:
    write_model_directory(remote, model(1))
    (version,) = versions_at(remote)
    assert io.read_json(f"{remote}/current.json") == {
        "format_version": 1,
        "version": version,
        "previous": None,
    }
    manifest = io.read_bytes(f"{remote}/versions/{version}/manifest.json")
    assert version.endswith(hashlib.sha256(manifest).hexdigest()[:12])
    # A version can be named itself, and stays what it is.
    assert number_of(f"{remote}/versions/{version}") == 1
    write_model_directory(remote, model(2))
    assert number_of(f"{remote}/versions/{version}") == 1


def test_the_previous_version_is_kept_and_older_ones_are_removed(remote: str) -> None:
    seen = []
    for number in range(4):
        write_model_directory(remote, model(number))
        seen.append(io.read_json(f"{remote}/current.json")["version"])
    assert sorted(seen[-2:]) == versions_at(remote)
    assert number_of(remote) == 3


def test_a_model_that_was_copied_there_by_another_tool_is_read_and_replaced(
    remote: str, path: Path, object_store: ObjectStore
) -> None:
    io.upload_directory(path, remote)
    assert number_of(remote) == 7
    write_model_directory(remote, model(8))
    assert number_of(remote) == 8
    assert {name.split("/")[0] for name in io.list_files(remote)} == {"current.json", "versions"}


def test_a_remote_model_that_was_copied_to_this_machine_is_read(
    remote: str, tmp_path: Path
) -> None:
    write_model_directory(remote, model(1))
    write_model_directory(remote, model(2))
    io.download_directory(remote, tmp_path / "here")
    assert number_of(tmp_path / "here") == 2
    io.write_bytes(str(tmp_path / "here/current.json"), b"{}")
    assert "does not name a version" in refusal(tmp_path / "here")


@pytest.mark.parametrize("killed_at", ["weights.safetensors", "manifest.json", "current.json"])
@pytest.mark.parametrize("before", ["versioned", "plain"])
def test_a_writer_that_dies_leaves_the_old_model_in_its_place(
    remote: str, path: Path, killed_at: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before == "plain":
        io.upload_directory(path, remote)
    else:
        write_model_directory(remote, model(7))
    copy, write_json = io.copy, io.write_json

    def dies(target: str) -> None:
        if target.startswith(remote) and target.endswith(killed_at):
            raise KeyboardInterrupt

    def copying(source: str, target: str, *options: Any) -> None:
        dies(target)
        copy(source, target, *options)

    def writing(target: str, *arguments: Any) -> None:
        dies(target)
        write_json(target, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(io, "copy", copying)
        patch.setattr(io, "write_json", writing)
        with pytest.raises(KeyboardInterrupt):
            write_model_directory(remote, model(8))
    assert number_of(remote) == 7
    write_model_directory(remote, model(9))
    assert number_of(remote) == 9


def test_what_a_dead_writer_has_left_goes_when_it_is_an_hour_old(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_directory(remote, model(1))
    left = "versions/20200101T000000Z-0123456789ab/config.json"
    io.write_bytes(f"{remote}/{left}", b"{}")
    write_model_directory(remote, model(2))
    assert left in io.list_files(remote), "it may be somebody's who is still writing"
    times = io.modification_times

    def later(place: str, *options: Any) -> dict[str, float]:
        return {name: at - 3700 * (name == left) for name, at in times(place, *options).items()}

    monkeypatch.setattr(io, "modification_times", later)
    write_model_directory(remote, model(3))
    assert left not in io.list_files(remote)
    assert number_of(remote) == 3


def test_a_writer_whose_files_were_removed_does_not_publish_them(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_directory(remote, model(7))
    copy = io.copy

    def robbed(source: str, target: str, *options: Any) -> None:
        copy(source, target, *options)
        if target.endswith("weights.safetensors") and target.startswith(remote):
            io.remove_tree(target)

    with monkeypatch.context() as patch:
        patch.setattr(io, "copy", robbed)
        with pytest.raises(ArtifactError, match="was removed while the others were written"):
            write_model_directory(remote, model(8))
    assert number_of(remote) == 7


def test_a_reader_follows_a_remote_model_that_is_replaced_twice_while_it_copies(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_directory(remote, model(7))
    copy_file = artifacts._copy_file
    rivals = iter([8])

    def interrupted(source: Any, target: Path, *arguments: Any) -> None:
        copy_file(source, target, *arguments)
        for number in rivals:
            write_model_directory(remote, model(number))
            write_model_directory(remote, model(number + 1))

    monkeypatch.setattr(artifacts, "_copy_file", interrupted)
    assert number_of(remote) == 9


@pytest.mark.long
def test_a_killed_writer_always_leaves_a_whole_remote_model(remote: str) -> None:
    write_model_directory(remote, model(7))
    chance = random.Random(0)
    seen = []
    for turn in range(3):
        command = [sys.executable, "-c", WRITER, remote, str(1000 * turn + 1000)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda turn=turn: number_of(remote) >= 1000 * turn + 1000)  # type: ignore[misc]
            time.sleep(chance.uniform(0.005, 0.2))
        finally:
            process.kill()
            process.wait()
        seen.append(number_of(remote))
    assert seen == sorted(seen)


def test_two_writers_and_a_reader_of_a_remote_model_never_see_a_mixture(remote: str) -> None:
    write_model_directory(remote, model(7))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, remote, str(start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for start in (1_000_000, 2_000_000)
    ]
    try:
        seen: set[int] = set()
        wait_until(lambda: seen.add(number_of(remote)) or len(seen) > 4)  # type: ignore[func-returns-value]
        running = [process.poll() is None for process in writers]
    finally:
        for process in writers:
            process.kill()
        errors = [process.communicate()[1] for process in writers]
    assert running == [True, True], errors
    assert {number // 1_000_000 for number in seen} >= {1, 2}, "one of them never got through"
    assert number_of(remote) >= 1_000_000


def test_a_changed_model_is_noticed_by_one_small_object(
    remote: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (str(path), remote):
        write_model_directory(place, model(1))
        before = artifacts.stamp(place)
        assert before is not None
        assert artifacts.stamp(place) == before
        write_model_directory(place, model(2))
        assert artifacts.stamp(place) != before
    io.upload_directory(path, f"{remote}-plain")
    assert artifacts.stamp(f"{remote}-plain") == (path / "manifest.json").read_bytes()
    assert artifacts.stamp(f"{remote}-nowhere") is None
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError):
        artifacts.stamp(remote)


def test_a_pointer_of_another_form_is_refused_and_can_be_replaced(remote: str) -> None:
    write_model_directory(remote, model(1))
    for content in (b"{", b"[]", b'{"format_version": 1, "version": "../../x", "previous": null}'):
        io.write_bytes(f"{remote}/current.json", content)
        assert "current.json'" in refusal(remote)
    write_model_directory(remote, model(2))
    assert number_of(remote) == 2


def test_no_model_is_computed_for_a_bucket_that_is_not_there(
    object_store: ObjectStore, remote: str
) -> None:
    with pytest.raises(FileNotFoundError, match="No bucket 'no-such-bucket'"):
        check_target("s3://no-such-bucket/models/x")
    check_target(remote)
    assert io.exists(remote) is False


# --- config.json --------------------------------------------------------------------------------


def test_a_config_comes_back_as_it_was_written(tmp_path: Path) -> None:
    params = {"layer_dims": [4, None, 3], "dropout": 0.5, "name": "ä", "deep": {"a": [True]}}
    write_config(tmp_path, name="mlp_classifier", params=params)
    assert read_config(tmp_path) == {
        "format_version": 1,
        "name": "mlp_classifier",
        "params": params,
    }


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BAD_PARAMS = [
    ({"_target_": "os.system"}, "the key '_target_' is not allowed"),
    ({"a": [{"_args_": []}]}, "the key '_args_' is not allowed"),
    ({"a": {"_partial_": True}}, "the key '_partial_' is not allowed"),
    ({"a": "${oc.env:HOME}"}, r"params.a: '\$\{' is not allowed"),
    ({"${a}": 1}, "is not allowed"),
    ({"a": nested(20)}, "nested deeper than 8"),
]


@pytest.mark.parametrize(("params", "message"), BAD_PARAMS)
def test_a_config_that_could_act_is_refused_in_writing_and_in_reading(
    tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        write_config(tmp_path, name="mlp", params=params)
    assert list(tmp_path.iterdir()) == []
    config = {"format_version": 1, "name": "mlp", "params": params}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": float("nan")}, "nan is no finite number"),
        ({"a": object()}, "object is no JSON value"),
        ({1: "a"}, "the key 1 is no text"),
        ({"a": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_a_config_that_json_can_not_hold_is_not_written(
    tmp_path: Path, params: dict[Any, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        write_config(tmp_path, name="mlp", params=params)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "must have the keys"),
        ("[]", "must have the keys"),
        ('{"format_version": 1, "name": "a", "params": {}, "x": 1}', "must have the keys"),
        ('{"format_version": 2, "name": "a", "params": {}}', "format_version 2 is newer"),
        ('{"format_version": "1", "name": "a", "params": {}}', "must be a whole number"),
        ('{"format_version": 1, "name": "../a", "params": {}}', "is no name of a model"),
        ('{"format_version": 1, "name": 1, "params": {}}', "is no name of a model"),
        ('{"format_version": 1, "name": "a", "params": []}', "'params' must be a mapping"),
        ('{"format_version": 1, "name": "a", "params": {"a": NaN}}', "NaN is no JSON number"),
        (" " * (16 * 1024**2 + 1), "larger than"),
        (None, "config.json is missing"),
    ],
)
def test_a_config_of_another_form_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_config(tmp_path)


# --- tensors ------------------------------------------------------------------------------------


def test_tensors_come_back_bit_by_bit(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "count": np.array(3, dtype=np.int64),
        "mask": np.array([True, False]),
        "empty": np.zeros((0, 4), dtype=np.float64),
        "big_endian": np.array([1.5, 2.5], dtype=">f8"),
    }
    save_tensors(tmp_path / "w", tensors)
    loaded = load_tensors(tmp_path / "w")
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert loaded[name].shape == array.shape
        assert loaded[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded[name], array)


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    a, b = np.ones(3, np.float32), np.zeros(2, np.float32)
    save_tensors(tmp_path / "1", {"a": a, "b": b})
    save_tensors(tmp_path / "2", {"b": b, "a": a})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_in_writing_and_in_reading(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"w": np.array([1.0, value])}
    with pytest.raises(ArtifactError, match="Tensor 'w' holds NaN or an infinite number"):
        save_tensors(tmp_path / "w", tensors)
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "_check_finite", lambda *_: None)
        save_tensors(tmp_path / "w", tensors)
    with pytest.raises(ArtifactError, match="Tensor 'w' holds NaN or an infinite number"):
        load_tensors(tmp_path / "w")


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()]), np.array([1j])])
def test_tensors_of_another_kind_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="which can't be stored"):
        save_tensors(tmp_path / "w", {"a": array})


def header(text: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        header("{}", 2**63),
        header("{}", 17 * 1024**2),
        header("{}", 100),
        header("[]"),
        header('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}') + b"1234",
        header('{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}') + b"12345678",
        header('{"a": {"dtype": "X32", "shape": [2], "data_offsets": [0, 8]}}') + b"12345678",
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}') + b"12345678",
        header('{"a": 1, "a": 2}'),
    ],
)
def test_a_broken_tensor_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load_tensors(tmp_path / "w")
    assert "'w'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^w is missing\.$"):
        load_tensors(tmp_path / "w")


# --- estimators ---------------------------------------------------------------------------------


def fitted(booster: str) -> tuple[Any, np.ndarray]:
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(120, 4)), generator.integers(0, 3, 120)
    if booster == "histogram":
        estimator = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    else:
        estimator = GradientBoostingClassifier(n_estimators=5, subsample=0.8, random_state=0)
    return estimator.fit(X, y), X


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("skops") / "w.skops"
    save_estimator(path, fitted("histogram")[0])
    return path.read_bytes()


@pytest.mark.parametrize("booster", ["histogram", "exact"])
def test_an_estimator_predicts_the_same_to_the_bit_after_loading(
    tmp_path: Path, booster: str
) -> None:
    estimator, X = fitted(booster)
    save_estimator(tmp_path / "w", estimator)
    loaded = load_estimator(tmp_path / "w", trusted=TRUSTED)
    np.testing.assert_array_equal(loaded.predict_proba(X), estimator.predict_proba(X))


@pytest.mark.parametrize("booster", ["histogram", "exact"])
def test_the_same_fit_gives_the_same_bytes_in_every_process(booster: str) -> None:
    code = f"""
import hashlib, sys, tempfile
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_artifacts import fitted, save_estimator
with tempfile.TemporaryDirectory() as directory:
    save_estimator(Path(directory, "w"), fitted({booster!r})[0])
    print(hashlib.sha256(Path(directory, "w").read_bytes()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "MALLOC_PERTURB_": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65


def test_neither_saving_nor_loading_imports_torch(tmp_path: Path) -> None:
    code = f"""
import sys
import sklearn.utils
from sklearn.linear_model import LogisticRegression
before = sklearn.utils.all_estimators
from ml_project_template.artifacts import load_estimator, save_estimator, load_tensors, save_tensors
import numpy as np
save_tensors({str(tmp_path / "t")!r}, {{"a": np.ones(2)}})
load_tensors({str(tmp_path / "t")!r})
save_estimator({str(tmp_path / "w")!r}, LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
load_estimator(
    {str(tmp_path / "w")!r}, trusted=["sklearn.linear_model._logistic.LogisticRegression"]
)
assert sklearn.utils.all_estimators is before
import skops.io
from skops.io import _trusted_types, _utils
assert _trusted_types.SKLEARN_ESTIMATOR_TYPE_NAMES == _trusted_types.NUMPY_UFUNC_TYPE_NAMES == []
assert _utils.get_public_type_names(np, np.ufunc)
assert {{"dump", "load"}} <= set(dir(skops.io)) and skops.io.loads.__module__ == "skops.io._persist"
print([name for name in ("torch", "mlflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_the_module_imports_nothing_heavy() -> None:
    code = """
import sys
import ml_project_template.artifacts
heavy = ("numpy", "pandas", "torch", "sklearn", "skops", "safetensors", "fsspec", "pydantic")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_type_that_is_not_trusted_is_refused(tmp_path: Path, saved: bytes) -> None:
    (tmp_path / "w").write_bytes(saved)
    fewer = [name for name in TRUSTED if not name.endswith("TreePredictor")]
    with pytest.raises(ArtifactError, match=r"not trusted: 'sklearn\..*TreePredictor'"):
        load_estimator(tmp_path / "w", trusted=fewer)


def rebuilt(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Write an archive anew with a changed schema."""
    buffer = memory.BytesIO()
    with (
        zipfile.ZipFile(memory.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w") as new,
    ):
        for name in old.namelist():
            if name != "schema.json":
                new.writestr(name, old.read(name))
        schema = json.loads(old.read("schema.json"))
        change(schema)
        new.writestr("schema.json", json.dumps(schema))
    return buffer.getvalue()


def call(module: str, name: str, loader: str) -> dict[str, Any]:
    return {"__class__": name, "__module__": module, "__loader__": loader, "content": "1"}


@pytest.mark.parametrize(
    "node",
    [
        call("os", "system", "FunctionNode"),
        call("builtins", "eval", "TypeNode"),
        call("numpy", "add", "FunctionNode"),
        call("functools", "partial", "PartialNode"),
        call("operator", "attrgetter", "OperatorFuncNode"),
        call("sklearn.utils", "Bunch", "DictNode"),
    ],
)
def test_a_schema_with_a_stranger_in_it_is_refused_before_it_is_built(
    tmp_path: Path, saved: bytes, node: dict[str, Any]
) -> None:
    content = rebuilt(saved, lambda schema: schema["content"]["content"].update(evil=node))
    (tmp_path / "w").write_bytes(content)
    name = f"{node['__module__']}.{node['__class__']}"
    with pytest.raises(ArtifactError, match=f"not trusted: '{name}'"):
        load_estimator(tmp_path / "w", trusted=TRUSTED)


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = memory.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def claimed_size(content: bytes, size: int) -> bytes:
    """Write another size into the entry of the last member of an archive's directory."""
    place = content.rindex(b"PK\x01\x02") + 24
    return content[:place] + struct.pack("<I", size) + content[place + 4 :]


def several(count: int) -> bytes:
    return archive({f"{number}.npy": b"" for number in range(count)} | {"schema.json": b"{}"})


BOMB = archive({"schema.json": b" " * 50_000_000}, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no skops file"),
        (b"not a zip", "is no skops file"),
        (BOMB, "a compressed part: 'schema.json'"),
        (claimed_size(archive({"schema.json": b"{}"}), 2**31), "claims 2147483648 bytes"),
        (archive({"schema.json": b"{}", "evil.py": b""}), "a strange name: 'evil.py'"),
        (archive({"../1.npy": b"", "schema.json": b"{}"}), "a strange name: '../1.npy'"),
        (archive({"1.npy": b""}), "has no schema.json"),
        (archive({"schema.json": b"["}), "is not valid JSON"),
        (archive({"schema.json": b"[" * 100_000}), "nested too deep"),
        (archive({"schema.json": b'{"a": 1, "a": 2}'}), "the key 'a' stands twice"),
        (archive({"schema.json": b"{}"}), "can't be loaded"),
        (archive({"schema.json": b"[]"}), "can't be loaded"),
        (several(30), "has 31 parts; at most 20 pass"),
    ],
)
def test_a_broken_or_hostile_archive_is_refused(
    tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_MAX_ZIP_MEMBERS", 20)
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load_estimator(tmp_path / "w", trusted=TRUSTED)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_that_stands_twice_is_refused(tmp_path: Path) -> None:
    buffer = memory.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("schema.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("schema.json", b"[]")
    (tmp_path / "w").write_bytes(buffer.getvalue())
    with pytest.raises(ArtifactError, match="holds a part twice"):
        load_estimator(tmp_path / "w", trusted=TRUSTED)


def test_a_flipped_bit_is_refused(tmp_path: Path, saved: bytes) -> None:
    with zipfile.ZipFile(memory.BytesIO(saved)) as file:
        place = file.getinfo("1.npy").header_offset + 100
    damaged = bytearray(saved)
    damaged[place] ^= 1
    (tmp_path / "w").write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"can't be loaded|is no skops file"):
        load_estimator(tmp_path / "w", trusted=TRUSTED)


def test_arrays_of_objects_never_reach_pickle(tmp_path: Path, saved: bytes) -> None:
    buffer = memory.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    content = memory.BytesIO()
    with (
        zipfile.ZipFile(memory.BytesIO(saved)) as old,
        zipfile.ZipFile(content, "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, buffer.getvalue() if name == "1.npy" else old.read(name))
    (tmp_path / "w").write_bytes(content.getvalue())
    with pytest.raises(ArtifactError, match="allow_pickle=False"):
        load_estimator(tmp_path / "w", trusted=TRUSTED)


def test_an_estimator_that_skops_can_not_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="generator can't be stored by skops"):
        save_estimator(tmp_path / "w", (number for number in range(3)))


def test_an_estimator_of_too_many_parts_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_MAX_ZIP_MEMBERS", 5)
    with pytest.raises(ArtifactError, match="at most 4 can be stored"):
        save_estimator(tmp_path / "w", fitted("histogram")[0])
    assert not (tmp_path / "w").exists()


def test_a_missing_estimator_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^w is missing\.$"):
        load_estimator(tmp_path / "w", trusted=TRUSTED)


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_target_that_could_not_be_replaced_is_told_beforehand(
    where: str, tmp_path: Path, remote: str
) -> None:
    place = str(tmp_path / "mine") if where == "local" else remote
    check_target(place)
    write_model_directory(place, model(1))
    check_target(place)
    write_foreign(place, {"notes.txt": "keep me"})
    with pytest.raises(ArtifactError, match=r"holds 'notes\.txt'"):
        check_target(place)


def test_a_target_below_a_file_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="can't be written"):
        check_target(str(tmp_path / "file" / "model"))


def contents(place: str) -> dict[str, bytes]:
    """Read the files of a directory, local or remote."""
    files = inside(place)
    return {name: io.read_bytes(io.join(files, name)) for name in io.list_files(files)}


@pytest.mark.parametrize("way", ["local to local", "local to remote", "remote to local"])
def test_a_copy_is_the_same_to_the_bit(way: str, tmp_path: Path, remote: str) -> None:
    start, _, end = way.split()
    places = {"local": str(tmp_path / "deep" / "down" / "y"), "remote": f"{remote}/copy"}
    source, target = str(tmp_path / "x") if start == "local" else remote, places[end]
    write_model_directory(source, model(3))
    assert copy_model_directory(source, target) == target
    assert contents(target) == contents(source)
    assert number_of(target) == number_of(source) == 3
    if end == "local":
        assert [entry.name for entry in Path(target).parent.iterdir()] == ["y"]


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_copy_replaces_an_older_model_with_nothing_of_it_left(
    where: str, path: Path, tmp_path: Path, remote: str
) -> None:
    target = str(tmp_path / "y") if where == "local" else remote

    def bigger(directory: Path) -> None:
        model(1)(directory)
        (directory / "metadata.json").write_text("{}")

    write_model_directory(target, bigger)
    copy_model_directory(str(path), target)
    assert number_of(target) == 7
    assert contents(target) == contents(str(path))


def test_a_model_copied_onto_itself_stays(path: Path) -> None:
    before = contents(str(path))
    copy_model_directory(str(path), str(path))
    assert contents(str(path)) == before


@pytest.mark.parametrize("damage", ["weights", "missing", "manifest", "added", "none"])
def test_a_damaged_model_is_not_copied_and_the_target_stays(
    damage: str, path: Path, tmp_path: Path
) -> None:
    target = tmp_path / "y"
    write_model_directory(target, model(1))
    if damage == "weights":
        (path / "weights.safetensors").write_bytes(b"8" * 20_000)
    elif damage == "missing":
        (path / "config.json").unlink()
    elif damage == "manifest":
        (path / "manifest.json").write_text("{")
    elif damage == "added":
        (path / "more.json").write_text("{}")
    else:
        path = tmp_path / "nowhere"
    with pytest.raises(ArtifactError, match=str(path)) as caught:
        copy_model_directory(str(path), str(target))
    assert "\n" not in str(caught.value)
    assert number_of(target) == 1
    with pytest.raises(ArtifactError):
        copy_model_directory(str(path), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_copy_does_not_replace_what_is_no_model(path: Path, tmp_path: Path) -> None:
    write_foreign(str(tmp_path / "mine"), {"notes.txt": "keep me"})
    with pytest.raises(ArtifactError, match="no model of ours: it is not replaced"):
        copy_model_directory(str(path), str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
