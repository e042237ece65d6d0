"""Formats: delimiters that are found out, compressions, JSON lines, Arrow; and many files."""

from __future__ import annotations

import bz2
import functools
import gzip
import http.server
import json
import lzma
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ml_project_template.data import Preprocessor, RawTable, TabularDataset, onboard
from ml_project_template.data.files import format_of, sniff
from ml_project_template.data.prepare import prepare
from ml_project_template.errors import ConfigError, DataError
from ml_project_template.utils import io

CSV = "a,b,y\n" + "".join(f"{i}.5,{i % 3},{'uv'[i % 2]}\n" for i in range(12))


def _read(path: Path | str, **options: object) -> TabularDataset:
    return TabularDataset.from_file(path, target_column="y", **options)  # type: ignore[arg-type]


def _same(one: TabularDataset, other: TabularDataset) -> None:
    pd.testing.assert_frame_equal(one.features, other.features)
    assert one.labels.tolist() == other.labels.tolist()


@pytest.fixture
def plain(tmp_path: Path) -> TabularDataset:
    path = tmp_path / "plain.csv"
    path.write_text(CSV)
    return _read(path)


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_the_header_tells_the_delimiter(
    plain: TabularDataset, tmp_path: Path, sign: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "t.csv"
    path.write_text(CSV.replace(",", sign))
    _same(_read(path), plain)
    assert f"t.csv' is separated by { ({';': 'semicolons', '|': 'bars'}.get(sign, 'tabs')) }" in (
        caplog.text
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n", {}),
        ("a\n1\n", {}),
        ("a,b;c\n1;2,3;4\n", {}),
        ('"a, b";c\n1;2\n', {"sep": ";"}),
        ("a;b\r\n1,5;x\r\n", {"sep": ";", "decimal": ","}),
        ("a;b\n1,5;2.5\n", {"sep": ";"}),
        ("a;b\n1,5,6;x\n", {"sep": ";"}),
        ("a\tb\n1,5\tx\n", {"sep": "\t"}),
    ],
)
def test_what_is_found_out_is_little_and_sure(text: str, expected: dict[str, str]) -> None:
    assert sniff(text.encode(), "'t.csv'", {}) == expected
    assert sniff(text.encode(), "'t.csv'", {"sep": ","}) == {"sep": ","}
    assert sniff(text.encode(), "'t.csv'", {"header": None}) == {"header": None}


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".csv.gz", gzip.compress),
        (".csv.bz2", bz2.compress),
        (".csv.xz", lzma.compress),
        (".csv.zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
    ],
)
def test_compressed_text_is_read_and_damage_told(
    plain: TabularDataset, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"t{ending}"
    content = compress(CSV.encode())
    path.write_bytes(content)
    _same(_read(path), plain)
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"t\.csv\..* is a damaged (gzip|bzip2|xz|Zstandard) file"):
        _read(path)


