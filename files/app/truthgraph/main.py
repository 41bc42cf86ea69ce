"""The API: stores evidence, and answers a claim with its nearest evidence."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from truthgraph import __version__
from truthgraph.database import Database
from truthgraph.errors import ComponentUnavailable
from truthgraph.local_ml import LocalML, is_installed
from truthgraph.metrics import CONTENT_TYPE, Durations, Measured, component_lines
from truthgraph.ml_client import MLClient
from truthgraph.monitor import Monitor
from truthgraph.schemas import (
    Components,
    EvidenceAnswer,
    EvidenceRequest,
    Health,
    NearEvidence,
    VerifyAnswer,
    VerifyRequest,
)
from truthgraph.settings import Settings

SETTINGS = Settings.from_environment()
DURATIONS = Durations()


@contextlib.asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Open the way to the parts, whether they are there or not, and watch them."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(name)s: %(message)s")
    # It would write a line for every probe.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings.from_environment()
    database = Database(settings.database_url)
    alone = not settings.ml_service_url and is_installed()
    ml_client = LocalML(settings.embed_seconds) if alone else MLClient(settings.ml_service_url, settings.embed_seconds)
    monitor = Monitor(database, ml_client)
    application.state.database = database
    application.state.ml_client = ml_client
    application.state.monitor = monitor
    watching = asyncio.create_task(monitor.keep())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await ml_client.close()
        await database.close()


app = FastAPI(
    title="TruthGraph",
    version=__version__,
    lifespan=lifespan,
    # The description of the API is for those who develop against it.
    openapi_url=None if SETTINGS.environment == "production" else "/openapi.json",
)
app.add_middleware(Measured, durations=DURATIONS)


@app.exception_handler(ComponentUnavailable)
async def unavailable(_request: Request, error: ComponentUnavailable) -> JSONResponse:
    """Name the part that is lost."""
    headers = {"Retry-After": error.retry_after} if error.retry_after else None
    return JSONResponse({"detail": error.detail, "component": error.component}, status_code=503, headers=headers)


@app.exception_handler(RequestValidationError)
async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong without repeating the input: some of what JSON can carry cannot be written back."""
    problems = [{"loc": problem["loc"], "msg": problem["msg"], "type": problem["type"]} for problem in error.errors()]
    return JSONResponse({"detail": writable(problems)}, status_code=422)


@app.exception_handler(400)
async def unreadable(_request: Request, _error: Exception) -> JSONResponse:
    """A body that is no UTF-8 or no JSON is as invalid as any other; nothing else here answers 400."""
    return JSONResponse({"detail": "the body is not valid JSON"}, status_code=422)


def writable(value: object) -> object:
    """Make names of unknown fields, which the caller chose, safe to write as JSON."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [writable(item) for item in value]
    return value


@app.get("/health")
async def health(request: Request) -> Health:
    """Answer at once that the API runs, with the states that the background check keeps."""
    states = request.app.state.monitor.states
    status = "ok" if all(state == "ok" for state in states.values()) else "degraded"
    return Health(status=status, version=__version__, components=Components(**states))


@app.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """Use the database and the ML service now; 200 only if both really answer."""
    failures = await request.app.state.monitor.failures()
    components = {name: failures.get(name, "ok") for name in request.app.state.monitor.states}
    body = {"status": "unavailable" if failures else "ready", "version": __version__, "components": components}
    if failures:
        body["failing"] = sorted(failures)
    return JSONResponse(body, status_code=503 if failures else 200)


@app.get("/metrics")
async def metrics(request: Request) -> Response:
    """Answer Prometheus. For the operator alone: keep it from clients."""
    ml_client = request.app.state.ml_client
    own = DURATIONS.lines() + component_lines(request.app.state.monitor.states)
    text = "\n".join([*own, *(ml_client.metrics() if isinstance(ml_client, LocalML) else []), ""])
    return Response(text, media_type=CONTENT_TYPE)


@app.post("/api/v1/evidence", status_code=201)
async def add_evidence(body: EvidenceRequest, request: Request) -> EvidenceAnswer:
    """Store a text with its embedding. Storing it again answers the same id."""
    embedding = await request.app.state.ml_client.embed(body.text)
    return EvidenceAnswer(id=await request.app.state.database.store(body.text, body.source, embedding))


@app.post("/api/v1/verify")
async def verify(body: VerifyRequest, request: Request) -> VerifyAnswer:
    """Answer the evidence that is nearest to a claim."""
    embedding = await request.app.state.ml_client.embed(body.claim)
    nearest = await request.app.state.database.nearest(embedding, body.limit)
    evidence = [NearEvidence(id=one.id, text=one.text, source=one.source, similarity=one.similarity) for one in nearest]
    return VerifyAnswer(claim=body.claim, evidence=evidence)
