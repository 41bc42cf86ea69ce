#!/usr/bin/env python3
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many embeddings a second the ML service answers, beside itself without batching, another server, and no server.

    make bench-embeddings
    .venv/bin/python benchmarks/embeddings.py --only batching,infinity --seconds 3 --json figures.json

On this machine's CPU, over the loopback interface, each server alone and for a few seconds at a time, it measures

    batching    the ML service of files/app, with the settings that it has by itself
    single      the same with TRUTHGRAPH_MAX_BATCH=1 and TRUTHGRAPH_BATCH_WINDOW_MS=0: a call of the model for each text
    infinity    the server infinity-emb, with the same files of the model, in float32, with PyTorch
    in-process  `SentenceTransformer.encode` of one text after the other, without a server

and writes a table into docs/benchmarks.md, between two markers. The load is closed: each of 1, 8 or 32 clients has
one connection, and sends its next text when the last one is answered. Each round measures all, beginning with another.

What is measured is installed into .cache/bench first, some GB: the service from files/app/requirements, the other
server from benchmarks/infinity.txt. Both take torch's CPU build where pip finds that. Nothing else should run
meanwhile: a figure during which others took more than a tenth of the machine is measured again, three times at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import typing as t
import urllib.error
import urllib.request

from ansible_collections.truthgraph.platform.benchmarks.document import (
    BenchError,
    between_markers,
    machine,
    say,
    today,
    write,
)
from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT

DOCUMENT, MARKERS = CHECKOUT / "docs" / "benchmarks.md", "embeddings"
BEGIN, END = "<!-- embeddings: begin -->", "<!-- embeddings: end -->"
APP = CHECKOUT / "files" / "app"
CACHE = CHECKOUT / ".cache" / "bench"
HOST = "127.0.0.1"
CONCURRENCY = (1, 8, 32)
MOST_REQUESTS = 20_000
START_SECONDS = 120
ANSWER_SECONDS = 30
SEED = 7
# As much of the machine as others may take before the figures say more of them than of the servers.
DISTURBED = 0.1
TRIES = 4
LEAST_COSINE = 0.9999
LEAST_GAIN = 3.0
# Each is installed without dependencies, since the files are complete.
REQUIREMENTS = {
    "service": [APP / "requirements" / name for name in ("ml.txt", "torch-cpu.txt", "model.txt")],
    "infinity": [CHECKOUT / "benchmarks" / "infinity.txt"],
}

# What the texts are made of: sentences of all lengths, as evidence and claims have them.
SENTENCES = """\
Water boils at a lower temperature on a mountain.
The bridge was closed in March.
No one was hurt.
Bees find their way by the position of the sun, which they see even when it is behind clouds.
According to the harbour's records, eleven ships arrived in that winter and only nine of them left again in spring.
Copper conducts electricity better than iron.
The mayor denied it.
A study of four thousand households found that those with a garden spent less on vegetables, but not on fruit.
Glaciers in the valley have lost about a third of their length since they were first measured, most of it recently.
The library opens at nine.
Salt keeps meat from spoiling because it draws the water out of whatever would live on it.
Two newspapers printed the same photograph, and each of them named another city as the place where it had been taken.
The recipe calls for three eggs.
Whoever claims that the tower leans more each year has not looked at the survey, which shows that it came to rest.
Sound travels faster through water than through air.
In the second half of the century the number of farms fell, while the area that the average farm worked nearly doubled.
The train was late.
An owl turns its head so far because its eyes cannot move.
The committee's report of 214 pages mentions the dam twice, once in a footnote and once in the list of its sources.
Lightning does strike the same place twice, and tall buildings are struck many times in every year.
Tea came by land to one half of the continent and by sea to the other, and its names still tell which half is which.
The museum bought the painting in 1931.
Nobody has found the original of the letter, so all that is known of it comes from a copy made eighty years later.
Vaccines train the immune system.
Rivers carry sand.
The court held that the contract was void, since one of the two who had signed it could not have known what it said.
Honey does not spoil when it is kept dry.
It rained on nineteen days in June.
The island has no wells, and its people collect the rain from their roofs in cisterns that are older than the houses.
Prices rose faster than wages for three years in a row, and then for two years they did not.
"""

