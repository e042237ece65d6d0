"""How long MLflow's client waits, and how often it asks."""

from __future__ import annotations

import os

import pytest

from ml_project_template.tracking.client import (
    asked_once,
    import_mlflow,
    own_timeout,
    transfer_timeout,
)

NAMES = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")


def settings() -> list[str | None]:
    return [os.environ.get(name) for name in NAMES]


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import_mlflow()
    for name, text in zip(NAMES, ("3", "2"), strict=True):
        monkeypatch.setenv(name, text)


def test_files_are_waited_for_longer_and_sent_once() -> None:
    with transfer_timeout(5_000_000):
        assert settings() == ["65", "0"]
    assert settings() == ["3", "2"]


def test_of_blocks_that_overlap_the_longest_counts_and_the_last_puts_all_back() -> None:
    first, second = transfer_timeout(), asked_once()
    with second:
        assert settings() == ["3", "0"]
        first.__enter__()
        assert settings() == ["60", "0"]
    assert settings() == ["60", "0"]
    assert own_timeout() is None
    first.__exit__(None, None, None)
    assert settings() == ["3", "2"]


def test_what_the_user_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in zip(NAMES, ("100", "7"), strict=True):
        monkeypatch.setenv(name, text)
    with transfer_timeout(5_000_000):
        assert settings() == ["100", "7"]
    # Only what makes something may never be sent twice without a look.
    with asked_once():
        assert settings() == ["100", "0"]
        assert own_timeout() == 100
    assert settings() == ["100", "7"]
