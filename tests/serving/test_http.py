"""How a body is read, and how a refusal is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from ml_project_template.serving.http import (
    BodyLimits,
    ClientGoneError,
    RefusalError,
    Request,
    problem,
    read_body,
)

LIMITS = BodyLimits(max_bytes=10, timeout=5)


def _read(
    *chunks: bytes | float | None,
    headers: list[tuple[bytes, bytes]] | None = None,
    limits: BodyLimits = LIMITS,
) -> bytes:
    """Read a body that comes in chunks; a number is a wait, None the end of the client."""
    script = list(chunks)

    async def receive() -> MutableMapping[str, Any]:
        while script and isinstance(script[0], float):
            await asyncio.sleep(float(script.pop(0) or 0))
        chunk = script.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(script)}

    return asyncio.run(read_body(receive, headers or [], limits))


@pytest.mark.parametrize(
    "chunks",
    [(b"",), (b"0123456789",), (b"01234", b"56789"), (b"", b"", b"0"), (b"0", b""), (b"0",) * 10],
)
def test_a_body_is_read_whole(chunks: tuple[bytes, ...]) -> None:
    assert _read(*chunks) == b"".join(chunks)


def test_a_message_without_a_body_is_an_empty_one() -> None:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    assert asyncio.run(read_body(receive, [], LIMITS)) == b""


@pytest.mark.parametrize("chunks", [(b"x" * 11,), (b"x" * 10, b"x"), (b"x",) * 11])
def test_a_body_that_is_too_large_is_refused(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(RefusalError, match="larger than 10 bytes") as caught:
        _read(*chunks)
    assert caught.value.status == 413


@pytest.mark.parametrize("length", [b"11", b"9" * 18, b"9" * 19, b"9" * 10_000])
def test_a_body_that_says_it_is_too_large_is_not_read(length: bytes) -> None:
    with pytest.raises(RefusalError) as caught:
        _read(headers=[(b"content-length", length)])  # reading would fail
    assert caught.value.status == 413


@pytest.mark.parametrize("length", [b"10", b"0", b"010"])
def test_a_length_within_the_limit_is_taken(length: bytes) -> None:
    assert _read(b"abc", headers=[(b"host", b"x"), (b"content-length", length)]) == b"abc"


@pytest.mark.parametrize("length", [b"abc", b"-1", b"", b"+5", b" 5", b"1_0", b"5.0", b"\xb2"])
def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    with pytest.raises(RefusalError, match="content-length") as caught:
        _read(headers=[(b"content-length", length)])
    assert caught.value.status == 400


@pytest.mark.parametrize("chunks", [(1.0, b"x"), (b"x", 1.0, b"x"), (0.02,) * 20 + (b"x",)])
def test_a_body_that_does_not_come_is_not_waited_for(chunks: tuple[bytes | float, ...]) -> None:
    with pytest.raises(RefusalError, match="within 0.1 seconds") as caught:
        _read(*chunks, limits=BodyLimits(10, 0.1))
    assert caught.value.status == 408


def test_a_late_body_leaves_its_task_as_it_was() -> None:
    async def later() -> int:
        async def receive() -> MutableMapping[str, Any]:
            await asyncio.sleep(10)
            raise AssertionError

        with pytest.raises(RefusalError):
            await read_body(receive, [], BodyLimits(10, 0.01))
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0.05)
        return task.cancelling()

    assert asyncio.run(later()) == 0


def test_a_body_in_time_is_not_disturbed_later() -> None:
    async def in_time() -> bytes:
        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"x"}

        body = await read_body(receive, [], BodyLimits(10, 0.05))
        await asyncio.sleep(0.1)
        return body

    assert asyncio.run(in_time()) == b"x"


@pytest.mark.parametrize("at_once", [False, True])
def test_who_is_cancelled_by_others_is_cancelled(at_once: bool) -> None:
    async def cancel() -> None:
        async def receive() -> MutableMapping[str, Any]:
            await asyncio.sleep(10)
            raise AssertionError

        limits = BodyLimits(10, 0.02 if at_once else 5)
        task = asyncio.create_task(read_body(receive, [], limits))
        # At the same moment as the timer, or long before.
        asyncio.get_running_loop().call_later(0.02, task.cancel)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(cancel())


@pytest.mark.parametrize("chunks", [(None,), (b"x", None)])
def test_a_client_that_goes_is_told_apart(chunks: tuple[bytes | None, ...]) -> None:
    with pytest.raises(ClientGoneError):
        _read(*chunks)


def test_headers_are_found() -> None:
    request = Request(b"", [(b"content-type", b"Text/CSV ; charset=\xe9"), (b"a", b"1")])
    assert request.header(b"a") == b"1"
    assert request.header(b"b") == b""
    assert request.content_type == "text/csv"
    assert Request(b"", []).content_type == ""


def test_a_refusal_is_written_as_a_short_answer() -> None:
    answer = problem(RefusalError(422, "Row 1: no."))
    assert (answer.status, answer.body) == (422, b'{"detail":"Row 1: no."}')
    assert answer.headers is None
    assert problem(RefusalError(429, "x", retry_after=2)).headers == [(b"retry-after", b"2")]
    assert problem(RefusalError(401, "x")).headers == [(b"www-authenticate", b"Bearer")]


@pytest.mark.parametrize("mark", ["x", "é", "長", "👍", '"', "\x00", "\ud800"])
def test_a_refusal_stays_under_2_kilobytes_in_any_script(mark: str) -> None:
    answer = problem(RefusalError(422, "Row 1: " + mark * 100_000))
    assert 600 < len(answer.body) < 2_000
    detail = json.loads(answer.body)["detail"]
    assert detail.startswith("Row 1: ")
    assert detail.endswith("...")


def test_large_bodies_that_wait_are_bounded_together_and_small_ones_are_let_in() -> None:
    limits = BodyLimits(max_bytes=200_000, timeout=5, max_held=250_000)
    large, small = b"x" * 100_000, b"x" * 60_000
    assert _read(large, limits=limits) == large
    assert _read(small, small, limits=limits) == small * 2
    # Both are held until they are answered.
    for chunks in ((large,), (small, small)):
        with pytest.raises(RefusalError, match="busy") as caught:
            _read(*chunks, limits=limits)
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
    assert _read(small, limits=limits) == small
    limits.release(len(small))
    limits.release(len(large))
    assert _read(large, limits=limits) == large


@pytest.mark.parametrize("end", [None, b"x" * 200_000])
def test_a_large_body_that_does_not_come_whole_is_not_held(end: bytes | None) -> None:
    limits = BodyLimits(max_bytes=200_000, timeout=5, max_held=200_000)
    with pytest.raises((RefusalError, ClientGoneError)):
        _read(b"x" * 150_000, end, limits=limits)
    assert len(_read(b"x" * 200_000, limits=limits)) == 200_000
