"""Raw rows in, named predictions out: what evaluation, batch prediction, serving and MLflow use.

A `Predictor` is a trained model with the preprocessing and the class names it was trained with::

    predictor = Predictor.load(".models/iris_mlp")
    predictor.predict([[5.1, 3.5, 1.4, 0.2]]).labels  # ['setosa']
"""

from __future__ import annotations

import contextlib
import gzip
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ml_project_template.errors import DataError, ModelError, unknown
from ml_project_template.models.registry import ModelRegistry
from ml_project_template.utils import io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import IO

    import numpy.typing as npt
    import pandas as pd

    from ml_project_template.data.signature import Feature
    from ml_project_template.data.tabular import TabularDataset
    from ml_project_template.models.base import BaseModel

__all__ = ["Prediction", "Predictor", "score_file"]

PREDICTION = "prediction"
PROBABILITY = "probability_"

_ENDINGS = (".csv", ".csv.gz", ".parquet")
_BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of some rows.

    Attributes:
        labels: The class of each row; none for a regression.
        probabilities: Of shape ``(n_rows, n_classes)``, float64; each row sums to one. No columns
            for a regression.
        class_names: The classes, in the order of the columns of `probabilities`.
        values: The numbers that a regression predicts, of shape ``(n_rows,)``, float64; else None.
    """

    labels: list[str]
    probabilities: npt.NDArray[np.float64]
    class_names: tuple[str, ...]
    values: npt.NDArray[np.float64] | None = None

    @property
    def predictions(self) -> list[str] | list[float]:
        """What is predicted for each row: a class, or a number."""
        return self.labels if self.values is None else self.values.tolist()

    def to_frame(self, index: Any = None) -> pd.DataFrame:
        """Put predictions and probabilities side by side.

        Args:
            index: Of the rows; None numbers them.

        Returns:
            The column ``prediction`` and, of classes, ``probability_<class>``.
        """
        import pandas as pd

        columns: dict[str, Any] = {PREDICTION: self.predictions}
        for position, name in enumerate(self.class_names):
            columns[PROBABILITY + name] = self.probabilities[:, position]
        return pd.DataFrame(columns, index=index)


class Predictor:
    """A trained model that takes raw rows.

    Args:
        model: A trained model; its `signature` names the raw columns and the classes, its
            `preprocessor` (which may be None) turns raw values into what it was trained on.

    Raises:
        ModelError: The model has no signature: it was not trained yet.
    """

    def __init__(self, model: BaseModel) -> None:
        if model.signature is None:
            raise ModelError(
                f"A {type(model).__name__} that was not trained can't predict: it has no signature."
            )
        self.model = model
        self.signature = model.signature
        self.preprocessor = model.preprocessor

    @classmethod
    def load(
        cls, path_or_uri: str, *, storage_options: Mapping[str, Any] | None = None
    ) -> Predictor:
        """Load a model with all that it needs to take raw rows.

        Args:
            path_or_uri: A model directory, local or remote, or a model on MLflow
                (``runs:/<run id>/model``, ``models:/<name>@<alias>``).
            storage_options: What a remote storage needs.

        Raises:
            ArtifactError: There is no model, or it was damaged.
            TrackingError: The model can't be had from MLflow.
        """
        return cls(ModelRegistry.load(path_or_uri, storage_options=storage_options))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The raw columns, in the model's order."""
        return tuple(self.signature.feature_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the model's order."""
        return tuple(self.signature.class_names)

    @property
    def name(self) -> str:
        """The registry name of the model."""
        return ModelRegistry.name_of(type(self.model))

    @property
    def sample(self) -> list[dict[str, Any]]:
        """Some raw rows of the training data, by feature name, that `predict` takes."""
        return [dict(row) for row in self.signature.sample]

    def info(self) -> dict[str, Any]:
        """Describe the model: what it takes, what it answers, and how good it was."""
        metadata = self.model.metadata
        signature = self.signature.to_dict()
        return {
            "model": self.name,
            "created_at": metadata.get("created_at"),
            "run_id": metadata.get("run_id"),
            "data": metadata.get("data", {}).get("name"),
            "metrics": metadata.get("metrics", {}),
            "task": self.signature.task,
            "class_names": list(self.class_names),
            "features": [
                {key: feature[key] for key in ("name", "type", "min", "max", "levels")}
                for feature in signature["features"]
            ],
        }

    def evaluate(self, dataset: TabularDataset) -> dict[str, float]:
        """Judge the model on raw, labelled rows, prepared as when it predicts.

        Args:
            dataset: Raw rows with the features and the classes of the training.

        Returns:
            Metric name to value, see `BaseModel.evaluate`.

        Raises:
            DataError: A feature is missing, or the classes are others.
        """
        return self.model.evaluate(self.prepare(dataset))

    def prepare(self, dataset: TabularDataset) -> TabularDataset:
        """Prepare raw, labelled rows as when it predicts.

        Args:
            dataset: Raw rows with the features of the training.

        Raises:
            DataError: A feature is missing.
        """
        return dataset if self.preprocessor is None else self.preprocessor.transform(dataset)

    def answer(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Answer raw rows that are numbers already.

        Args:
            rows: Shape ``(n_rows, n_features)``, as `Signature.rows_to_frame` writes them; at least
                one row.

        Returns:
            Shape ``(n_rows, n_classes)``, or ``(n_rows, 1)`` for a regression: see
            `BaseModel.answer`.

        Raises:
            DataError: A value can't be prepared, or the model's answer is no finite number.
        """
        if self.preprocessor is None:
            return self.model.answer(rows.astype(np.float32))
        return self.model.answer(self.preprocessor.transform_array(rows))

    def predict(self, rows: Any) -> Prediction:
        """Predict the classes, or the numbers, of raw rows.

        Args:
            rows: A DataFrame with the feature columns by name, mappings by feature name, or a
                table of shape ``(n_rows, n_features)`` in the order of `feature_names`. None and
                NaN are missing values; a level that the training rows did not have counts as one.

        Raises:
            DataError: A column is missing or unknown, a value is not of its feature's type, or the
                model's answer to a row is no finite number.
        """
        frame = self.signature.rows_to_frame(rows)
        raw = frame.to_numpy(dtype=np.float64, na_value=np.nan)
        answers = self.answer(raw) if len(raw) else np.empty((0, self.signature.num_outputs))
        if self.signature.task == "regression":
            return Prediction([], np.empty((len(frame), 0)), (), answers[:, 0])
        # The names as an array pick the labels of all rows at once.
        labels = np.asarray(self.class_names, dtype=object)[self.signature.decide(answers)]
        return Prediction(labels.tolist(), answers, self.class_names)

    def predict_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predict the classes, or the numbers, of the rows of a DataFrame.

        Args:
            frame: The feature columns by name; other columns are of no account.

        Returns:
            The column ``prediction`` and, of classes, ``probability_<class>``, with the index of
            `frame`.

        Raises:
            DataError: A column is missing, or a value is not of its feature's type.
        """
        return self.predict(frame).to_frame(frame.index)


class PyfuncModel:
    """What MLflow calls: a `Predictor` behind MLflow's own interface.

    Args:
        predictor: The predictor.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Predict raw rows.

        Args:
            model_input: The rows, as `Predictor.predict` takes them.
            params: MLflow's own argument; there are none.

        Returns:
            The columns ``prediction`` and ``probability_<class>``.
        """
        import pandas as pd

        if isinstance(model_input, pd.DataFrame):
            return self.predictor.predict_frame(model_input)
        prediction = self.predictor.predict(model_input)
        return prediction.to_frame()


def _load_pyfunc(path: str) -> PyfuncModel:
    """Load a model for MLflow, which finds this function by its name."""
    return PyfuncModel(Predictor.load(path))


def score_file(
    predictor: Predictor,
    input: str,  # noqa: A002 - the word of the command line
    output: str,
    *,
    chunk_size: int = 50_000,
    delimiter: str = ",",
    decimal: str = ".",
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Score a file of any length in constant memory.

    The output holds the input's columns and then ``prediction`` and, of classes,
    ``probability_<class>``. From CSV to CSV the text of the input's columns stays as it was; from
    CSV to Parquet numeric features become float64 and the other columns stay text. The output is
    written whole or not at all.

    Args:
        predictor: The predictor.
        input: A ``.csv``, ``.csv.gz`` or ``.parquet`` file, local or remote.
        output: The file to write, of the same endings; folders are made.
        chunk_size: Rows scored at once.
        delimiter: What separates the columns of a CSV.
        decimal: What separates the whole from the fraction in a CSV's features.
        storage_options: What a remote storage needs.
        progress: Is called after every chunk with the number of rows done so far.

    Returns:
        The number of rows.

    Raises:
        DataError: The file can't be read, a feature is missing, a value is no finite number, or
            the input has a column of the output's name already.
        FileNotFoundError: There is no such file.
    """
    for path in (input, output):
        if not path.endswith(_ENDINGS):
            raise DataError(f"'{path}' must end in one of: {', '.join(_ENDINGS)}.")
    if _same_place(input, output):
        raise DataError(f"'{output}' is the input: write to another file, so that it stays.")
    if chunk_size < 1:
        raise DataError(f"chunk_size must be at least 1, got {chunk_size}.")
    rows = 0
    with (
        _one_line(input),
        io.open_binary(input, storage_options) as source,
        io.open_atomic(output, storage_options) as target,
        contextlib.ExitStack() as stack,
    ):
        schema, batches = _open_table(stack, source, input, delimiter)
        _check_columns(predictor, schema.names, input)
        writer = _Writer(stack, target, output, delimiter, decimal)
        for batch in batches:
            for start in range(0, batch.num_rows, chunk_size):
                chunk = batch.slice(start, chunk_size)
                writer.write(
                    _score(predictor, chunk, rows, input, typed=writer.typed, decimal=decimal)
                )
                rows += chunk.num_rows
                if progress is not None:
                    progress(rows)
        if rows == 0:
            # The header alone: whoever reads the output finds the columns all the same.
            empty = schema.empty_table()
            writer.write(_score(predictor, empty, rows, input, typed=writer.typed, decimal=decimal))
    return rows


def _same_place(first: str, second: str) -> bool:
    if io.is_remote(first) or io.is_remote(second):
        return first == second
    return io.local_path(first).resolve() == io.local_path(second).resolve()


def _open_table(
    stack: contextlib.ExitStack, source: IO[bytes], path: str, delimiter: str
) -> tuple[Any, Iterable[Any]]:
    """Open a file as a schema and record batches; the columns of a CSV are text."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if path.endswith(".parquet"):
        file = stack.enter_context(parquet.ParquetFile(source))
        return file.schema_arrow, file.iter_batches()
    if path.endswith(".gz"):
        source = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=source)))
    reader = csv.open_csv(
        source,
        read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(default_column_type=pa.string()),
    )
    return reader.schema, stack.enter_context(reader)


