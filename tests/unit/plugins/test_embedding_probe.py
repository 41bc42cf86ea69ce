"""The module embedding_probe, against a server that answers over HTTP."""

from __future__ import annotations

import http.server
import json
import threading
import typing as t

import pytest

from ansible_collections.truthgraph.platform.plugins.modules import embedding_probe

BODY = {"texts": ["a text"]}


@pytest.fixture
def serve() -> t.Iterator[t.Callable[[int, str], int]]:
    """Answer every request in one way; returns the port."""
    servers = []

    def start(status: int, text: str) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert json.loads(self.rfile.read(int(self.headers["Content-Length"]))) == BODY
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_arguments: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def probe(port: int, field: str = "embeddings") -> tuple[list[float], str]:
    return embedding_probe.read(embedding_probe.ask("127.0.0.1", port, "/embed", BODY, 5), field)


def test_the_first_vector_and_the_models_name(serve: t.Callable[[int, str], int]) -> None:
    assert probe(serve(200, '{"embeddings": [[0.6, -0.8], [1, 0]], "model": "m"}')) == ([0.6, -0.8], "m")


def test_another_field(serve: t.Callable[[int, str], int]) -> None:
    assert probe(serve(200, '{"vectors": [[1]]}'), "vectors") == ([1.0], "")


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (503, '{"detail": "loading"}', "answered 503: .*loading"),
        (200, "no JSON", "no list of vectors in the field 'embeddings'"),
        (200, "[]", "no list of vectors"),
        (200, '{"embeddings": []}', "no list of vectors"),
        (200, '{"embeddings": [["a"]]}', "no list of vectors"),
        (200, '{"embeddings": [[]]}', "something else than a vector"),
        (200, '{"embeddings": [[0, 0]]}', "something else than a vector"),
        (200, '{"embeddings": [[NaN]]}', "something else than a vector"),
    ],
)
def test_what_is_no_vector_is_said(serve: t.Callable[[int, str], int], status: int, text: str, why: str) -> None:
    with pytest.raises(embedding_probe.NoVector, match=why):
        probe(serve(status, text))


def test_who_does_not_answer_is_said() -> None:
    with pytest.raises(embedding_probe.NoVector, match="did not answer"):
        embedding_probe.ask("127.0.0.1", 1, "/embed", BODY, 1)
