"""The ML service of the reference application, in process, with a model that needs no torch."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import pathlib
import threading
import typing as t
from types import ModuleType

import pytest

pytest.importorskip("fastapi", reason="needs the packages of files/app/requirements/core.txt")
if t.TYPE_CHECKING:
    import httpx
else:
    httpx = pytest.importorskip("httpx", reason="needs the packages of files/app/requirements/core.txt")


class Vectors(list[list[float]]):
    """As much of an array as the service uses."""

    def tolist(self) -> list[list[float]]:
        return list(self)


class StubEmbedder:
    """Takes the place of the model: a text becomes its length."""

    precision = "bfloat16"
    agreement = 0.99987654321
    release = threading.Event()

    def __init__(self, settings: t.Any, nodes_at: pathlib.Path) -> None:
        from truthgraph.ml.card import Card

        assert self.release.wait(5)
        self.device = settings.device or "cpu"
        self.card: t.Any = Card(nodes_at) if self.device != "cpu" else None

    def check(self) -> None:
        self.card.check()

    def encode(self, texts: list[str]) -> Vectors:
        if "bad" in texts:
            raise RuntimeError("cannot encode")
        return Vectors([float(len(text))] for text in texts)


@pytest.fixture
def stub(app_path: pathlib.Path, node: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The service's module, with the stub as its model and a card in a directory of its own."""
    from truthgraph.ml import service

    monkeypatch.setattr(service, "load", StubEmbedder)
    monkeypatch.setattr(service, "Service", functools.partial(service.Service, nodes_at=node.parent))
    monkeypatch.setenv("TRUTHGRAPH_CARD_CHECK_SECONDS", "0.1")
    StubEmbedder.release.set()
    return service


@pytest.fixture
def serve(stub: ModuleType) -> t.Callable[..., t.Any]:
    """Run a scenario against the service: it gets a client, and the application."""
    service = stub

    def runner(scenario: t.Callable[..., t.Awaitable[t.Any]], wait: bool = True) -> t.Any:
        async def main() -> t.Any:
            async with service.app.router.lifespan_context(service.app):
                transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url="http://ml") as client, asyncio.timeout(10):
                    while wait and service.app.state.service.status == "loading":
                        await asyncio.sleep(0.005)
                    return await scenario(client, service.app)

        return asyncio.run(main())

    return runner


def test_texts_become_vectors_in_their_order(serve: t.Callable[..., t.Any]) -> None:
    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        return await client.post("/embed", json={"texts": ["a", "bbb"]})

    answer = serve(scenario)
    assert answer.status_code == 200
    assert answer.json() == {"embeddings": [[1.0], [3.0]], "model": "all-MiniLM-L6-v2", "dimension": 384}


def test_loading_answers_503_and_then_200(serve: t.Callable[..., t.Any]) -> None:
    StubEmbedder.release.clear()

    async def scenario(client: httpx.AsyncClient, app: t.Any) -> t.Any:
        health, embed = await client.get("/health"), await client.post("/embed", json={"texts": ["a"]})
        StubEmbedder.release.set()
        while app.state.service.status == "loading":
            await asyncio.sleep(0.005)
        return health, embed, await client.get("/health")

    health, embed, later = serve(scenario, wait=False)
    assert (health.status_code, health.json()["status"]) == (503, "loading")
    assert (embed.status_code, embed.headers["retry-after"]) == (503, "5")
    assert later.status_code == 200
    assert {"model", "dimension", "device", "version"} <= later.json().keys()
    assert (health.json()["precision"], "agreement" in health.json()) == ("", False)
    assert (later.json()["precision"], later.json()["agreement"]) == ("bfloat16", 0.999877)


