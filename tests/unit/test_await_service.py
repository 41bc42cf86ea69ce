"""roles/proxy/files/await_service.lua in a real HAProxy: a request waits while the map says so, and no longer than it may."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/proxy/files/await_service.lua"
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
LIMIT = 4
# As roles/proxy/templates/haproxy.cfg.j2 loads the program and asks it.
CONFIGURATION = """
global
    stats socket {directory}/admin.sock mode 600 level admin
    setenv TRUTHGRAPH_TRAFFIC_MAP {directory}/traffic.map
    setenv TRUTHGRAPH_INFERENCE_WAIT {limit}
    lua-load {program}
defaults
    mode http
    timeout connect 2s
    timeout client 20s
    timeout server 20s
frontend inference
    bind 127.0.0.1:{port}
    http-request set-var(txn.waiting) str(waiting),map({directory}/traffic.map)
    http-request lua.await_service if {{ var(txn.waiting) -m found }}
    http-request return status 200
"""

pytestmark = pytest.mark.skipif(not HAPROXY, reason="needs HAProxy (Debian: haproxy)")


@pytest.fixture
def proxy(tmp_path: Path) -> t.Iterator[tuple[int, Path]]:
    """A proxy whose hosts waits: its port, and the socket by which its map is changed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    (tmp_path / "traffic.map").write_text("inference blue\nwaiting yes\n")
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.format(directory=tmp_path, limit=LIMIT, program=PROGRAM, port=port))
    with subprocess.Popen([str(HAPROXY), "-db", "-f", str(configuration)], stderr=subprocess.PIPE, text=True) as running:
        try:
            deadline = time.monotonic() + 20
            while not (tmp_path / "admin.sock").exists():
                assert running.poll() is None and running.stderr, running.stderr and running.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield port, tmp_path / "admin.sock"
        finally:
            running.terminate()


def ask(port: int) -> float:
    """How many seconds a good answer takes."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    return time.monotonic() - began


def switch(admin: Path) -> None:
    """Say that nobody has to wait any more."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(admin))
        control.sendall(f"del map {admin.parent}/traffic.map waiting\n".encode())
        control.recv(1000)


def test_a_request_waits_until_the_switch(proxy: tuple[int, Path]) -> None:
    port, admin = proxy
    later = threading.Timer(1, switch, [admin])
    later.start()
    assert 0.9 < ask(port) < LIMIT - 0.5
    later.join()
    assert ask(port) < 0.9


def test_a_request_waits_no_longer_than_it_may(proxy: tuple[int, Path]) -> None:
    assert LIMIT - 1.5 < ask(proxy[0]) < LIMIT + 5
