"""How long a table takes from its file to prepared splits, beside doing the same by hand.

    python -m benchmarks.data                     # 10,000 to 1,000,000 rows by 32 columns
    python -m benchmarks.data --sizes 10000000    # takes minutes, and gigabytes of disk
    python -m benchmarks.data --memory 10000000   # the peak of a process of its own

*Ours* is what ``preprocess`` does: onboard (the digest of the file), read, find out the types,
split with the classes in the same proportions, look for leaks, describe each column, impute, scale,
encode, and write three Parquet files with their digests. *By hand* is what one writes instead with
pandas and scikit-learn: ``read_csv`` or ``read_parquet``, ``train_test_split`` twice, a
``ColumnTransformer`` of ``SimpleImputer``, ``StandardScaler`` and ``OrdinalEncoder``, and
``to_parquet`` three times. The *floor* is pyarrow alone, which reads the table and writes it as
Parquet: as it is, with a dictionary for each column, by default; and *lean*, as we write it: in
float32, with dictionaries for what repeats alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from benchmarks.harness import Aim, Report, Way, compare, python
from ml_project_template.data import Preprocessor, RawTable, onboard
from ml_project_template.data.prepare import prepare
from ml_project_template.utils import io

SIZES = (10_000, 100_000, 1_000_000)
FORMATS = ("parquet", "csv")
_NUM_COLUMNS = 32
_CHUNK = 1_000_000  # rows that are made at once

_OURS, _HAND, _FLOOR, _LEAN = "ours", "pandas, scikit-learn", "pyarrow", "pyarrow, lean"


def make_tables(folder: Path, num_rows: int) -> dict[str, Path]:
    """Write a table of 26 floats, 4 whole numbers and 2 categories as CSV and as Parquet.

    Four of the floats lack one value in twenty; of two classes, three rows in ten have the second.

    Args:
        folder: Where.
        num_rows: How many rows.

    Returns:
        The file of each format.
    """
    paths = {kind: folder / f"{num_rows}.{kind}" for kind in FORMATS}
    generator = np.random.default_rng(0)
    names = np.array([f"level {place}" for place in range(20)], dtype=object)
    parquet: Any = None
    text: Any = None
    for start in range(0, num_rows, _CHUNK):
        size = min(_CHUNK, num_rows - start)
        columns: dict[str, Any] = {}
        for place in range(26):
            values = np.round(generator.normal(size=size) * 10.0, 4)
            gaps = generator.random(size) < 0.05 if place < 4 else None
            columns[f"x{place}"] = pa.array(values, mask=gaps)
        for place in range(26, 30):
            columns[f"x{place}"] = pa.array(generator.integers(0, 1000, size))
        for place in range(30, 32):
            columns[f"x{place}"] = pa.array(names[generator.integers(0, len(names), size)])
        labels = np.array(["no", "yes"], dtype=object)
        columns["y"] = pa.array(labels[(generator.random(size) < 0.3).astype(int)])
        chunk = pa.table(columns)
        parquet = parquet or pq.ParquetWriter(paths["parquet"], chunk.schema)
        text = text or pcsv.CSVWriter(
            paths["csv"], chunk.schema, write_options=pcsv.WriteOptions(quoting_style="none")
        )
        parquet.write_table(chunk)
        text.write_table(chunk)
    parquet.close()
    text.close()
    return paths


def ours(path: Path, folder: Path) -> None:
    """Do what ``preprocess`` does, as a stage of its own."""
    # As in a process that has not seen the file yet.
    io._fingerprints.clear()
    onboard(source=None, path=str(path))
    table = RawTable(path=str(path), target_column="y")
    prepare(table, preprocessor=Preprocessor(), output_root=str(folder / "ours"))


def by_hand(path: Path, folder: Path) -> None:
    """Do it with pandas and scikit-learn."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    num_test = len(frame) // 5
    rest, test = train_test_split(frame, test_size=num_test, random_state=42, stratify=frame["y"])
    train, val = train_test_split(rest, test_size=num_test, random_state=42, stratify=rest["y"])
    categories = [f"x{place}" for place in range(30, 32)]
    numbers = [f"x{place}" for place in range(30)]
    transformer = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OrdinalEncoder(), categories),
    )
    transformer.fit(train.drop(columns="y"))
    target = folder / "by_hand"
    target.mkdir()
    for name, part in {"train": train, "val": val, "test": test}.items():
        values = transformer.transform(part.drop(columns="y")).astype(np.float32)
        prepared = pd.DataFrame(values, columns=[*numbers, *categories])
        prepared["y"] = part["y"].to_numpy()
        prepared.to_parquet(target / f"{name}.parquet", index=False)


