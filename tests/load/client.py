#!/usr/bin/env python3
"""The tests' own client: a constant load on each API host, and what its users saw meanwhile.

It shares nothing with the product's prober, so that the one can be held against the other. In a test:

    with Load({"cpu1": "http://127.0.0.1:18001"}, rate=200) as load:
        deploy()
        seen = load.stop()
    assert not seen["targets"]["cpu1"]["methods"]["GET"]["failures"]

or by itself:

    python3 tests/load/client.py --target cpu1=http://127.0.0.1:18001 --rate 200 --seconds 60 --json out.json

The load is open: a request goes out when it is due, whether or not the ones before have been answered. Every second
request goes out on one of 8 connections that are kept alive, the others on a connection of their own. Where all 8 are
busy, one more is opened for the time being.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import errno
import json
import math
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import typing as t
import urllib.parse

POOL = 8
LATE = 0.05
SKIP_AFTER = 1.0
# Of each method at each target: an outage of some minutes, each of which can be looked at.
MOST_FAILURES = 2000
MOST_RATE = 2000
SWEEP = 0.1
SPARE_FILES = 64
MOST_FILES = 32768
CLAIM = "Water boils at a lower temperature on a mountain."
# GET /health, GET /ready, POST verify. The last two compute an embedding each: with a tenth of each, a machine that is the
# lab, its clients and its control node is too busy to answer, rollout or not.
WEIGHTS = (96, 1, 3)
PATHS = (("GET", "/health"), ("GET", "/ready"), ("POST", "/api/v1/verify"))
UNTIL_CLOSED = -1
CHUNKED = -2
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Server(t.NamedTuple):
    """Where a target is."""

    family: int
    address: tuple[t.Any, ...]
    host: str


def resolve(url: str) -> Server:
    """Return where a target is; ValueError says what is wrong with its URL."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError(f"{url} is not an http URL of host and port alone, such as http://127.0.0.1:18001")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"{url} names a host that cannot be found: {error}") from error
    return Server(found[0][0], found[0][4], parts.netloc)


def order(weights: t.Sequence[int]) -> list[int]:
    """Return one round of requests, as places in PATHS, each kind spread over the round as evenly as it goes."""
    total = sum(weights)
    places = [
        ((number + 0.5) * total / weight, kind) for kind, weight in enumerate(weights) for number in range(weight)
    ]
    return [kind for _when, kind in sorted(places)]


def quantile(counts: dict[float, int], share: float) -> float | None:
    """Return the value below or at which a share of all counted values lies; None if there are none."""
    wanted = math.ceil(share * sum(counts.values()))
    for value in sorted(counts):
        wanted -= counts[value]
        if wanted <= 0:
            return value
    return None


class Answers:
    """What came of the requests of one method to one target."""

    def __init__(self, method: str) -> None:
        # What is not may be sent again by nobody but the user, so its failures are judged apart.
        self.idempotent = method == "GET"
        self.requests = 0
        self.good = 0
        self.failures = 0
        self.failed: list[dict[str, t.Any]] = []
        self.statuses: dict[int, int] = collections.Counter()
        self.latencies: dict[float, int] = collections.Counter()

    def summary(self) -> dict[str, t.Any]:
        """Return it in words and numbers."""
        return {
            "idempotent_by_method": self.idempotent,
            "requests": self.requests,
            "good": self.good,
            "failures": self.failures,
            "failed": list(self.failed),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "latency": {
                "p50": quantile(self.latencies, 0.5),
                "p95": quantile(self.latencies, 0.95),
                "p99": quantile(self.latencies, 0.99),
                "max": max(self.latencies, default=None),
            },
        }


class Exchange:
    """One request on its way."""

    __slots__ = ("answers", "connection", "done", "kind", "retried", "started")

    def __init__(self, kind: int, answers: Answers, started: float) -> None:
        self.kind = kind
        self.answers = answers
        self.started = started
        self.connection: Connection | None = None
        self.done = False
        self.retried = False


