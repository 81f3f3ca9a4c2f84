"""Frames of the stand-in ssh: a kind, a length, bytes."""

import socket
import struct

PORT = 22
COMMAND, INPUT, OUTPUT, ERRORS, EXIT = range(5)
_HEAD = struct.Struct("!BI")


def send(connection: socket.socket, kind: int, data: bytes) -> None:
    """Send a frame."""
    connection.sendall(_HEAD.pack(kind, len(data)) + data)


def receive(connection: socket.socket) -> tuple[int, bytes] | None:
    """The next frame, or None at the end."""
    head = _exactly(connection, _HEAD.size)
    if head is None:
        return None
    kind, length = _HEAD.unpack(head)
    data = _exactly(connection, length)
    return None if data is None else (kind, data)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            return None
        data += more
    return data
