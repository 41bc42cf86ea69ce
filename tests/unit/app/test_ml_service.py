"""The ML service of the reference application, in process, with a model that needs no torch."""

import asyncio
import hashlib
import threading

import pytest

pytest.importorskip("fastapi", reason="needs the packages of files/app/requirements/core.txt")
httpx = pytest.importorskip("httpx", reason="needs the packages of files/app/requirements/core.txt")


class Vectors(list):
    """As much of an array as the service uses."""

    def tolist(self):
        return list(self)


class StubEmbedder:
    """Takes the place of the model: a text becomes its length."""

    device = "cpu"
    release = threading.Event()

    def __init__(self, settings):
        assert self.release.wait(5)

    def encode(self, texts):
        if "bad" in texts:
            raise RuntimeError("cannot encode")
        return Vectors([float(len(text))] for text in texts)


@pytest.fixture
def serve(app_path, monkeypatch):
    """Run a scenario against the service: it gets a client, and the application."""
    from truthgraph.ml import service

    monkeypatch.setattr(service, "load", StubEmbedder)
    StubEmbedder.release.set()

    def runner(scenario, wait=True):
        async def main():
            async with service.app.router.lifespan_context(service.app):
                transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url="http://ml") as client, asyncio.timeout(10):
                    while wait and service.app.state.service.status == "loading":
                        await asyncio.sleep(0.005)
                    return await scenario(client, service.app)

        return asyncio.run(main())

    return runner


def test_texts_become_vectors_in_their_order(serve):
    async def scenario(client, _app):
        return await client.post("/embed", json={"texts": ["a", "bbb"]})

    answer = serve(scenario)
    assert answer.status_code == 200
    assert answer.json() == {"embeddings": [[1.0], [3.0]], "model": "all-MiniLM-L6-v2", "dimension": 384}


def test_loading_answers_503_and_then_200(serve):
    StubEmbedder.release.clear()

    async def scenario(client, app):
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


def test_a_model_that_cannot_be_loaded_stays_503_and_says_why(serve, monkeypatch):
    from truthgraph.ml import service

    def broken(_settings):
        raise ValueError("wrong weights")

    monkeypatch.setattr(service, "load", broken)

    async def scenario(client, _app):
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
def test_invalid_texts_get_422(serve, body):
    async def scenario(client, _app):
        return await client.post("/embed", content=body, headers={"content-type": "application/json"})

    assert serve(scenario).status_code == 422


def test_only_the_request_that_cannot_be_encoded_fails(serve):
    async def scenario(client, _app):
        return await asyncio.gather(*(client.post("/embed", json={"texts": [text]}) for text in ("a", "bad", "cc")))

    assert [answer.status_code for answer in serve(scenario)] == [200, 503, 200]


def test_a_full_queue_says_when_to_come_back(serve, monkeypatch):
    monkeypatch.setenv("TRUTHGRAPH_MAX_PENDING", "256")
    monkeypatch.setenv("TRUTHGRAPH_BATCH_WINDOW_MS", "200")
    monkeypatch.setenv("TRUTHGRAPH_MAX_BATCH", "1000")

    async def scenario(client, _app):
        return await asyncio.gather(*(client.post("/embed", json={"texts": ["a"] * 200}) for _ in range(2)))

    answers = sorted(serve(scenario), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[1].headers["retry-after"] == "1"


def test_weights_are_checked(app_path, tmp_path):
    from truthgraph.ml.embedder import check_weights

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    check_weights(tmp_path, hashlib.sha256(b"weights").hexdigest().upper())
    with pytest.raises(ValueError, match="expected 00"):
        check_weights(tmp_path, "00")


@pytest.mark.parametrize("value", ["many", "nan", "-1", "inf"])
def test_a_setting_that_is_no_sensible_number_is_refused_by_name(app_path, monkeypatch, value):
    from truthgraph.ml.settings import Settings

    monkeypatch.setenv("TRUTHGRAPH_MAX_BATCH", value)
    with pytest.raises(ValueError, match="TRUTHGRAPH_MAX_BATCH"):
        Settings()


def test_it_imports_nothing_of_the_core(app_path):
    for path in (app_path / "truthgraph" / "ml").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("from truthgraph", "import truthgraph")):
                assert line == "from truthgraph import __version__" or line.startswith("from truthgraph.ml.")
