# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends requests to every API host while a deploy works, and keeps count of the answers.

The action prober starts this file as a plain script, in the background, where it outlives the task. So it uses the standard
library only.

The run directory holds:

config.json    what to do, written by the action
result.json    the counts, replaced every half second and once more at the end
samples.jsonl  one request a line: seconds since the start, target, status (0 for none), milliseconds, release
log            what went wrong with the prober itself
"""

from __future__ import annotations

import collections
import datetime
import http.client
import json
import os
import select
import signal
import socket
import ssl
import sys
import threading
import time
import typing as t
import urllib.parse

RELEASE_HEADER = "X-TruthGraph-Release"
INTERVAL = 0.5
MOST_FAILURES = 20
BODY_LIMIT = 65536
SHOWN = 200
ENDINGS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Closed(Exception):
    """The server has closed the connection before the first byte of an answer."""


class Url(t.NamedTuple):
    """The parts of a target's URL that a request needs."""

    host: str
    port: int
    path: str
    secure: bool


def parse_url(url: str) -> Url:
    """Return the parts of an http or https URL; ValueError says what is wrong with it."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is not an http or https URL with a host, such as http://10.0.0.1:8000/health")
    if parts.username or parts.password:
        raise ValueError("it carries a name or password, which the prober does not send")
    path = parts.path or "/"
    secure = parts.scheme == "https"
    whole = f"{path}?{parts.query}" if parts.query else path
    return Url(parts.hostname, parts.port or (443 if secure else 80), whole, secure)


def start_time(pid: int) -> str:
    """Return when a process started, in the kernel's own count; empty if it has ended.

    Numbers of processes are used again, but not together with the time.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in parentheses, may contain anything.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def moment(when: float) -> str:
    """Return a time of the clock in UTC, to the millisecond."""
    text = datetime.datetime.fromtimestamp(when, datetime.UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def percentile(counts: dict[float, int], share: float) -> float | None:
    """Return the value below or at which a share of all counted values lies; None if there are none."""
    left = share * sum(counts.values())
    value = None
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            break
    return value


def write_whole(path: str, data: t.Any) -> None:
    """Write a JSON file that a reader sees whole or not at all."""
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(data, file)
    os.replace(f"{path}.new", path)


class Target(threading.Thread):
    """One URL and what has been seen of it. The thread asks it at a constant rate, one request at a time."""

    def __init__(
        self,
        name: str,
        url: str,
        rate: float,
        timeout: float,
        delay: float = 0.0,
        tls: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.url = parse_url(url)
        tls = tls or {}
        self._tls_name = tls.get("name") or self.url.host
        self._tls = ssl.create_default_context(cafile=tls.get("ca") or None) if self.url.secure else None
        self.interval = 1 / rate
        self.timeout = timeout
        self.delay = delay
        self.samples: list[tuple[float, str, int, float, str]] = []
        self._connection = http.client.HTTPConnection(self.url.host, self.url.port)
        self._lock = threading.Lock()
        self._requests = 0
        self._failures = 0
        self._failures_before_first = 0
        self._first_failures: list[dict[str, str]] = []
        self._reconnects = 0
        self._first_success = 0.0
        self._last_success = 0.0
        self._longest_gap = 0.0
        self._latencies: dict[float, int] = collections.Counter()
        self._releases: dict[str, dict[str, t.Any]] = {}

    def run(self) -> None:
        """Ask until the process ends."""
        due = time.monotonic() + self.delay
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            self.probe()
            # Requests that a slow answer has delayed are left out, not sent in a burst.
            due = max(due + self.interval, time.monotonic())

    def probe(self) -> None:
        """Send one request and note what came of it."""
        started = time.monotonic()
        status, release, what = 0, "", ""
        try:
            status, release = self._ask(started + self.timeout)
            what = f"it answered {status}" if status >= 500 else ""
        except TimeoutError:
            what = f"no answer within {self.timeout:g} s"
        except Closed:
            what = "the connection was closed without an answer"
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if what:
            self._connection.close()
        self._note(started, time.monotonic(), status, release, what[:SHOWN])

    def _ask(self, deadline: float) -> tuple[int, str]:
        connection = self._connection
        if connection.sock is not None:
            # A server may end a connection between two requests at any time. Its end is either seen here or crosses
            # the request; in both cases the request was not served, and goes out again on a connection of its own.
            if not select.select([connection.sock], [], [], 0)[0]:
                try:
                    return self._attempt(deadline)
                except Closed:
                    pass
            connection.close()
            with self._lock:
                self._reconnects += 1
        return self._attempt(deadline)

    def _attempt(self, deadline: float) -> tuple[int, str]:
        connection = self._connection
        if connection.sock is None:
            connection.timeout = _left(deadline)
            connection.connect()
            if self._tls:
                connection.sock = self._tls.wrap_socket(
                    t.cast(socket.socket, connection.sock), server_hostname=self._tls_name
                )
        if self._tls:
            return self._attempt_secured(deadline)
        sock = t.cast(socket.socket, connection.sock)
        try:
            sock.settimeout(_left(deadline))
            connection.request("GET", self.url.path, headers={"User-Agent": "truthgraph-prober"})
            sock.settimeout(_left(deadline))
            if not sock.recv(1, socket.MSG_PEEK):
                raise Closed
        except ConnectionError as error:
            raise Closed from error
        status, release, done = self._answer()
        if not done:
            connection.close()
        return status, release

    def _attempt_secured(self, deadline: float) -> tuple[int, str]:
        # By TLS every request has a connection of its own: whether an idle one was closed cannot be seen from outside.
        connection = self._connection
        connection.sock.settimeout(_left(deadline))
        headers = {"User-Agent": "truthgraph-prober", "Connection": "close"}
        connection.request("GET", self.url.path, headers=headers)
        connection.sock.settimeout(_left(deadline))
        try:
            status, release, _done = self._answer()
        except http.client.RemoteDisconnected as error:
            raise Closed from error
        finally:
            connection.close()
        return status, release

    def _answer(self) -> tuple[int, str, bool]:
        """Return status, release and whether the answer was read to its end."""
        response = self._connection.getresponse()
        body = response.read(BODY_LIMIT)
        if response.length and len(body) < BODY_LIMIT:
            raise http.client.IncompleteRead(body, response.length)
        return response.status, (response.getheader(RELEASE_HEADER) or "")[:SHOWN], response.isclosed()

    def _note(self, started: float, ended: float, status: int, release: str, what: str) -> None:
        clock = time.time()
        milliseconds = round((ended - started) * 1000, 1)
        with self._lock:
            self._requests += 1
            self.samples.append((started, self.name, status, milliseconds, release))
            if release:
                seen = self._releases.setdefault(release, {"release": release, "first": clock, "requests": 0})
                seen["last"] = clock
                seen["requests"] += 1
            if what:
                self._failures += 1
                self._failures_before_first += not self._first_success
                if len(self._first_failures) < MOST_FAILURES:
                    self._first_failures.append({"time": moment(clock), "what": what})
                return
            if self._first_success:
                self._longest_gap = max(self._longest_gap, ended - self._last_success)
            self._first_success = self._first_success or ended
            self._last_success = ended
            self._latencies[milliseconds] += 1

    def take_samples(self) -> list[tuple[float, str, int, float, str]]:
        """Return the samples since the last call."""
        with self._lock:
            taken, self.samples = self.samples, []
        return taken

    def summary(self) -> dict[str, t.Any]:
        """Return what has been seen so far."""
        now = time.monotonic()
        with self._lock:
            return {
                "requests": self._requests,
                "failures": self._failures,
                "failures_before_first": self._failures_before_first,
                "first_failures": list(self._first_failures),
                "never_answered": not self._first_success,
                "reconnects": self._reconnects,
                "longest_gap": round(self._longest_gap, 3),
                "since_last": round(now - self._last_success, 3) if self._first_success else None,
                "latency": {
                    "p50": percentile(self._latencies, 0.5),
                    "p95": percentile(self._latencies, 0.95),
                    "p99": percentile(self._latencies, 0.99),
                },
                "releases": [
                    {**seen, "first": moment(seen["first"]), "last": moment(seen["last"])}
                    for seen in self._releases.values()
                ],
            }


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def totals(targets: dict[str, dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return the counts over those targets that have ever answered: of the others nothing has been measured."""
    measured = [target for target in targets.values() if not target["never_answered"]]
    return {
        "measured": bool(measured),
        "requests": sum(target["requests"] for target in measured),
        "failures": sum(target["failures"] for target in measured),
        "longest_gap": max((target["longest_gap"] for target in measured), default=0.0),
    }


class Prober:
    """All targets, and the files in which a run directory keeps what was seen of them."""

    def __init__(self, path: str, config: dict[str, t.Any]) -> None:
        self.path = path
        self.config = config
        self.started = time.time()
        self._origin = time.monotonic()
        names = sorted(config["targets"])
        rate, timeout = config["rate"], config["timeout"]
        # The targets take turns.
        self.targets = [
            Target(name, config["targets"][name], rate, timeout, place / rate / len(names), config.get("tls"))
            for place, name in enumerate(names)
        ]

    def start(self) -> None:
        """Start asking."""
        for target in self.targets:
            target.start()

    def result(self, ended: str = "") -> dict[str, t.Any]:
        """Return the counts so far; ended says why there will be no more."""
        targets = {target.name: target.summary() for target in self.targets}
        return {
            **totals(targets),
            "targets": targets,
            "started": moment(self.started),
            "written": moment(time.time()),
            "ended": ended,
        }

    def write(self, ended: str = "") -> None:
        """Write result and samples. A full disk costs what could not be written, and not the rest."""
        lines = [
            json.dumps([round(sample[0] - self._origin, 3), *sample[1:]], separators=(",", ":")) + "\n"
            for target in self.targets
            for sample in target.take_samples()
        ]
        try:
            write_whole(os.path.join(self.path, "result.json"), self.result(ended))
            with open(os.path.join(self.path, "samples.jsonl"), "a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            print(f"{moment(time.time())} {error}", file=sys.stderr, flush=True)

    def ending(self) -> str:
        """Say why to end now; empty if there is no reason to."""
        if time.monotonic() - self._origin >= self.config["limit"]:
            return f"its limit of {self.config['limit']:g} s was over"
        owner = self.config.get("owner")
        if owner and start_time(owner["pid"]) != owner["start_time"]:
            return f"its owner, process {owner['pid']}, was gone"
        return ""


def main(path: str) -> None:
    """Work in a run directory until told to end, until the limit or until the owner is gone."""
    for number in ENDINGS:
        # Whoever started this may have ignored them.
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
        prober = Prober(path, json.load(file))
    prober.start()
    ended = ""
    while not ended:
        ended = "it was stopped" if signal.sigtimedwait(ENDINGS, INTERVAL) else prober.ending()
        prober.write(ended)


if __name__ == "__main__":
    main(sys.argv[1])
