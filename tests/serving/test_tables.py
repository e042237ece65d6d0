"""Tables over HTTP, as pyarrow and pandas write and read them."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from pyarrow import ipc, parquet

from ml_project_template.predictor import Predictor, score_file
from ml_project_template.serving import create_app, load_model, tables
from ml_project_template.serving.settings import ServerSettings
from tests.servers import Loaded, flats

FEATURES = ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"]
ROW = dict(zip(FEATURES, [5.1, 3.5, 1.4, 0.2], strict=True))
MEDIA = {
    "stream": "application/vnd.apache.arrow.stream",
    "file": "application/vnd.apache.arrow.file",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
}
BINARY = ["stream", "file", "parquet"]
FORMS = [*BINARY, "csv"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """1,000 rows like those of the training, some values missing, and further columns."""
    return rows(1_000)


def rows(count: int) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    columns = {
        name: generator.uniform(low, high, count).round(3)
        for name, low, high in zip(FEATURES, [4, 2, 1, 0], [8, 4.5, 7, 2.5], strict=True)
    }
    frame = pd.DataFrame(columns)[FEATURES[::-1]]
    frame.loc[::7, "sepal_width_cm"] = np.nan
    frame.insert(1, "note", 'a, "b"\nc')
    frame["number.of"] = np.arange(count)
    return frame


def write(table: pd.DataFrame | pa.Table, form: str, **options: Any) -> bytes:
    if form == "csv":
        frame = table if isinstance(table, pd.DataFrame) else table.to_pandas()
        return frame.to_csv(index=False).encode()
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table)
    sink = io.BytesIO()
    if form == "parquet":
        parquet.write_table(table, sink, **options)
    else:
        make = ipc.new_stream if form == "stream" else ipc.new_file
        with make(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table)
    return sink.getvalue()


def read(body: bytes, form: str) -> pd.DataFrame:
    if form == "csv":
        return pd.read_csv(io.BytesIO(body))
    frame: pd.DataFrame = as_table(body, form).to_pandas()
    return frame


def as_table(body: bytes, form: str) -> pa.Table:
    if form == "parquet":
        return parquet.read_table(io.BytesIO(body))
    return (ipc.open_stream if form == "stream" else ipc.open_file)(body).read_all()


def post(
    client: TestClient, body: bytes, form: str, path: str = "/predict/table", **more: str
) -> Any:
    media = MEDIA.get(form, form)
    return client.post(path, content=body, headers={"content-type": media, "accept": "*/*", **more})


def assert_refused(answer: Any, status: int, words: list[str]) -> None:
    assert answer.status_code == status, answer.content[:500]
    assert len(answer.content) < 2_000
    assert "\n" not in answer.json()["detail"]
    assert all(word in answer.json()["detail"] for word in words), answer.json()


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("source", FORMS)
def test_each_form_is_answered_in_each_form_as_the_predictor_does(
    source: str, target: str, frame: pd.DataFrame, client: TestClient, predictor: Predictor
) -> None:
    expected = pd.concat([frame, predictor.predict_frame(frame)], axis=1)
    for path in ("/predict/table", "/models/iris/predict/table"):
        answer = post(client, write(frame, source), source, path, accept=MEDIA[target])
        assert answer.status_code == 200, answer.content[:500]
        assert answer.headers["content-type"] == MEDIA[target]
        got = read(answer.content, target)
        assert list(got.columns) == list(expected.columns)
        for name in expected.columns:
            if expected[name].dtype.kind == "f":
                same = np.allclose(got[name], expected[name], rtol=0, atol=1e-6, equal_nan=True)
                assert same, name
            else:
                assert got[name].astype(str).tolist() == expected[name].astype(str).tolist()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_answer_is_what_score_file_writes(
    ending: str, frame: pd.DataFrame, client: TestClient, predictor: Predictor, tmp_path: Path
) -> None:
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    source.write_bytes(write(frame, ending))
    score_file(predictor, str(source), str(target))
    answer = post(client, source.read_bytes(), ending)
    got, expected = read(answer.content, ending), read(target.read_bytes(), ending)
    pd.testing.assert_frame_equal(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compressed_arrow_is_read(
    kind: str, compression: str | None, frame: pd.DataFrame, client: TestClient
) -> None:
    table = pa.Table.from_pandas(frame.assign(kind=frame["note"].astype("category")))
    answer = post(client, write(table, kind, compression=compression), kind)
    got = as_table(answer.content, kind)
    assert got.select(table.column_names).equals(table)


@pytest.mark.parametrize("form", ["stream", "file"])
def test_a_dictionary_that_grows_from_batch_to_batch_is_read(form: str, client: TestClient) -> None:
    parts = [
        pa.table(
            {**{name: [1.0] for name in FEATURES}, "kind": pa.array([kind]).dictionary_encode()}
        )
        for kind in ("a", "b", "c")
    ]
    sink = io.BytesIO()
    make = ipc.new_stream if form == "stream" else ipc.new_file
    table = (
        pa.concat_tables(parts)
        if form == "stream"
        else pa.concat_tables(parts).unify_dictionaries()
    )
    with make(sink, table.schema) as writer:
        writer.write_table(table)
    answer = post(client, sink.getvalue(), form)
    assert as_table(answer.content, form).column("kind").to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize("form", BINARY)
def test_columns_keep_their_types(form: str, client: TestClient) -> None:
    count = 20
    more = {
        "text": pa.array(["a", None] * 10),
        "large": pa.array(["a", "b"] * 10, pa.large_string()),
        "bytes": pa.array([b"\xff", None] * 10),
        "fixed": pa.array([b"abc"] * count, pa.binary(3)),
        "decimal": pa.array([1] * count, pa.decimal128(10, 2)),
        "date": pa.array([1] * count, pa.date32()),
        "time": pa.array([1] * count, pa.time64("us")),
        "moment": pa.array([1] * count, pa.timestamp("us", "UTC")),
        "kind": pa.array(["a", "b"] * 10).dictionary_encode(),
        "nothing": pa.nulls(count),
        "truth": pa.array([True, False] * 10),
    }
    features = {
        "sepal_length_cm": pa.array([5, None] * 10, pa.int64()),
        "sepal_width_cm": pa.array([3.5] * count, pa.float16()),
        "petal_length_cm": pa.array([True, False] * 10),
        "petal_width_cm": pa.nulls(count),
    }
    table = pa.table({**features, **more})
    if form == "parquet":
        table = table.set_column(1, "sepal_width_cm", pa.array([3.5] * count, pa.float32()))
    answer = post(client, write(table, form), form)
    assert answer.status_code == 200, answer.content
    got = as_table(answer.content, form)
    assert got.select(table.column_names).equals(table)
    assert got.schema.types[-4:] == [pa.string(), pa.float64(), pa.float64(), pa.float64()]


def test_views_are_read_as_text(client: TestClient) -> None:
    views = pa.array(["a", None, "a text that is longer than twelve bytes"], pa.string_view())
    table = pa.table({**{name: [1.0] * 3 for name in FEATURES}, "view": views}).slice(1)
    answer = post(client, write(table, "stream"), "stream")
    assert as_table(answer.content, "stream").column("view").to_pylist() == views.to_pylist()[1:]


@pytest.mark.parametrize("form", FORMS)
def test_a_table_without_rows_has_the_columns_of_an_answer(
    form: str, frame: pd.DataFrame, client: TestClient
) -> None:
    answer = post(client, write(frame.iloc[:0], form), form)
    assert answer.status_code == 200, answer.content
    got = read(answer.content, form)
    assert len(got) == 0
    assert list(got.columns)[-4:-2] == ["prediction", "probability_setosa"]


@pytest.mark.parametrize("form", FORMS)
def test_many_rows_are_answered_in_their_order(
    form: str, client: TestClient, predictor: Predictor
) -> None:
    table = rows(20_000)[FEATURES]
    answer = post(client, write(table, form), form)
    expected = predictor.predict(table)
    got = read(answer.content, form)
    assert got["prediction"].tolist() == expected.labels
    assert np.allclose(got.iloc[:, 5:], expected.probabilities, rtol=0, atol=1e-6)


def test_x_parquet_is_parquet(frame: pd.DataFrame, client: TestClient) -> None:
    answer = post(client, write(frame, "parquet"), "application/x-parquet")
    assert answer.headers["content-type"] == MEDIA["parquet"]


@pytest.mark.parametrize(
    ("accept", "target"),
    [
        ("", "file"),
        ("*/*", "file"),
        ("application/*", "file"),
        ("text/*", "csv"),
        ("text/csv;q=0.5, application/vnd.apache.parquet", "parquet"),
        ("text/csv;q=0, */*;q=0.1", "file"),
        ("application/json, text/csv", "csv"),
        ("Application/X-Parquet", "parquet"),
        ("text/html", None),
        ("text/csv;q=0", None),
        ("text/csv;q=x", None),
        ("image/*", None),
    ],
)
def test_the_client_chooses_the_form(
    accept: str, target: str | None, frame: pd.DataFrame, client: TestClient
) -> None:
    answer = post(client, write(frame, "file"), "file", accept=accept)
    if target is None:
        assert_refused(answer, 406, ["text/csv"])
    else:
        assert answer.headers["content-type"] == MEDIA[target]


@pytest.mark.parametrize("kind", ["", "application/json", "application/vnd.apache.arrow"])
def test_another_content_type_is_refused(kind: str, client: TestClient) -> None:
    assert_refused(post(client, b"{}", kind), 415, list(MEDIA.values()))


GOOD = {name: pa.array([1.0, 2.0]) for name in FEATURES}
LONG = "x" * 10_000


def without(name: str) -> dict[str, pa.Array]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize("form", BINARY)
@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table(without("petal_width_cm")), ["petal_width_cm", "missing"]),
        (
            pa.table({**without("petal_width_cm"), "petal_widht_cm": [1.0, 2.0]}),
            ["petal_width_cm", "Did you mean"],
        ),
        (pa.table({LONG: [1.0]}), ["sepal_length_cm", "missing"]),
        (pa.table({**GOOD, "sepal_width_cm": ["a", "b"]}), ["sepal_width_cm", "numbers", "string"]),
        (
            pa.table({**GOOD, "sepal_width_cm": pa.array(["1", "2"]).dictionary_encode()}),
            ["sepal_width_cm", "numbers"],
        ),
        (
            pa.table({**GOOD, "sepal_width_cm": pa.array([1, 2], pa.date32())}),
            ["sepal_width_cm", "numbers", "date32"],
        ),
        (
            pa.table({**GOOD, "sepal_width_cm": [1.0, float("-inf")]}),
            ["Row 2", "sepal_width_cm", "infinite"],
        ),
        (pa.table({**GOOD, "sepal_width_cm": [1.0, 1e300]}), ["Row 2", "sepal_width_cm"]),
        (pa.table({**GOOD, "prediction": ["a", "b"]}), ["prediction", "already"]),
        (pa.table({**GOOD, "probability_setosa": [1, 2]}), ["probability_setosa", "already"]),
        (pa.table({**GOOD, "list": [[1], [2]]}), ["list", "Drop it"]),
        (pa.table({**GOOD, "struct": [{"a": 1}, {"a": 1}]}), ["struct", "Drop it"]),
        (
            pa.Table.from_arrays([*GOOD.values(), pa.array([1, 2])], [*GOOD, "sepal_width_cm"]),
            ["sepal_width_cm", "more than once"],
        ),
        (
            pa.Table.from_arrays([*GOOD.values(), *[pa.array([1, 2])] * 2], [*GOOD, "a", "a"]),
            ["'a'", "more than once"],
        ),
        (
            pa.table({**GOOD, **{f"c{number}": [1, 2] for number in range(2_000)}}),
            ["2004", "2000"],
        ),
        (pa.table({name: np.ones(100_001) for name in FEATURES}), ["100001", "100000"]),
    ],
)
def test_a_table_that_can_not_be_predicted_is_refused_shortly(
    form: str, table: pa.Table, words: list[str], client: TestClient
) -> None:
    assert_refused(post(client, write(table, form), form), 422, words)


@pytest.mark.parametrize("form", ["stream", "file"])
def test_a_feature_that_is_a_dictionary_is_refused(form: str, client: TestClient) -> None:
    table = pa.table({**GOOD, "sepal_width_cm": pa.array([1, 2]).dictionary_encode()})
    assert_refused(post(client, write(table, form), form), 422, ["sepal_width_cm", "numbers"])


@pytest.mark.parametrize("form", FORMS)
def test_the_row_of_a_late_slice_is_counted_from_the_first(form: str, client: TestClient) -> None:
    table = rows(20_000)
    table.loc[17_000, "petal_width_cm"] = 1e300
    answer = post(client, write(table, form), form)
    assert_refused(answer, 422, ["Row 17001", "petal_width_cm"])


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_needs_each_value_is_given_none_without(form: str, iris_model: Path) -> None:
    app = create_app({"iris": load_model(str(iris_model))})
    app.models["iris"].contract.accepts_missing = False
    table = pd.DataFrame([ROW, {**ROW, "sepal_width_cm": None}])
    with TestClient(app) as client:
        answer = post(client, write(table, form), form)
    assert_refused(answer, 422, ["Row 2", "sepal_width_cm", "missing"])


HEADER = ",".join(FEATURES)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("", 400, ["CSV"]),
        ("a,b\n1,2\n", 422, ["sepal_length_cm", "missing"]),
        (f"{HEADER}\n1,2,3\n", 422, ["Row 1", "3", "4"]),
        (f"{HEADER}\n1,2,3,4\n1,2,3,4,5\n", 422, ["Row 2", "5", "4"]),
        (f"{HEADER}\n1,2,3,4\n1,2,3,four\n", 422, ["Row 2", "petal_width_cm"]),
        (f"{HEADER}\n1,2,3,1_000\n", 422, ["Row 1", "petal_width_cm"]),
        (f"{HEADER}\n1,2,3,NAN\n", 422, ["Row 1", "petal_width_cm"]),
        (f"{HEADER}\n1,2,3,4\n1,2,3,-inf\n", 422, ["Row 2", "petal_width_cm", "infinite"]),
        (f"{HEADER}\n1,2,3,1e999\n", 422, ["Row 1", "petal_width_cm", "infinite"]),
        (f"{HEADER}\n1,2,3,{LONG * 30}\n", 422, ["Row 1", "petal_width_cm"]),
        (f"{HEADER},sepal_width_cm\n1,2,3,4,5\n", 422, ["sepal_width_cm", "more than once"]),
        (f"{HEADER},a,a\n1,2,3,4,5,6\n", 422, ["'a'", "more than once"]),
        (f"{HEADER},prediction\n1,2,3,4,a\n", 422, ["prediction", "already"]),
        (f"{HEADER}\n" + "1,2,3,4\n" * 100_001, 422, ["100001", "100000"]),
        (f"{HEADER}{',a' * 2_000}\n", 422, ["2004", "2000"]),
        (f"{LONG * 30},{HEADER}\n", 400, ["CSV"]),
        (f"{HEADER}\n".encode() + b"1,2,3,\xff\n", 400, ["UTF-8"]),
    ],
)
def test_a_wrong_csv_is_refused_shortly(
    body: str | bytes, status: int, words: list[str], client: TestClient
) -> None:
    content = body if isinstance(body, bytes) else body.encode()
    assert_refused(post(client, content, "csv"), status, words)


def test_a_csv_keeps_its_text(client: TestClient, predictor: Predictor) -> None:
    body = f'\ufeff{HEADER},flag,id\r\n 5.10 ,NA,1e0,TRUE,True,007\r\n5,2,3,false,,"a,b"\r\n'
    answer = post(client, body.encode(), "csv")
    assert answer.status_code == 200, answer.content
    lines = answer.text.splitlines()
    assert lines[0].startswith(f"{HEADER},flag,id,prediction,probability_setosa,")
    assert lines[1].startswith(" 5.10 ,NA,1e0,TRUE,True,007,")
    assert lines[2].startswith('5,2,3,false,,"a,b",')
    expected = predictor.predict([[5.1, None, 1.0, 1.0], [5, 2, 3, 0]])
    assert pd.read_csv(io.BytesIO(answer.content))["prediction"].tolist() == expected.labels


def test_bytes_can_not_be_written_as_csv(client: TestClient) -> None:
    table = pa.table({**GOOD, "bytes": [b"\xff", b"a"]})
    answer = post(client, write(table, "file"), "file", accept="text/csv")
    assert_refused(answer, 422, ["bytes", "CSV"])


@pytest.mark.parametrize("form", BINARY)
def test_a_table_of_another_form_is_damaged(form: str, client: TestClient) -> None:
    for body in (b"", b"x", b"PAR1" * 100, b"ARROW1\0\0" + b"\0" * 100 + b"ARROW1", b"\xff" * 100):
        assert_refused(post(client, body, form), 400, ["can't be read"] if body != b"" else [])


# What is small only as long as it is packed.


@pytest.mark.parametrize("form", ["stream", "file"])
def test_a_buffer_that_unpacks_to_very_much_is_not_unpacked(form: str, client: TestClient) -> None:
    blob = pa.array([b"\0" * (300 * 2**20), b""], pa.large_binary())
    body = write(pa.table({**GOOD, "blob": blob}), form, compression="zstd")
    assert len(body) < 2**20
    assert_refused(post(client, body, form), 422, ["too large"])


@pytest.mark.parametrize("form", ["stream", "file"])
def test_a_dictionary_that_unpacks_to_very_much_is_not_unpacked(
    form: str, client: TestClient
) -> None:
    words = pa.array([b"\0" * (300 * 2**20)], pa.large_binary())
    column = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), words)
    body = write(pa.table({**GOOD, "blob": column}), form, compression="zstd")
    assert_refused(post(client, body, form), 422, ["too large"])


@pytest.mark.parametrize("form", BINARY)
@pytest.mark.parametrize("target", FORMS)
def test_a_word_that_stands_in_very_many_rows_is_not_written_out(
    form: str, target: str, client: TestClient
) -> None:
    count = 90_000
    indices = pa.array(np.zeros(count, dtype=np.int8))
    words = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 100_000]))
    table = pa.table({**{name: np.ones(count) for name in FEATURES}, "word": words})
    options = {"compression": "zstd"}
    answer = post(client, write(table, form, **options), form, accept=MEDIA[target])
    assert_refused(answer, 422, ["too large"])


def test_a_text_of_parquet_that_stands_in_very_many_rows_is_not_written_out(
    client: TestClient,
) -> None:
    text = pa.array(["x" * 10_000] * 90_000)
    table = pa.table({**{name: np.ones(90_000) for name in FEATURES}, "text": text})
    body = write(table, "parquet", compression="zstd", store_schema=False)
    assert len(body) < 2**20
    assert_refused(post(client, body, "parquet"), 422, ["too large"])


def test_very_many_columns_of_one_value_are_not_written_out(client: TestClient) -> None:
    same = pa.array(np.ones(50_000))
    table = pa.table(dict.fromkeys([*FEATURES, *(f"c{number}" for number in range(1_000))], same))
    body = write(table, "parquet", compression="zstd")
    assert len(body) < 8 * 2**20
    assert_refused(post(client, body, "parquet"), 422, ["too large"])


def test_views_that_all_show_the_same_bytes_are_not_written_out(client: TestClient) -> None:
    count = 90_000
    view = struct.pack("<i4sii", 100_000, b"xxxx", 0, 0)
    views = pa.Array.from_buffers(
        pa.string_view(), count, [None, pa.py_buffer(view * count), pa.py_buffer(b"x" * 100_000)]
    )
    table = pa.table({**{name: np.ones(count) for name in FEATURES}, "view": views})
    body = write(table, "stream")
    assert_refused(post(client, body, "stream"), 422, ["too large"])


@pytest.mark.parametrize("form", FORMS)
def test_damaged_tables_are_never_the_servers_fault(form: str, client: TestClient) -> None:
    frame = rows(5)
    generator = random.Random(0)
    table = pa.Table.from_pandas(frame.assign(kind=frame["note"].astype("category")))
    bodies = [write(table, form)]
    if form != "csv":
        bodies.append(write(table, form, compression="zstd"))
        bodies.append(write(table.append_column("v", table["note"].cast(pa.string_view())), form))
    seen = set()
    for number in range(1_000):
        damaged = bytearray(bodies[number % len(bodies)])
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(damaged))
            step = generator.choice([1, 255, generator.randrange(256)])
            damaged[place] = (damaged[place] + step) % 256
        if generator.random() < 0.1:
            del damaged[generator.randrange(len(damaged)) :]
        target = FORMS[generator.randrange(4)]
        answer = post(client, bytes(damaged), form, accept=MEDIA[target])
        seen.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.status_code in {400, 422}, bytes(damaged)
            assert_refused(answer, answer.status_code, [])
    assert seen == {200, 400, 422}


def test_a_parquet_page_that_unpacks_to_very_much_is_not_unpacked(
    client: TestClient,
) -> None:
    text = pa.array(["\0" * (150 * 2**20)] * 2)
    body = write(
        pa.table({**GOOD, "text": text}), "parquet", compression="zstd", use_dictionary=False
    )
    assert len(body) < 2**20
    assert_refused(post(client, body, "parquet"), 422, ["too large"])


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\x19" * 5_000,  # lists of lists
        b"\x1c" * 5_000,  # structs in structs
        b"\x18\xff\xff\xff\xff\x0f",  # a text without end
        b"\x16" + b"\xff" * 20,  # a number without end
        b"\x36\x00\x00",  # no row groups
        b"\x36\x00\x16\x02\x00",  # a number for them
        b"\x36\x01\x19\x0c\x00",  # fewer rows than none
        b"\x36\x02\x19\x0c\x00",  # rows without a group
        b"\x36\x00\x06\x06\x00\x00",  # a field twice
        b"\x36\x00\x19\x18\x00\x00",  # groups that are texts
    ],
)
def test_a_parquet_footer_that_makes_no_sense_is_refused(footer: bytes, client: TestClient) -> None:
    body = b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"
    assert_refused(post(client, body, "parquet"), 400, ["Parquet"])


def test_a_parquet_footer_is_not_longer_than_its_file(client: TestClient) -> None:
    body = b"PAR1\0\0\0\0\xff\xff\xff\xffPAR1"
    assert_refused(post(client, body, "parquet"), 400, ["Parquet", "footer"])


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_every_make_of_parquet_is_read(
    version: str, compression: str, frame: pd.DataFrame, client: TestClient
) -> None:
    options = {"data_page_version": version, "row_group_size": 300, "data_page_size": 500}
    body = write(frame, "parquet", compression=compression, write_page_checksum=True, **options)
    answer = post(client, body, "parquet")
    assert answer.status_code == 200, answer.content
    assert len(read(answer.content, "parquet")) == len(frame)


def test_too_many_tables_at_once_are_sent_away(
    frame: pd.DataFrame, iris_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MAX_AT_ONCE", 0)
    monkeypatch.setattr(tables, "_MAX_WAITING", 0)
    with TestClient(create_app({"iris": load_model(str(iris_model))})) as client:
        assert_refused(post(client, write(frame, "csv"), "csv"), 429, ["busy"])


@pytest.mark.parametrize("form", FORMS)
def test_the_most_rows_can_be_set(form: str, iris_model: Path) -> None:
    settings = ServerSettings(max_rows=2)
    with TestClient(create_app({"iris": load_model(str(iris_model))}, settings)) as client:
        assert_refused(post(client, write(rows(3), form), form), 422, ["3", "2"])
        assert post(client, write(rows(2), form), form).status_code == 200


def test_tables_are_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/predict/table", "/models/iris/predict/table"):
        operation = paths[path]["post"]
        assert set(MEDIA.values()) < set(operation["requestBody"]["content"])
        assert set(MEDIA.values()) == set(operation["responses"]["200"]["content"])


@pytest.mark.parametrize("target", ["csv", "parquet"])
@pytest.mark.parametrize("source", FORMS)
def test_categories_and_dates_are_read_from_every_form(
    source: str, target: str, flats_client: TestClient, class_model: Loaded, number_model: Loaded
) -> None:
    frame = flats(100)
    plain = frame.copy()
    if source != "csv":
        frame["city"] = frame["city"].astype("category")
        frame["built"] = pd.to_datetime(frame["built"])
    numbers, classes = number_model.numbers(plain), class_model.predictor.predict(plain)
    body = write(frame, source)
    answer = post(flats_client, body, source, "/models/prices/predict/table", accept=MEDIA[target])
    assert answer.status_code == 200, answer.content[:500]
    got = read(answer.content, target)
    assert list(got.columns) == [*frame.columns, "prediction"]
    np.testing.assert_allclose(got["prediction"], numbers)
    assert got["city"].astype(object).fillna("").tolist() == plain["city"].fillna("").tolist()
    answer = post(flats_client, body, source, "/models/flats/predict/table", accept=MEDIA[target])
    got = read(answer.content, target)
    assert list(got.columns)[-3:] == ["prediction", "probability_cheap", "probability_dear"]
    assert got["prediction"].tolist() == classes.labels


def _with(name: str, column: Any) -> pa.Table:
    table = pa.Table.from_pandas(flats(3))
    return table.set_column(table.schema.get_field_index(name), name, column)


@pytest.mark.parametrize(
    "built",
    [
        pa.array(["1990-02-01"] * 3, pa.string_view()),
        pa.array(["1990-02-01"] * 3).dictionary_encode(),
        pa.array([7336] * 3, pa.date32()),
        pa.array([7336 * 86_400_000] * 3, pa.date64()),
        pa.array([7336 * 86_400] * 3, pa.timestamp("s")),
        pa.array([7336 * 86_400 * 10**9] * 3, pa.timestamp("ns", tz="Europe/Berlin")),
    ],
    ids=lambda column: str(column.type),
)
def test_every_type_of_a_date_is_read(
    built: pa.Array, flats_client: TestClient, number_model: Loaded
) -> None:
    answer = post(
        flats_client,
        write(_with("built", built), "stream"),
        "stream",
        "/models/prices/predict/table",
    )
    assert answer.status_code == 200, answer.content
    expected = number_model.numbers(flats(3).assign(built="1990-02-01"))
    np.testing.assert_allclose(as_table(answer.content, "stream")["prediction"], expected)


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("built", pa.array([None, 2**62, 0], pa.timestamp("s")), ["Row 1", "'built' is missing"]),
        ("built", pa.array([0, 2**62, 0], pa.timestamp("s")), ["Row 2", "'built' is infinite"]),
        ("built", pa.array([0, -(2**31), 0], pa.date32()), ["Row 2", "'built' is infinite"]),
        ("built", pa.array(["1990-01-01", "soon", ""]), ["Row 2", "'built': it must be a date"]),
        ("built", pa.array([1, 2, 3]), ["'built' must hold dates or texts, not int64"]),
        ("city", pa.array([b"a", b"b", b"c"]), ["'city' must hold texts, not binary"]),
        ("city", pa.array(["Rome", "x" * 1_001, None]), ["Row 2", "'city': it must be a text of"]),
        ("size", pa.array(["1", "2", "3"]), ["'size' must hold numbers, not string"]),
    ],
)
def test_a_column_of_another_type_is_told(
    name: str, column: pa.Array, words: list[str], flats_client: TestClient
) -> None:
    body = write(_with(name, column), "parquet" if name == "city" else "stream")
    form = "parquet" if name == "city" else "stream"
    answer = post(flats_client, body, form, "/models/prices/predict/table")
    assert_refused(answer, 422, words)


@pytest.mark.parametrize("zone", [pa.array([1, 2, None]), pa.array([1.0, 2.0, None]), pa.nulls(3)])
def test_a_category_may_come_as_numbers(
    zone: pa.Array, flats_client: TestClient, number_model: Loaded
) -> None:
    body = write(_with("zone", zone), "file")
    answer = post(flats_client, body, "file", "/models/prices/predict/table")
    assert answer.status_code == 200, answer.content
    frame = flats(3).assign(zone=zone.to_pandas())
    expected = number_model.numbers(frame)
    np.testing.assert_allclose(as_table(answer.content, "file")["prediction"], expected)
