"""A door that is closed: who is in, who is half in, and who comes too late."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from ml_project_template.serving.door import close_door, somebody_waits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


def test_who_waits_is_seen_and_let_in(listener: socket.socket) -> None:
    assert not somebody_waits(listener)
    with socket.create_connection(listener.getsockname(), 10) as client:
        close_door(listener)
        assert somebody_waits(listener)
        with listener.accept()[0] as accepted:
            assert not somebody_waits(listener)
            client.sendall(b"request")
            assert accepted.recv(7) == b"request"


def test_who_is_half_in_is_let_in(listener: socket.socket) -> None:
    # The kernel keeps a client half in, who knows nothing of it, until the first byte comes.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
    with socket.create_connection(listener.getsockname(), 10) as client:
        assert not somebody_waits(listener)
        close_door(listener)
        client.sendall(b"request")
        with listener.accept()[0] as accepted:
            assert accepted.recv(7) == b"request"
            accepted.sendall(b"answer")
            assert client.recv(6) == b"answer"
            client.close()
            assert accepted.recv(1) == b""


def test_who_comes_later_is_not_heard(listener: socket.socket) -> None:
    close_door(listener)
    with pytest.raises(TimeoutError):
        socket.create_connection(listener.getsockname(), 0.1)
    assert not somebody_waits(listener)
