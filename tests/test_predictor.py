"""Raw rows and whole files through a trained model."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from ml_project_template.data.preprocessing import Preprocessor
from ml_project_template.data.tabular import TabularDataset
from ml_project_template.errors import ArtifactError, DataError, ModelError
from ml_project_template.models.registry import ModelRegistry
from ml_project_template.predictor import Predictor, PyfuncModel, score_file

if TYPE_CHECKING:
    from ml_project_template.models.base import BaseModel

HEADER = "length,width,fresh"
OUTPUT = ["prediction", "probability_ripe", "probability_young"]


def make_model(**parameters: Any) -> BaseModel:
    make: Any = ModelRegistry.get("gb_classifier")
    model: BaseModel = make(**parameters)
    return model


@pytest.fixture(scope="module")
def raw() -> TabularDataset:
    """Fruits: ripe ones are long; some widths are missing, and `fresh` is a truth value."""
    rng = np.random.default_rng(0)
    length = rng.normal(10.0, 3.0, 200)
    width = rng.normal(5.0, 1.0, 200)
    width[::10] = np.nan
    frame = pd.DataFrame({"length": length, "width": width, "fresh": rng.random(200) < 0.5})
    labels = np.where(length + rng.normal(0.0, 0.5, 200) > 10.0, "ripe", "young")
    return TabularDataset(frame, pd.Series(labels), target_column="state", name="fruits")


@pytest.fixture(scope="module")
def predictor(raw: TabularDataset) -> Predictor:
    from ml_project_template.data.signature import Signature

    prepared = Preprocessor(impute="mean", scale="standard").fit(raw).transform(raw)
    model = make_model(max_iter=5)
    model.train(experiment_name="none", train_data=prepared, seed=0, tracking=False)
    assert isinstance(model.signature, Signature)
    return Predictor(model)


@pytest.fixture
def rows(raw: TabularDataset) -> pd.DataFrame:
    return raw.features.iloc[:20]


def test_it_names_the_class_of_each_raw_row(predictor: Predictor) -> None:
    prediction = predictor.predict([[16.0, 5.0, True], [4.0, None, False]])
    assert prediction.labels == ["ripe", "young"]
    assert prediction.class_names == predictor.class_names == ("ripe", "young")
    assert prediction.probabilities.shape == (2, 2)
    assert prediction.probabilities.dtype == np.float64
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1.0)
    assert predictor.feature_names == ("length", "width", "fresh")


def test_it_prepares_raw_rows_as_training_did(predictor: Predictor, raw: TabularDataset) -> None:
    prepared = Preprocessor(impute="mean", scale="standard").fit(raw).transform(raw)
    expected = predictor.model.predict_proba(prepared)
    np.testing.assert_array_equal(predictor.predict(raw.features).probabilities, expected)


def test_every_form_of_the_rows_gives_the_same(predictor: Predictor, rows: pd.DataFrame) -> None:
    expected = predictor.predict(rows).probabilities
    shuffled = rows.assign(other="x")[["other", "fresh", "width", "length"]]
    for form in (
        rows.to_dict("records"),
        rows.to_numpy(dtype=float),
        rows.to_numpy(dtype=float).tolist(),
        shuffled,
    ):
        np.testing.assert_array_equal(predictor.predict(form).probabilities, expected)


def test_one_row_alone_gives_what_it_gives_among_others(
    predictor: Predictor, rows: pd.DataFrame
) -> None:
    together = predictor.predict(rows).probabilities
    alone = [predictor.predict(rows.iloc[[row]]).probabilities[0] for row in range(len(rows))]
    np.testing.assert_array_equal(np.array(alone), together)


def test_no_rows_give_no_predictions(predictor: Predictor, rows: pd.DataFrame) -> None:
    prediction = predictor.predict(rows.iloc[:0])
    assert prediction.labels == []
    assert prediction.probabilities.shape == (0, 2)
    assert list(predictor.predict_frame(rows.iloc[:0]).columns) == OUTPUT


def test_a_frame_of_predictions_keeps_the_index(predictor: Predictor, rows: pd.DataFrame) -> None:
    found = predictor.predict_frame(rows.set_axis([f"r{n}" for n in range(len(rows))]))
    assert list(found.columns) == OUTPUT
    assert list(found.index[:2]) == ["r0", "r1"]
    assert found["prediction"].tolist() == predictor.predict(rows).labels


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1.0, 2.0]], "3"),
        ([{"lenght": 1.0, "width": 2.0, "fresh": True}], "length"),
        ([[1.0, "wide", True]], "width"),
        ([[1.0, float("inf"), True]], "width"),
    ],
)
def test_a_wrong_row_is_told(bad: Any, message: str, predictor: Predictor) -> None:
    with pytest.raises(DataError, match=message):
        predictor.predict(bad)


def test_a_model_without_preprocessing_takes_the_values_as_they_are(raw: TabularDataset) -> None:
    model = make_model(max_iter=2)
    model.train(experiment_name="none", train_data=raw, seed=0, tracking=False)
    expected = model.predict_proba(raw)
    np.testing.assert_array_equal(Predictor(model).predict(raw.features).probabilities, expected)
    model.preprocessor = None
    np.testing.assert_array_equal(Predictor(model).predict(raw.features).probabilities, expected)


def test_a_model_that_was_not_trained_is_refused() -> None:
    with pytest.raises(ModelError, match="was not trained"):
        Predictor(make_model())


def test_a_saved_model_predicts_the_same(
    predictor: Predictor, rows: pd.DataFrame, tmp_path: Path
) -> None:
    path = predictor.model.save(tmp_path / "fruits")
    loaded = Predictor.load(path)
    pd.testing.assert_frame_equal(loaded.predict_frame(rows), predictor.predict_frame(rows))
    with pytest.raises(ArtifactError):
        Predictor.load(str(tmp_path / "nothing"))


def test_mlflow_is_answered_with_a_frame(predictor: Predictor, rows: pd.DataFrame) -> None:
    answering = PyfuncModel(predictor)
    expected = predictor.predict_frame(rows)
    pd.testing.assert_frame_equal(answering.predict(rows, params={}), expected)
    pd.testing.assert_frame_equal(answering.predict(rows.to_dict("records")), expected)


# ---- files


def written(path: Path, *lines: str) -> str:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return str(path)


@pytest.mark.parametrize("source", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("target", [".csv", ".csv.gz", ".parquet"])
def test_a_file_of_any_kind_is_scored_into_one_of_any_kind(
    source: str, target: str, predictor: Predictor, rows: pd.DataFrame, tmp_path: Path
) -> None:
    given, made = tmp_path / f"rows{source}", tmp_path / "new" / f"scored{target}"
    if source == ".parquet":
        rows.to_parquet(given, index=False)
    else:
        rows.to_csv(given, index=False)
    done: list[int] = []
    count = score_file(predictor, str(given), str(made), chunk_size=7, progress=done.append)
    assert count == 20
    assert done == [7, 14, 20]
    found = pd.read_parquet(made) if target == ".parquet" else pd.read_csv(made)
    assert list(found.columns) == [*rows.columns, *OUTPUT]
    expected = predictor.predict_frame(rows)
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    for name in OUTPUT[1:]:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-15)
    np.testing.assert_allclose(found["width"], rows["width"], rtol=1e-15)


def test_the_text_of_a_csv_stays_as_it_was(predictor: Predictor, tmp_path: Path) -> None:
    given = tmp_path / "rows.csv"
    lines = [
        'id,length,note,"odd, name",width,fresh',
        '007,1.50e1,"a ""b"", c",x,5,True',
        '010, 4 ,"two\nlines",,NA,FALSE',
        '"011",+9,plain,é,,1',
    ]
    given.write_text("\n".join(lines) + "\n", encoding="utf-8")
    score_file(predictor, str(given), str(tmp_path / "scored.csv"))
    text = (tmp_path / "scored.csv").read_text(encoding="utf-8")
    expected = predictor.predict([[15.0, 5.0, True], [4.0, None, False], [9.0, None, True]])
    tails = [
        ",".join([label, *map(repr, chances.tolist())])
        for label, chances in zip(expected.labels, expected.probabilities, strict=True)
    ]
    assert text == "\n".join(
        [
            f"{lines[0]},{','.join(OUTPUT)}",
            f"{lines[1]},{tails[0]}",
            f"{lines[2]},{tails[1]}",
            f"011,+9,plain,é,,1,{tails[2]}",
            "",
        ]
    )


def test_a_csv_becomes_parquet_with_numbers_for_features_and_text_for_the_rest(
    predictor: Predictor, tmp_path: Path
) -> None:
    given = tmp_path / "rows.csv"
    given.write_text(f"id,{HEADER}\n007,1.5,,true\n")
    score_file(predictor, str(given), str(tmp_path / "scored.parquet"))
    table = parquet.read_table(tmp_path / "scored.parquet")
    assert table.schema.field("id").type == pa.string()
    assert table.schema.field("width").type == pa.float64()
    assert table.slice(0, 1).select(["id", "length", "width", "fresh"]).to_pylist() == [
        {"id": "007", "length": 1.5, "width": None, "fresh": 1.0}
    ]


def test_parquet_keeps_its_types(predictor: Predictor, tmp_path: Path) -> None:
    table = pa.table(
        {
            "when": pa.array([0, 1], pa.timestamp("ms")),
            "length": pa.array([9, 11], pa.int32()),
            "width": pa.array(["5.5", "6"]).dictionary_encode(),
            "fresh": pa.array([True, None]),
        }
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    score_file(predictor, str(tmp_path / "rows.parquet"), str(tmp_path / "scored.parquet"))
    found = parquet.read_table(tmp_path / "scored.parquet")
    assert found.select(table.column_names).schema.types == table.schema.types
    expected = predictor.predict([[9, 5.5, True], [11, 6, None]])
    assert found.column("prediction").to_pylist() == expected.labels


def test_a_file_is_not_scored_onto_itself(predictor: Predictor, tmp_path: Path) -> None:
    given = written(tmp_path / "rows.csv", "16,5,1")
    before = Path(given).read_bytes()
    with pytest.raises(DataError, match="is the input"):
        score_file(predictor, given, str(tmp_path / "x" / ".." / "rows.csv"))
    assert Path(given).read_bytes() == before


def test_a_file_larger_than_a_block_is_scored_whole(predictor: Predictor, tmp_path: Path) -> None:
    lines = [f"{n % 17},5.0,1" for n in range(600_000)]
    given = written(tmp_path / "rows.csv", *lines)
    assert (tmp_path / "rows.csv").stat().st_size > 4 * 2**20
    assert score_file(predictor, given, str(tmp_path / "scored.parquet")) == 600_000
    table = parquet.read_table(tmp_path / "scored.parquet")
    assert table.column("length").to_pylist()[::50_000] == [
        n % 17 for n in range(0, 600_000, 50_000)
    ]


def test_another_delimiter_can_be_given(predictor: Predictor, tmp_path: Path) -> None:
    given = tmp_path / "rows.csv"
    given.write_text("length;width;fresh;note\n16;5;1;a,b\n")
    score_file(predictor, str(given), str(tmp_path / "scored.csv"), delimiter=";")
    lines = (tmp_path / "scored.csv").read_text().splitlines()
    assert lines[0].startswith("length;width;fresh;note;prediction;")
    assert lines[1].startswith("16;5;1;a,b;ripe;")


def test_a_header_alone_gives_a_header_alone(predictor: Predictor, tmp_path: Path) -> None:
    for ending in (".csv", ".parquet"):
        made = tmp_path / f"scored{ending}"
        assert score_file(predictor, written(tmp_path / "rows.csv"), str(made)) == 0
        found = pd.read_csv(made) if ending == ".csv" else pd.read_parquet(made)
        assert list(found.columns) == [*HEADER.split(","), *OUTPUT]
        assert len(found) == 0


@pytest.mark.parametrize("output", ["scored.csv", "scored.parquet"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("16,wide,1", "row 9, column 'width': 'wide' is no finite number"),
        ("16,5,-inf", "row 9, column 'fresh': '-inf' is no finite number"),
        ("1_6,5,1", "row 9, column 'length': '1_6' is no finite number"),
        ("16,5", "Expected 3 columns, got 2"),
    ],
)
def test_a_bad_value_is_named_and_nothing_is_written(
    line: str, message: str, output: str, predictor: Predictor, tmp_path: Path
) -> None:
    given = written(tmp_path / "rows.csv", *["16,5,1"] * 8, line)
    (tmp_path / output).write_text("old")
    with pytest.raises(DataError, match=message) as caught:
        score_file(predictor, given, str(tmp_path / output), chunk_size=3)
    assert "\n" not in str(caught.value)
    assert (tmp_path / output).read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rows.csv", output]


def test_a_row_without_a_finite_answer_is_told_and_nothing_is_written(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = predictor.model.predict

    def overflow(X: Any) -> Any:
        return np.where(X[:, :1] > 100, np.inf, scores(X))

    monkeypatch.setattr(predictor.model, "predict", overflow)
    assert predictor.predict([[16.0, 5.0, True]]).labels == ["ripe"]
    with pytest.raises(DataError, match=r"^Row 2: the model has no finite answer"):
        predictor.predict([[16.0, 5.0, True], [1e6, 5.0, True]])
    given = written(tmp_path / "rows.csv", *["16,5,1"] * 8, "1e6,5,1")
    with pytest.raises(DataError, match=r"rows\.csv', of the rows after row 6: Row 3: the model"):
        score_file(predictor, given, str(tmp_path / "scored.csv"), chunk_size=3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("length,widht,fresh\n1,2,1\n", "Unknown column 'width'. Did you mean 'widht'?"),
        ("length,width,fresh,length\n1,2,1,3\n", "has the column 'length' more than once"),
        ("length,width,fresh,prediction\n1,2,1,x\n", "has a column 'prediction' already"),
        ("", "can't be read: Empty CSV file"),
    ],
)
def test_a_table_that_can_not_be_scored_is_told_in_one_line(
    text: str, message: str, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        score_file(predictor, str(tmp_path / "rows.csv"), str(tmp_path / "scored.csv"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b"length,width,fresh\n1,2,\xff\n"),
        ("rows.csv.gz", b"no gzip at all"),
        ("rows.csv.gz", gzip.compress(b"length,width,fresh\n" + b"1,2,1\n" * 99, mtime=0)[:-9]),
        ("rows.parquet", b"no parquet at all"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(
    name: str, content: bytes, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="can't be read") as caught:
        score_file(predictor, str(tmp_path / name), str(tmp_path / "scored.csv"))
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_missing_file_is_told(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.csv"):
        score_file(predictor, str(tmp_path / "nope.csv"), str(tmp_path / "scored.csv"))
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_told(predictor: Predictor, tmp_path: Path) -> None:
    given = written(tmp_path / "rows.csv", "1,2,1")
    with pytest.raises(
        DataError, match=r"'scored.txt' must end in one of: .csv, .csv.gz, .parquet"
    ):
        score_file(predictor, given, "scored.txt")
    with pytest.raises(DataError, match="chunk_size must be at least 1, got 0"):
        score_file(predictor, given, str(tmp_path / "scored.csv"), chunk_size=0)


def test_columns_that_fit_no_csv_or_no_model_are_told(predictor: Predictor, tmp_path: Path) -> None:
    good = {"length": [1.0], "width": [2.0], "fresh": [True]}
    parquet.write_table(pa.table({**good, "many": [[1, 2]]}), tmp_path / "nested.parquet")
    with pytest.raises(DataError, match="Column 'many' of type list"):
        score_file(predictor, str(tmp_path / "nested.parquet"), str(tmp_path / "scored.csv"))
    parquet.write_table(pa.table({**good, "width": [[1, 2]]}), tmp_path / "wrong.parquet")
    with pytest.raises(DataError, match="column 'width' must hold numbers, not list"):
        score_file(predictor, str(tmp_path / "wrong.parquet"), str(tmp_path / "scored.csv"))


def test_remote_files_are_scored(predictor: Predictor, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    folder = f"/{tmp_path.name}"
    memory.pipe_file(f"{folder}/rows.csv", f"{HEADER}\n16,5,1\n".encode())
    try:
        given, made = f"memory:/{folder}/rows.csv", f"memory:/{folder}/scored.csv"
        assert score_file(predictor, given, made) == 1
        assert b",ripe," in memory.cat_file(f"{folder}/scored.csv")
    finally:
        memory.rm(folder, recursive=True)
