"""The web application of the ML service. It imports torch only when it starts, and then in the background."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from truthgraph import __version__
from truthgraph.ml.batching import Closed, EncodingFailed, MicroBatcher, QueueFull
from truthgraph.ml.embedder import load
from truthgraph.ml.schemas import EmbedRequest
from truthgraph.ml.settings import DIMENSION, MODEL, Settings

log = logging.getLogger("truthgraph.ml")


class Service:
    """The model and its batcher, and how far loading has come."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.status = "loading"
        self.detail = "the model is loading"
        self.device = ""
        self.batcher: MicroBatcher | None = None
        self._loading: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to load the model, in the running event loop."""
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        self._loading = asyncio.create_task(self.load())

    async def close(self) -> None:
        """End what still loads, and let the running batch end."""
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loading
        if self.batcher is not None:
            await self.batcher.close()

    async def load(self) -> None:
        """Load the model beside the event loop. A failure stays visible in the health and in the log."""
        try:
            embedder = await asyncio.to_thread(load, self.settings)
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
        self.device = embedder.device
        self.status = "ok"
        self.detail = ""


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
    """Answer 200 as soon as the model can encode."""
    service: Service = request.app.state.service
    body = {
        "status": service.status,
        "version": __version__,
        "model": MODEL,
        "dimension": DIMENSION,
        "device": service.device,
    }
    if service.detail:
        body["detail"] = service.detail
    return JSONResponse(body, status_code=200 if service.status == "ok" else 503)


@app.post("/embed")
async def embed(body: EmbedRequest, request: Request) -> JSONResponse:
    """Answer one unit vector for each text."""
    service: Service = request.app.state.service
    if service.batcher is None:
        return refuse(service.detail, retry_after=5)
    try:
        vectors = await service.batcher.submit(body.texts)
    except QueueFull as error:
        return refuse(str(error), retry_after=1)
    except TimeoutError:
        return refuse(f"no turn within {service.settings.turn_seconds:g} seconds", retry_after=1)
    except (EncodingFailed, Closed) as error:
        return refuse(str(error))
    return JSONResponse({"embeddings": vectors, "model": MODEL, "dimension": DIMENSION})
