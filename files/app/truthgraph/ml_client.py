"""Asking the ML service for embeddings, with an end to every wait."""

import asyncio
import math

import httpx

from truthgraph.errors import ML_SERVICE, ComponentUnavailable
from truthgraph.settings import EMBED_SECONDS, EMBEDDING_DIMENSION, EMBEDDING_MODEL

CONNECT_SECONDS, WRITE_SECONDS, POOL_SECONDS = 2, 5, 2
# Many requests may wait at once, since the ML service embeds them together. The ML service keeps idle connections
# for longer than this, so a request seldom meets one that it has just closed.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4)


class MLClient:
    """The ML service. Every failure comes out as ComponentUnavailable."""

    def __init__(
        self, base_url: str, seconds: float = EMBED_SECONDS, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._seconds = seconds
        # Each for one step; the whole of a request has the seconds given, with a retry.
        timeouts = httpx.Timeout(connect=CONNECT_SECONDS, read=seconds, write=WRITE_SECONDS, pool=POOL_SECONDS)
        # trust_env off: a proxy of the environment is for the internet, not for the service next door.
        self._client = (
            httpx.AsyncClient(base_url=base_url, timeout=timeouts, limits=LIMITS, trust_env=False, transport=transport)
            if base_url
            else None
        )

    async def embed(self, text: str, seconds: float | None = None) -> list[float]:
        """Answer the unit vector of a text, within some seconds if there are to be fewer than usual."""
        if self._client is None:
            raise ComponentUnavailable(ML_SERVICE, "ML_SERVICE_URL is not set")
        try:
            async with asyncio.timeout(seconds or self._seconds):
                response = await self._post({"texts": [text]})
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ComponentUnavailable(ML_SERVICE, "the ML service does not answer in time") from error
        except httpx.HTTPError as error:
            raise ComponentUnavailable(ML_SERVICE, "the ML service cannot be reached") from error
        if response.status_code != httpx.codes.OK:
            raise ComponentUnavailable(
                ML_SERVICE,
                f"the ML service answered {response.status_code}",
                retry_after=response.headers.get("retry-after"),
            )
        return self._vector(response)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, body: dict) -> httpx.Response:
        try:
            return await self._client.post("/embed", json=body)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # A kept connection that the other side closed meanwhile. Embedding changes nothing, so it may be repeated.
            return await self._client.post("/embed", json=body)

    @staticmethod
    def _vector(response: httpx.Response) -> list[float]:
        try:
            body = response.json()
            model = body["model"]
            [vector] = body["embeddings"]
            vector = [float(number) for number in vector]
        except (ValueError, TypeError, KeyError) as error:
            raise ComponentUnavailable(ML_SERVICE, "the ML service answered something else than embeddings") from error
        if model != EMBEDDING_MODEL:
            raise ComponentUnavailable(ML_SERVICE, f"the ML service has not the model {EMBEDDING_MODEL}")
        if len(vector) != EMBEDDING_DIMENSION or not all(map(math.isfinite, vector)):
            raise ComponentUnavailable(
                ML_SERVICE, f"the ML service answered no vector of {EMBEDDING_DIMENSION} numbers"
            )
        return vector
