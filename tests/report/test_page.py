"""The page as a whole: complete, escaped, and without anything from elsewhere."""

from __future__ import annotations

import re

from ml_project_template.report.page import report_page
from tests.report.conftest import Case


def test_a_page_shows_the_model_and_the_data_and_needs_no_network(
    classifier: Case, regressor: Case
) -> None:
    plots = {
        "classification": ["Confusion", "Precision and recall", "Calibration"],
        "regression": ["Residuals", "Predicted against actual"],
    }
    for (predictor, parts), task in ((classifier, "classification"), (regressor, "regression")):
        page = report_page(
            parts, title="A & B", predictor=predictor, card={"Limits": "Not for <castles>."}
        )
        for heading in ("Model card", "Permutation importance", "Partial dependence", "Data"):
            assert f">{heading}<" in page
        for plot in plots[task]:
            assert f"<h3>{plot}</h3>" in page
        assert "<title>A &amp; B</title>" in page
        assert "Not for &lt;castles&gt;." in page
        assert "city &lt;b&gt;" in page
        assert "<b>" not in page
        assert "http" not in re.sub(r"base64,[^\"]+", "", page)


def test_a_page_of_data_alone_has_no_model(regressor: Case) -> None:
    page = report_page(regressor[1], title="flats")
    assert "Model card" not in page
    assert "Correlation of the numbers" in page
    assert "4 columns" in page


def test_a_page_is_the_same_each_time(classifier: Case) -> None:
    pages = {report_page(classifier[1], title="t", predictor=classifier[0]) for _ in range(2)}
    assert len(pages) == 1
