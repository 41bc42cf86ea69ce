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
            answer = connection.makefile("rb")
            status = answer.readline(200).decode("latin-1").strip()
            if status.split(" ")[1:2] == ["200"]:
                return 0
            # The engine keeps what is printed, and the operator reads there what is wrong.
            body = answer.read(4000).partition(b"\r\n\r\n")[2].decode("utf-8", "replace").strip()
    except OSError as error:
        print(f"no answer: {error}")
        return 1
    print(f"{status}: {body[:1000]}")
    return 1


sys.exit(main())
