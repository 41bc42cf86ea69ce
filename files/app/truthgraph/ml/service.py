"""The web application of the ML service. It imports torch only when it starts, and then in the background."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import to_json

from truthgraph import __version__
from truthgraph.ml.batching import Closed, EncodingFailed, MicroBatcher, QueueFull
from truthgraph.ml.card import NODES_AT, CardLost
from truthgraph.ml.embedder import Embedder, OnnxEmbedder, load
from truthgraph.ml.metrics import CONTENT_TYPE, lines
from truthgraph.ml.schemas import EmbedRequest
from truthgraph.ml.settings import DIMENSION, MODEL, Settings

log = logging.getLogger("truthgraph.ml")

# A driver that has not answered for so long will not do so any more. A batch on a card takes a small part of it.
CHECK_SECONDS = 30


class Service:
    """The model and its batcher, how far loading has come, and whether the card is still there."""

    def __init__(self, settings: Settings, nodes_at: Path = NODES_AT) -> None:
        self.settings = settings
        self.status = "loading"
        self.detail = "the model is loading"
        self.embedder: Embedder | OnnxEmbedder | None = None
        self.batcher: MicroBatcher | None = None
        self._nodes_at = nodes_at
        self._loading: asyncio.Task | None = None
        self._watching: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to load the model, in the running event loop."""
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        self._loading = asyncio.create_task(self.load())

    async def close(self) -> None:
        """End what still loads or watches, and let the running batch end."""
        for task in (self._loading, self._watching):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.batcher is not None:
            await self.batcher.close()
        if self.embedder is not None and self.embedder.card is not None:
            self.embedder.card.release()

    async def load(self) -> None:
        """Load the model beside the event loop. A failure stays visible in the health and in the log."""
        try:
            embedder = await asyncio.to_thread(load, self.settings, self._nodes_at)
        except Exception as error:
            log.exception("the model cannot be loaded")
            self.status = "failed"
            self.detail = f"the model cannot be loaded: {type(error).__name__}: {error}"
            return
        self.batcher = MicroBatcher(
            lambda texts: embedder.encode(texts).tolist(),
            window=self.settings.batch_window,
            max_batch=self.settings.max_batch,
            max_pending=self.settings.max_pending,
            turn_seconds=self.settings.turn_seconds,
        )
        self.batcher.start()
        self.embedder = embedder
        self.status = "ok"
        self.detail = ""
        if embedder.card is not None:
            self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Follow whether the card is there, and log each change."""
        while True:
            await asyncio.sleep(self.settings.card_check_seconds)
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self.batcher.between(self.embedder.check)
            except CardLost as error:
                self._lose(str(error))
            except TimeoutError:
                self._lose(f"the driver does not answer for {self.embedder.card} within {CHECK_SECONDS} seconds")
            else:
                if self.status == "lost":
                    log.warning("the card is there again")
                    self.status, self.detail = "ok", ""
            if self.status == "lost" and self.embedder.device == "cuda":
                return

    def _lose(self, reason: str) -> None:
        detail = f"the card is lost: {reason}"
        if self.embedder.device == "cuda":
            # What was on the card went with it, and CUDA starts only once in a process.
            detail += "; restart this service once the card is there again"
        if detail != self.detail:
            log.error(detail)
        self.status, self.detail = "lost", detail


@contextlib.asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Load the model while /health answers already."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(name)s: %(message)s")
    service = Service(Settings())
    application.state.service = service
    service.start()
    try:
        yield
    finally:
        await service.close()


app = FastAPI(title="TruthGraph ML service", version=__version__, lifespan=lifespan, openapi_url=None)


def refuse(detail: str, retry_after: int | None = None) -> JSONResponse:
    """Say why there are no vectors now."""
    headers = {"Retry-After": str(retry_after)} if retry_after else None
    return JSONResponse({"detail": detail}, status_code=503, headers=headers)


@app.exception_handler(RequestValidationError)
async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong without repeating the input: some of what JSON can carry cannot be written back."""
    problems = [
        {
            "loc": [str(part).encode(errors="backslashreplace").decode() for part in problem["loc"]],
            "msg": problem["msg"],
        }
        for problem in error.errors()
    ]
    return JSONResponse({"detail": problems}, status_code=422)


@app.exception_handler(400)
async def unreadable(_request: Request, _error: Exception) -> JSONResponse:
    """A body that is no UTF-8 or no JSON is as invalid as any other; nothing else here answers 400."""
    return JSONResponse({"detail": "the body is not valid JSON"}, status_code=422)


@app.get("/health")
async def health(request: Request) -> JSONResponse:
    """Answer 200 as long as the model can encode."""
    service: Service = request.app.state.service
    body = {
        "status": service.status,
        "version": __version__,
        "model": MODEL,
        "dimension": DIMENSION,
        "device": service.embedder.device if service.embedder else "",
        "precision": service.embedder.precision if service.embedder else "",
    }
    if service.embedder and service.embedder.agreement is not None:
        body["agreement"] = round(service.embedder.agreement, 6)
    if service.detail:
        body["detail"] = service.detail
    return JSONResponse(body, status_code=200 if service.status == "ok" else 503)


@app.get("/metrics")
async def metrics(request: Request) -> Response:
    """Answer Prometheus."""
    return Response("\n".join([*lines(request.app.state.service), ""]), media_type=CONTENT_TYPE)


@app.post("/embed")
async def embed(body: EmbedRequest, request: Request) -> Response:
    """Answer one unit vector for each text."""
    service: Service = request.app.state.service
    if service.status != "ok":
        return refuse(service.detail, retry_after=5)
    try:
        vectors = await service.batcher.submit(body.texts)
    except QueueFull as error:
        return refuse(str(error), retry_after=1)
    except TimeoutError:
        return refuse(f"no turn within {service.settings.turn_seconds:g} seconds", retry_after=1)
    except (EncodingFailed, Closed) as error:
        return refuse(str(error))
    # Ten times as fast as json for so many numbers.
    answer = to_json({"embeddings": vectors, "model": MODEL, "dimension": DIMENSION})
    return Response(answer, media_type="application/json")
