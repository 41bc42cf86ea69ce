"""The module service_answers against a real HTTP server."""

from __future__ import annotations

import json
import ssl
import threading
import typing as t
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority
from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble


class Service(ThreadingHTTPServer):
    """Answers 503 so many times, and then 200 with what it was sent."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures = failures
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def question(self, path: str, **more: t.Any) -> dict[str, t.Any]:
        return {"address": "127.0.0.1", "port": self.server_port, "path": path, **more}


class Handler(BaseHTTPRequestHandler):
    server: Service

    def answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"
        self.send_response(503 if len(self.server.asked) <= self.server.failures else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.shutdown()
    service.server_close()


@pytest.fixture
def engine(tmp_path: Path) -> EngineDouble:
    return EngineDouble(tmp_path)


def test_all_are_asked_in_their_order(engine: EngineDouble, service: Service) -> None:
    claim = {"claim": "Water is wet."}
    result = engine.run(
        "service_answers",
        requests=[service.question("/health"), service.question("/verify", body=claim, expect=claim)],
    )
    assert not result["changed"]
    assert result["seen"] == ["GET /health answered 200", "POST /verify answered 200"]
    assert service.asked == ["GET /health", "POST /verify"]


def test_an_answer_that_becomes_good_is_waited_for(engine: EngineDouble, service: Service) -> None:
    service.failures = 2
    result = engine.run("service_answers", requests=[service.question("/ready")], retries=2)
    assert not result.get("failed"), json.dumps(result)
    assert service.asked == ["GET /ready"] * 3


def test_the_first_that_does_not_answer_well_ends_it(engine: EngineDouble, service: Service) -> None:
    service.failures = 5
    result = engine.run(
        "service_answers", requests=[service.question("/ready"), service.question("/health")], retries=1
    )
    assert result["failed"]
    assert f"127.0.0.1:{service.server_port} was asked 2 times" in result["msg"]
    assert "GET /ready answered 503" in result["msg"]
    assert service.asked == ["GET /ready", "GET /ready"]


def test_another_answer_is_not_the_right_one(engine: EngineDouble, service: Service) -> None:
    question = service.question("/verify", body={"claim": "a"}, expect={"claim": "b"})
    assert "its claim is 'a' and not 'b'" in engine.run("service_answers", requests=[question], retries=0)["msg"]


@pytest.mark.parametrize(
    ("shown", "name", "failed"),
    [("own", "gpu1", False), ("other", "gpu1", True), ("", "gpu1", True), ("own", "gpu2", True)],
    ids=["as-it-should-be", "certificate-of-another-authority", "no-certificate", "other-server"],
)
def test_by_tls_with_a_certificate(
    engine: EngineDouble, service: Service, tmp_path: Path, shown: str, name: str, failed: bool
) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_text(authority.text)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*authority.write(tmp_path / "server", "gpu1"))
    service.socket = context.wrap_socket(service.socket, server_side=True)
    tls = {"ca": str(tmp_path / "ca.crt"), "name": name}
    if shown:
        signer = authority if shown == "own" else Authority()
        tls["certificate"], tls["key"] = signer.write(tmp_path / "client", "egress", use="client")
    result = engine.run("service_answers", requests=[service.question("/health", tls=tls)], retries=0)
    assert bool(result.get("failed")) is failed, json.dumps(result)
    assert bool(service.asked) is not failed
