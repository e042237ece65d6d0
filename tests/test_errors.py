"""The errors that the package raises for its users."""

from __future__ import annotations

import pytest

from ml_project_template import errors
from ml_project_template.errors import ArtifactError, ProjectError, unknown


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_is_a_value_error_of_our_tree(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, ProjectError)
    assert issubclass(error, ValueError)
    assert name in (errors.__doc__ or "")


def test_an_unknown_value_is_told_with_the_choices_and_the_likely_one() -> None:
    line = unknown("model", "mpl", ["mlp", "gb"])
    assert line == "Unknown model 'mpl'. Did you mean 'mlp'? Available: gb, mlp."


def test_a_value_far_from_all_choices_gets_no_guess() -> None:
    assert unknown("model", "xyzzy", ["mlp"]) == "Unknown model 'xyzzy'. Available: mlp."
    assert unknown("model", "x", []) == "Unknown model 'x'. Available: none."


def test_another_case_is_recognised() -> None:
    assert "Did you mean 'Species'?" in unknown("column", "SPECIES", ["Species", "width"])


def test_an_error_of_a_file_quotes_no_more_of_it_than_a_line() -> None:
    told = str(ArtifactError(f"'config.json': {'a' * 100_000!r} is no name of a model."))
    assert len(told) < 1_100
    assert told.startswith("'config.json': 'aaa")
    assert told.endswith("aaa' is no name of a model.")
    assert str(ArtifactError("short")) == "short"


def test_an_unknown_value_is_not_repeated_at_length() -> None:
    assert (
        unknown("model", "x" * 1_000, ["mlp"]) == f"Unknown model '{'x' * 200}...'. Available: mlp."
    )