def floor(path: Path, folder: Path, *, lean: bool = False) -> None:
    """Read the table and write it, by pyarrow."""
    table = pcsv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    if not lean:
        pq.write_table(table, folder / "table.parquet")
        return
    columns = {
        name: pc.cast(table.column(name), pa.float32(), safe=False)
        if name not in {"x30", "x31", "y"}
        else table.column(name)
        for name in table.column_names
    }
    pq.write_table(pa.table(columns), folder / "table.parquet", use_dictionary=["x30", "x31", "y"])


def _way(name: str, run: Any, path: Path, **settings: Any) -> Way:
    def once() -> None:
        # Beside the table: a temporary file system in memory would not be what a user writes to.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            run(path, Path(folder), **settings)

    return Way(name, once)


def measure(
    sizes: Sequence[int] = SIZES, formats: Sequence[str] = FORMATS, rounds: int = 3
) -> list[Report]:
    """Compare the ways on tables of several sizes.

    Args:
        sizes: Numbers of rows.
        formats: ``parquet`` and ``csv``.
        rounds: How often each way is run at the largest size; at smaller ones more often.

    Returns:
        One table.
    """
    report = Report(
        name="data",
        title="From a file to prepared splits, rows x 32 columns, CPU seconds",
        columns=("table", _OURS, _HAND, _FLOOR, _LEAN, "by hand/ours", "ours/pyarrow", "ours/lean"),
    )
    for kind in formats:
        for size in sizes:
            with tempfile.TemporaryDirectory() as name:
                path = make_tables(Path(name), size)[kind]
                samples = compare(
                    [
                        _way(_OURS, ours, path),
                        _way(_HAND, by_hand, path),
                        _way(_FLOOR, floor, path),
                        _way(_LEAN, floor, path, lean=True),
                    ],
                    rounds=rounds if size > 200_000 else 3 * rounds,
                )
            label = f"{kind} {size:,}"
            hand, base = samples.ratio(_HAND, _OURS), samples.ratio(_OURS, _FLOOR)
            medians = [samples.median(way) for way in (_OURS, _HAND, _FLOOR, _LEAN)]
            report.rows.append((label, *medians, hand, base, samples.ratio(_OURS, _LEAN)))
            report.samples[label] = dict(samples.costs)
            report.aims += [
                Aim(f"{label}: times faster than by hand", hand, 1.0, at_least=True),
                Aim(f"{label}: times pyarrow's read and write", base, 1.5),
            ]
    return [report]


def peak_memory(num_rows: int, kind: str, folder: Path) -> Report:
    """Prepare a table in a process of its own.

    Args:
        num_rows: How many rows.
        kind: ``parquet`` or ``csv``.
        folder: Where table and splits are put.

    Returns:
        Its peak of resident memory and its time.
    """
    path = make_tables(folder, num_rows)[kind]
    script = (
        "import json, resource, sys, time\n"
        "from pathlib import Path\n"
        "from benchmarks.data import ours\n"
        "started = time.perf_counter()\n"
        "ours(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(json.dumps([time.perf_counter() - started, used.ru_utime + used.ru_stime,\n"
        "                  used.ru_maxrss / 2**20]))\n"
    )
    seconds, cpu, peak = json.loads(python("-c", script, str(path), str(folder), folder=folder))
    report = Report(
        name="data-memory",
        title=f"{num_rows:,} rows x {_NUM_COLUMNS} columns, a process of its own",
        columns=("file", "file GB", "seconds", "CPU seconds", "peak GB"),
        rows=[(kind, path.stat().st_size / 2**30, seconds, cpu, peak)],
    )
    if num_rows >= 10_000_000:
        report.aims.append(Aim(f"{kind} {num_rows:,}: peak GB", peak, 4.0))
    return report


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of rows")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="ROWS", help="measure the peak memory alone")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    if options.memory:
        reports = []
        for kind in options.formats:
            folder = Path(tempfile.mkdtemp())
            try:
                reports.append(peak_memory(options.memory, kind, folder))
            finally:
                shutil.rmtree(folder)
    else:
        reports = measure(options.sizes, options.formats, options.rounds)
    for report in reports:
        print(report)
    if options.json:
        options.json.write_text(json.dumps([report.to_dict() for report in reports]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