IN_PROCESS = """
import json, sys, time
from sentence_transformers import SentenceTransformer
wanted = json.loads(sys.stdin.readline())
model = SentenceTransformer(wanted["model"], device="cpu", local_files_only=True)
texts = wanted["texts"]
print(json.dumps([model.encode(text).tolist() for text in texts[:8]]), flush=True)
for _asked in sys.stdin:
    latencies = []
    began = now = time.monotonic()
    while now < began + wanted["seconds"]:
        model.encode(texts[len(latencies) % len(texts)])
        before, now = now, time.monotonic()
        latencies.append(now - before)
    print(json.dumps({"latencies": latencies, "seconds": now - began}), flush=True)
"""


def texts(count: int = 512) -> list[str]:
    """Return the texts that are encoded, always the same: one sentence mostly, some of a few, and some of a page."""
    chosen = random.Random(SEED)
    sentences = SENTENCES.splitlines()
    sizes = chosen.choices((1, 2, 3, 6), (60, 25, 10, 5), k=count)
    return [" ".join(chosen.sample(sentences, size)) for size in sizes]


@dataclasses.dataclass(frozen=True)
class Server:
    """How to start a server, and how to ask it for the vector of a text."""

    label: str
    environment: str
    arguments: tuple[str, ...]
    variables: dict[str, str]
    path: str
    ask: t.Callable[[str], dict[str, t.Any]]
    vector: t.Callable[[dict[str, t.Any]], list[float]]


def service(label: str, variables: dict[str, str]) -> Server:
    """Return this collection's ML service, as its image starts it."""
    return Server(
        label,
        "service",
        ("uvicorn", "truthgraph.ml:app", "--host", HOST, "--port", "PORT", "--no-access-log"),
        {"TRUTHGRAPH_DEVICE": "cpu", **variables},
        "/embed",
        lambda text: {"texts": [text]},
        lambda body: body["embeddings"][0],
    )


SERVERS = {
    "batching": service("ML service", {}),
    "single": service("ML service, no batching", {"TRUTHGRAPH_MAX_BATCH": "1", "TRUTHGRAPH_BATCH_WINDOW_MS": "0"}),
    "infinity": Server(
        "infinity-emb",
        "infinity",
        (
            *("infinity_emb", "v2", "--model-id", "MODEL", "--served-model-name", "model", "--engine", "torch"),
            *("--device", "cpu", "--dtype", "float32", "--log-level", "warning", "--host", HOST, "--port", "PORT"),
        ),
        {},
        "/embeddings",
        lambda text: {"model": "model", "input": [text]},
        lambda body: body["data"][0]["embedding"],
    ),
}
ALONE = "in-process"
ORDER = (*SERVERS, ALONE)
LABELS = {key: server.label for key, server in SERVERS.items()} | {ALONE: "sentence-transformers, in process"}


@dataclasses.dataclass
class Point:
    """What one server did for one number of clients, for some seconds."""

    latencies: list[float]
    seconds: float
    # The share of the machine that neither the server nor its clients took.
    others: float = 0.0

    @property
    def rate(self) -> float:
        """Embeddings per second."""
        return len(self.latencies) / self.seconds


