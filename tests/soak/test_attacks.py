"""Short versions of what ``make soak`` does at length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_project_template import artifacts
from tests.servers import ServerProcess
from tests.soak import fuzzed_requests, mutated_models, signed_models

_check_signature = artifacts._check_signature


def _after_parsing(manifest: bytes, *others: Any) -> None:
    artifacts.parse_json(manifest, "the manifest")
    _check_signature(manifest, *others)


@pytest.mark.parametrize("kind", ["gb", "mlp"])
def test_a_changed_model_is_refused_or_answers(kind: str, tmp_path: Path) -> None:
    (path,) = mutated_models.make_models(tmp_path, [kind]).values()
    counts, wrong = mutated_models.attack(path, 0, 60)
    assert wrong == []
    assert sum(counts.values()) == 60
    assert counts["refused"] > 30
    assert counts["loaded"] > 0


def test_the_attack_sees_what_a_reader_ought_not_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = mutated_models.make_models(tmp_path, ["linear"]).values()
    # A reader that believes whatever it is given.
    monkeypatch.setattr(artifacts, "_copy_file", _copy)
    counts, wrong = mutated_models.attack(path, 0, 60)
    assert {outcome for _, outcome in wrong} >= {"accepted"}
    assert counts["refused"] < 60


def _copy(source: object, target: Path, size: int, digest: str) -> None:
    target.write_bytes(source.read())  # type: ignore[attr-defined]


def test_what_nobody_trusted_has_signed_is_refused(tmp_path: Path) -> None:
    found, wrong = signed_models.attack(tmp_path, 0, 180)
    assert wrong == []
    assert len(found) == 18
    assert all(counts == {"refused": 10} for counts in found.values())


@pytest.mark.parametrize(
    ("guard", "weak", "seen"),
    [
        ("find_signer", lambda content, signature, keys: keys[0], "accepted"),
        ("_check_signature", lambda *_: None, "accepted"),
        ("_check_signature", _after_parsing, "parsed"),
    ],
)
def test_the_attack_sees_a_signature_that_is_not_looked_at(
    guard: str,
    weak: Callable[..., object],
    seen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artifacts, guard, weak)
    found, _ = signed_models.attack(tmp_path, 0, 54)
    assert found["by another key"] == {seen: 3}


def test_whatever_is_sent_is_answered_or_refused(
    iris_model: Path, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(
        f"models.model.path={iris_model}", "server.access_log=false", "server.body_timeout=2"
    )
    found = fuzzed_requests.attack(server, 900, seed=1)
    assert [line for seen in found.values() for line in seen.wrong] == []
    assert found["values"].statuses[200] > 0
    assert found["scrambled"].statuses[400] > 0
    assert "Traceback" not in server.output


def test_an_answer_that_must_not_be_is_seen() -> None:
    assert fuzzed_requests.check(b"", 200, b'{"predictions": ["setosa"]}') is None
    assert fuzzed_requests.check(b"", 422, b"x" * 100) is None
    for status, body in ((500, b""), (200, b'{"p": [NaN]}'), (422, b"x" * 5_000)):
        assert fuzzed_requests.check(b"", status, body)