def test_a_model_that_cannot_be_loaded_stays_503_and_says_why(
    serve: t.Callable[..., t.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from truthgraph.ml import service

    def broken(_settings: object, _nodes_at: object) -> None:
        raise ValueError("wrong weights")

    monkeypatch.setattr(service, "load", broken)

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        return await client.get("/health")

    answer = serve(scenario)
    assert (answer.status_code, answer.json()["status"]) == (503, "failed")
    assert "wrong weights" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"{}",
        b'{"texts": "a"}',
        b'{"texts": []}',
        b'{"texts": ["a", " "]}',
        b'{"texts": ["a", 5]}',
        b'{"texts": ["\\ud800"]}',
        b'{"texts": ["\xff"]}',
        b'{"texts": ["a"], "\\ud800": 1}',
        b'{"texts": ["' + b"a" * 8193 + b'"]}',
        b'{"texts": [' + b'"a",' * 256 + b'"a"]}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_invalid_texts_get_422(serve: t.Callable[..., t.Any], body: str) -> None:
    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        return await client.post("/embed", content=body, headers={"content-type": "application/json"})

    assert serve(scenario).status_code == 422


def test_only_the_request_that_cannot_be_encoded_fails(serve: t.Callable[..., t.Any]) -> None:
    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        return await asyncio.gather(*(client.post("/embed", json={"texts": [text]}) for text in ("a", "bad", "cc")))

    assert [answer.status_code for answer in serve(scenario)] == [200, 503, 200]


def test_a_full_queue_says_when_to_come_back(serve: t.Callable[..., t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUTHGRAPH_MAX_PENDING", "256")
    monkeypatch.setenv("TRUTHGRAPH_BATCH_WINDOW_MS", "200")
    monkeypatch.setenv("TRUTHGRAPH_MAX_BATCH", "1000")

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        return await asyncio.gather(*(client.post("/embed", json={"texts": ["a"] * 200}) for _ in range(2)))

    answers = sorted(serve(scenario), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[1].headers["retry-after"] == "1"


async def until(client: httpx.AsyncClient, status: str) -> httpx.Response:
    """Wait for a status of the service, and answer its health."""
    while (answer := await client.get("/health")).json()["status"] != status:
        await asyncio.sleep(0.01)
    return answer


def test_a_simulated_card_is_lost_and_comes_back(
    serve: t.Callable[..., t.Any], node: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRUTHGRAPH_DEVICE", "simulated")
    caplog.set_level("INFO", "truthgraph.ml")

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        before = await client.get("/health")
        node.unlink()
        lost = await until(client, "lost")
        refused = await client.post("/embed", json={"texts": ["a"]})
        # Time for more checks, which must not be logged again.
        await asyncio.sleep(0.3)
        node.touch()
        return before, lost, refused, await until(client, "ok"), await client.post("/embed", json={"texts": ["a"]})

    before, lost, refused, back, answered = serve(scenario)
    assert (before.status_code, before.json()["device"]) == (200, "simulated")
    assert lost.status_code == 503
    assert lost.json()["detail"] == f"the card is lost: {node} cannot be opened: No such file or directory"
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert str(node) in refused.json()["detail"]
    assert back.status_code == answered.status_code == 200 and "detail" not in back.json()
    assert [record.levelname for record in caplog.records if "card" in record.message] == ["ERROR", "WARNING"]


def test_a_card_with_cuda_stays_lost(serve: t.Callable[..., t.Any], node: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUTHGRAPH_DEVICE", "cuda")

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        node.unlink()
        lost = await until(client, "lost")
        node.touch()
        await asyncio.sleep(0.3)
        return lost, await client.get("/health")

    lost, later = serve(scenario)
    assert "nvidia0" in lost.json()["detail"] and "restart" in lost.json()["detail"]
    assert later.json() == lost.json() and later.status_code == 503


def test_a_driver_that_does_not_answer_is_a_lost_card(
    stub: ModuleType, serve: t.Callable[..., t.Any], node: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUTHGRAPH_DEVICE", "cuda")
    monkeypatch.setattr(stub, "CHECK_SECONDS", 0.1)
    answers = threading.Event()
    monkeypatch.setattr(StubEmbedder, "check", lambda self: answers.wait(5))

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        try:
            return await until(client, "lost")
        finally:
            answers.set()

    assert f"the driver does not answer for {node} within 0.1 seconds" in serve(scenario).json()["detail"]


def test_no_card_is_a_failure_that_stays(
    serve: t.Callable[..., t.Any], node: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUTHGRAPH_DEVICE", "simulated")
    node.unlink()

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        return await client.get("/health")

    answer = serve(scenario)
    assert (answer.status_code, answer.json()["status"]) == (503, "failed")
    assert "no NVIDIA card is visible in this container" in answer.json()["detail"]


def test_the_api_with_the_model_inside_loses_the_card_too(
    stub: ModuleType, node: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sqlalchemy", reason="needs the packages of files/app/requirements/core.txt")
    from truthgraph.errors import ComponentUnavailable
    from truthgraph.local_ml import LocalML

    monkeypatch.setenv("TRUTHGRAPH_DEVICE", "simulated")

    async def status(local: t.Any, wanted: str) -> None:
        async with asyncio.timeout(5):
            while local._service.status != wanted:
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        local = LocalML()
        try:
            await status(local, "ok")
            assert await local.embed("abc") == [3.0]
            node.unlink()
            await status(local, "lost")
            with pytest.raises(ComponentUnavailable, match="nvidia0") as caught:
                await local.embed("abc")
            assert caught.value.retry_after == "5"
        finally:
            await local.close()

    asyncio.run(scenario())


def test_without_batching_each_text_is_a_call_of_its_own(serve: t.Callable[..., t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUTHGRAPH_MAX_BATCH", "1")
    monkeypatch.setenv("TRUTHGRAPH_BATCH_WINDOW_MS", "0")
    calls: list[list[str]] = []
    encode = StubEmbedder.encode

    def counted(self: StubEmbedder, texts: list[str]) -> Vectors:
        calls.append(texts)
        return encode(self, texts)

    monkeypatch.setattr(StubEmbedder, "encode", counted)

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        return await asyncio.gather(*(client.post("/embed", json={"texts": ["a", "bb"]}) for _ in range(3)))

    assert [answer.json()["embeddings"] for answer in serve(scenario)] == [[[1.0], [2.0]]] * 3
    assert sorted(calls) == [["a"]] * 3 + [["bb"]] * 3


def test_weights_are_checked(app_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from truthgraph.ml.embedder import check_weights

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    check_weights(tmp_path, hashlib.sha256(b"weights").hexdigest().upper())
    actual = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(ValueError, match=f"model.safetensors has SHA-256 {actual}, expected 00; .*_MODEL_SHA256"):
        check_weights(tmp_path, "00")


@pytest.mark.parametrize("name", ["TRUTHGRAPH_DEVICE", "TRUTHGRAPH_PRECISION"])
def test_a_setting_that_is_no_known_word_is_refused_by_name(
    app_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from truthgraph.ml.settings import Settings

    monkeypatch.setenv(name, "float8")
    with pytest.raises(ValueError, match=f"{name} must be .* or .*, or unset, and is 'float8'"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("TRUTHGRAPH_DEVICE", "cuda"), ("TRUTHGRAPH_DEVICE", "simulated"), ("TRUTHGRAPH_PRECISION", "float16")],
)
def test_an_exported_model_refuses_what_it_cannot_do(
    app_path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    from truthgraph.ml.embedder import load
    from truthgraph.ml.settings import Settings

    (tmp_path / "model.onnx").touch()
    monkeypatch.setenv("TRUTHGRAPH_MODEL_PATH", str(tmp_path))
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"only, not (on|in) {value}; unset {name}"):
        load(Settings())


@pytest.mark.parametrize("value", ["many", "nan", "-1", "inf"])
def test_a_setting_that_is_no_sensible_number_is_refused_by_name(
    app_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    from truthgraph.ml.settings import Settings

    monkeypatch.setenv("TRUTHGRAPH_MAX_BATCH", value)
    with pytest.raises(ValueError, match="TRUTHGRAPH_MAX_BATCH"):
        Settings()


def test_it_imports_nothing_of_the_core(app_path: pathlib.Path) -> None:
    for path in (app_path / "truthgraph" / "ml").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("from truthgraph", "import truthgraph")):
                assert line == "from truthgraph import __version__" or line.startswith("from truthgraph.ml.")


def test_prometheus_is_told_what_was_encoded_and_what_was_refused(
    serve: t.Callable[..., t.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUTHGRAPH_MAX_PENDING", "256")

    async def scenario(client: httpx.AsyncClient, app: t.Any) -> t.Any:
        await client.post("/embed", json={"texts": ["a", "b"]})
        await client.post("/embed", json={"texts": ["bad"]})
        app.state.service.batcher.pending = 256
        assert (await client.post("/embed", json={"texts": ["c"]})).status_code == 503
        return await client.get("/metrics")

    answer = serve(scenario)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line[0] != "#")
    assert found == {
        "truthgraph_ml_ready": "1",
        "truthgraph_ml_pending_texts": "256",
        "truthgraph_ml_max_pending_texts": "256",
        "truthgraph_ml_texts_total": "2",
        "truthgraph_ml_batches_total": "1",
        "truthgraph_ml_refused_total": "1",
    }


def test_prometheus_is_told_that_the_model_still_loads(serve: t.Callable[..., t.Any], stub: ModuleType) -> None:
    StubEmbedder.release.clear()

    async def scenario(client: httpx.AsyncClient, _app: object) -> t.Any:
        try:
            return await client.get("/metrics")
        finally:
            StubEmbedder.release.set()

    assert "truthgraph_ml_ready 0\n" in serve(scenario, wait=False).text


def test_the_api_with_ml_inside_tells_prometheus_of_the_ml_too(stub: ModuleType) -> None:
    async def main() -> t.Any:
        from truthgraph.local_ml import LocalML

        alone = LocalML()
        try:
            while alone._service.status == "loading":
                await asyncio.sleep(0.005)
            await alone.embed("one")
            return alone.metrics()
        finally:
            await alone.close()

    assert "truthgraph_ml_texts_total 1" in asyncio.run(main())
