"""Has the server do what a command line says, and is its process to whoever has started it.

``python -IS client.py <socket> <what follows python>`` ends as the program does and passes signals
on to it. A program that the server can't do is run by this process itself, cold.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

_HEARD = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    address, *words = sys.argv[1:]
    program: list[int] = []
    early: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if program:
            os.kill(program[0], number)
        else:
            early.append(number)

    ignored = [int(each) for each in _HEARD if signal.getsignal(each) == signal.SIG_IGN]
    for each in _HEARD:
        if each not in ignored:
            signal.signal(each, pass_on)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        asked = {"words": words, "folder": str(Path.cwd()), "variables": dict(os.environ)}
        request = json.dumps({**asked, "ignored": ignored}).encode()
        socket.send_fds(server, [struct.pack("!I", len(request))], [0, 1, 2])
        server.sendall(request)
        answers = server.makefile("r")
        process = int(answers.readline())
        if process == 0:
            os.execv(sys.executable, [sys.executable, *words])  # noqa: S606
        program.append(process)
        for number in early:
            os.kill(process, number)
        code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
