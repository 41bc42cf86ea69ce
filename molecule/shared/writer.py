# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that store evidence and remember what was acknowledged, and whether all of it is in the database."""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
import time
import urllib.parse
import uuid

from ansible_collections.truthgraph.platform.molecule.shared.rollout import APIS, RATE, Host

# Longer than the API itself waits for its database and its inference service.
ANSWER_SECONDS = 30
# Each thread's, in seconds. On a machine on which the clients are slowed down, the writers are, too.
PAUSE = 5 / RATE


@dataclasses.dataclass(frozen=True)
class Sent:
    """A request to store evidence. Status 0 is no answer at all, and detail says why."""

    text: str
    status: int
    began: float
    ended: float
    detail: str


class Writer:
    """Stores evidence at every API, from a few threads each, until it is stopped.

        with Writer() as writer:
            ...
        writer.failed, writer.outage, writer.lost(database)
    """

    def __init__(self, apis: dict[str, str] | None = None, threads: int = 2) -> None:
        self.source = f"writer-{uuid.uuid4()}"
        self.sent: list[Sent] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=[name, url, number])
            for name, url in (apis or APIS).items()
            for number in range(threads)
        ]

    def _write(self, name: str, url: str, thread: int) -> None:
        parts, number = urllib.parse.urlsplit(url), 0
        while not self._over.is_set():
            number += 1
            text = f"{name}, thread {thread}, number {number}"
            self.sent.append(self._store(parts, text))
            time.sleep(PAUSE)

    def _store(self, parts: urllib.parse.SplitResult, text: str) -> Sent:
        connection, began = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS), time.monotonic()
        try:
            body = json.dumps({"text": text, "source": self.source})
            connection.request("POST", "/api/v1/evidence", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, detail = answer.status, answer.read()[:200].decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            status, detail = 0, repr(error)
        finally:
            connection.close()
        return Sent(text, status, began, time.monotonic(), detail)

    def __enter__(self) -> Writer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def recovered(self, since: float, timeout: float) -> float:
        """Wait until all that each API was asked for two seconds was stored; return the seconds from `since` until then."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            now = time.monotonic()
            latest = [one for one in list(self.sent) if one.began > max(since, now - 2)]
            by_api = {name: [one for one in latest if one.text.startswith(f"{name},")] for name in APIS}
            if now > since + 2.5 and all(len(ones) >= 5 and all(one.status == 201 for one in ones) for ones in by_api.values()):
                failed = [one.ended for one in list(self.sent) if one.status != 201 and one.ended > since]
                return max(failed, default=since) - since
            time.sleep(0.1)
        raise AssertionError(f"not recovered within {timeout} s: {self.failed[-5:]}")

    @property
    def acknowledged(self) -> list[str]:
        """The texts that are stored, by what was answered."""
        return [one.text for one in self.sent if one.status == 201]

    @property
    def failed(self) -> list[Sent]:
        """The requests that were not answered well."""
        return [one for one in self.sent if one.status != 201]

    def lost(self, database: Host) -> list[str]:
        """Return what was acknowledged and is not in the database."""
        return sorted({*self.acknowledged} - stored(database, self.source))

    def forget(self, database: Host) -> None:
        """Take away what was stored."""
        psql(database, f"DELETE FROM evidence WHERE source = '{self.source}'")


def psql(database: Host, sql: str, name: str = "truthgraph") -> str:
    """Return what Postgres on a host answers to its superuser."""
    command = ["docker", "exec", "truthgraph-postgres", "psql", "-XAtU", "postgres", "-d", name, "-c", sql]
    return database.run(*command).removesuffix("\n")


def stored(database: Host, source: str) -> set[str]:
    """Return the texts of a source that are in the database."""
    return set(psql(database, f"SELECT text FROM evidence WHERE source = '{source}'").splitlines())
