"""A line for each request."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from ml_project_template.serving import access_log
from ml_project_template.serving.access_log import AccessLog, request_ids


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _add(log: AccessLog, path: str = "/predict", method: str = "POST") -> None:
    log.add("job-7", method, path, 200, 0.00123456, 42)


def test_a_line_tells_of_its_request(capsys: pytest.CaptureFixture[str]) -> None:
    async def some_requests() -> None:
        log = AccessLog(interval=0.01)
        _add(log)
        _add(log, "/models/a/predict")
        assert capsys.readouterr().err == ""
        await asyncio.sleep(0.2)
        _add(log, method="GET")
        await asyncio.sleep(0.2)

    asyncio.run(some_requests())
    first, second, third = _lines(capsys.readouterr().err)
    moment = datetime.fromisoformat(first.pop("time"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert first == {
        "request_id": "job-7",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "seconds": 0.001235,
        "bytes": 42,
    }
    assert second["path"] == "/models/a/predict"
    assert third["method"] == "GET"


PATHS = [
    "/a b",
    '/say"hi"',
    "/back\\slash",
    "/two\nlines",
    "/\x00\x1b[31m",
    "/é長👍",
    "/\ud800",
    "",
]


def test_whatever_the_path_is_a_line_is_one_line_of_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def requests() -> None:
        log = AccessLog()
        for path in [*PATHS, "/" + "x" * 10_000]:
            _add(log, path)
            _add(log, path, method='"' + "M" * 1_000)
        log.flush()

    asyncio.run(requests())
    text = capsys.readouterr().err
    assert "\x1b" not in text
    paths = [line["path"] for line in _lines(text)]
    expected = [path.replace("\ud800", "?") for path in PATHS]
    assert paths[::2] == [*expected, "/" + "x" * 199]
    assert paths[1::2] == paths[::2]
    assert max(map(len, text.splitlines())) < 600


def test_paths_without_end_do_not_fill_the_memory() -> None:
    async def requests() -> AccessLog:
        log = AccessLog()
        for i in range(access_log._MAX_PATHS * 3):
            _add(log, f"/{i}")
        return log

    log = asyncio.run(requests())
    assert len(log._places) <= access_log._MAX_PATHS


def test_a_slow_reader_loses_lines_and_is_told_how_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def requests() -> None:
        log = AccessLog()
        for _ in range(15):
            _add(log)
        log.flush()
        _add(log)
        log.flush()

    monkeypatch.setattr(access_log, "_MAX_LINES", 10)
    asyncio.run(requests())
    lines = _lines(capsys.readouterr().err)
    assert len(lines) == 12
    assert lines[10] == {"lost_lines": 5}
    assert "time" in lines[11]


def test_one_writer_is_enough_and_the_loop_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(io.StringIO):
        writers = most = 0

        def write(self, text: str) -> int:
            Slow.writers += 1
            Slow.most = max(Slow.most, Slow.writers)
            time.sleep(0.1)
            Slow.writers -= 1
            return super().write(text)

    async def requests() -> float:
        log = AccessLog(interval=0.01)
        slowest = 0.0
        for _ in range(20):
            started = time.perf_counter()
            _add(log)
            slowest = max(slowest, time.perf_counter() - started)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        return slowest

    slow = Slow()
    monkeypatch.setattr(sys, "stderr", slow)
    assert asyncio.run(requests()) < 0.05
    assert Slow.most == 1
    assert len(_lines(slow.getvalue())) == 20


def test_when_nobody_reads_any_more_the_service_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    async def requests(log: AccessLog) -> None:
        for _ in range(3):
            _add(log)
            await asyncio.sleep(0.05)

    log = AccessLog(interval=0.01)
    monkeypatch.setattr(sys, "stderr", Gone())
    asyncio.run(requests(log))
    assert log._lines == []
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    asyncio.run(requests(log))
    assert log._lines == []


@pytest.mark.parametrize("given", [b"job-7", b"a", b"A_b-3", b"0" * 64])
def test_an_id_that_was_given_is_kept(given: bytes) -> None:
    assert request_ids()(given) == given.decode()


@pytest.mark.parametrize(
    "given", [b"", b"-", b"a b", b'a"', b"a\n", b"a\r\nx: y", b"\xe9", b"0" * 65, b"a.b", b"\x00"]
)
def test_another_id_is_made_where_none_can_be_kept(given: bytes) -> None:
    make = request_ids()
    ids = {make(given) for _ in range(100)} | {request_ids()(given)}
    assert len(ids) == 101
    assert all(name.replace("-", "").isalnum() and len(name) < 30 for name in ids)
