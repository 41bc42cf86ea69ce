"""What benchmarks/embeddings.py sends, and what it makes of what it has measured."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import typing as t

import pytest

from ansible_collections.truthgraph.platform.benchmarks import embeddings
from ansible_collections.truthgraph.platform.benchmarks.document import BenchError
from ansible_collections.truthgraph.platform.benchmarks.embeddings import SERVERS, Point


def point(rate: float, latencies: t.Sequence[float] = (0.010, 0.020, 0.030), others: float = 0.0) -> Point:
    """What a round measured, with a rate that its latencies need not explain."""
    return Point(list(latencies), len(latencies) / rate, others)


def points(**rates: t.Sequence[float]) -> embeddings.Points:
    """Two rounds of some servers, by the rates with 1, 8 and 32 clients."""
    return {
        (key, clients): [point(rate), point(rate * 1.1)]
        for key, values in rates.items()
        for clients, rate in zip(embeddings.CONCURRENCY, values, strict=True)
    }


def test_texts_are_always_the_same_and_of_all_lengths() -> None:
    texts = embeddings.texts()
    assert texts == embeddings.texts() and len(texts) == 512
    words = sorted(len(text.split()) for text in texts)
    assert words[0] <= 4 and words[-1] >= 80 and 10 < sum(words) / len(words) < 40
    # Nothing could answer from a memory of a few texts.
    assert len(set(texts)) > 200


def test_quantile_and_cosine() -> None:
    assert [embeddings.quantile([4, 1, 3, 2], share) for share in (0.25, 0.5, 0.99, 1)] == [1, 2, 4, 4]
    assert embeddings.cosine([2, 0], [3, 0]) == 1 and embeddings.cosine([1, 0], [0, 5]) == 0
    assert embeddings.cosine([1, 1], [1, 0]) == pytest.approx(0.5**0.5)


def test_span_is_the_median_and_what_it_lies_between() -> None:
    assert embeddings.span([12.34], 1) == "12.3"
    assert embeddings.span([30, 10, 11]) == "11 (10-30)"


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"batching": (9, 30, 30), "single": (9, 9, 10), "infinity": (9, 20, 30)}, ("3.00, met", "1.50, 1.00, met")),
        ({"batching": (9, 30, 29), "single": (9, 9, 10), "infinity": (9, 20, 20)}, ("2.90, not met", "1.45, met")),
        ({"batching": (8, 30, 40), "single": (9, 9, 10), "infinity": (10, 20, 20)}, ("4.00, met", "2.00, not met")),
    ],
)
def test_bars(rates: dict[str, t.Any], expected: tuple[t.Any, ...]) -> None:
    lines = embeddings.bars(points(**rates))
    assert len(lines) == 2
    for line, end in zip(lines, expected, strict=True):
        assert line.endswith(f"{end}."), line


def test_without_the_other_servers_nothing_is_held_against_them() -> None:
    assert embeddings.bars(points(batching=(1, 2, 3))) == []


def test_report() -> None:
    found = points(infinity=(90, 180, 200), single=(80, 80, 80), batching=(100, 200, 300))
    found["in-process", 1] = [point(110)]
    lines = embeddings.report(found, ["Date: today"]).splitlines()
    assert lines[0] == "- Date: today"
    assert "| ML service | 32 | 315 (300-330) | 20.0 (20.0-20.0) | 30.0 (30.0-30.0) | 3.75 | 1.50 | 0% |" in lines
    assert "| sentence-transformers, in process | 1 | 110 | 20.0 | 30.0 | 1.31 | 1.16 | 0% |" in lines
    rows = [line.split(" | ")[:2] for line in lines if line.startswith("|")][2:]
    # Those that are compared stand together.
    assert [clients for _what, clients in rows] == ["1"] * 4 + ["8"] * 3 + ["32"] * 3
    assert rows[0][0] == "| ML service"
    assert {line.count("|") for line in lines if line.startswith("|")} == {9}
    assert not any("Others took" in line for line in lines)


def test_report_says_that_the_machine_was_not_quiet() -> None:
    found = {("batching", 1): [point(10), point(10, others=0.3)]}
    text = embeddings.report(found, [])
    assert "| 30% |" in text and "Others took a good part" in text


def test_servers_differ_only_in_what_is_compared() -> None:
    one, other = SERVERS["batching"], SERVERS["single"]
    assert (one.arguments, one.environment, one.path) == (other.arguments, other.environment, other.path)
    assert other.variables == {**one.variables, "TRUTHGRAPH_MAX_BATCH": "1", "TRUTHGRAPH_BATCH_WINDOW_MS": "0"}
    infinity = SERVERS["infinity"]
    assert infinity.vector({"data": [{"embedding": [1.0]}]}) == [1.0]
    assert all("127.0.0.1" in server.arguments for server in SERVERS.values())


@pytest.fixture
def server() -> t.Iterator[t.Any]:
    """A server that counts its connections and the requests that it works on at once."""

    class Handler(http.server.BaseHTTPRequestHandler):
        server: t.Any
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.server.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with self.server.lock:
                self.server.busy += 1
                self.server.most = max(self.server.most, self.server.busy)
                self.server.seen.append(body)
            time.sleep(0.01)
            with self.server.lock:
                self.server.busy -= 1
            self.send_response(self.server.status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            pass

    made: t.Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    # A client that gives up is what one of the tests is about.
    made.handle_error = lambda *_arguments: None
    made.lock, made.seen, made.status = threading.Lock(), [], 200
    made.connections = made.busy = made.most = 0
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


REQUESTS = [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n" + letter for letter in (b"a", b"b", b"c")]


def test_each_client_keeps_its_connection_and_has_one_request_on_its_way(server: t.Any) -> None:
    found = asyncio.run(embeddings.load(server.server_address[1], REQUESTS, 3, 0.5))
    assert (server.connections, server.most) == (3, 3)
    assert len(found.latencies) == len(server.seen) and 0.5 <= found.seconds < 1
    assert set(server.seen) == {b"a", b"b", b"c"}
    assert min(found.latencies) >= 0.01 and 10 < found.rate <= 300


def test_load_ends_by_its_number_of_requests_too(server: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MOST_REQUESTS", 7)
    assert len(asyncio.run(embeddings.load(server.server_address[1], REQUESTS, 2, 30)).latencies) == 7


def test_an_answer_that_is_no_vector_ends_the_measurement(server: t.Any) -> None:
    server.status = 503
    with pytest.raises(BenchError, match="503"):
        asyncio.run(embeddings.load(server.server_address[1], REQUESTS, 2, 1))


def test_what_others_disturbed_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = object.__new__(embeddings.Bench)
    bench.points = {}
    rates, others = iter(range(10, 20)), iter((0.5, 0.05, *[0.3, 0.4, 0.2, 0.9]))
    monkeypatch.setattr(embeddings.Meter, "others", lambda self: next(others))
    for _round in range(2):
        bench.quietest("batching", 8, os.getpid(), lambda: point(next(rates)))
    [one, other] = bench.points["batching", 8]
    assert one.others == 0.05 and one.rate == pytest.approx(11)
    # It does not go on for ever, and then what is least wrong counts.
    assert other.others == 0.2 and other.rate == pytest.approx(14)


def test_another_model_is_found_out() -> None:
    bench = object.__new__(embeddings.Bench)
    bench.expected = [[1.0, 0.0]]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"embeddings": [[1.0, 0.1]]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async def scenario() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            await bench.compare(SERVERS["batching"], listening.sockets[0].getsockname()[1], REQUESTS)

    with pytest.raises(BenchError, match=r"the cosine is 0.995037"):
        asyncio.run(scenario())


def test_time_of_a_process_and_of_the_machine() -> None:
    before = embeddings.machine_time()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        end = time.monotonic() + 30
        while embeddings.process_time(process.pid) < 0.3:
            assert time.monotonic() < end
            time.sleep(0.05)
        process.kill()
    assert embeddings.machine_time() - before >= 0.25
    assert embeddings.process_time("self") == pytest.approx(time.process_time(), abs=0.1)


def test_others_are_who_is_neither_the_server_nor_this_program(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, processes = iter((100.0, 110.0)), {7: iter((1.0, 5.0)), "self": iter((2.0, 4.0))}
    monkeypatch.setattr(embeddings, "machine_time", lambda: next(machine))
    monkeypatch.setattr(embeddings, "process_time", lambda pid: next(processes[pid]))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    meter = embeddings.Meter(7)
    meter.began -= 2
    # 10 s were computed, 4 of them by the server and 2 here, of 4 cores in 2 s.
    assert meter.others() == pytest.approx(0.5, abs=0.01)
