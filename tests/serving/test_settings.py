"""What can be set of a server, and what can't."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ml_project_template.errors import ConfigError
from ml_project_template.serving.settings import ServerSettings


def test_the_defaults_and_common_settings_are_taken() -> None:
    settings = ServerSettings()
    assert settings.token is None
    assert settings.watch_seconds is None
    ServerSettings(
        max_body_bytes=1,
        max_rows=1,
        max_queue=1,
        body_timeout=0.1,
        drain_seconds=0,
        watch_seconds=5,
        token="s3cret-Token_~.+/=",
    )


@pytest.mark.parametrize("value", [0, -1, True, "5", None, math.nan, math.inf, 1.5, 1e6, [1]])
@pytest.mark.parametrize("name", ["max_body_bytes", "max_rows", "max_queue", "max_held_bytes"])
def test_a_count_is_a_whole_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^server.{name}: must be a whole number above 0, got"):
        ServerSettings(**{name: value})


@pytest.mark.parametrize("value", [0, -0.5, False, "5", math.nan, math.inf, -math.inf, [1]])
@pytest.mark.parametrize("name", ["max_wait", "body_timeout", "client_timeout", "watch_seconds"])
def test_a_time_is_a_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^server.{name}: must be a number greater than 0, got"):
        ServerSettings(**{name: value})


def test_only_the_watch_can_be_left_out() -> None:
    with pytest.raises(ConfigError, match=r"^server.body_timeout: .*, got None"):
        ServerSettings(body_timeout=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 3_601, True, "5", None, math.nan, math.inf])
def test_draining_ends(value: Any) -> None:
    with pytest.raises(ConfigError, match="^server.drain_seconds: must be 0 to 3600 seconds, got"):
        ServerSettings(drain_seconds=value)


@pytest.mark.parametrize(
    "token", ["", " ", "canary ", " canary", "two canaries", "canary\n", "canäry", "canary\x00", 5]
)
def test_a_token_that_no_client_could_send_is_refused(token: Any) -> None:
    with pytest.raises(ConfigError, match=r"^server.token: must be some visible ASCII") as caught:
        ServerSettings(token=token)
    assert "canary" not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    assert "canary" not in repr(ServerSettings(token="canary-token"))