def quantile(values: t.Sequence[float], share: float) -> float:
    """Return the value below or at which a share of all values lies."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def cosine(one: t.Sequence[float], other: t.Sequence[float]) -> float:
    """Return the cosine between two vectors."""
    return sum(map(lambda a, b: a * b, one, other)) / (math.hypot(*one) * math.hypot(*other))


def machine_time() -> float:
    """Return the seconds that all cores have computed for anyone, or were taken from this machine."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, pathlib.Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def process_time(pid: int | str) -> float:
    """Return the seconds that a process has computed."""
    # The name before the last bracket may hold anything.
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Meter:
    """What the machine computes for others than a server and this program."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.began, self.machine, self.known = time.monotonic(), machine_time(), self._known()

    def _known(self) -> float:
        return process_time(self.pid) + process_time("self")

    def others(self) -> float:
        """Return their share of all cores since the beginning."""
        spent = machine_time() - self.machine - (self._known() - self.known)
        return max(0.0, spent / ((time.monotonic() - self.began) * (os.cpu_count() or 1)))


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Send a request on a kept connection, and return the body of its answer."""
    writer.write(request)
    async with asyncio.timeout(ANSWER_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        body = await reader.readexactly(int(length.group(1))) if length else b""
    if head.split()[1] != "200" or not body:
        raise BenchError(f"a server answered {head.splitlines()[0]} {body[:300].decode(errors='replace')}")
    return body


async def load(port: int, requests: t.Sequence[bytes], clients: int, seconds: float) -> Point:
    """Let some clients ask for some seconds. Each has a connection, and asks again when it is answered."""
    todo = itertools.islice(itertools.cycle(requests), MOST_REQUESTS)
    latencies: list[float] = []
    connections = [await asyncio.open_connection(HOST, port) for _ in range(clients)]
    began = time.monotonic()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (sent := time.monotonic()) < began + seconds and (request := next(todo, None)):
            await exchange(reader, writer, request)
            latencies.append(time.monotonic() - sent)

    try:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(client(*connection))
        # Until the last answer, since the last ones are counted too.
        return Point(latencies, time.monotonic() - began)
    except ExceptionGroup as errors:
        raise BenchError(f"A request failed: {errors.exceptions[0]!r}") from errors
    finally:
        for _reader, writer in connections:
            writer.close()


class Bench:
    """The installed servers, and what was measured of them."""

    def __init__(self, seconds: float, threads: int) -> None:
        self.seconds = seconds
        self.texts = texts()
        self.points: dict[tuple[str, int], list[Point]] = {}
        self.expected: list[list[float]] = []
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TRUTHGRAPH_", "INFINITY_"))},
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
            **dict.fromkeys(("HF_HUB_OFFLINE", "DO_NOT_TRACK"), "1"),
        }
        self.pythons = {name: environment(name) for name in REQUIREMENTS}
        find = "from truthgraph.ml.embedder import *; print(model_directory(Settings()))"
        self.model = self.output("service", find).strip()

    def output(self, environment_name: str, program: str) -> str:
        """Run a Python program in an environment, and return what it prints."""
        done = subprocess.run(
            [self.pythons[environment_name], "-c", program],
            cwd=APP,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"A program in the environment {environment_name} failed: {done.stderr.strip()[-800:]}")
        return done.stdout

    def quietest(self, key: str, clients: int, pid: int, measure: t.Callable[[], Point]) -> None:
        """Measure a process, and again if others disturbed it, some times at most. What was quietest counts."""
        tries: list[Point] = []
        while not tries or (tries[-1].others > DISTURBED and len(tries) < TRIES):
            meter = Meter(pid)
            point = measure()
            tries.append(dataclasses.replace(point, others=meter.others()))
            say(f"{LABELS[key]}, {clients} clients: {point.rate:.0f} per second, others {tries[-1].others:.0%}")
        self.points.setdefault((key, clients), []).append(min(tries, key=lambda one: one.others))

    def in_process(self) -> None:
        """Measure what there is without a server. Its vectors are those that every server has to answer."""
        wanted = {"model": self.model, "texts": self.texts, "seconds": self.seconds}
        with subprocess.Popen(
            [self.pythons["service"], "-c", IN_PROCESS],
            env=self.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            heard, says = t.cast(t.IO[str], process.stdin), t.cast(t.IO[str], process.stdout)

            def ask(line: str) -> t.Any:
                print(line, file=heard, flush=True)
                return json.loads(says.readline() or "null")

            self.expected = ask(json.dumps(wanted))
            if not self.expected:
                raise BenchError("sentence-transformers cannot load the model; .cache/bench/service is its environment.")
            self.quietest(ALONE, 1, process.pid, lambda: Point(**ask("")))
            heard.close()

    @contextlib.contextmanager
    def serving(self, server: Server) -> t.Iterator[tuple[int, int]]:
        """Start a server, and stop it at the end. Gives its port and its process's id."""
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        words = [{"PORT": str(port), "MODEL": self.model}.get(word, word) for word in server.arguments]
        log = CACHE / f"{server.environment}.log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [str(pathlib.Path(self.pythons[server.environment]).with_name(words[0])), *words[1:]],
                cwd=APP,
                env={**self.variables, **server.variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                end = time.monotonic() + START_SECONDS
                while not ready(port):
                    if process.poll() is not None or time.monotonic() > end:
                        raise BenchError(f"{server.label} does not start: {log.read_text(encoding='utf-8')[-2000:]}")
                    time.sleep(0.2)
                yield port, process.pid
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def server(self, key: str) -> None:
        """Measure a server with each number of clients."""
        server = SERVERS[key]
        with self.serving(server) as (port, pid):
            requests = [
                b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (server.path.encode(), HOST.encode(), len(body), body)
                for body in (json.dumps(server.ask(text)).encode() for text in self.texts)
            ]
            asyncio.run(self.compare(server, port, requests))
            asyncio.run(load(port, requests, max(CONCURRENCY), 1))
            for clients in CONCURRENCY:
                self.quietest(key, clients, pid, functools.partial(self.measured, port, requests, clients))

    def measured(self, port: int, requests: list[bytes], clients: int) -> Point:
        """Measure one round."""
        return asyncio.run(load(port, requests, clients, self.seconds))

    async def compare(self, server: Server, port: int, requests: t.Sequence[bytes]) -> None:
        """Make sure that a server answers the vectors of this model, or what is measured means nothing."""
        reader, writer = await asyncio.open_connection(HOST, port)
        for expected, request in zip(self.expected, requests, strict=True):
            found = cosine(expected, server.vector(json.loads(await exchange(reader, writer, request))))
            if found < LEAST_COSINE:
                raise BenchError(f"{server.label} answers another vector: the cosine is {found:.6f}.")
        writer.close()


def ready(port: int) -> bool:
    """Say whether a server is ready to serve."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def environment(name: str) -> str:
    """Install what is measured, unless it is there, and return its Python."""
    place = CACHE / name
    stamp, python = place / ".complete", place / "bin" / "python"
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in REQUIREMENTS[name])).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        say(f"Installing {name} into .cache/bench ...")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        for file in REQUIREMENTS[name]:
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            if subprocess.run([*command, "--requirement", str(file)], check=False).returncode:
                raise BenchError(f"{file.relative_to(CHECKOUT)} cannot be installed; what pip says stands above.")
        stamp.write_text(wanted, encoding="ascii")
    return str(python)


def span(values: t.Sequence[float], digits: int = 0) -> str:
    """Return the median, and the least and the most of several rounds."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


Points = dict[tuple[str, int], list[Point]]


def ratio(points: Points, key: str, other: str, clients: int) -> float | None:
    """Return how many times the rate of another one a server has, by their medians; None if one was not measured."""
    rates = [
        statistics.median(point.rate for point in points[name, clients]) for name in (key, other) if (name, clients) in points
    ]
    return rates[0] / rates[1] if len(rates) == 2 else None


def bars(points: Points) -> list[str]:
    """Return what is expected of the ML service, and whether it is so."""
    lines = []
    gain = ratio(points, "batching", "single", max(CONCURRENCY))
    if gain is not None:
        met = "met" if gain >= LEAST_GAIN else "not met"
        lines.append(f"- Batching with {max(CONCURRENCY)} clients, at least {LEAST_GAIN:g} times: {gain:.2f}, {met}.")
    ratios = [ratio(points, "batching", "infinity", clients) for clients in CONCURRENCY]
    beside = [one for one in ratios if one is not None]
    if len(beside) == len(ratios):
        met = "met" if min(beside) >= 1 else "not met"
        figures = ", ".join(f"{one:.2f}" for one in beside)
        lines.append(f"- Not behind infinity-emb with {', '.join(map(str, CONCURRENCY))} clients: {figures}, {met}.")
    return lines


def report(points: Points, about: list[str]) -> str:
    """Return the text that goes between the markers."""
    lines = [f"- {line}" for line in about]
    lines += [
        "",
        "| what | clients | texts per second | p50, ms | p99, ms | of no batching | of infinity-emb | others took |",
        "|" + " --- |" * 8,
    ]
    # Those that are compared stand together.
    for key, clients in sorted(points, key=lambda one: (one[1], ORDER.index(one[0]))):
        rounds = points[key, clients]
        p50, p99 = (span([1000 * quantile(one.latencies, share) for one in rounds], 1) for share in (0.5, 0.99))
        ratios = [ratio(points, key, other, clients) for other in ("single", "infinity")]
        cells = [
            *(LABELS[key], str(clients), span([one.rate for one in rounds]), p50, p99),
            *("-" if one is None else f"{one:.2f}" for one in ratios),
            f"{max(one.others for one in rounds):.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *bars(points)]
    if any(one.others > DISTURBED for rounds in points.values() for one in rounds):
        lines.append("- Others took a good part of this machine, so these figures say less than those of a quiet one.")
    return "\n".join(lines)


def describe(bench: Bench, rounds: int, threads: int) -> list[str]:
    """Return where, when and with what it was measured, without names or paths of this machine."""
    look = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in %r), sep=', ')"
    parts = ("torch", "transformers", "sentence-transformers")
    ours = bench.output("service", look % ((*parts, "fastapi", "uvicorn"),)).strip()
    theirs = bench.output("infinity", look % (("infinity-emb", *parts),)).strip()
    words = sum(len(text.split()) for text in bench.texts) / len(bench.texts)
    return [
        f"{today()} Command: `make bench-embeddings`.",
        f"Machine: {machine()}, for the server and its clients together; {threads} threads for each encoding; no GPU. "
        f"Python {sys.version.split()[0]}.",
        f"ML service: {ours}. The other server: {theirs}.",
        f"Load: one text per request, {len(bench.texts)} texts of {words:.0f} words on average (seed {SEED}), "
        f"{bench.seconds:g} s for each figure. Rounds: {rounds}; median, and the least and the most in brackets.",
    ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SERVERS), help="servers, with commas; then nothing is written")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--seconds", type=float, default=6, help="for each figure, 1 to 60")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of an encoding; all cores by default")
    parser.add_argument("--json", metavar="FILE", help="write every single figure there")
    options = parser.parse_args()
    keys = options.only.split(",")
    if unknown := sorted(set(keys) - set(SERVERS)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    if not 1 <= options.seconds <= 60:
        parser.error("--seconds must be 1 to 60")
    try:
        between_markers(DOCUMENT.read_text(encoding="utf-8"), MARKERS, "")
        bench = Bench(options.seconds, options.threads)
        for number in range(options.rounds):
            say(f"Round {number + 1} of {options.rounds}")
            bench.in_process()
            # What runs first may find a cooler machine than what runs last.
            for place in range(len(keys)):
                bench.server(keys[(place + number) % len(keys)])
        text = report(bench.points, describe(bench, options.rounds, options.threads))
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    print(text)
    if options.json:
        figures = [
            {"what": key, "clients": clients, "rounds": [dataclasses.asdict(one) for one in rounds]}
            for (key, clients), rounds in bench.points.items()
        ]
        pathlib.Path(options.json).write_text(json.dumps(figures) + "\n", encoding="utf-8")
    if keys == list(SERVERS):
        write(DOCUMENT, MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
