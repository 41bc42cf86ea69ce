"""The API of the reference application, in process: what it accepts, and what it says when a part is lost."""

from __future__ import annotations

import asyncio
import pathlib
import typing as t
import uuid

import pytest

pytest.importorskip("fastapi", reason="needs the packages of files/app/requirements/core.txt")
pytest.importorskip("psycopg", reason="needs the packages of files/app/requirements/core.txt")
if t.TYPE_CHECKING:
    import httpx
else:
    httpx = pytest.importorskip("httpx", reason="needs the packages of files/app/requirements/core.txt")

VECTOR = [1.0] + [0.0] * 383
EMBEDDED = {"embeddings": [VECTOR], "model": "all-MiniLM-L6-v2", "dimension": 384}


class Store:
    """A database that is there."""

    async def store(self, content: str, source: str | None, embedding: list[float]) -> uuid.UUID:
        self.stored = (content, source, embedding)
        return uuid.UUID(int=1)

    async def nearest(self, embedding: list[float], limit: object) -> list[t.Any]:
        return []

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        return None


@pytest.fixture
def api(app_path: pathlib.Path) -> t.Callable[..., httpx.Response]:
    """Ask the API something, with a database and an ML service of the test's choice."""
    from truthgraph.main import app
    from truthgraph.ml_client import MLClient
    from truthgraph.monitor import Monitor

    def ask(method: str, path: str, *, ml: t.Any = None, database: t.Any = None, **request: t.Any) -> httpx.Response:
        async def main() -> httpx.Response:
            async with app.router.lifespan_context(app):
                if ml is not None:
                    app.state.ml_client = MLClient("http://ml", transport=httpx.MockTransport(ml))
                if database is not None:
                    app.state.database = database
                app.state.monitor = Monitor(app.state.database, app.state.ml_client)
                transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                    return await client.request(method, path, **request)

        return asyncio.run(main())

    return ask


def embedding(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=EMBEDDED)


def test_importing_needs_no_settings_and_no_torch(app_path: pathlib.Path) -> None:
    import subprocess
    import sys

    code = "import sys, truthgraph.main; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=app_path, env={"PYTHONDONTWRITEBYTECODE": "1"}, check=True)


def test_health_is_200_without_any_part(api: t.Callable[..., httpx.Response]) -> None:
    answer = api("GET", "/health")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "degraded"
    assert set(body["components"]) == {"database", "ml_service"}


def test_ready_names_what_fails(api: t.Callable[..., httpx.Response]) -> None:
    answer = api("GET", "/ready", ml=embedding)
    assert answer.status_code == 503
    assert answer.json()["failing"] == ["database"]
    assert api("GET", "/ready").json()["failing"] == ["database", "ml_service"]


def test_ready_is_200_only_if_both_answer(api: t.Callable[..., httpx.Response]) -> None:
    assert api("GET", "/ready", ml=embedding, database=Store()).status_code == 200
    assert api("GET", "/ready", database=Store()).json()["failing"] == ["ml_service"]


