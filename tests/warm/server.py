"""Imports the large libraries once, and forks a process for each program that a client asks for.

``python server.py <socket>`` serves until the end of its input. Each process goes on as a fresh
``python`` would: with the arguments, folder, variables, input and outputs of its client, and with
nothing of this project imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

# Nothing that starts a thread of Python's, as ONNX Runtime does: a fork would not survive it.
_LIBRARIES = (
    *("torch", "lightning.fabric", "sklearn.ensemble", "sklearn.linear_model", "skops.io"),
    *("pandas", "pyarrow.parquet", "pyarrow.csv", "pyarrow.dataset", "matplotlib.pyplot"),
    *("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "optuna", "s3fs"),
    *("hydra", "hydra._internal.hydra", "fastapi", "uvicorn", "dotenv"),
)
# What Python and the libraries read when they start, and no library sets: a program with other
# values starts cold.
_READ_ONCE = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "CUDA_VISIBLE_DEVICES", "LD_", "MPLBACKEND")
_READ_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")


@dataclass(eq=False)
class _Program:
    """What a client asks for, and the connection that it waits at."""

    client: socket.socket
    outlets: list[int]
    words: list[str]
    folder: str
    variables: dict[str, str]
    ignored: list[int]
    process: int = 0
    watch: int = -1


class _Server:
    def __init__(self, address: str, read: dict[str, str]) -> None:
        self._read = read
        self._programs: list[_Program] = []
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)

    def serve(self) -> _Program | None:
        """Serve; returns None at the end and, in the process of a program, the program."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    program = self._start()
                    if program is not None:
                        return program
                elif key.fileobj is sys.stdin:
                    for program in self._programs:
                        os.kill(program.process, signal.SIGKILL)
                    return None
                elif key.data not in self._programs:
                    # It has ended while its client was killed.
                    continue
                elif key.fileobj is key.data.client:
                    # Its client was killed, and so would it have been.
                    self._selector.unregister(key.data.client)
                    os.kill(key.data.process, signal.SIGKILL)
                else:
                    self._end(key.data)

    def _start(self) -> _Program | None:
        client, _ = self._listener.accept()
        program = _read(client)
        if program is None:
            client.close()
            return None
        if self._is_possible(program):
            program.process = os.fork()
            if program.process == 0:
                self._leave()
                return program
        for outlet in program.outlets:
            os.close(outlet)
        with contextlib.suppress(BrokenPipeError):
            client.sendall(f"{program.process}\n".encode())
        if program.process == 0:
            client.close()
            return None
        program.watch = os.pidfd_open(program.process)
        self._programs.append(program)
        self._selector.register(program.watch, selectors.EVENT_READ, program)
        self._selector.register(client, selectors.EVENT_READ, program)
        return None

    def _is_possible(self, program: _Program) -> bool:
        kind = program.words[0] if program.words else "-"
        known = not kind.startswith("-") or kind in ("-c", "-m")
        return known and _read_once(program.variables) == self._read

    def _end(self, program: _Program) -> None:
        _, status = os.waitpid(program.process, 0)
        self._selector.unregister(program.watch)
        os.close(program.watch)
        with contextlib.suppress(KeyError):
            self._selector.unregister(program.client)
        self._programs.remove(program)
        with contextlib.suppress(BrokenPipeError):
            program.client.sendall(f"{status}\n".encode())
        program.client.close()

    def _leave(self) -> None:
        """Close, in the process of a program, what is the server's."""
        self._selector.close()
        self._listener.close()
        for program in self._programs:
            os.close(program.watch)
            program.client.close()


def _read(client: socket.socket) -> _Program | None:
    length, outlets, _, _ = socket.recv_fds(client, 4, 3)
    text = b""
    if len(length) == 4:
        (size,) = struct.unpack("!I", length)
        while len(text) < size and (more := client.recv(size - len(text))):
            text += more
        if len(text) == size:
            return _Program(client, list(outlets), **json.loads(text))
    return None


def _read_once(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: text
        for name, text in variables.items()
        if name.startswith(_READ_ONCE) and name not in _READ_LATER
    }


def _become(program: _Program, path: list[str]) -> None:
    """Be what a fresh process of Python is, and run the program."""
    program.client.close()
    for number, outlet in enumerate(program.outlets):
        os.dup2(outlet, number)
        os.close(outlet)
    os.environ.clear()
    os.environ.update(program.variables)
    by_line = os.isatty(1) or bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=by_line)  # type: ignore[union-attr]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    os.chdir(program.folder)
    for each in program.ignored:
        signal.signal(each, signal.SIG_IGN)
    tempfile.tempdir = None
    importlib.import_module("numpy").random.seed()

    kind, *rest = program.words
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*(os.path.abspath(place) for place in places if place), *path]  # noqa: PTH100
    importlib.invalidate_caches()
    sys.orig_argv[:] = [sys.executable, *program.words]
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *rest[1:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)  # noqa: S102
    elif kind == "-m":
        sys.path.insert(0, program.folder)
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.realpath(kind)))  # noqa: PTH120
        sys.argv[:] = program.words
        runpy.run_path(kind, run_name="__main__")


def _code_of(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    print(ended.code, file=sys.stderr)
    return 1


def main() -> None:
    # Run last, after all that programs and libraries have registered: what is left then is to take
    # the libraries apart, which is long, and of which some complain.
    code = 0

    def leave() -> None:
        left = code
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                left = 120
        if left == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(left & 0xFF)

    atexit.register(leave)
    path = sys.path[1:]
    read = _read_once(os.environ)
    gc.disable()
    # Of MLflow's own level of its messages, as `ml_project_template.tracking` sets it.
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _LIBRARIES:
            importlib.import_module(name)
    del os.environ["MLFLOW_LOGGING_LEVEL"]
    gc.freeze()
    gc.enable()
    program = _Server(sys.argv[1], read).serve()
    if program is None:
        return
    code = 1
    try:
        _become(program, path)
        code = 0
    except SystemExit as ended:
        code = _code_of(ended)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()


if __name__ == "__main__":
    main()
