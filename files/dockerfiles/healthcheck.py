"""Health check of a TruthGraph image: GET /health on the port that it serves (UVICORN_PORT) has to answer 200.

It runs every few seconds, so it imports little, and it needs neither the virtual environment nor any secret.
"""

import os
import socket
import sys


def main() -> int:
    """Ask once and return the exit code for the engine."""
    request = b"GET /health HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ["UVICORN_PORT"])), timeout=4) as connection:
            connection.sendall(request)
            status = connection.makefile("rb").readline(200).decode("latin-1").strip()
    except OSError as error:
        print(f"no answer: {error}")
        return 1
    print(status)
    return 0 if status.split(" ")[1:2] == ["200"] else 1


sys.exit(main())
