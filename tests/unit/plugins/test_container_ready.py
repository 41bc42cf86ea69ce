"""The module container_ready against a real HTTP server; only the engine is a double."""

from __future__ import annotations

import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble

NAME = "truthgraph-api-candidate"


class Service(ThreadingHTTPServer):
    """Answers with the codes given, one after the other, and then with the last one."""

    def __init__(self, *codes: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.codes = list(codes)
        self.asked = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        code = self.server.codes[min(self.server.asked, len(self.server.codes) - 1)]
        self.server.asked += 1
        body = b'{"version": "1.2.0", "database": "down"}'
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def engine(tmp_path: Path) -> EngineDouble:
    return EngineDouble(tmp_path)


def ready(engine: EngineDouble, service: Service, **more: t.Any) -> dict[str, t.Any]:
    options = {"name": NAME, "network": "truthgraph", "port": service.server_port, "interval": 0.05, "timeout": 1}
    return engine.run("container_ready", **{**options, **more})


def test_three_passes_in_a_row(engine: EngineDouble) -> None:
    service = Service(503, 200, 200, 503, 200)
    engine.add(NAME, health="healthy", address="127.0.0.1")
    result = ready(engine, service, timeout=10)
    assert result["passed"] and not result["changed"]
    assert service.asked == 7


def test_never_ready_shows_what_was_seen_and_the_log(engine: EngineDouble) -> None:
    engine.add(NAME, health="healthy", address="127.0.0.1")
    result = ready(engine, Service(503))
    assert result["failed"]
    assert 'GET /ready answered 503: {"version"' in result["msg"]
    assert result["msg"].endswith(f"last line of {NAME}")


def test_the_log_shows_what_matters(engine: EngineDouble) -> None:
    engine.add(NAME, status="exited")
    lines = ["started", *['"GET /ready HTTP/1.1" 503'] * 40, *["no database"] * 40, "given up"]
    (engine.home / "log").write_text("\n".join(lines))
    assert ready(engine, Service(503), log_lines=2)["log"] == ["no database (40 times)", "given up"]
    assert ready(engine, Service(503))["log"] == ["started", "no database (40 times)", "given up"]


def test_nobody_listens(engine: EngineDouble) -> None:
    service = Service(200)
    service.shutdown()
    service.server_close()
    engine.add(NAME, health="starting", address="127.0.0.1")
    assert "Connection refused" in ready(engine, service)["msg"]


def test_answers_do_not_help_an_unhealthy_container(engine: EngineDouble) -> None:
    engine.add(NAME, health="unhealthy", address="127.0.0.1")
    result = ready(engine, Service(200))
    assert result["failed"] and "running, unhealthy" in result["msg"]


def test_what_answers_well_need_not_wait_for_the_engine(engine: EngineDouble) -> None:
    engine.add(NAME, health="starting", address="127.0.0.1")
    assert ready(engine, Service(200))["passed"]


def test_without_a_path_it_waits_for_the_engine(engine: EngineDouble) -> None:
    engine.add(NAME, health="starting")
    assert "running, starting" in ready(engine, Service(200), path="")["msg"]


def test_an_ended_container_is_given_up_at_once(engine: EngineDouble) -> None:
    engine.add(NAME, status="exited")
    result = ready(engine, Service(200), timeout=60)
    assert result["failed"] and "exited with code 3" in result["msg"] and result["seconds"] < 5


def test_what_it_answered_before_it_ended_is_shown(engine: EngineDouble) -> None:
    service = Service(503)
    engine.add(NAME, health="starting", address="127.0.0.1")

    def end_after_the_first_answer() -> None:
        while not service.asked:
            time.sleep(0.01)
        service.shutdown()
        service.server_close()
        time.sleep(0.3)
        engine.add(NAME, status="exited", address="127.0.0.1")

    threading.Thread(target=end_after_the_first_answer, daemon=True).start()
    result = ready(engine, service, timeout=20)
    assert result["failed"] and "exited" in result["msg"]
    assert "Seen last: GET /ready answered 503" in result["msg"]


def test_another_version_is_not_the_right_one(engine: EngineDouble) -> None:
    engine.add(NAME, address="127.0.0.1")
    assert ready(engine, Service(200), expect={"version": "1.2.0"})["passed"]
    assert "its version is '1.2.0' and not '1.3.0'" in ready(engine, Service(200), expect={"version": "1.3.0"})["msg"]


def test_without_a_path_the_health_check_decides(engine: EngineDouble) -> None:
    engine.add(NAME, health="healthy")
    service = Service(500)
    assert ready(engine, service, path="")["passed"]
    assert service.asked == 0


def test_a_missing_container(engine: EngineDouble) -> None:
    assert "there is no container of that name" in ready(engine, Service(200))["msg"]
    assert "passed" not in ready(engine, Service(200), _ansible_check_mode=True)
