"""A stand-in for sshd: bash executes the command; without its client it gets the hang-up signal."""

import os
import signal
import socket
import subprocess
import sys
import threading

import wire


def serve(connection: socket.socket) -> None:
    """One command."""
    frame = wire.receive(connection)
    assert frame is not None
    assert frame[0] == wire.COMMAND
    process = subprocess.Popen(
        ["bash", "-c", frame[1].decode()], start_new_session=True, cwd=os.environ["HOME"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lock = threading.Lock()

    def pump(stream, kind):
        while data := os.read(stream.fileno(), 65536):
            with lock:
                wire.send(connection, kind, data)

    def feed():
        while (frame := wire.receive(connection)) is not None:
            try:
                if frame[1]:
                    process.stdin.write(frame[1])
                    process.stdin.flush()
                else:
                    process.stdin.close()
            except (BrokenPipeError, ValueError):
                pass
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGHUP)

    pumps = [
        threading.Thread(target=pump, args=(process.stdout, wire.OUTPUT), daemon=True),
        threading.Thread(target=pump, args=(process.stderr, wire.ERRORS), daemon=True),
    ]
    for thread in [*pumps, threading.Thread(target=feed, daemon=True)]:
        thread.start()
    code = process.wait()
    for thread in pumps:
        thread.join(timeout=1)  # a daemon that the command left behind may hold them open
    with lock:
        wire.send(connection, wire.EXIT, str(code if code >= 0 else 128 - code).encode())
    connection.close()


def main() -> None:
    """Serve at the address in the command line."""
    server = socket.create_server((sys.argv[1], wire.PORT))
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