def _check_columns(predictor: Predictor, columns: Sequence[str], path: str) -> None:
    """See that a file has every feature, each column once, and none of the output's names."""
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"'{path}' has the column '{twice}' more than once.")
    for name in predictor.feature_names:
        if name not in columns:
            raise DataError(f"'{path}' lacks a feature. {unknown('column', name, columns)}")
    for name in _output_names(predictor):
        if name in columns:
            raise DataError(
                f"'{path}' has a column '{name}' already, which the predictions would overwrite. "
                "Rename or drop it."
            )


def _output_names(predictor: Predictor) -> list[str]:
    return [PREDICTION, *(PROBABILITY + name for name in predictor.class_names)]


def _score(
    predictor: Predictor, chunk: Any, offset: int, path: str, *, typed: bool, decimal: str
) -> Any:
    """Add the predictions to some rows.

    Args:
        predictor: The predictor.
        chunk: An Arrow table or record batch.
        offset: How many rows stood before it, for messages.
        path: The file's name, for messages.
        typed: Whether features that are text become numbers in the result.
        decimal: The decimal separator of features that are text.

    Returns:
        An Arrow table.
    """
    import pandas as pd
    import pyarrow as pa

    numbers = {
        feature.name: _numbers(chunk.column(feature.name), feature.name, offset, path, decimal)
        for feature in predictor.signature.features
        if feature.type not in {"category", "date"}
    }
    frame = pd.DataFrame(
        {
            feature.name: numbers[feature.name].to_numpy(zero_copy_only=False)
            if feature.name in numbers
            else _others(chunk.column(feature.name), feature, offset, path)
            for feature in predictor.signature.features
        }
    )
    try:
        prediction = predictor.predict(frame)
    except DataError as error:
        # It counts the rows that it was given.
        raise DataError(f"'{path}', of the rows after row {offset}: {error}") from error
    columns = dict(zip(chunk.schema.names, chunk.columns, strict=True))
    for name, column in numbers.items():
        if typed and pa.types.is_string(columns[name].type):
            columns[name] = column
    columns[PREDICTION] = (
        pa.array(prediction.labels, pa.string())
        if prediction.values is None
        else pa.array(prediction.values)
    )
    for position, name in enumerate(predictor.class_names):
        columns[PROBABILITY + name] = pa.array(prediction.probabilities[:, position])
    return pa.table(columns)


