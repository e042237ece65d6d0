"""The door of a server: a listening socket that is closed without turning away who is half in."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import sys

__all__ = ["close_door", "somebody_waits"]

_SO_ATTACH_FILTER = 26


def close_door(listener: socket.socket) -> None:
    """Have the kernel ignore who knocks at a listener from now on: they find it closed later.

    Whoever has had an answer to their knocking believes to be in, and is let in. Elsewhere than on
    Linux nothing is done.

    Args:
        listener: A listening TCP socket.
    """
    if sys.platform != "linux":
        return
    # A classic BPF program over the TCP header; Linux' uapi `struct sock_filter` and `struct
    # sock_fprog`, see socket(7), SO_ATTACH_FILTER. Each: code, steps if true, if false, constant.
    instructions = (
        (0x30, 0, 0, 13),  # load the byte of the flags
        (0x54, 0, 0, 0x12),  # SYN and ACK of them
        (0x15, 0, 1, 0x02),  # a SYN alone asks for a new connection
        (0x06, 0, 0, 0),  # of which nothing is taken
        (0x06, 0, 0, 0xFFFFFFFF),
    )
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    held = ctypes.create_string_buffer(program)
    header = struct.pack("HP", len(instructions), ctypes.addressof(held))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def somebody_waits(listener: socket.socket) -> bool:
    """Say whether there is a connection that nobody has accepted.

    Args:
        listener: A listening socket.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
