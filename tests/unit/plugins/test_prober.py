"""The prober against real HTTP servers that misbehave, in this process and as Ansible starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority
from ansible_collections.truthgraph.platform.plugins.action import prober as action
from ansible_collections.truthgraph.platform.plugins.plugin_utils import prober as engine

BODY = b'{"status": "ok"}'


class Service(ThreadingHTTPServer):
    """Answers as each test wants it to."""

    daemon_threads = True

    def __init__(self, behave: t.Callable[..., t.Any] = lambda handler: handler.answer(), port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behave = behave
        self.release = "one"
        self.asked = 0
        self.connections = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/health"

    def shutdown_request(self, request: t.Any) -> None:
        # Only closes, so that a test can have it be a reset.
        self.close_request(request)

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1
        self.place = 0

    def do_GET(self) -> None:
        self.server.asked += 1
        self.place += 1
        self.server.behave(self)

    def answer(self, code: int = 200, length: int = len(BODY), then_close: bool = False) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        self.send_header("X-TruthGraph-Release", self.server.release)
        self.end_headers()
        self.wfile.write(BODY)
        # Without a header that says so.
        self.close_connection = self.close_connection or then_close

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> t.Iterator[Service]:
    server = Service()
    yield server
    server.end()


def probe(server: Service, times: int, timeout: float = 1, pause: float = 0.0) -> dict[str, t.Any]:
    """Send some requests from this process."""
    target = engine.Target("cpu1", server.url, 50, timeout)
    for _time in range(times):
        target.probe()
        time.sleep(pause)
    return {**target.summary(), "samples": target.take_samples()}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_one_connection_is_kept(service: Service) -> None:
    seen = probe(service, 5)
    assert (seen["requests"], seen["failures"], seen["reconnects"]) == (5, 0, 0)
    assert (service.asked, service.connections) == (5, 1)
    assert 0 < seen["latency"]["p50"] <= seen["latency"]["p99"]
    assert [sample[1:3] + sample[4:] for sample in seen["samples"]] == [("cpu1", 200, "one")] * 5


@pytest.mark.parametrize(
    ("name", "known", "why"),
    [
        ("api.example.org", True, ""),
        ("other.example.org", True, "certificate"),
        ("api.example.org", False, "certificate"),
    ],
    ids=["as-it-should-be", "other-name", "other-authority"],
)
def test_by_tls(service: Service, tmp_path: Path, name: str, known: bool, why: str) -> None:
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.write(tmp_path, "api.example.org"))
    service.socket = context.wrap_socket(service.socket, server_side=True)
    (tmp_path / "ca.crt").write_text((authority if known else Authority()).text)
    tls = {"name": name, "ca": str(tmp_path / "ca.crt")}
    target = engine.Target("cpu1", service.url.replace("http:", "https:"), 50, 2, tls=tls)
    for _time in range(3):
        target.probe()
    seen = target.summary()
    assert (seen["requests"], seen["failures"]) == (3, 3 if why else 0), seen
    assert all(why in failure["what"].lower() for failure in seen["first_failures"])


def test_a_connection_closed_between_requests_is_no_failure(service: Service) -> None:
    service.behave = lambda handler: handler.answer(then_close=True)
    seen = probe(service, 4, pause=0.03)
    assert (seen["requests"], seen["failures"], seen["reconnects"]) == (4, 0, 3)
    assert service.asked == 4


def test_a_last_word_on_an_idle_connection_is_not_the_next_answer(service: Service) -> None:
    def answer(handler: Handler) -> None:
        handler.answer(then_close=True)
        handler.wfile.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    service.behave = answer
    seen = probe(service, 3, pause=0.03)
    assert [sample[2] for sample in seen["samples"]] == [200, 200, 200] and seen["reconnects"] == 2


def test_a_connection_closed_while_a_request_is_under_way_is_no_failure(service: Service) -> None:
    service.behave = lambda handler: handler.answer() if handler.place == 1 else handler.hang_up()
    seen = probe(service, 4)
    assert (seen["requests"], seen["failures"], seen["reconnects"]) == (4, 0, 3)
    assert service.asked == 7


def test_a_new_connection_closed_without_an_answer_is_a_failure(service: Service) -> None:
    service.behave = Handler.hang_up
    seen = probe(service, 3)
    assert (seen["requests"], seen["failures"], seen["failures_before_first"], seen["reconnects"]) == (3, 3, 3, 0)
    assert seen["first_failures"][0]["what"] == "the connection was closed without an answer"
    assert seen["never_answered"] and seen["since_last"] is None and seen["latency"]["p50"] is None


def test_a_reset_of_a_kept_connection_is_retried_once(service: Service) -> None:
    def reset(handler: Handler) -> None:
        if service.asked == 1:
            return handler.answer()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.hang_up()
        return None

    service.behave = reset
    seen = probe(service, 2)
    assert (seen["failures"], seen["reconnects"], service.asked) == (1, 1, 3)
    assert seen["first_failures"][0]["what"] == "the connection was closed without an answer"


def test_an_answer_that_breaks_off_is_a_failure(service: Service) -> None:
    missing = {2: 5}
    service.behave = lambda handler: handler.answer(length=len(BODY) + missing.get(service.asked, 0), then_close=True)
    seen = probe(service, 3, pause=0.03)
    assert (seen["failures"], seen["requests"], service.asked) == (1, 3, 3)
    assert "IncompleteRead" in seen["first_failures"][0]["what"]


@pytest.mark.parametrize(("code", "failures"), [(404, 0), (499, 0), (500, 1), (503, 1)])
def test_which_answers_are_failures(service: Service, code: int, failures: int) -> None:
    service.behave = lambda handler: handler.answer(code if service.asked == 2 else 200)
    seen = probe(service, 3)
    assert (seen["failures"], seen["failures_before_first"]) == (failures, 0)
    assert [failure["what"] for failure in seen["first_failures"]] == [f"it answered {code}"] * failures


def test_a_hanging_answer_ends_with_its_time(service: Service) -> None:
    service.behave = lambda handler: handler.answer() if service.asked != 2 else time.sleep(0.5)
    seen = probe(service, 3, timeout=0.2)
    assert (seen["failures"], seen["reconnects"]) == (1, 0)
    assert seen["first_failures"][0]["what"] == "no answer within 0.2 s"
    assert 0.2 <= seen["longest_gap"] < 0.45


def test_a_gap_is_between_good_answers_and_starts_with_the_first() -> None:
    port = free_port()
    target = engine.Target("cpu1", f"http://127.0.0.1:{port}/health", 50, 1)
    for _time in range(30):
        target.probe()
        time.sleep(0.01)
    assert target.summary()["longest_gap"] == 0 and target.summary()["never_answered"]
    first = Service(port=port)
    target.probe()
    first.behave = Handler.hang_up
    target.probe()
    first.end()
    time.sleep(0.2)
    target.probe()
    assert target.summary()["longest_gap"] == 0 and target.summary()["since_last"] >= 0.2
    second = Service(port=port)
    target.probe()
    time.sleep(0.05)
    target.probe()
    second.end()
    seen = target.summary()
    assert 0.2 <= seen["longest_gap"] < 0.5
    assert (seen["requests"], seen["failures"], seen["failures_before_first"]) == (35, 32, 30)
    assert len(seen["first_failures"]) == 20 and seen["first_failures"][0]["what"] == "Connection refused"


def test_releases_in_order_of_appearance(service: Service) -> None:
    target = engine.Target("cpu1", service.url, 50, 1)
    for release in ("two", "one", "one", "two"):
        service.release = release
        target.probe()
        time.sleep(0.01)
    two, one = target.summary()["releases"]
    assert (two["release"], two["requests"], one["release"], one["requests"]) == ("two", 2, "one", 2)
    assert two["first"] < one["first"] < one["last"] < two["last"]


def test_percentiles() -> None:
    assert engine.percentile({}, 0.5) is None
    assert engine.percentile({float(value): 1 for value in range(1, 101)}, 0.95) == 95
    assert engine.percentile({1.0: 99, 7.0: 1}, 0.99) == 1
    assert engine.percentile({1.0: 98, 7.0: 2}, 0.99) == 7


def test_targets_that_never_answered_are_not_counted() -> None:
    good = {"never_answered": False, "requests": 10, "failures": 1, "longest_gap": 0.3}
    lost = {"never_answered": True, "requests": 10, "failures": 10, "longest_gap": 0.0}
    assert engine.totals({"a": good, "b": lost, "c": {**good, "longest_gap": 0.2}}) == {
        "measured": True,
        "requests": 20,
        "failures": 2,
        "longest_gap": 0.3,
    }
    assert not engine.totals({"b": lost})["measured"]


@pytest.mark.parametrize("url", ["ftp://a/", "a:80", "http://", "http://me:secret@a/", "http://a:99999/"])
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match=r"not an http or https URL|name or password|Port out of range"):
        engine.parse_url(url)


def test_urls() -> None:
    assert engine.parse_url("http://[::1]/x?y=1") == ("::1", 80, "/x?y=1", False)
    assert engine.parse_url("http://a:81") == ("a", 81, "/", False)
    assert engine.parse_url("https://a/x") == ("a", 443, "/x", True)


# From here on as Ansible runs it.


def run(path: Path, state: str, *options: str, **more: t.Any) -> dict[str, t.Any]:
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("ansible")), "localhost", "-i", "localhost,", "-c", "local"]
        + ["-m", "truthgraph.platform.prober", "-a", json.dumps({"state": state, "path": str(path), **more}), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )
    found = re.search(r"^localhost \| \w+!? => (\{.*\})$", answer.stdout, re.MULTILINE | re.DOTALL)
    assert found, answer.stdout + answer.stderr
    result = json.loads(found[1])
    assert not result.get("changed")
    told: dict[str, t.Any] = result
    return told


def eventually(condition: t.Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def path(tmp_path: Path) -> t.Iterator[Path]:
    yield tmp_path / "probe"
    action.end(str(tmp_path / "probe"))


def config(service: Service, **more: t.Any) -> dict[str, t.Any]:
    return {"targets": {"cpu1": service.url}, "rate": 50, "timeout": 1, "limit": 20, **more}


def test_from_start_to_stop(service: Service, path: Path) -> None:
    lost = f"http://127.0.0.1:{free_port()}/"
    begun = run(path, "started", targets={"cpu1": service.url, "cpu2": lost}, rate=50, owner=os.getpid())
    assert begun["running"] and not begun["measured"] and begun["reason"] == "it has only just started"
    assert path.stat().st_mode & 0o777 == 0o700
    eventually(lambda: service.asked > 20)
    eventually((path / "result.json").exists)
    now = run(path, "read")
    assert now["running"] and now["measured"] and now["requests"] and now["ended"] == ""
    done = run(path, "stopped")
    assert (done["running"], done["measured"], done["failures"], done["ended"]) == (False, True, 0, "it was stopped")
    assert done["targets"]["cpu2"]["never_answered"] and done["targets"]["cpu2"]["failures"]
    assert done["requests"] == done["targets"]["cpu1"]["requests"] > now["requests"]
    samples = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
    assert len([sample for sample in samples if sample[1] == "cpu1" and sample[2] == 200]) == done["requests"]
    again = run(path, "stopped")
    assert not again["measured"] and not again["targets"] and "no prober ran" in again["reason"]


def test_starting_is_quick_and_detached(service: Service, path: Path) -> None:
    before = time.monotonic()
    action.start(str(path), config(service))
    # A busy machine needs some of it; the process itself takes longer than this to start.
    assert time.monotonic() - before < 0.3
    pid = action.running(str(path))
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    assert {Path(f"/proc/{pid}/fd/{number}").readlink() for number in (1, 2)} == {path / "log"}


def test_started_again_it_counts_anew(service: Service, path: Path) -> None:
    action.start(str(path), config(service))
    eventually((path / "result.json").exists)
    first = action.running(str(path))
    action.start(str(path), config(service))
    assert not engine.start_time(first) and action.running(str(path)) not in (0, first)
    assert not action.counts(str(path))["measured"]


def test_started_again_for_the_same_owner_it_goes_on(service: Service, path: Path) -> None:
    options = {"targets": {"cpu1": service.url}, "rate": 50}
    run(path, "started", **options, owner=os.getpid())
    first = action.running(str(path))
    run(path, "started", **options, owner=os.getpid())
    assert action.running(str(path)) == first
    run(path, "started", **options, owner=os.getppid())
    assert action.running(str(path)) not in (0, first)


def test_it_ends_with_its_owner(service: Service, path: Path) -> None:
    with subprocess.Popen(["sleep", "30"]) as owner:
        known = {"pid": owner.pid, "start_time": engine.start_time(owner.pid)}
        action.start(str(path), config(service, owner=known))
        eventually((path / "result.json").exists)
        assert action.running(str(path))
        owner.kill()
        gone = time.monotonic()
        eventually(lambda: not action.running(str(path)))
        assert time.monotonic() - gone < 1.5
    assert action.counts(str(path))["ended"] == f"its owner, process {owner.pid}, was gone"


def test_it_ends_at_its_limit(service: Service, path: Path) -> None:
    action.start(str(path), config(service, limit=0.6))
    eventually((path / "result.json").exists)
    eventually(lambda: not action.running(str(path)), 3)
    asked = service.asked
    stopped = run(path, "stopped")
    assert not stopped["measured"] and "its limit of 0.6 s was over" in stopped["reason"]
    assert service.asked == asked
    assert action.counts(str(path))["measured"]


def test_one_that_does_not_listen_is_killed(service: Service, path: Path) -> None:
    action.start(str(path), config(service))
    eventually(lambda: action.counts(str(path))["measured"])
    pid = action.running(str(path))
    os.kill(pid, signal.SIGSTOP)
    assert action.end(str(path), patience=0.2)
    assert not engine.start_time(pid)
    assert action.counts(str(path))["ended"] == ""


def test_another_process_of_the_same_number_is_left_alone(path: Path) -> None:
    path.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "30"]) as other:
        (path / "process.json").write_text(json.dumps({"pid": other.pid, "start_time": "1"}))
        assert not action.end(str(path))
        assert other.poll() is None
        other.kill()


def test_check_mode_starts_nothing(path: Path) -> None:
    answer = run(path, "started", "--check", targets={"cpu1": "http://127.0.0.1:9/"})
    assert not answer["measured"] and not answer["running"] and not path.exists()


def test_what_cannot_be_used_is_named(path: Path) -> None:
    assert run(path, "started", targets={})["reason"] == "there are no targets"
    assert "of the target cpu1" in run(path, "started", targets={"cpu1": "ftp://a"})["msg"]
    assert "rate is 51" in run(path, "started", targets={}, rate=51)["msg"]
    assert "timeout is 0" in run(path, "started", targets={}, timeout=0)["msg"]
    assert "does not run on this machine" in run(path, "started", targets={}, owner=2**22 + 1)["msg"]
    path.mkdir()
    path.chmod(0o777)
    assert "others can write to it" in run(path, "started", targets={"cpu1": "http://127.0.0.1:9/"})["msg"]