def test_evidence_is_stored_with_its_vector(api: t.Callable[..., httpx.Response]) -> None:
    store = Store()
    answer = api("POST", "/api/v1/evidence", ml=embedding, database=store, json={"text": "a fact", "source": "here"})
    assert (answer.status_code, answer.json()) == (201, {"id": str(uuid.UUID(int=1))})
    assert store.stored == ("a fact", "here", VECTOR)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"null",
        b"{}",
        b'{"text": 5}',
        b'{"text": ""}',
        b'{"text": " \\n"}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b'{"text": "a", "source": "\\u0000"}',
        b'{"text": "a", "unknown": 1}',
        b'{"text": "a", "\\ud800": 1}',
        b'{"text": "a", "source": NaN}',
        b'{"text": "a", "source": 1e999}',
        b'{"text": "a", "source": ' + b"9" * 5000 + b"}",
        b"[" * 100000,
        b'{"text": "' + b"a" * 8193 + b'"}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_invalid_evidence_gets_422(api: t.Callable[..., httpx.Response], body: object) -> None:
    headers = {"content-type": "application/json"}
    answer = api("POST", "/api/v1/evidence", ml=embedding, database=Store(), content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize("limit", [0, 51, -1, 1.5, "5", True, None])
def test_invalid_limit_gets_422(api: t.Callable[..., httpx.Response], limit: object) -> None:
    answer = api("POST", "/api/v1/verify", ml=embedding, database=Store(), json={"claim": "a", "limit": limit})
    assert answer.status_code == 422


@pytest.mark.parametrize("limit", [1, 50])
def test_the_bounds_of_the_limit_are_valid(api: t.Callable[..., httpx.Response], limit: object) -> None:
    answer = api("POST", "/api/v1/verify", ml=embedding, database=Store(), json={"claim": "a", "limit": limit})
    assert (answer.status_code, answer.json()) == (200, {"claim": "a", "evidence": []})


def refused(request: t.Any) -> None:
    raise httpx.ConnectError("refused", request=request)


def slow(request: t.Any) -> None:
    raise httpx.ReadTimeout("slow", request=request)


@pytest.mark.parametrize(
    "ml",
    [
        refused,
        slow,
        lambda request: httpx.Response(500),
        lambda request: httpx.Response(200, text="<html>"),
        lambda request: httpx.Response(200, json=[]),
        lambda request: httpx.Response(200, json={**EMBEDDED, "model": "another"}),
        lambda request: httpx.Response(200, json={**EMBEDDED, "embeddings": [[1.0]]}),
        lambda request: httpx.Response(200, json={**EMBEDDED, "embeddings": []}),
        lambda request: httpx.Response(200, json={**EMBEDDED, "embeddings": [["x"] * 384]}),
        lambda request: httpx.Response(200, text='{"model": "all-MiniLM-L6-v2", "embeddings": [[NaN]]}'),
    ],
)
def test_a_lost_ml_service_gets_503_with_its_name(api: t.Callable[..., httpx.Response], ml: t.Any) -> None:
    answer = api("POST", "/api/v1/verify", ml=ml, database=Store(), json={"claim": "a"})
    assert (answer.status_code, answer.json().get("component")) == (503, "ml_service")


def test_retry_after_of_the_ml_service_is_passed_on(api: t.Callable[..., httpx.Response]) -> None:
    def full(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, headers={"Retry-After": "7"}, json={"detail": "full"})

    answer = api("POST", "/api/v1/verify", ml=full, database=Store(), json={"claim": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


def test_a_connection_closed_meanwhile_is_tried_again(api: t.Callable[..., httpx.Response]) -> None:
    calls = []

    def closed_once(request: t.Any) -> httpx.Response:
        calls.append(request)
        if len(calls) == 1:
            raise httpx.RemoteProtocolError("Server disconnected", request=request)
        return embedding(request)

    answer = api("POST", "/api/v1/verify", ml=closed_once, database=Store(), json={"claim": "a"})
    assert (answer.status_code, len(calls)) == (200, 2)


def test_a_lost_database_gets_503_with_its_name_and_no_secret(
    api: t.Callable[..., httpx.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens on port 1.
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://truthgraph:hidden@127.0.0.1:1/truthgraph")
    answer = api("POST", "/api/v1/verify", ml=embedding, json={"claim": "a"})
    assert answer.status_code == 503 and answer.json()["component"] == "database"
    assert "hidden" not in answer.text


def test_a_database_that_accepts_and_stays_silent_is_no_hang(app_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from truthgraph import database as module
    from truthgraph.errors import ComponentUnavailable

    monkeypatch.setattr(module, "QUERY_SECONDS", 0.2)

    async def main() -> None:
        async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)
            writer.close()

        server = await asyncio.start_server(silence, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        database = module.Database(f"postgresql://u:p@127.0.0.1:{port}/d")
        try:
            async with asyncio.timeout(1.5):
                with pytest.raises(ComponentUnavailable, match="in time"):
                    await database.nearest(VECTOR, 1)
        finally:
            await database.close()
            server.close()

    asyncio.run(main())


def test_a_connection_that_breaks_is_replaced_for_longer_by_a_query_than_by_a_check(
    app_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from truthgraph import database as module
    from truthgraph.errors import ComponentUnavailable

    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.8)
    monkeypatch.setattr(module, "CHECK_RECONNECT_SECONDS", 0.2)
    connections = []
    counts = []

    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        database = module.Database(f"postgresql://u:p@127.0.0.1:{port}/d")
        try:
            for ask in (database.check, lambda: database.nearest(VECTOR, 1)):
                connections.clear()
                with pytest.raises(ComponentUnavailable, match="cannot be reached"):
                    await ask()
                counts.append(len(connections))
        finally:
            await database.close()
            server.close()

    asyncio.run(main())
    check, query = counts
    assert query > check > 1


@pytest.mark.parametrize("url", ["no address with secret", "mysql://u:secret@h/d"])
def test_a_wrong_database_url_is_refused_without_repeating_it(app_path: pathlib.Path, url: str) -> None:
    from truthgraph.database import engine_url

    with pytest.raises(ValueError, match="DATABASE_URL") as failure:
        engine_url(url)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_name_of_postgresql_means_the_installed_driver(app_path: pathlib.Path, scheme: str) -> None:
    from truthgraph.database import engine_url

    assert engine_url(f"{scheme}://u:p%25w@h/d").drivername == "postgresql+psycopg"


def test_equal_texts_have_one_digest_for_each_source(app_path: pathlib.Path) -> None:
    from truthgraph.database import content_digest

    assert content_digest("a", None) == content_digest("a", None)
    assert (
        len({content_digest("a", None), content_digest("a", ""), content_digest("a", "b"), content_digest("ab", "")})
        == 4
    )


def samples(text: str) -> dict[str, float]:
    """The samples of Prometheus' text format, by name with labels."""
    return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}


@pytest.fixture
def durations(app_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> t.Any:
    """The counts of a fresh process."""
    from truthgraph import main
    from truthgraph.metrics import Durations

    counted = Durations()
    monkeypatch.setattr(main, "DURATIONS", counted)
    [measured] = [one for one in main.app.user_middleware if "durations" in one.kwargs]
    monkeypatch.setitem(measured.kwargs, "durations", counted)
    monkeypatch.setattr(main.app, "middleware_stack", None)
    return counted


def test_requests_are_counted_by_route_and_code(api: t.Callable[..., httpx.Response], durations: t.Any) -> None:
    api("POST", "/api/v1/verify", ml=embedding, database=Store(), json={"claim": "Paris"})
    api("POST", "/api/v1/verify", database=Store(), json={"claim": "Paris"})
    api("GET", "/api/v1/verify")
    api("GET", "/nowhere/at/all")
    answer = api("GET", "/metrics", ml=embedding, database=Store())
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.text)
    counts = {key: value for key, value in found.items() if key.startswith("http_request_duration_seconds_count")}
    assert counts == {
        'http_request_duration_seconds_count{handler="/api/v1/verify",code="200"}': 1,
        'http_request_duration_seconds_count{handler="/api/v1/verify",code="405"}': 1,
        'http_request_duration_seconds_count{handler="/api/v1/verify",code="503"}': 1,
        'http_request_duration_seconds_count{handler="none",code="404"}': 1,
    }


def test_buckets_count_what_took_no_longer(durations: t.Any) -> None:
    for seconds in (0.005, 0.3, 11):
        durations.observe("/health", 200, seconds)
    found = samples("\n".join(durations.lines()))
    buckets = {key.split('le="')[1][:-2]: value for key, value in found.items() if "_bucket" in key}
    assert [buckets[bound] for bound in ("0.005", "0.25", "0.5", "10.0", "+Inf")] == [1, 1, 2, 2, 3]
    assert found['http_request_duration_seconds_sum{handler="/health",code="200"}'] == pytest.approx(11.305)


def test_a_request_that_breaks_counts_as_an_error(api: t.Callable[..., httpx.Response], durations: t.Any) -> None:
    class Broken(Store):
        async def nearest(self, embedding: list[float], limit: object) -> list[t.Any]:
            raise RuntimeError("broken")

    api("POST", "/api/v1/verify", ml=embedding, database=Broken(), json={"claim": "Paris"})
    assert 'http_request_duration_seconds_count{handler="/api/v1/verify",code="500"}' in samples("\n".join(durations.lines()))


def test_which_part_answers(app_path: pathlib.Path) -> None:
    from truthgraph.metrics import component_lines

    lines = component_lines({"database": "ok", "ml_service": "unavailable", "other": "unknown"})
    assert samples("\n".join(lines)) == {
        'truthgraph_component_up{component="database"}': 1,
        'truthgraph_component_up{component="ml_service"}': 0,
    }
