"""What the end of a deploy asks an API, by a real run: the paths are those of the application, whatever it calls them."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest

PLAYBOOK = """
- hosts: here
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: truthgraph.platform.release, tasks_from: verify}
"""


class Application(http.server.BaseHTTPRequestHandler):
    """Notes what it is asked, and answers well."""

    asked: t.ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer("")

    def do_POST(self) -> None:
        self._answer(" " + self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _answer(self, body: str) -> None:
        self.asked.append(f"{self.command} {self.path}{body}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: t.Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, ["GET /ready", 'POST /api/v1/verify {"claim": "The Eiffel Tower stands in Paris."}']),
        ({"api_ready_path": "/well", "api_smoke": {"path": "/search"}}, ["GET /well", "GET /search"]),
        ({"api_smoke": {}}, ["GET /ready"]),
    ],
)
def test_an_api_is_asked_what_its_variables_say(tmp_path: Path, variables: dict[str, t.Any], asked: list[str]) -> None:
    Application.asked.clear()
    server = http.server.HTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "hosts.yml").write_text("truthgraph: {children: {truthgraph_api: {hosts: {here: {}}}}}")
    own = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "fleet_api_port": server.server_port,
        "fleet_state_dir": str(tmp_path),
        "release_smoke_retries": 0,
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml"]
    done = subprocess.run(
        [*command, "-e", json.dumps({**own, **variables})],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert Application.asked == asked
