"""Encoding the texts of concurrent requests together: one call of the model for many requests."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("truthgraph.ml.batching")

Encode = Callable[[list[str]], Sequence[Any]]


class QueueFull(Exception):
    """So many texts are being worked on already that another request would only wait too long."""


class Closed(Exception):
    """The service is shutting down."""


class EncodingFailed(Exception):
    """The model could not encode this request."""


@dataclass(frozen=True, eq=False)
class Job:
    """Texts of one request, at most a batch of them, and where their vectors go."""

    texts: list[str]
    result: asyncio.Future
    arrived: float


class MicroBatcher:
    """Collects requests for a few milliseconds and encodes them in one thread, one batch after the other.

    A request that comes alone, after one that had come alone, is encoded at once: nobody is there to share its batch.
    A batch holds at most max_batch texts. A larger request goes in pieces, and each piece queues behind what arrived
    before it, so that small requests need not wait for all of a large one. What was cancelled meanwhile is left out.
    """

    def __init__(self, encode: Encode, *, window: float, max_batch: int, max_pending: int, turn_seconds: float) -> None:
        """Take the encoding function, the seconds to collect, the bounds in texts, and the longest wait of a piece."""
        self._encode = encode
        self._window = window
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._turn_seconds = turn_seconds
        # Texts that are worked on or wait.
        self.pending = 0
        # What was done since the start: texts encoded, calls of the model for them, requests refused.
        self.texts = self.batches = self.refused = 0
        # Whether the last batch was of several requests.
        self._shared = False
        self._waiting: deque[Job] = deque()
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._worker: asyncio.Task | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._worker = asyncio.create_task(self._work())

    @property
    def waiting(self) -> int:
        """How many texts wait; those of the running batch do not count."""
        return sum(len(job.texts) for job in self._waiting)

    async def submit(self, texts: list[str]) -> list[Any]:
        """Answer one vector for each text, in their order. TimeoutError if a turn does not come."""
        if self.pending + len(texts) > self._max_pending:
            self.refused += 1
            raise QueueFull(f"{self.pending} texts are being worked on already")
        self.pending += len(texts)
        try:
            vectors: list[Any] = []
            for start in range(0, len(texts), self._max_batch):
                async with asyncio.timeout(self._turn_seconds):
                    vectors += await self._enqueue(texts[start : start + self._max_batch])
            return vectors
        except TimeoutError:
            self.refused += 1
            raise
        finally:
            self.pending -= len(texts)

    def _enqueue(self, texts: list[str]) -> asyncio.Future:
        if self._closed:
            raise Closed("the service is shutting down")
        loop = asyncio.get_running_loop()
        job = Job(texts, loop.create_future(), loop.time())
        self._waiting.append(job)
        self._arrival.set()
        return job.result

    async def between(self, call: Callable[[], Any]) -> Any:
        """Run a call in the thread that encodes, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def close(self) -> None:
        """Refuse new requests, let the running batch end, and fail those that still wait."""
        self._closed = True
        self._arrival.set()
        if self._worker is not None:
            await self._worker
        while self._waiting:
            self._fail(self._waiting.popleft(), Closed("the service is shutting down"))
        self._thread.shutdown()

    async def _work(self) -> None:
        while True:
            await self._arrival.wait()
            if self._closed:
                return
            await self._collect()
            if self._closed:
                return
            batch = self._take()
            if not self._waiting:
                self._arrival.clear()
            if batch:
                await self._process(batch)

    async def _collect(self) -> None:
        """Wait until the oldest request has waited for the window, or a batch is full."""
        loop = asyncio.get_running_loop()
        if not self._waiting or (len(self._waiting) == 1 and not self._shared):
            return
        end = self._waiting[0].arrived + self._window
        while not self._closed and self.waiting < self._max_batch and (left := end - loop.time()) > 0:
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                break

    def _take(self) -> list[Job]:
        self._waiting = deque(job for job in self._waiting if not job.result.done())
        batch: list[Job] = []
        size = 0
        while self._waiting and size + len(self._waiting[0].texts) <= self._max_batch:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].texts)
        self._shared = len(batch) > 1
        return batch

    async def _process(self, batch: list[Job]) -> None:
        """Encode a batch. If it fails, each request is tried alone, so that only the culprit fails."""
        try:
            vectors = await self._run([text for job in batch for text in job.texts])
        except Exception as error:
            log.error("a batch of %d requests failed: %s: %s", len(batch), type(error).__name__, error)
            if len(batch) == 1:
                self._fail(batch[0], EncodingFailed(f"the model failed: {type(error).__name__}"))
                return
            for job in batch:
                if not job.result.done():
                    await self._process([job])
            return
        start = 0
        for job in batch:
            if not job.result.done():
                job.result.set_result(vectors[start : start + len(job.texts)])
            start += len(job.texts)

    async def _run(self, texts: list[str]) -> list[Any]:
        vectors = list(await self.between(lambda: self._encode(texts)))
        if len(vectors) != len(texts):
            raise ValueError(f"{len(vectors)} vectors for {len(texts)} texts")
        self.batches += 1
        self.texts += len(texts)
        return vectors

    @staticmethod
    def _fail(job: Job, error: Exception) -> None:
        if not job.result.done():
            job.result.set_exception(error)
