"""The data set of this package: fruits, drawn at random.

python -m own_package.fruits data/fruits.csv
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

__all__ = ["COLUMNS", "fruit_rows", "write_fruits"]

COLUMNS = ("mass_g", "width_cm", "height_cm", "sugar_percent", "fruit")
# Fruit to the mean and the standard deviation of each of the other columns.
_FRUITS = {
    "apple": ((165, 20), (7.5, 0.4), (7.3, 0.5), (10.5, 1.2)),
    "lemon": ((115, 18), (6.0, 0.4), (8.3, 0.7), (2.5, 0.5)),
    "orange": ((215, 25), (7.9, 0.4), (7.8, 0.4), (8.7, 1.0)),
}


def fruit_rows(count: int, seed: int) -> list[tuple[float | str, ...]]:
    """Draw fruits.

    Args:
        count: How many of each kind.
        seed: The seed of the draw.

    Returns:
        A row for each, in the order of ``COLUMNS``: grams, centimetres, percent, the kind.
    """
    draw = random.Random(seed)  # noqa: S311 - not a secret
    return [
        (*(round(draw.gauss(mean, deviation), 1) for mean, deviation in features), fruit)
        for fruit, features in _FRUITS.items()
        for _ in range(count)
    ]


def write_fruits(path: Path) -> None:
    """Write the data set as it is shipped: 60 fruits of each kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(fruit_rows(60, seed=7))


if __name__ == "__main__":
    write_fruits(Path(sys.argv[1]))
