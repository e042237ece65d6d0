"""A small table of all types."""

from __future__ import annotations

import pandas as pd
import pytest

from ml_project_template.data import TabularDataset


@pytest.fixture
def mixed() -> TabularDataset:
    """Numbers, truth values, categories and dates, each with a gap where there may be one."""
    table = pd.DataFrame(
        {
            "size": [1.0, None, 3.0, 4.0],
            "city": ["Rome", "Oslo", None, "Rome"],
            "sold": ["2024-01-31", None, "2023-12-01", "2024-02-29"],
            "new": [True, False, True, True],
        }
    )
    return TabularDataset(table, ["yes", "no", "yes", "no"], target_column="dear", name="flats")
