"""Ten tables of different kinds, as people have them: small, and the same each time."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TABLES", "Table"]

Columns = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table, and what is expected of it.

    Attributes:
        make: Makes its columns.
        target: The name of the column that is to be predicted.
        task: What kind of target that is.
        refusal: What the only line says where it can't be used; None where it can.
    """

    make: Callable[[np.random.Generator], Columns]
    target: str
    task: str = "classification"
    refusal: str | None = None

    def write(self, path: Path) -> Path:
        """Write the table as a CSV.

        Args:
            path: The file.

        Returns:
            The same path.
        """
        columns = self.make(np.random.default_rng(0))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return path


def _classes(rng: np.random.Generator, signal: NDArray[np.float64], names: list[str]) -> list[str]:
    """Cut a signal with some noise into classes of like size."""
    noisy = signal + rng.normal(scale=0.3, size=len(signal))
    bounds = np.quantile(noisy, np.linspace(0, 1, len(names) + 1)[1:-1])
    return [names[place] for place in np.searchsorted(bounds, noisy)]


def _mixed_types(rng: np.random.Generator) -> Columns:
    size = rng.normal(size=90)
    town = rng.choice(["Bonn", "Jena", "Ulm"], size=90)
    built = zip(rng.integers(1950, 2020, 90), rng.integers(1, 10, 90), strict=True)
    return {
        "size": size.round(3),
        "rooms": rng.integers(1, 9, size=90),
        "town": town,
        "garden": rng.choice(["true", "false"], size=90),
        "built": [f"{year}-0{month}-11" for year, month in built],
        "sold": _classes(rng, size + (town == "Ulm"), ["no", "yes"]),
    }


def _gaps_everywhere(rng: np.random.Generator) -> Columns:
    columns = _mixed_types(rng)
    sold = columns.pop("sold")
    gappy = {
        name: [
            "" if gone else value for value, gone in zip(values, rng.random(90) < 0.2, strict=True)
        ]
        for name, values in columns.items()
    }
    return {**gappy, "sold": sold}


def _fifty_classes(rng: np.random.Generator) -> Columns:
    codes = np.repeat(np.arange(50), 6)
    return {
        "tens": codes // 10 + rng.normal(scale=0.1, size=300),
        "ones": codes % 10 + rng.normal(scale=0.1, size=300),
        "label": [f"kind {code}" for code in codes],
    }


def _rare_class(rng: np.random.Generator) -> Columns:
    x = rng.normal(size=60)
    label = _classes(rng, x, ["common", "usual"])
    return {"x": x, "z": rng.normal(size=60), "label": [*label[:-2], "rare", "rare"]}


def _three_rows(rng: np.random.Generator) -> Columns:
    return {"x": rng.normal(size=3), "label": ["a", "b", "a"]}


def _wide(rng: np.random.Generator) -> Columns:
    values = rng.normal(size=(80, 300)).round(3)
    columns = {f"v{place}": values[:, place] for place in range(300)}
    return {**columns, "label": _classes(rng, values[:, 7] + values[:, 250], ["low", "high"])}


def _odd_names(rng: np.random.Generator) -> Columns:
    x = rng.normal(size=60)
    return {
        "Größe in cm": x,
        'the "so-called" size, if any': rng.normal(size=60),
        "价格 💰": rng.choice(["teuer, aber gut", 'so "billig"', " mit Rand "], size=60),
        "it's a=b{c}[d]": rng.integers(0, 100, size=60),
        "Art/нет": _classes(rng, x, ["näh", "вид, 2", 'a "b"']),
    }


def _numeric_target(rng: np.random.Generator) -> Columns:
    x, z = rng.normal(size=(2, 90))
    town = rng.choice(["Bonn", "Jena", "Ulm"], size=90)
    price = 100 + 20 * x - 7 * z + 15 * (town == "Ulm") + rng.normal(size=90)
    return {"x": x, "z": z, "town": town, "price": price.round(2)}


def _dates(rng: np.random.Generator) -> Columns:
    days = rng.integers(0, 2_000, size=90)
    start = np.datetime64("2019-01-01")
    moments = start + days.astype("timedelta64[D]")
    return {
        "day": moments.astype(str),
        "moment": [f"{day}T{hour:02}:30:00" for day, hour in zip(moments, days % 24, strict=True)],
        "late": _classes(rng, days / 600, ["early", "late"]),
    }


def _nothing_to_learn_from(rng: np.random.Generator) -> Columns:
    x = rng.normal(size=60)
    return {
        "id": [f"row-{place:04}" for place in range(60)],
        "number": np.arange(60),
        "same": ["always"] * 60,
        "zero": [0.1] * 60,
        "x": x,
        "label": _classes(rng, x, ["a", "b", "c"]),
    }


TABLES = {
    "mixed types": Table(_mixed_types, "sold"),
    "gaps in all columns": Table(_gaps_everywhere, "sold"),
    "fifty classes": Table(_fifty_classes, "label"),
    "a class with two rows": Table(_rare_class, "label"),
    "three rows": Table(_three_rows, "label", refusal="row"),
    "three hundred columns": Table(_wide, "label"),
    "odd names": Table(_odd_names, "Art/нет"),
    "a number to predict": Table(_numeric_target, "price", task="regression"),
    "dates": Table(_dates, "late"),
    "identifiers and constants": Table(_nothing_to_learn_from, "label"),
}
"""By what is special about them."""
