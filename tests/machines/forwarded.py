"""The far end of a forwarded port: stdin and stdout are a connection to it."""

import os
import socket
import sys
import threading


def main() -> None:
    """Connect to the port in the command line."""
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))

    def up() -> None:
        while data := os.read(0, 65536):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=up, daemon=True).start()
    while data := connection.recv(65536):
        os.write(1, data)


if __name__ == "__main__":
    main()
