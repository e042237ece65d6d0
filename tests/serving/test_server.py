"""The server as a process: its end, its reloads, its workers, and too many requests at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from ml_project_template.serving import ModelServer, ModelSource, ServerSettings, create_app
from ml_project_template.serving.metrics import ServerMetrics
from ml_project_template.serving.server import serve
from tests.servers import BODY, Load, ServerProcess, wait_until

Start = Callable[..., ServerProcess]


def test_it_serves_in_the_process_that_calls_it(iris_model: Path) -> None:
    seen: list[object] = []

    def use(address: str) -> None:
        try:
            wait_until(lambda: _answers(address), seconds=20)
            seen.append(httpx2.post(f"{address}/predict", json=BODY).json()["predictions"])
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.5)
            seen.append(httpx2.get(f"{address}/info").json()["reload_problem"])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def make_app(metrics: ServerMetrics) -> ModelServer:
        settings = ServerSettings(drain_seconds=0.2)
        return create_app({"iris": ModelSource(str(iris_model))}, settings, metrics)

    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = threading.Thread(
            target=use, args=(f"http://127.0.0.1:{listener.getsockname()[1]}",)
        )
        assert serve(make_app, listener, on_ready=client.start) == 0
        client.join(20)
    assert seen == [["setosa"], None]
    assert signal.getsignal(signal.SIGTERM) == before


def _answers(address: str) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return httpx2.get(f"{address}/ready").status_code == 200
    return False


def test_ctrl_c_ends_the_server_quietly(iris_model: Path, start_server: Start) -> None:
    server = start_server(f"model.path={iris_model}", "server.access_log=false")
    with httpx2.Client() as client:
        client.get(f"{server.address}/health")
        started = time.monotonic()
        assert server.end(signal.SIGINT) == 0
        assert time.monotonic() - started < 10
    assert "Traceback" not in server.output
    assert "rror" not in server.output


def test_too_many_requests_are_refused_and_health_goes_on(
    iris_model: Path, start_server: Start
) -> None:
    server = start_server(f"model.path={iris_model}", "server.max_queue=2")
    load = Load(server.address, clients=24)
    slowest = 0.0
    try:
        deadline = time.monotonic() + 20
        while load.answers[429] == 0 and time.monotonic() < deadline:
            started = time.monotonic()
            assert httpx2.get(f"{server.address}/health", timeout=10).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
    finally:
        load.end()
    assert set(load.answers) <= {200, 429}
    assert load.answers[200] > 0
    assert load.answers[429] > 0
    assert load.dropped == []
    # At once afterwards.
    assert httpx2.post(f"{server.address}/predict", json=BODY).status_code == 200


def test_a_slow_body_is_cut_off(iris_model: Path, start_server: Start) -> None:
    server = start_server(f"model.path={iris_model}", "server.body_timeout=0.5")
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        answer = b""
        while chunk := slow.recv(4096):
            answer += chunk
    assert b" 408 " in answer
    assert httpx2.get(f"{server.address}/health").status_code == 200


def test_clients_that_stand_still_are_ended_and_no_others(
    iris_model: Path, start_server: Start
) -> None:
    server = start_server(f"model.path={iris_model}", "server.client_timeout=1.5")
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps({"features": [list(BODY["features"][0].values())] * 100_000}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"

    def connect() -> socket.socket:
        return socket.create_connection((host, int(port)), timeout=20)

    with (
        httpx2.Client() as usual,
        connect() as silent,
        connect() as slow,
        socket.socket() as deaf,
    ):
        assert usual.get(f"{server.address}/health").status_code == 200
        # A small window, so that the answer does not fit into what the kernel keeps for the client.
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect((host, int(port)))
        deaf.sendall(head.encode() + body)
        slow.sendall(b"GET /health HTTP/1.1\r\nx: ")
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < started + 30:
                slow.sendall(b"x")
                time.sleep(0.2)
        assert time.monotonic() < started + 30, "the slow one was not ended"
        assert _is_ended(silent)
        assert _is_ended(deaf)
        # Idle between two requests, for longer than any of them.
        assert usual.get(f"{server.address}/health").status_code == 200


def _is_ended(connection: socket.socket) -> bool:
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_several_workers_share_the_port_and_their_numbers(
    iris_model: Path, start_server: Start
) -> None:
    server = start_server(f"model.path={iris_model}", "server.workers=2")
    pids = _workers(server)
    assert len(pids) == 2
    for _ in range(30):
        assert httpx2.post(f"{server.address}/predict", json=BODY).status_code == 200
    counted = 'http_requests_total{route="/predict",status="200"} 30.0'
    wait_until(lambda: counted in httpx2.get(f"{server.address}/metrics").text, seconds=15)
    # One dies; another takes its place, and no number is lost that was written since: each second.
    time.sleep(2.5)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: len(set(_workers(server)) - {pids[0]}) == 2, seconds=30)
    wait_until(server.is_ready, seconds=30)
    for _ in range(20):
        page = httpx2.get(f"{server.address}/metrics").text
        assert counted in page
    assert server.end() == 0
    assert _workers(server) == []


def test_workers_that_can_not_load_the_model_end_with_one_line(
    tmp_path: Path, start_server: Start
) -> None:
    server = start_server(f"model.path={tmp_path / 'nope'}", "server.workers=3", ready=False)
    assert server.process.wait(60) == 1
    assert server.output.count("nope") == 1
    assert "Traceback" not in server.output


def test_the_access_log_has_a_line_of_json_for_each_request(
    iris_model: Path, start_server: Start
) -> None:
    server = start_server(f"model.path={iris_model}", SERVER_TOKEN="canary-token")
    key = {"Authorization": "Bearer canary-token", "x-request-id": "mine"}
    url = f"{server.address}/predict?key=canary-query"
    assert httpx2.post(url, json=BODY, headers=key).status_code == 200
    assert httpx2.post(url, json=BODY).status_code == 401
    assert server.end() == 0
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    mine = [line for line in lines if line["request_id"] == "mine"]
    assert [(line["method"], line["path"], line["status"]) for line in mine] == [
        ("POST", "/predict", 200)
    ]
    assert any(line["status"] == 401 for line in lines)
    assert "canary" not in server.output.replace("$SERVER_TOKEN", "")


def _workers(server: ServerProcess) -> list[int]:
    place = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    try:
        return [int(pid) for pid in place.read_text().split()]
    except FileNotFoundError:
        return []
