"""Storing and searching evidence in PostgreSQL with pgvector, with an end to every wait."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from sqlalchemy import make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from truthgraph.errors import DATABASE, ComponentUnavailable
from truthgraph.settings import MAX_RESULTS

log = logging.getLogger("truthgraph.database")

POOL_SIZE = 10
POOL_TIMEOUT_SECONDS = 2
CONNECT_TIMEOUT_SECONDS = 2
STATEMENT_TIMEOUT_MILLISECONDS = 4000
# The whole of a query with its wait for a connection. It ends what the timeouts above cannot see, such as a server
# that accepts connections and never answers.
QUERY_SECONDS = 6
# A connection that breaks, as when the engine of the database's host restarts, is replaced for so long. Each query may be
# sent again: those that read, and the one that stores, which stores an equal text once.
RECONNECT_SECONDS = 3
RECONNECT_INTERVAL_SECONDS = 0.1
# Readiness waits less: a database that is away for longer is what it is to tell.
CHECK_RECONNECT_SECONDS = 1

# hnsw.ef_search bounds how many rows the index can answer. Its default of 40 is below the largest limit.
SERVER_OPTIONS = f"-c statement_timeout={STATEMENT_TIMEOUT_MILLISECONDS} -c hnsw.ef_search={MAX_RESULTS * 2}"

# An equal text from an equal source is stored once, so a repeated request gets the answer of the first one.
# DO UPDATE, because DO NOTHING would return no row.
STORE = text("""
    INSERT INTO evidence (content_sha256, text, source, embedding)
    VALUES (:content_sha256, :text, :source, CAST(:embedding AS vector))
    ON CONFLICT (content_sha256) DO UPDATE SET content_sha256 = EXCLUDED.content_sha256
    RETURNING id
""")

NEAREST = text("""
    SELECT id, text, source, 1 - (embedding <=> CAST(:embedding AS vector)) AS similarity
    FROM evidence
    ORDER BY embedding <=> CAST(:embedding AS vector)
    LIMIT :limit
""")

# Fails if the migrations did not run, and reads through the table rather than only finding its name.
READY = text("SELECT version_num, (SELECT count(*) FROM (SELECT id FROM evidence LIMIT 1) AS one) FROM alembic_version")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Evidence:
    """One stored text and how near it is to the claim: 1 is the same direction, 0 unrelated."""

    id: UUID
    text: str
    source: str | None
    similarity: float


def engine_url(database_url: str) -> URL:
    """Read DATABASE_URL; every name for PostgreSQL means psycopg 3, the driver of the image."""
    try:
        url = make_url(database_url)
    except ArgumentError:
        # From None, since the cause repeats the address with its password.
        raise ValueError(
            "DATABASE_URL is no database address; write postgresql+psycopg://user@host:5432/name"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"DATABASE_URL names {url.get_backend_name()}, and only postgresql is supported")
    return url.set(drivername="postgresql+psycopg")


def vector_literal(vector: list[float]) -> str:
    """Write a vector the way pgvector reads it."""
    return "[" + ",".join(map(repr, vector)) + "]"


def content_digest(content: str, source: str | None) -> bytes:
    """Identify a text from a source."""
    return hashlib.sha256(json.dumps([content, source]).encode()).digest()


class Database:
    """Evidence in PostgreSQL. Every failure comes out as ComponentUnavailable."""

    def __init__(self, database_url: str) -> None:
        self._engine: AsyncEngine | None = None
        self._probe: AsyncEngine | None = None
        self._abandoned: set[asyncio.Task] = set()
        if not database_url:
            return
        url = engine_url(database_url)
        self._engine = self._create_engine(url, POOL_SIZE)
        # Readiness has connections of its own: a busy API is not a lost database.
        self._probe = self._create_engine(url, 2)

    @staticmethod
    def _create_engine(url: URL, pool_size: int) -> AsyncEngine:
        return create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=True,
            pool_recycle=1800,
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "options": SERVER_OPTIONS,
                "application_name": "truthgraph",
                # A host that vanished without a word is noticed by the kernel.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 10000,
            },
        )

    async def store(self, content: str, source: str | None, embedding: list[float]) -> UUID:
        """Store a text and answer its id; a text that is there already keeps its id."""
        parameters = {
            "content_sha256": content_digest(content, source),
            "text": content,
            "source": source,
            "embedding": vector_literal(embedding),
        }

        async def query(connection: AsyncConnection) -> UUID:
            return (await connection.execute(STORE, parameters)).scalar_one()

        return await self._run(self._engine, query, RECONNECT_SECONDS)

    async def nearest(self, embedding: list[float], limit: int) -> list[Evidence]:
        """Answer the stored texts that are nearest to a vector, nearest first."""
        parameters = {"embedding": vector_literal(embedding), "limit": limit}

        async def query(connection: AsyncConnection) -> list[Evidence]:
            rows = await connection.execute(NEAREST, parameters)
            return [Evidence(row.id, row.text, row.source, row.similarity) for row in rows]

        return await self._run(self._engine, query, RECONNECT_SECONDS)

    async def check(self) -> None:
        """Return if the database answers and its schema is there."""

        async def query(connection: AsyncConnection) -> None:
            if (await connection.execute(READY)).first() is None:
                raise ComponentUnavailable(DATABASE, "the database has no schema; run: alembic upgrade head")

        await self._run(self._probe, query, CHECK_RECONNECT_SECONDS)

    async def close(self) -> None:
        """Give the connections back."""
        for task in self._abandoned:
            task.cancel()
        for engine in (self._engine, self._probe):
            if engine is not None:
                await engine.dispose()

    async def _run(
        self,
        engine: AsyncEngine | None,
        query: Callable[[AsyncConnection], Awaitable[Answer]],
        patience: float,
    ) -> Answer:
        if engine is None:
            raise ComponentUnavailable(DATABASE, "DATABASE_URL is not set")

        async def transaction() -> Answer:
            until = time.monotonic() + patience
            while True:
                try:
                    async with engine.begin() as connection:
                        return await query(connection)
                except OperationalError as error:
                    if not connection_lost(error) or time.monotonic() > until:
                        raise
                await asyncio.sleep(RECONNECT_INTERVAL_SECONDS)

        # Cancelling a psycopg query waits for the server to confirm it. A server that hangs would hang the request
        # too, so after the deadline the query is left to end by itself and the client gets its answer.
        task = asyncio.create_task(transaction())
        try:
            await asyncio.wait({task}, timeout=QUERY_SECONDS)
        finally:
            if not task.done():
                task.cancel()
                self._abandoned.add(task)
                task.add_done_callback(self._forget)
        if not task.done():
            raise ComponentUnavailable(DATABASE, "the database does not answer in time")
        try:
            return task.result()
        except ProgrammingError as error:
            log.warning("database: %s", summary(error))
            raise ComponentUnavailable(
                DATABASE, "the database refuses the query; its schema may be missing, run: alembic upgrade head"
            ) from error
        except PoolTimeoutError as error:
            raise ComponentUnavailable(DATABASE, "all database connections are busy", retry_after="1") from error
        except (SQLAlchemyError, OSError) as error:
            log.warning("database: %s", summary(error))
            raise ComponentUnavailable(DATABASE, "the database cannot be reached or failed") from error

    def _forget(self, task: asyncio.Task) -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.info("an abandoned query ended: %s", summary(task.exception()))


def connection_lost(error: OperationalError) -> bool:
    """Whether there was no connection, or none any more; what the server refuses has a code."""
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) is None


def summary(error: BaseException) -> str:
    """The first line of an error, without the statement that SQLAlchemy adds."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else 'no message'}"