class Connection:
    """One socket, and the answer that is coming in on it."""

    __slots__ = (
        *("target", "sock", "kept", "pooled", "reusable", "exchange"),
        *("head", "left", "tail", "status", "release"),
    )

    def __init__(self, target: Target, kept: bool, pooled: bool) -> None:
        self.target = target
        self.kept = kept
        self.pooled = pooled
        self.exchange: Exchange | None = None
        # Has answered before, so that its end without an answer is the end of an idle connection.
        self.reusable = False
        # What there is of the head; None once it is complete and only the body is missing.
        self.head: bytes | None = b""
        self.left = 0
        self.tail = b""
        self.status = 0
        self.release = ""
        self.sock = socket.socket(target.server.family, socket.SOCK_STREAM)
        self.sock.setblocking(False)

    def open(self, exchange: Exchange) -> None:
        """Connect, and send a request as soon as that is done."""
        self.exchange, exchange.connection = exchange, self
        code = self.sock.connect_ex(self.target.server.address)
        if code == errno.EINPROGRESS:
            self.target.loop.add_writer(self.sock, self._connected)
        else:
            self._start(code)

    def _connected(self) -> None:
        self.target.loop.remove_writer(self.sock)
        self._start(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _start(self, code: int) -> None:
        if code:
            self.fail(os.strerror(code))
            return
        # For as long as the connection lives: so its end is seen when it is idle, too.
        self.target.loop.add_reader(self.sock, self._readable)
        if self.exchange is not None:
            self.send(self.exchange)

    def send(self, exchange: Exchange) -> None:
        """Send a request on the open connection."""
        self.exchange, exchange.connection = exchange, self
        self.head = b""
        data = self.target.payloads[self.kept][exchange.kind]
        try:
            if self.sock.send(data) != len(data):
                self.fail("the request could not be sent whole")
        except OSError as error:
            self._ended(error.strerror or str(error))

    def _readable(self) -> None:
        try:
            count = self.sock.recv_into(self.target.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._ended(error.strerror or str(error))
            return
        if not count or self.exchange is None:
            self._ended("closed")
        elif self.head is None:
            self._take(self.target.buffer[:count])
        else:
            self._take_head(self.head + self.target.buffer[:count])

    def _take_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self.head = data
            if len(data) > len(self.target.buffer):
                self.fail("the head of the answer does not end")
            return
        head = data[:end]
        lower = head.lower()
        try:
            if not head.startswith(b"HTTP/1."):
                raise ValueError
            self.status = int(head[9:12])
            length = _field(head, lower, b"content-length")
            self.left = int(length) if length else UNTIL_CLOSED
        except ValueError:
            self.fail(f"not an HTTP answer: {head[:60]!r}")
            return
        if b"\r\ntransfer-encoding: chunked" in lower:
            self.left = CHUNKED
            self.tail = b"\r\n"
        elif self.status in (204, 304):
            self.left = 0
        self.release = _field(head, lower, b"x-truthgraph-release").decode("ascii", "replace")
        closes = b"\r\nconnection: close" in lower or not head.startswith(b"HTTP/1.1") or self.left == UNTIL_CLOSED
        self.reusable = self.kept and not closes
        self.head = None
        self._take(memoryview(data)[end + 4 :])

    def _take(self, data: memoryview) -> None:
        if self.left == CHUNKED:
            self.tail = (self.tail + data)[-len(LAST_CHUNK) :]
            if self.tail == LAST_CHUNK:
                self._complete()
        elif self.left != UNTIL_CLOSED:
            self.left -= len(data)
            # More than was announced cannot be told from the next answer.
            self.reusable = self.reusable and self.left >= 0
            if self.left <= 0:
                self._complete()

    def _complete(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.target.answered(exchange, self.status, self.release)
        if self.pooled and self.reusable:
            self.target.idle.append(self)
        else:
            self.close()

    def _ended(self, what: str) -> None:
        exchange = self.exchange
        if exchange is None:
            self.target.idle.remove(self)
            self.target.idle_closed += 1
            self.close()
        elif self.head is None and self.left == UNTIL_CLOSED and what == "closed":
            self._complete()
        elif self.head is None or self.head:
            self.fail(f"the answer broke off: {what}")
        elif self.reusable and not exchange.retried and exchange.answers.idempotent:
            self.close()
            self.target.retry(exchange)
        else:
            self.fail(f"no answer: {what}")

    def fail(self, what: str) -> None:
        """Give the request up, and the connection with it."""
        exchange, self.exchange = self.exchange, None
        self.close()
        if exchange is not None:
            self.target.failed(exchange, what)

    def close(self) -> None:
        """Close the socket."""
        self.target.loop.remove_reader(self.sock)
        self.target.loop.remove_writer(self.sock)
        self.sock.close()
        self.target.pool_size -= self.pooled


def _field(head: bytes, lower: bytes, name: bytes) -> bytes:
    start = lower.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


class Target:
    """One API host, the load on it and what came of it."""

    def __init__(self, url: str, plan: dict[str, t.Any], loop: asyncio.AbstractEventLoop, most: int) -> None:
        self.server = resolve(url)
        self.loop = loop
        self.timeout = plan["timeout"]
        self.most_in_flight = most
        self.buffer = memoryview(bytearray(65536))
        body = json.dumps({"claim": plan["claim"]}).encode()
        self.payloads = [[_payload(self.server.host, *path, body, kept) for path in PATHS] for kept in (False, True)]
        self.idle: collections.deque[Connection] = collections.deque()
        self.pool_size = 0
        self.methods = {method: Answers(method) for method in ("GET", "POST")}
        self.reconnects = 0
        self.idle_closed = 0
        self.late = 0
        self.max_late = 0.0
        self.skipped = 0
        self.longest_gap = 0.0
        self.longest_gap_until: float | None = None
        self.in_flight = 0
        self._round = order(plan["weights"])
        self._interval: float = 1 / plan["rate"]
        self._origin = 0.0
        self._number = 0
        self._last_good = 0.0
        self._releases: dict[str, dict[str, t.Any]] = {}
        self._under_way: collections.deque[Exchange] = collections.deque()

    def begin(self, origin: float) -> None:
        """Count the time of the requests from here."""
        self._origin = origin

    @property
    def due(self) -> float:
        """When the next request is due."""
        return self._origin + self._number * self._interval

    def send_due(self, most: int) -> int:
        """Send what is due now, but no more than that many; return how many were sent."""
        now = self.loop.time()
        behind = now - self.due
        if behind > SKIP_AFTER:
            left_out = int(behind / self._interval)
            self.max_late = max(self.max_late, behind)
            self.skipped += left_out
            self._number += left_out
        sent = 0
        while self.due <= now and sent < most:
            # Of two rounds each starts with the other kind of connection, so that every path gets both.
            turn, place = divmod(self._number, len(self._round))
            late = self.loop.time() - self.due
            self._number += 1
            if self.in_flight >= self.most_in_flight:
                self.skipped += 1
                continue
            self.late += late > LATE
            self.max_late = max(self.max_late, late)
            self._send(self._round[place], bool((turn + place) % 2))
            sent += 1
        return sent

    def _send(self, kind: int, kept: bool) -> None:
        exchange = Exchange(kind, self.methods[PATHS[kind][0]], self.loop.time())
        exchange.answers.requests += 1
        self.in_flight += 1
        self._under_way.append(exchange)
        # All 8 are opened before one is used again, and then they take turns.
        if kept and self.pool_size >= POOL and self.idle:
            self.idle.popleft().send(exchange)
        else:
            self._open(exchange, kept)

    def _open(self, exchange: Exchange, kept: bool) -> None:
        pooled = kept and self.pool_size < POOL
        try:
            connection = Connection(self, kept, pooled)
        except OSError as error:
            self.failed(exchange, f"this machine has no socket for it: {error.strerror}")
            return
        self.pool_size += pooled
        connection.open(exchange)

    def retry(self, exchange: Exchange) -> None:
        """Send a request once more, on a new connection."""
        exchange.retried = True
        self.reconnects += 1
        self._open(exchange, True)

    def answered(self, exchange: Exchange, status: int, release: str) -> None:
        """Note an answer."""
        clock = time.time()
        answers = exchange.answers
        answers.statuses[status] += 1
        if release:
            seen = self._releases.get(release)
            if seen is None:
                seen = self._releases[release] = {"release": release, "first": clock, "last": clock, "requests": 0}
            seen["last"] = clock
            seen["requests"] += 1
        if status >= 400:
            self.failed(exchange, f"it answered {status}")
            return
        self._finish(exchange)
        now = self.loop.time()
        if self._last_good and now - self._last_good > self.longest_gap:
            self.longest_gap, self.longest_gap_until = now - self._last_good, clock
        self._last_good = now
        answers.good += 1
        answers.latencies[round((now - exchange.started) * 1000, 1)] += 1

    def failed(self, exchange: Exchange, what: str) -> None:
        """Note a failure."""
        self._finish(exchange)
        answers = exchange.answers
        answers.failures += 1
        if len(answers.failed) < MOST_FAILURES:
            method, path = PATHS[exchange.kind]
            answers.failed.append({"time": round(time.time(), 3), "method": method, "path": path, "what": what})

    def _finish(self, exchange: Exchange) -> None:
        exchange.done = True
        exchange.connection = None
        self.in_flight -= 1

    def sweep(self) -> None:
        """Give up requests that have waited for too long."""
        now = self.loop.time()
        under_way = self._under_way
        while under_way and (under_way[0].done or now - under_way[0].started > self.timeout):
            exchange = under_way.popleft()
            if not exchange.done and exchange.connection is not None:
                exchange.connection.fail(f"no answer within {self.timeout:g} s")

    def summary(self) -> dict[str, t.Any]:
        """Return what came of the load."""
        return {
            "methods": {method: answers.summary() for method, answers in self.methods.items()},
            "longest_gap": round(self.longest_gap, 4),
            "longest_gap_until": self.longest_gap_until,
            "since_last": round(self.loop.time() - self._last_good, 3) if self._last_good else None,
            "releases": list(self._releases.values()),
            "reconnects": self.reconnects,
            "idle_closed": self.idle_closed,
            "late": self.late,
            "max_late": round(self.max_late, 4),
            "skipped": self.skipped,
            "in_flight": self.in_flight,
        }


def _payload(host: str, method: str, path: str, body: bytes, kept: bool) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "User-Agent: truthgraph-load"]
    if not kept:
        lines.append("Connection: close")
    if method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body if method == "POST" else b"")


class Client:
    """The load on all targets, in this process."""

    def __init__(self, plan: dict[str, t.Any], loop: asyncio.AbstractEventLoop) -> None:
        self.plan = plan
        self.loop = loop
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        most = max(1, (files - SPARE_FILES) // len(plan["targets"]) - POOL)
        self.targets = {name: Target(url, plan, loop, most) for name, url in plan["targets"].items()}
        self.sent = 0
        self.ended = ""
        self._began = 0.0
        self._cpu = 0.0
        self._clock = 0.0

    async def work(self) -> dict[str, t.Any]:
        """Send until it is enough, wait for the answers under way, and return what came of it all."""
        self._began, self._cpu, self._clock = self.loop.time(), time.process_time(), time.time()
        for target in self.targets.values():
            target.begin(self._began)
        self._tick()
        while not self.ended or any(target.in_flight for target in self.targets.values()):
            await asyncio.sleep(SWEEP if not self.ended else SWEEP / 5)
            for target in self.targets.values():
                target.sweep()
        for target in self.targets.values():
            while target.idle:
                target.idle.popleft().close()
        return self.result()

    def end(self, why: str = "stopped") -> None:
        """Send no more."""
        self.ended = self.ended or why

    def _tick(self) -> None:
        if self.loop.time() - self._began >= self.plan["max_seconds"]:
            self.end("max_seconds")
        for target in self.targets.values():
            if not self.ended:
                self.sent += target.send_due(self.plan["max_requests"] - self.sent)
        if self.sent >= self.plan["max_requests"]:
            self.end("max_requests")
        if not self.ended:
            end = self._began + self.plan["max_seconds"]
            self.loop.call_at(min(end, *(target.due for target in self.targets.values())), self._tick)

    def result(self) -> dict[str, t.Any]:
        """Return what has come of it so far. Times are seconds of the clock, latencies are milliseconds."""
        cpu = time.process_time() - self._cpu
        targets = {name: target.summary() for name, target in self.targets.items()}
        methods = {
            method: {
                count: sum(target["methods"][method][count] for target in targets.values())
                for count in ("requests", "good", "failures")
            }
            for method in ("GET", "POST")
        }
        return {
            "targets": targets,
            "methods": methods,
            "longest_gap": max(target["longest_gap"] for target in targets.values()),
            "reconnects": sum(target["reconnects"] for target in targets.values()),
            "late": sum(target["late"] for target in targets.values()),
            "max_late": max(target["max_late"] for target in targets.values()),
            "skipped": sum(target["skipped"] for target in targets.values()),
            "began": round(self._clock, 3),
            "seconds": round(self.loop.time() - self._began, 3),
            "ended": self.ended,
            "cpu_seconds": round(cpu, 3),
            "cpu_seconds_per_10000": round(cpu * 10000 / self.sent, 3) if self.sent else None,
        }


def _give_up(loop: asyncio.AbstractEventLoop, context: dict[str, t.Any]) -> None:
    # A load that has lost one of its callbacks would go on and show fewer failures than there were.
    loop.default_exception_handler(context)
    os._exit(3)


def checked(plan: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return a plan if it can be carried out; ValueError says why it cannot."""
    if not plan["targets"]:
        raise ValueError("there are no targets")
    if not 0 < plan["rate"] <= MOST_RATE:
        raise ValueError(f"the rate is {plan['rate']}, not above 0 and at most {MOST_RATE}")
    weights = plan["weights"]
    if len(weights) != len(PATHS) or min(weights) < 0 or not 0 < sum(weights) <= 1000:
        raise ValueError(f"the weights are {weights}, not {len(PATHS)} whole numbers such as 8:1:1")
    for name in ("timeout", "max_seconds", "max_requests"):
        if plan[name] <= 0:
            raise ValueError(f"{name} is {plan[name]}, not above 0")
    for url in plan["targets"].values():
        resolve(url)
    return plan


class Load:
    """A load from a process of its own, so that a test's work does not disturb it."""

    def __init__(
        self,
        targets: dict[str, str],
        rate: float = 200,
        *,
        weights: t.Sequence[int] = WEIGHTS,
        timeout: float = 10,
        claim: str = CLAIM,
        max_seconds: float = 900,
        max_requests: int = 400_000,
    ) -> None:
        self.plan = checked(
            {
                "targets": dict(targets),
                "rate": rate,
                "weights": list(weights),
                "timeout": timeout,
                "claim": claim,
                "max_seconds": max_seconds,
                "max_requests": max_requests,
            }
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._result: dict[str, t.Any] | None = None
        self._unread = b""

    def start(self) -> Load:
        """Start it; the first requests are on their way when this returns."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__), "--control"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        # Users have machines of their own: what this one is busy with must not keep their requests from being sent. The
        # kernel divides the processor between sessions, so it is the session that has to come first. Where that is not allowed,
        # the answer counts how late the client itself was ("late", "max_late").
        with contextlib.suppress(OSError), open(f"/proc/{self._process.pid}/autogroup", "w", encoding="ascii") as file:
            file.write("-15")
        try:
            self._ask(json.dumps(self.plan), 10)
        except BaseException:
            self.kill()
            raise
        return self

    def snapshot(self) -> dict[str, t.Any]:
        """Return what has come of it so far."""
        return self._result or self._ask("snapshot", 10)

    def stop(self) -> dict[str, t.Any]:
        """Send no more, wait for the answers under way, and return what came of it all."""
        if self._result is None:
            try:
                self._result = self._ask("stop", self.plan["timeout"] + 10)
            finally:
                self.kill()
        return self._result

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _ask(self, line: str, seconds: float) -> dict[str, t.Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("The load does not run; start() it first.")
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        try:
            process.stdin.write(line.encode() + b"\n")
            while b"\n" not in self._unread:
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise RuntimeError(f"The load client did not answer within {seconds:g} s.")
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    raise BrokenPipeError
                self._unread += data
        except BrokenPipeError as error:
            message = f"The load client has ended by itself with code {process.wait()}; standard error says why."
            raise RuntimeError(message) from error
        answer, self._unread = self._unread.split(b"\n", 1)
        found: dict[str, t.Any] = json.loads(answer)
        return found

    def __enter__(self) -> Load:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.kill()


class Control:
    """The other end of a Load: carries out what comes in on standard input, and ends with it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stop_asked = asyncio.Event()
        self._unread = b""

    def readable(self) -> None:
        """Take what has come in."""
        data = os.read(0, 65536)
        if not data:
            # Whoever started this is gone; nobody reads the result.
            os._exit(1)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if line == b"snapshot":
                say(self.client.result())
            else:
                self.client.end()
                self.stop_asked.set()


def say(answer: dict[str, t.Any]) -> None:
    """Write one answer for a Load to read."""
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


async def controlled(plan: dict[str, t.Any]) -> None:
    """Do what a Load asks for."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_give_up)
    client = Client(plan, loop)
    control = Control(client)
    loop.add_reader(0, control.readable)
    working = loop.create_task(client.work())
    # One turn of the loop, in which the work begins.
    await asyncio.sleep(0)
    say({"began": True})
    result = await working
    await control.stop_asked.wait()
    say(result)


async def alone(plan: dict[str, t.Any]) -> dict[str, t.Any]:
    """Carry out a plan; an interrupt ends it early."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_give_up)
    client = Client(plan, loop)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, client.end)
    return await client.work()


def in_words(result: dict[str, t.Any]) -> list[str]:
    """Return the result as lines for a person."""
    lines = []
    for name, target in result["targets"].items():
        for method, answers in target["methods"].items():
            if answers["requests"]:
                latency = ", ".join(f"{share} {value} ms" for share, value in answers["latency"].items())
                lines.append(f"{name} {method}: {answers['requests']} sent, {answers['failures']} failed, {latency}")
            lines += [f"    {failure['path']}: {failure['what']}" for failure in answers["failed"][:3]]
        releases = ", ".join(f"{seen['release']} ({seen['requests']})" for seen in target["releases"]) or "unknown"
        lines.append(
            f"{name}: longest gap {target['longest_gap']} s, {target['reconnects']} reconnects, {target['late']} late "
            f"(at most {target['max_late']} s), {target['skipped']} skipped, releases: {releases}"
        )
    lines.append(f"{result['cpu_seconds']} s of CPU, {result['cpu_seconds_per_10000']} s for 10,000 requests")
    return lines


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Put a constant load on API hosts and say what came of it.")
    parser.add_argument("--target", action="append", default=[], metavar="NAME=URL", help="repeat it for each target")
    parser.add_argument("--rate", type=float, default=200, help="requests per second for each target")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--weights", default=":".join(map(str, WEIGHTS)), help="/health : /ready : POST verify")
    parser.add_argument("--timeout", type=float, default=10, help="seconds for one answer")
    parser.add_argument("--claim", default=CLAIM, help="what POST asks")
    parser.add_argument("--max-requests", type=int, default=400_000)
    parser.add_argument("--json", metavar="FILE", help="write the whole result there")
    parser.add_argument("--control", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.control:
        asyncio.run(controlled(json.loads(t.cast(t.Any, sys.stdin.buffer).raw.readline())))
        return 0
    try:
        if not all("=" in target for target in options.target):
            raise ValueError("a target is not of the form NAME=URL, such as cpu1=http://127.0.0.1:18001")
        plan = checked(
            {
                "targets": dict(target.split("=", 1) for target in options.target),
                "rate": options.rate,
                "weights": [int(weight) for weight in options.weights.split(":")],
                "timeout": options.timeout,
                "claim": options.claim,
                "max_seconds": options.seconds,
                "max_requests": options.max_requests,
            }
        )
    except ValueError as error:
        parser.error(f"{error}.")
    result = asyncio.run(alone(plan))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
    print("\n".join(in_words(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
