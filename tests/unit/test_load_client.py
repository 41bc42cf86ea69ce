"""The tests' load client against a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.tests.load import client
from ansible_collections.truthgraph.platform.tests.load.client import Load

BODY = b'{"status": "ok"}'


class Service:
    """A server in a thread. behave(connection) is called for each request and answers it, or does not."""

    def __init__(self, port: int = 0) -> None:
        self.behave: t.Callable[[Connection], object] = Connection.answer
        self.release = "one"
        self.requests: list[tuple[str, str, bool]] = []
        self.opened = 0
        self.alive: set[Connection] = set()
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(
            self.loop.create_server(lambda: Connection(self), "127.0.0.1", port, backlog=1000)
        )
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def soon(self, call: t.Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(call)

    def drop_all(self) -> None:
        """Close every connection, as a server does with those that are idle for too long."""
        for connection in list(self.alive):
            connection.transport.close()

    def end(self) -> None:
        def stop() -> None:
            self.server.close()
            for connection in list(self.alive):
                connection.transport.abort()
            self.loop.call_later(0.02, self.loop.stop)

        if self.thread.is_alive():
            self.soon(stop)
            self.thread.join()
            self.loop.close()


class Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self.service = service
        self.place = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = t.cast(asyncio.Transport, transport)
        self.service.opened += 1
        self.service.alive.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.alive.discard(self)

    def data_received(self, data: bytes) -> None:
        head, _end, self.body = data.partition(b"\r\n\r\n")
        self.method, self.path, _version = head.split(b"\r\n", 1)[0].decode().split()
        self.closes = b"\r\nConnection: close" in head
        self.place += 1
        self.service.requests.append((self.method, self.path, self.closes))
        self.service.behave(self)

    def answer(self, code: int = 200, length: int | None = len(BODY), body: bytes = BODY, more: str = "") -> None:
        lines = [f"HTTP/1.1 {code} Some", "X-TruthGraph-Release: " + self.service.release]
        lines += [f"Content-Length: {length}"] if length is not None else []
        self.transport.write("\r\n".join([*lines, *filter(None, [more]), "", ""]).encode() + body)
        if self.closes:
            self.transport.close()


@pytest.fixture
def service() -> t.Iterator[t.Any]:
    server = Service()
    yield server
    server.end()


def seen_by(service: Service, requests: int, **more: t.Any) -> dict[str, t.Any]:
    """Put a load of so many requests on the service, from this process; return what the client saw of it."""
    plan = Load({"cpu1": service.url}, **{"rate": 300, "max_requests": requests, "max_seconds": 5, **more}).plan

    async def work() -> dict[str, t.Any]:
        return await client.Client(plan, asyncio.get_running_loop()).work()

    result = asyncio.run(work())
    return {**result["targets"]["cpu1"], "whole": result}


def test_the_load_is_as_asked_for(service: Service) -> None:
    seen = seen_by(service, 60, weights=(8, 1, 1))
    get, post = seen["methods"]["GET"], seen["methods"]["POST"]
    assert (get["requests"], get["good"], get["failures"], get["idempotent_by_method"]) == (54, 54, 0, True)
    assert (post["requests"], post["good"], post["failures"], post["idempotent_by_method"]) == (6, 6, 0, False)
    assert seen["whole"]["ended"] == "max_requests" and seen["in_flight"] == 0
    paths = [path for _method, path, _closes in service.requests]
    assert [paths.count(path) for path in ("/health", "/ready", "/api/v1/verify")] == [48, 6, 6]
    # Half of every path on connections that are kept, of which there are 8.
    for path, count in (("/health", 24), ("/ready", 3), ("/api/v1/verify", 3)):
        assert len([1 for _method, asked, closes in service.requests if asked == path and closes]) == count
    assert service.opened == 30 + 8
    assert 0 < get["latency"]["p50"] <= get["latency"]["p99"] <= get["latency"]["max"]
    assert (seen["reconnects"], seen["skipped"]) == (0, 0)


def test_the_rate_is_kept(service: Service) -> None:
    with Load({"cpu1": service.url}, rate=100) as load:
        # From one answer to the next, so that the start of the process does not count.
        time.sleep(0.2)
        first, began = load.snapshot(), time.monotonic()
        time.sleep(0.5)
        last, took = load.snapshot(), time.monotonic() - began
    sent = [shot["methods"]["GET"]["requests"] + shot["methods"]["POST"]["requests"] for shot in (first, last)]
    assert 0.8 < (sent[1] - sent[0] + last["skipped"]) / (100 * took) < 1.2


def test_post_carries_a_claim(service: Service) -> None:
    bodies = []

    def keep(connection: Connection) -> None:
        bodies.append(connection.body)
        connection.answer()

    service.behave = keep
    seen_by(service, 4, weights=(0, 0, 1), claim="A claim.")
    assert bodies and {json.loads(body)["claim"] for body in bodies} == {"A claim."}
    assert {method for method, _path, _closes in service.requests} == {"POST"}


def test_a_connection_closed_under_a_request_is_a_reconnect(service: Service) -> None:
    def once_only(connection: Connection) -> None:
        connection.answer() if connection.place == 1 else connection.transport.close()

    service.behave = once_only
    seen = seen_by(service, 60, weights=(1, 0, 0))
    asked = seen["methods"]["GET"]["requests"]
    assert seen["methods"]["GET"]["failures"] == 0
    assert seen["reconnects"] == len(service.requests) - asked > 5


def test_post_is_not_sent_again(service: Service) -> None:
    service.behave = lambda connection: connection.answer() if connection.place == 1 else connection.transport.close()
    seen = seen_by(service, 60, weights=(0, 0, 1))
    post = seen["methods"]["POST"]
    assert seen["reconnects"] == 0 and post["requests"] == len(service.requests)
    assert post["failures"] == post["requests"] - post["good"] > 5
    assert post["failed"][0]["what"] == "no answer: closed" and post["failed"][0]["path"] == "/api/v1/verify"


def test_a_new_connection_closed_without_an_answer_is_a_failure(service: Service) -> None:
    service.behave = lambda connection: connection.transport.close()
    seen = seen_by(service, 20, weights=(1, 0, 0))
    get = seen["methods"]["GET"]
    assert get["failures"] == get["requests"] == len(service.requests) and seen["reconnects"] == 0


def test_idle_connections_may_be_closed(service: Service) -> None:
    with Load({"cpu1": service.url}, rate=100) as load:
        time.sleep(0.3)
        service.soon(service.drop_all)
        time.sleep(0.3)
        seen = load.stop()["targets"]["cpu1"]
    assert seen["methods"]["GET"]["failures"] == 0
    assert seen["idle_closed"] + seen["reconnects"] >= 8


def test_statuses_and_failures(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MOST_FAILURES", 50)
    service.behave = lambda connection: connection.answer(500 if connection.path == "/ready" else 200)
    seen = seen_by(service, 90, weights=(1, 2, 0))
    get = seen["methods"]["GET"]
    assert get["statuses"] == {"200": get["good"], "500": get["failures"]}
    assert get["requests"] == 90 and get["failures"] == 60
    assert len(get["failed"]) == 50
    assert {(failure["method"], failure["path"], failure["what"]) for failure in get["failed"]} == {
        ("GET", "/ready", "it answered 500")
    }
    assert abs(get["failed"][0]["time"] - time.time()) < 60


@pytest.mark.parametrize(("code", "good"), [(200, True), (304, True), (404, False), (422, False), (503, False)])
def test_which_answers_are_good(service: Service, code: int, good: bool) -> None:
    body = b"" if code == 304 else BODY
    service.behave = lambda connection: connection.answer(code, len(body), body)
    get = seen_by(service, 4, weights=(1, 0, 0))["methods"]["GET"]
    assert (get["good"], get["failures"]) == ((4, 0) if good else (0, 4))


def test_what_hangs_is_given_up_and_the_load_goes_on(service: Service) -> None:
    service.behave = lambda connection: None if connection.path == "/ready" else connection.answer()
    seen = seen_by(service, 80, timeout=0.3, weights=(1, 1, 0))
    get = seen["methods"]["GET"]
    # All of them wait at once, and every one ends, also those under way at the stop.
    assert (get["good"], get["failures"], seen["in_flight"]) == (40, 40, 0)
    assert seen["whole"]["seconds"] < 1.5
    assert {failure["what"] for failure in get["failed"]} == {"no answer within 0.3 s"}
    assert seen["longest_gap"] < 0.25


def test_a_server_that_is_away_for_a_while_leaves_a_gap() -> None:
    first = Service()
    with Load({"cpu1": first.url}, rate=100) as load:
        time.sleep(0.2)
        first.end()
        time.sleep(0.4)
        assert load.snapshot()["targets"]["cpu1"]["since_last"] > 0.3
        second = Service(first.port)
        time.sleep(0.3)
        seen = load.stop()["targets"]["cpu1"]
    second.end()
    get = seen["methods"]["GET"]
    assert 0.4 <= seen["longest_gap"] < 1
    assert get["failures"] > 10 and "Connection refused" in {failure["what"] for failure in get["failed"]}


def test_releases_with_their_times(service: Service) -> None:
    with Load({"cpu1": service.url}, rate=100) as load:
        time.sleep(0.25)
        service.release = "two"
        time.sleep(0.25)
        one, two = load.stop()["targets"]["cpu1"]["releases"]
    assert (one["release"], two["release"]) == ("one", "two")
    assert one["first"] < one["last"] <= two["first"] < two["last"]
    assert one["requests"] + two["requests"] == len(service.requests)


@pytest.mark.parametrize(
    ("answer", "reused"),
    [
        ({"length": None, "more": "Transfer-Encoding: chunked", "body": b"2\r\nok\r\n0\r\n\r\n"}, True),
        ({"length": None, "more": "Transfer-Encoding: chunked", "body": b"0\r\n\r\n"}, True),
        ({"length": 0, "body": b""}, True),
        ({"length": len(BODY), "more": "Connection: close"}, False),
        ({"length": 3}, False),
    ],
    ids=["chunked", "empty-chunked", "empty", "closing", "longer-than-said"],
)
def test_ends_of_answers(service: Service, answer: dict[str, t.Any], reused: bool) -> None:
    service.behave = lambda connection: connection.answer(**answer)
    seen = seen_by(service, 40, weights=(1, 0, 0), timeout=0.5)
    assert (seen["methods"]["GET"]["good"], seen["methods"]["GET"]["failures"]) == (40, 0)
    assert service.opened == (28 if reused else 40)


def test_an_answer_that_ends_with_the_connection(service: Service) -> None:
    def answer(connection: Connection) -> None:
        connection.answer(length=None)
        connection.transport.close()

    service.behave = answer
    seen = seen_by(service, 10, weights=(1, 0, 0), timeout=0.5)
    assert (seen["methods"]["GET"]["good"], service.opened) == (10, 10)


def test_an_answer_in_pieces_and_one_that_breaks_off(service: Service) -> None:
    def pieces(connection: Connection) -> None:
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nx-truthgraph-release: two\r\n\r\nbody"
        parts = [whole[:12], whole[12:30], whole[30:-6], whole[-6:-2], whole[-2:]]
        if len(service.requests) == 3:
            parts = parts[:4]
            service.loop.call_later(0.1, connection.transport.close)
        for number, part in enumerate(parts):
            service.loop.call_later(0.01 * number, connection.transport.write, part)

    service.behave = pieces
    seen = seen_by(service, 10, weights=(1, 0, 0), timeout=2)
    get = seen["methods"]["GET"]
    assert (get["good"], get["failures"], seen["reconnects"]) == (9, 1, 0)
    assert get["failed"][0]["what"] == "the answer broke off: closed"
    assert seen["releases"][0]["release"] == "two" and seen["releases"][0]["requests"] == 9


def test_no_http(service: Service) -> None:
    service.behave = lambda connection: connection.transport.write(b"SSH-2.0-x\r\n\r\n")
    get = seen_by(service, 4, weights=(1, 0, 0))["methods"]["GET"]
    assert get["failures"] == 4 and get["failed"][0]["what"].startswith("not an HTTP answer: b'SSH")


@pytest.mark.parametrize(("seconds", "skips"), [(0.4, False), (1.3, True)])
def test_falling_behind_is_said(service: Service, seconds: float, skips: bool) -> None:
    with Load({"cpu1": service.url}, rate=100) as load:
        time.sleep(0.1)
        assert load._process
        load._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        before = len(service.requests)
        load._process.send_signal(signal.SIGCONT)
        time.sleep(0.15)
        burst = len(service.requests) - before
        result = load.stop()
    seen = result["targets"]["cpu1"]
    assert result["max_late"] == seen["max_late"] > seconds - 0.1
    if skips:
        assert seen["skipped"] > 100 and burst < 60
    else:
        assert seen["skipped"] == 0 and seen["late"] > 20 and burst > 30


def test_it_ends_by_itself(service: Service) -> None:
    with Load({"cpu1": service.url}, rate=100, max_seconds=0.2) as load:
        time.sleep(0.6)
        asked = len(service.requests)
        time.sleep(0.2)
        assert load.snapshot()["ended"] == "max_seconds"
        assert load.stop() == load.stop() == load.snapshot()
    assert len(service.requests) == asked <= 25


def test_it_ends_with_whoever_started_it(service: Service) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(client.__file__).parent)!r})
from client import Load
load = Load({{"cpu1": {service.url!r}}}, rate=100).start()
print(load._process.pid, flush=True)
time.sleep(30)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout
        pid = int(test.stdout.readline())
        time.sleep(0.1)
        test.kill()
    time.sleep(0.2)
    asked = len(service.requests)
    time.sleep(0.2)
    assert asked and len(service.requests) == asked
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_client_that_died_is_told() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with Load({"cpu1": f"http://127.0.0.1:{nobody.getsockname()[1]}"}, rate=10) as load:
            assert load._process
            os.kill(load._process.pid, signal.SIGKILL)
            with pytest.raises(RuntimeError, match="ended by itself with code -9"):
                load.stop()


def test_from_the_command_line(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command = [sys.executable, client.__file__, "--rate", "100", "--seconds", "0.3", "--json", str(file)]
    targets = ["--target", f"cpu1={service.url}", "--target", f"cpu2={service.url}"]
    done = subprocess.run([*command, *targets], capture_output=True, text=True, check=True, timeout=20)
    result = json.loads(file.read_text())
    assert set(result["targets"]) == {"cpu1", "cpu2"} and result["ended"] == "max_seconds"
    assert result["methods"]["GET"]["requests"] + result["methods"]["POST"]["requests"] == len(service.requests)
    assert "cpu2 GET:" in done.stdout and result["cpu_seconds_per_10000"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "there are no targets"),
        (["--target", "cpu1"], "not of the form NAME=URL"),
        (["--target", "cpu1=https://127.0.0.1"], "not an http URL"),
        (["--target", "cpu1=http://127.0.0.1", "--weights", "1:1"], "the weights are [1, 1]"),
        (["--target", "cpu1=http://127.0.0.1", "--rate", "0"], "the rate is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["client.py", *options])
    with pytest.raises(SystemExit, match="2"):
        client.main()
    assert said in capsys.readouterr().err


def test_a_round_is_spread_evenly() -> None:
    kinds = client.order((8, 1, 1))
    assert sorted(kinds) == [0] * 8 + [1, 2] and kinds[0] == kinds[-1] == 0
    assert client.order((1, 1, 0)) == [0, 1]


def test_quantiles() -> None:
    assert client.quantile({}, 0.5) is None
    assert client.quantile({float(value): 1 for value in range(1, 101)}, 0.95) == 95
    assert client.quantile({1.0: 98, 7.0: 2}, 0.99) == 7
