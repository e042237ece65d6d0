"""What a model goes by, where it is known what it goes by."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ml_project_template.report.explain import (
    Answers,
    partial_dependence,
    permutation_importances,
    slices,
    worst_rows,
)
from tests.report.conftest import Case


def test_the_features_that_make_the_target_are_the_important_ones(
    classifier: Case, regressor: Case
) -> None:
    for predictor, parts in (classifier, regressor):
        found = permutation_importances(Answers(predictor, parts["test"]))
        assert {each.name for each in found[:2]} == {"size", "city <b>"}
        assert found[1].mean > 5 * abs(found[2].mean)
        again = permutation_importances(Answers(predictor, parts["test"]))
        assert found == again


def test_a_linear_model_depends_on_a_feature_by_its_slope(regressor: Case) -> None:
    answers = Answers(regressor[0], regressor[1]["test"])
    curve = partial_dependence(answers, "size")
    assert curve.positions is not None
    slope = np.diff(curve.outputs[:, 0]) / np.diff(curve.positions)
    np.testing.assert_allclose(slope, 1.0, atol=0.05)
    levels = partial_dependence(answers, "city <b>")
    assert levels.values == ("Bern", "Oslo", "Rome")
    bern, oslo, rome = levels.outputs[:, 0]
    assert rome - bern == pytest.approx(20, abs=1.5)
    assert oslo - bern == pytest.approx(0, abs=1.5)
    days = partial_dependence(answers, "sold").values
    assert all(re.fullmatch(r"2024-\d\d-\d\d", day) for day in days)


def test_slices_share_out_the_rows_and_are_judged_by_themselves(classifier: Case) -> None:
    predictor, parts = classifier
    answers = Answers(predictor, parts["test"])
    found = slices(answers, ["city <b>", "size"])
    cities = [each for each in found if each.name.startswith("city")]
    assert [each.name for each in cities] == [f"city <b> = {n}" for n in ("Bern", "Oslo", "Rome")]
    assert sum(each.rows for each in cities) == len(parts["test"])
    assert sum(each.rows for each in found[3:]) == len(parts["test"])
    hits = sum(each.rows * each.metrics["accuracy"] for each in cities)
    assert hits / len(parts["test"]) == pytest.approx(answers.metrics()["accuracy"])


def test_the_worst_rows_are_those_of_the_greatest_loss(regressor: Case) -> None:
    answers = Answers(regressor[0], regressor[1]["test"])
    errors = np.abs(answers.outputs[:, 0] - answers.y)
    assert worst_rows(answers, 3).tolist() == np.argsort(-errors)[:3].tolist()