@pytest.mark.parametrize("ending", [".feather", ".arrow", ".jsonl", ".ndjson", ".jsonl.gz"])
def test_other_formats_give_the_same_rows(
    plain: TabularDataset, tmp_path: Path, ending: str
) -> None:
    frame = pd.read_csv(tmp_path / "plain.csv")
    path = tmp_path / f"t{ending}"
    if ending == ".feather":
        frame.to_feather(path)
    elif ending == ".arrow":
        table = pa.Table.from_pandas(frame)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        lines = "".join(f"{json.dumps(row)}\n" for row in frame.to_dict("records")).encode()
        path.write_bytes(gzip.compress(lines) if ending.endswith("gz") else lines)
    _same(_read(path), plain)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b"", "is empty"),
        ("t.jsonl", b"[1]\n", "is not JSON lines"),
        (
            "t.jsonl",
            b'{"a": {"x": 1}, "y": 1}\n{"a": {"x": 1}, "y": 2}\n',
            r"column 'a', row 1: \{'x': 1\} is not a number",
        ),
        ("t.jsonl", b'{"a": 1, "y": {"x": 1}}\n', "target column 'y'"),
        ("t.jsonl", b'{"a": 1, "y": [1]}\n', "target column 'y'.* is not a label"),
        ("t.arrow", b"", "is empty"),
        ("t.feather", b"ARROW1 no", "is not a readable Arrow file"),
    ],
)
def test_what_can_not_be_read_is_told(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        _read(path)


def test_endings_are_looked_at_without_the_query_of_a_url() -> None:
    assert format_of("https://host/t.CSV.gz?token=x.parquet") == "csv"
    assert format_of("s3://b/t.tsv") == "csv"
    for wrong in ("t.parquet.gz", "t.gz", "t", "https://host/t?x=t.csv"):
        with pytest.raises(ConfigError, match="the file must end in"):
            format_of(wrong)


def test_a_pattern_stands_for_many_files(plain: TabularDataset, tmp_path: Path) -> None:
    header, *lines = CSV.splitlines(keepends=True)
    # Ten, so that they are sorted as text; and written in another order.
    for part in (2, 10, 1):
        rows = lines[:4] if part == 1 else lines[4:7] if part == 10 else lines[7:]
        (tmp_path / f"part-{part}.csv").write_text(header + "".join(rows))
    pattern = str(tmp_path / "part-*.csv")
    _same(_read(pattern), plain)
    raw = RawTable(path=pattern, target_column="y", name="parts")
    arguments = {"preprocessor": Preprocessor(), "output_root": str(tmp_path / "out")}
    first = prepare(raw, **arguments)  # type: ignore[arg-type]
    assert first.digest == io.sha256(pattern) == onboard(source=None, path=pattern).digest
    assert prepare(raw, **arguments).reused  # type: ignore[arg-type]
    (tmp_path / "part-2.csv").write_text(header + "".join(lines))
    assert not prepare(raw, **arguments).reused  # type: ignore[arg-type]


def test_a_pattern_that_does_not_fit_is_told(tmp_path: Path) -> None:
    pattern = str(tmp_path / "p*.csv")
    with pytest.raises(FileNotFoundError, match=r"No file matches '.*p\*\.csv'"):
        _read(pattern)
    (tmp_path / "p1.csv").write_text("a,y\n1,u\n")
    (tmp_path / "p2.csv").write_text("b,y\n1,u\n")
    with pytest.raises(DataError, match=r"p2\.csv' has not the columns of '.*p1\.csv': 'a' is in"):
        _read(pattern)
    (tmp_path / "p2.csv").write_text("y,a\nu,1\n")
    with pytest.raises(DataError, match=r"p2\.csv' has not .*: another order"):
        _read(pattern)
    with pytest.raises(ConfigError, match="stands for many files: none can be put there"):
        onboard(source="sklearn:iris", path=pattern)
    with pytest.raises(DataError, match="stands for many files, and a source is one"):
        onboard(source=pattern, path=str(tmp_path / "t.csv"))
    (tmp_path / "q[1].csv").write_text("a,y\n1,u\n2,v\n")
    assert len(_read(tmp_path / "q[1].csv")) == 2


def test_a_pattern_may_lie_on_any_storage() -> None:
    for part, rows in (("a", "1,u\n2,v\n"), ("b", "3,u\n")):
        io.write_bytes(f"memory://patterns/part-{part}.csv", f"x,y\n{rows}".encode())
    data = _read("memory://patterns/part-*.csv")
    assert data.features["x"].tolist() == [1, 2, 3]


def test_a_table_is_read_straight_from_a_url(plain: TabularDataset, tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Keep the output of the tests clean."""

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/plain.csv?token=canary"
        assert not onboard(source=None, path=url).changed
        data = RawTable(path=url, target_column="y").read()
        server.shutdown()
        thread.join()
    _same(data, plain)
    assert "canary" not in str(data.source)
    np.testing.assert_array_equal(data.X, plain.X)