def _others(column: Any, feature: Feature, offset: int, path: str) -> pd.Series[Any]:
    """Read a column of categories or dates, missing values as None.

    Raises:
        DataError: A value is no date; names the row and the column.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    from ml_project_template.data.columns import MISSING_WORDS, show

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values = pd.Series(column.to_pylist(), dtype=object)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        missing = pc.is_in(column.cast(pa.string()), value_set=pa.array(MISSING_WORDS))
        values[missing.to_numpy(zero_copy_only=False).astype(bool)] = None
    for row, value in enumerate(values):
        if feature.encode(value) is None:
            raise DataError(
                f"'{path}', row {offset + row + 1}: feature '{feature.name}' must be "
                f"{feature.rule}, got {show(value)}."
            )
    return values


def _numbers(column: Any, name: str, offset: int, path: str, decimal: str) -> Any:
    """Read a column as float64, missing values as nulls.

    Raises:
        DataError: A value is no finite number; names the row and the column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from ml_project_template.data.columns import MISSING_WORDS

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    texts = column
    if pa.types.is_string(column.type):
        texts = pc.utf8_trim_whitespace(column)
        if decimal != ".":
            texts = pc.replace_substring(texts, decimal, ".")
        missing = pc.is_in(texts, value_set=pa.array(MISSING_WORDS))
        texts = pc.if_else(missing, pa.scalar(None, pa.string()), texts)
        # Truth values are written as words by pandas and by Excel, each in its own case.
        words = pc.utf8_lower(texts)
        texts = pc.if_else(pc.equal(words, "true"), "1", texts)
        texts = pc.if_else(pc.equal(words, "false"), "0", texts)
    try:
        if pa.types.is_boolean(texts.type):
            texts = texts.cast(pa.int8())
        numbers = texts.cast(pa.float64())
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"'{path}': column '{name}' must hold numbers, not {column.type}."
        ) from None
    except pa.ArrowInvalid:
        row = next(row for row, text in enumerate(texts) if not _is_number(text))
        raise DataError(_bad_value(path, name, offset + row, column[row].as_py())) from None
    infinite = pc.index(pc.is_inf(numbers), value=True).as_py()
    if infinite >= 0:
        raise DataError(_bad_value(path, name, offset + infinite, column[infinite].as_py()))
    return numbers


