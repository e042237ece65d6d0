"""Where raw tables come from."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.metadata
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import datasets

from ml_project_template.data import TabularDataset, onboard
from ml_project_template.data.sources import SKLEARN_DATASETS
from ml_project_template.errors import ConfigError, DataError


def _record(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.with_name(f"{path.name}.json").read_text())
    return record


@pytest.mark.parametrize("name", SKLEARN_DATASETS)
def test_a_data_set_of_scikit_learn_is_written_without_loss(tmp_path: Path, name: str) -> None:
    path = tmp_path / "raw" / f"{name}.csv"
    onboarded = onboard(source=f"sklearn:{name}", path=str(path))
    assert onboarded.changed
    assert onboarded.path == str(path)
    assert onboarded.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert onboarded.size == path.stat().st_size
    dataset = TabularDataset.from_file(path, target_column="target")
    bunch = getattr(datasets, f"load_{name}")()
    assert onboarded.rows == len(dataset) == len(bunch.target)
    np.testing.assert_array_equal(dataset.features.to_numpy(dtype=np.float64), bunch.data)
    assert dataset.labels.tolist() == [str(bunch.target_names[code]) for code in bunch.target]
    assert all(column.isidentifier() for column in dataset.feature_names)


def test_iris_has_readable_names(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    onboard(source="sklearn:iris", path=str(path))
    lines = path.read_text().splitlines()
    assert lines[0] == "sepal_length_cm,sepal_width_cm,petal_length_cm,petal_width_cm,target"
    assert lines[1] == "5.1,3.5,1.4,0.2,setosa"


def test_the_record_tells_where_a_table_came_from(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    onboarded = onboard(source="sklearn:iris", path=str(path))
    record = _record(path)
    assert record.pop("created_at").endswith("+00:00")
    assert record == {
        "source": "sklearn:iris",
        "release": importlib.metadata.version("scikit-learn"),
        "rows": 150,
        "sha256": onboarded.digest,
        "size": onboarded.size,
    }
    assert sorted(item.name for item in tmp_path.iterdir()) == ["iris.csv", "iris.csv.json"]


def test_a_table_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    first = onboard(source="sklearn:iris", path=str(path))
    before = (path.stat().st_mtime_ns, _record(path))
    again = onboard(source="sklearn:iris", path=str(path))
    assert (again.changed, again.digest, again.rows) == (False, first.digest, 150)
    assert (path.stat().st_mtime_ns, _record(path)) == before


def test_a_table_is_made_again_by_another_release_of_scikit_learn_alone(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    onboard(source="sklearn:iris", path=str(path))
    script = (
        "import sys\n"
        "from ml_project_template.data import onboard\n"
        f"onboarded = onboard(source='sklearn:iris', path={str(path)!r})\n"
        "print(onboarded.rows, onboarded.changed, 'sklearn' in sys.modules)"
    )

    def again() -> list[str]:
        command = [sys.executable, "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert again() == ["150", "False", "False"]
    record = path.with_name("iris.csv.json")
    record.write_text(json.dumps(_record(path) | {"release": "0.1"}))
    assert again() == ["150", "False", "True"]
    assert _record(path)["release"] == importlib.metadata.version("scikit-learn")


def test_a_table_that_somebody_changed_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    first = onboard(source="sklearn:iris", path=str(path))
    path.write_text("mine,target\n1,x\n")
    with pytest.raises(DataError, match=r"exists and is not what 'sklearn:iris' gives.*force=true"):
        onboard(source="sklearn:iris", path=str(path))
    assert path.read_text() == "mine,target\n1,x\n"
    forced = onboard(source="sklearn:iris", path=str(path), force=True)
    assert (forced.changed, forced.digest) == (True, first.digest)


def test_a_local_file_is_copied_unchanged_and_again_when_it_changes(tmp_path: Path) -> None:
    source, path = tmp_path / "mine.csv", tmp_path / "raw" / "mine.csv"
    source.write_bytes("größe,t\r\n1,x\r\n".encode("latin-1"))
    assert onboard(source=str(source), path=str(path)).changed
    assert path.read_bytes() == source.read_bytes()
    assert not onboard(source=str(source), path=str(path)).changed
    source.write_text("a,t\n2,y\n")
    assert onboard(source=str(source), path=str(path)).changed
    assert path.read_text() == "a,t\n2,y\n"
    assert _record(path)["source"] == str(source)


def test_a_record_that_is_older_than_its_table_is_written_again(tmp_path: Path) -> None:
    source, path = tmp_path / "mine.csv", tmp_path / "raw" / "mine.csv"
    source.write_text("a,t\n1,x\n")
    onboard(source=str(source), path=str(path))
    # As by a process that was killed between the two files.
    for place in (source, path):
        place.write_text("a,t\n2,y\n")
    assert not onboard(source=str(source), path=str(path)).changed
    assert _record(path)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    source.write_text("a,t\n3,x\n")
    assert onboard(source=str(source), path=str(path)).changed


def test_a_file_without_a_record_is_accepted_where_it_is_the_same(tmp_path: Path) -> None:
    source, path = tmp_path / "mine.csv", tmp_path / "copy.csv"
    source.write_text("a,t\n1,x\n")
    path.write_text("a,t\n1,x\n")
    assert not onboard(source=str(source), path=str(path)).changed
    assert _record(path)["sha256"] == hashlib.sha256(b"a,t\n1,x\n").hexdigest()


def test_an_unreadable_record_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    onboard(source="sklearn:iris", path=str(path))
    for content in ("{", "[]"):
        (tmp_path / "iris.csv.json").write_text(content)
        assert not onboard(source="sklearn:iris", path=str(path)).changed
        assert _record(path)["source"] == "sklearn:iris"


@pytest.mark.parametrize("named", [True, False])
def test_the_users_own_table_stays_where_it_is(tmp_path: Path, named: bool) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,t\n1,x\n")
    onboarded = onboard(source=str(path) if named else None, path=str(path))
    assert (onboarded.changed, onboarded.size, onboarded.rows) == (False, 8, None)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.csv"]


def test_a_table_may_lie_on_any_storage() -> None:
    path = "memory://sources/iris.csv"
    assert onboard(source="sklearn:iris", path=path).changed
    assert not onboard(source="sklearn:iris", path=path).changed
    copied = onboard(source=path, path="memory://sources/copy.csv")
    assert copied.changed
    assert not onboard(source=path, path=path).changed


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    with pytest.raises(
        ConfigError, match=r"Unknown data set of scikit-learn 'irsi'\. Did you mean 'iris'"
    ):
        onboard(source="sklearn:irsi", path=path)
    with pytest.raises(FileNotFoundError, match=r"nope\.csv"):
        onboard(source=str(tmp_path / "nope.csv"), path=path)
    with pytest.raises(FileNotFoundError, match=r"t\.csv"):
        onboard(source=None, path=path)
    with pytest.raises(DataError, match="is a directory; it must be a file"):
        onboard(source=str(tmp_path), path=path)
    with pytest.raises(DataError, match="is a directory; the path must name a file"):
        onboard(source="sklearn:iris", path=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real web server and the folder that it serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def test_a_table_behind_a_url_is_fetched_once(server: tuple[str, Path], tmp_path: Path) -> None:
    host, folder = server
    (folder / "t.csv").write_text("a,t\n1,x\n")
    path = tmp_path / "t.csv"
    url = f"http://{host}/t.csv"
    assert onboard(source=url, path=str(path)).changed
    assert path.read_text() == "a,t\n1,x\n"
    (folder / "t.csv").write_text("a,t\n2,y\n")
    assert not onboard(source=url, path=str(path)).changed
    assert path.read_text() == "a,t\n1,x\n"
    assert onboard(source=url, path=str(path), force=True).changed
    assert path.read_text() == "a,t\n2,y\n"


def test_credentials_of_a_url_are_not_recorded(server: tuple[str, Path], tmp_path: Path) -> None:
    host, folder = server
    (folder / "t.csv").write_text("a,t\n1,x\n")
    path = tmp_path / "t.csv"
    onboard(source=f"http://user:canary-7f3@{host}/t.csv?token=canary-8a1", path=str(path))
    text = (tmp_path / "t.csv.json").read_text()
    assert "canary" not in text
    assert _record(path)["source"] == f"http://{host}/t.csv?token=***"


def test_a_missing_page_is_told_and_leaves_nothing(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    host, _ = server
    path = tmp_path / "t.csv"
    with pytest.raises(FileNotFoundError, match=r"nope\.csv"):
        onboard(source=f"http://{host}/nope.csv", path=str(path))
    assert [item.name for item in tmp_path.iterdir()] == ["web"]
