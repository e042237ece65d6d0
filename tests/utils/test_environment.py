"""What a training runs on, as it is kept."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from ml_project_template.utils.environment import environment_state


def test_the_lock_file_is_that_of_the_folder_or_the_nearest_above(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert environment_state(inner)["uv_lock"] is None
    (tmp_path / "uv.lock").write_bytes(b"version = 1\n")
    state = environment_state(inner)
    assert state["uv_lock"] == hashlib.sha256(b"version = 1\n").hexdigest()
    assert str(state["platform"]).startswith(platform.system())
    (inner / "uv.lock").write_bytes(b"version = 2\n")
    assert environment_state(inner)["uv_lock"] == hashlib.sha256(b"version = 2\n").hexdigest()
