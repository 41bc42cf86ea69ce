"""Embeddings in the API's own process, for an installation that has the ML part beside the core: the same model, without a
service in between."""

import asyncio
import importlib.util

from truthgraph.errors import ML_SERVICE, ComponentUnavailable
from truthgraph.settings import EMBED_SECONDS


def is_installed() -> bool:
    """Say whether this installation could embed by itself."""
    return all(importlib.util.find_spec(name) for name in ("truthgraph.ml", "torch"))


class LocalML:
    """Takes the place of MLClient, and fails in the same way. To be made in the running event loop."""

    def __init__(self, seconds: float = EMBED_SECONDS) -> None:
        self._seconds = seconds
        # The core image does not have it.
        from truthgraph.ml.service import Service
        from truthgraph.ml.settings import Settings

        self._service = Service(Settings())
        self._service.start()

    async def embed(self, text: str, seconds: float | None = None) -> list[float]:
        """Answer the unit vector of a text, within some seconds if there are to be fewer than usual."""
        from truthgraph.ml.batching import Closed, EncodingFailed, QueueFull

        if self._service.status != "ok":
            raise ComponentUnavailable(ML_SERVICE, self._service.detail, retry_after="5")
        try:
            async with asyncio.timeout(seconds or self._seconds):
                [vector] = await self._service.batcher.submit([text])
        except TimeoutError as error:
            raise ComponentUnavailable(ML_SERVICE, "the model does not answer in time", retry_after="1") from error
        except QueueFull as error:
            raise ComponentUnavailable(ML_SERVICE, str(error), retry_after="1") from error
        except (EncodingFailed, Closed) as error:
            raise ComponentUnavailable(ML_SERVICE, str(error)) from error
        return vector

    def metrics(self) -> list[str]:
        """What the ML service would answer Prometheus, as lines."""
        from truthgraph.ml.metrics import lines

        return lines(self._service)

    async def close(self) -> None:
        """End what still loads, and let the running batch end."""
        await self._service.close()