def _is_number(text: Any) -> bool:
    import pyarrow as pa

    try:
        text.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _bad_value(path: str, name: str, row: int, value: Any) -> str:
    return f"'{path}', row {row + 1}, column '{name}': {value!r} is no finite number."


class _Writer:
    """Writes tables one after another to a CSV or Parquet file."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        target: IO[bytes],
        path: str,
        delimiter: str,
        decimal: str,
    ) -> None:
        self.typed = path.endswith(".parquet")
        self._stack = stack
        self._delimiter = delimiter
        self._decimal = decimal
        self._writer: Any = None
        # A fixed time in the header of a .gz: the same rows give the same bytes.
        self._target: Any = (
            stack.enter_context(gzip.GzipFile(fileobj=target, mode="wb", mtime=0))
            if path.endswith(".gz")
            else target
        )

    def write(self, table: Any) -> None:
        if self.typed:
            self._write_parquet(table)
        else:
            self._write_csv(table)

    def _write_parquet(self, table: Any) -> None:
        from pyarrow import parquet

        if self._writer is None:
            self._writer = self._stack.enter_context(
                parquet.ParquetWriter(self._target, table.schema)
            )
        self._writer.write_table(table)

    def _write_csv(self, table: Any) -> None:
        """Write rows with quotes where they are needed only.

        Arrow's own CSV writer puts every text in quotes, numbers that are kept as text included.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._writer is None:
            self._writer = self._target
            self._put([pa.array([name]) for name in table.schema.names])
        texts = []
        for name, column in zip(table.schema.names, table.columns, strict=True):
            try:
                text = pc.fill_null(column.cast(pa.string()), "")
                if self._decimal != "." and pa.types.is_floating(column.type):
                    text = pc.replace_substring(text, ".", self._decimal)
                texts.append(text)
            except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
                raise DataError(
                    f"Column '{name}' of type {column.type} can't be written as CSV. "
                    "Write to .parquet, or drop the column."
                ) from None
        self._put(texts)

    def _put(self, columns: list[Any]) -> None:
        import pyarrow.compute as pc

        special = rf'["\r\n{re.escape(self._delimiter)}]'
        quoted = [
            pc.if_else(
                pc.match_substring_regex(column, special),
                pc.binary_join_element_wise('"', pc.replace_substring(column, '"', '""'), '"', ""),
                column,
            )
            for column in columns
        ]
        lines = pc.binary_join_element_wise(*quoted, self._delimiter).to_pylist()
        if lines:
            self._target.write(("\n".join(lines) + "\n").encode())


@contextlib.contextmanager
def _one_line(path: str) -> Iterator[None]:
    """Turn what Arrow and gzip say of a broken file into one line for the user."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, gzip.BadGzipFile, EOFError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"'{path}' can't be read: {lines[0]}") from None
