"""A stand-in for ssh, with the options that Ray gives it; a forwarded port that is taken ends it, as `ssh -L` does."""

import os
import socket
import sys
import threading
import time
from pathlib import Path

import wire

WITH_VALUE = ("-o", "-i", "-L", "-p")


def parse(arguments: list[str]) -> tuple[str, str, list[str]]:
    """(host, command, forwardings) of a command line."""
    forwardings = []
    while arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in WITH_VALUE:
            value = arguments.pop(0)
            if option == "-L":
                forwardings.append(value)
    return arguments[0].rpartition("@")[2], " ".join(arguments[1:]), forwardings


def connect(host: str) -> socket.socket:
    """To the stand-in sshd; 255 if there is none, as ssh."""
    for _ in range(50):
        try:
            return socket.create_connection((host, wire.PORT), timeout=5)
        except OSError as error:
            reason = error
            time.sleep(0.1)
    print(f"ssh: connect to host {host}: {reason}", file=sys.stderr)
    sys.exit(255)


def forward(host: str, forwarding: str) -> None:
    """`-L port:localhost:port`: a connection to here is one on the machine, through `forwarded.py` there."""
    here, _, there = forwarding.split(":")
    server = socket.create_server(("127.0.0.1", int(here)))

    def carry(client: socket.socket) -> None:
        remote = connect(host)
        script = Path(__file__).resolve().with_name("forwarded.py")
        wire.send(remote, wire.COMMAND, f"exec {sys.executable} {script} {there}".encode())

        def up() -> None:
            while data := client.recv(65536):
                wire.send(remote, wire.INPUT, data)
            wire.send(remote, wire.INPUT, b"")

        threading.Thread(target=up, daemon=True).start()
        remote.settimeout(None)
        while (frame := wire.receive(remote)) is not None and frame[0] != wire.EXIT:
            if frame[0] == wire.OUTPUT:
                client.sendall(frame[1])
        client.close()

    def accept() -> None:
        while True:
            threading.Thread(target=carry, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def main() -> None:
    """Run the command there and exit as it does."""
    host, command, forwardings = parse(sys.argv[1:])
    for forwarding in forwardings:
        forward(host, forwarding)
    connection = connect(host)
    connection.settimeout(None)
    wire.send(connection, wire.COMMAND, command.encode())

    def feed() -> None:
        while data := os.read(0, 65536):
            wire.send(connection, wire.INPUT, data)
        wire.send(connection, wire.INPUT, b"")

    threading.Thread(target=feed, daemon=True).start()
    while (frame := wire.receive(connection)) is not None:
        kind, data = frame
        if kind == wire.EXIT:
            sys.stdout.flush()
            os._exit(int(data))
        stream = sys.stdout if kind == wire.OUTPUT else sys.stderr
        stream.buffer.write(data)
        stream.buffer.flush()
    os._exit(255)


if __name__ == "__main__":
    main()
