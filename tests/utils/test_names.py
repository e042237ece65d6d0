from __future__ import annotations

import pytest

from ml_project_template.utils.names import flatten, snake_case


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MLPClassifier", "mlp_classifier"),
        ("GBClassifier", "gb_classifier"),
        ("Model", "model"),
        ("ResNet50", "res_net50"),
        ("already_snake", "already_snake"),
        ("XGBoost2Model", "xg_boost2_model"),
    ],
)
def test_a_class_name_becomes_a_file_name(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_nested_keys_are_joined_and_values_stay_as_they_are() -> None:
    nested = {"model": {"params": {"lr": 0.1, "name": None}}, "seed": 0}
    assert flatten(nested) == {"model.params.lr": 0.1, "model.params.name": None, "seed": 0}


def test_lists_and_empty_mappings_become_json() -> None:
    nested = {"dims": [4, None, 3], "pair": ("ä", True), "empty": {}}
    assert flatten(nested) == {"dims": "[4, null, 3]", "pair": '["ä", true]', "empty": "{}"}


def test_the_separator_can_be_chosen() -> None:
    assert flatten({"a": {"b": 1}}, sep="/") == {"a/b": 1}


def test_a_value_that_json_can_not_hold_is_refused_in_a_list() -> None:
    with pytest.raises(TypeError, match="object"):
        flatten({"a": [object()]})
