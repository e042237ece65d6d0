"""End a server under load again and again, and count what was dropped: there shall be nothing.

``python -m tests.soak.serve_ends --ends 100`` prints a line for each end and a sum, and exits with
1 if a request was dropped or an end took longer than 25 s. A short version runs with the tests.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.servers import Load, ServerProcess, train_model


def end_under_load(model: Path, folder: Path, *, clients: int, drain: float) -> dict[str, float]:
    """Start a server, put it under load, end it at a random moment; returns what was seen."""
    server = ServerProcess(
        folder,
        [f"model.path={model}", f"server.drain_seconds={drain}", "server.access_log=false"],
        {},
    )
    server.wait()
    load = Load(server.address, clients)
    try:
        time.sleep(random.uniform(0.2, 1.0))
        started = time.monotonic()
        status = server.end(signal.SIGTERM)
        seconds = time.monotonic() - started
    finally:
        load.end()
    return {
        "status": status,
        "seconds": seconds,
        "answered": load.answers[200],
        "others": sum(load.answers.values()) - load.answers[200],
        "dropped": len(load.dropped),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ends", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--drain", type=float, default=0.5)
    arguments = parser.parse_args()
    answered = dropped = wrong = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = train_model(folder / "model")
        for number in range(1, arguments.ends + 1):
            seen = end_under_load(model, folder, clients=arguments.clients, drain=arguments.drain)
            print(f"end {number}: {seen}", flush=True)
            answered += int(seen["answered"])
            dropped += int(seen["dropped"])
            wrong += int(seen["others"]) + (seen["status"] != 0)
            slowest = max(slowest, seen["seconds"])
    print(
        f"{arguments.ends} ends, {answered} requests answered, {dropped} dropped, {wrong} wrong, "
        f"slowest end {slowest:.1f} s"
    )
    sys.exit(bool(dropped or wrong or slowest > 25))


if __name__ == "__main__":
    main()
