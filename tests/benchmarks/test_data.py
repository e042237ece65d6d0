"""The benchmark of how tables are prepared."""

from __future__ import annotations

import json

from benchmarks import data


def test_a_small_table_is_prepared_in_each_way() -> None:
    (report,) = data.measure(sizes=(200,), formats=("parquet", "csv"), rounds=1)
    assert [row[0] for row in report.rows] == ["parquet 200", "csv 200"]
    assert len(report.aims) == 4
    assert all(cost > 0 for row in report.rows for cost in row[1:])
    assert set(report.samples["csv 200"]) == set(report.columns[1:5])
    json.dumps(report.to_dict())
