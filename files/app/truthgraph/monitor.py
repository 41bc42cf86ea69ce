"""Knowing which parts answer: asked now, and kept in the background."""

import asyncio
import logging

from truthgraph.database import Database
from truthgraph.errors import DATABASE, ML_SERVICE, ComponentUnavailable
from truthgraph.local_ml import LocalML
from truthgraph.ml_client import MLClient

log = logging.getLogger("truthgraph.monitor")

CHECK_SECONDS = 3
INTERVAL_SECONDS = 2
PROBE_TEXT = "Is the ML service there?"


class Monitor:
    """Checks the database and the ML service, both by really using them."""

    def __init__(self, database: Database, ml_client: MLClient | LocalML) -> None:
        self._checks = {
            DATABASE: database.check,
            ML_SERVICE: lambda: ml_client.embed(PROBE_TEXT, seconds=CHECK_SECONDS),
        }
        self.states = dict.fromkeys(self._checks, "unknown")

    async def failures(self) -> dict[str, str]:
        """Check all parts now, side by side, and answer the reason of each one that fails."""
        reasons = await asyncio.gather(*(self._reason(name) for name in self._checks))
        failures = {name: reason for name, reason in zip(self._checks, reasons, strict=True) if reason}
        for name in self._checks:
            self._note(name, failures.get(name, ""))
        return failures

    async def keep(self) -> None:
        """Check again and again, until cancelled."""
        while True:
            await self.failures()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _reason(self, name: str) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._checks[name]()
        except ComponentUnavailable as error:
            return error.detail
        except TimeoutError:
            return f"no answer within {CHECK_SECONDS} seconds"
        except Exception:
            # A part whose check breaks does not answer either, and the other part's state must still be kept.
            log.exception("the check of %s failed", name)
            return "the check failed; the log says why"
        return ""

    def _note(self, name: str, reason: str) -> None:
        state = "unavailable" if reason else "ok"
        if state != self.states[name]:
            level = logging.WARNING if reason else logging.INFO
            log.log(level, "%s: %s -> %s%s", name, self.states[name], state, reason and f" ({reason})")
            self.states[name] = state
