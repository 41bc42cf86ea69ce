"""The report: its facts, the page in a real browser, and the action that writes both."""

from __future__ import annotations

import json
import os
import random
import re
import stat
import subprocess
import sys
import threading
import time
import typing as t
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.action import prober as prober_action
from ansible_collections.truthgraph.platform.plugins.action import release_report as action
from ansible_collections.truthgraph.platform.plugins.plugin_utils import report
from ansible_collections.truthgraph.platform.tests.unit.plugins import browser

OLD, NEW = "1a2b3c4d5e6f", "9f8e7d6c5b4a"
BEGAN = 1_790_000_000.0
HOSTILE = "</style><script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"
SECRET = "correct-horse-battery"
DIGESTS = {name: f"sha256:{number * 64}" for name, number in (("core-old", "a"), ("core-new", "b"), ("ml", "c"))}


def reference(name: str) -> str:
    return f"10.0.0.1:5000/truthgraph/{name.partition('-')[0]}@{DIGESTS[name]}"


def samples(fail: t.Iterable[float] = (), back: float | None = None) -> list[report.Sample]:
    """Requests of a minute to two APIs, ten a second, that switch after 35 and 35.4 seconds; `fail` at some of these tenths.

    `back` is when the earlier release answers again.
    """
    dice = random.Random(7)
    found = []
    for place, (name, switch) in enumerate((("cpu1", 35.0), ("cpu2", 35.4))):
        for number in range(600):
            at = round(number / 10 + place / 20, 3)
            new = switch <= at < (back or 1000)
            middle = 9.0 if 20 <= at < switch else 3.0 if new else 4.0
            failed = number / 10 in fail
            status, release = (0, "") if failed else (200, NEW if new else OLD)
            found.append((at, name, status, round(dice.lognormvariate(0, 0.35) * middle, 1), release))
    return sorted(found)


def counts(found: list[report.Sample]) -> report.Data:
    """What the prober's result.json says of such samples."""
    targets = {}
    for name in ("cpu1", "cpu2"):
        own = [sample for sample in found if sample[1] == name]
        failed = [sample for sample in own if not report.is_good(sample)]
        targets[name] = {
            **{"requests": len(own), "failures": len(failed), "failures_before_first": 0, "longest_gap": 0.138},
            **{"reconnects": 1, "never_answered": False},
            "first_failures": [{"time": "2026-09-21T14:13:20.000Z", "what": "Connection refused"} for _ in failed][:20],
        }
    return {"started": "2026-09-21T14:13:22.500Z", "targets": targets}


def note(host: str, phase: str, began: float, ended: float, service: str = "api", **more: t.Any) -> report.Data:
    return {
        **{"host": host, "phase": phase, "services": [service], "began": BEGAN + began, "ended": BEGAN + ended},
        **{"failed": False, "actions": [], **more},
    }


def serves(service: str, slot: str, release: str) -> report.Data:
    return {service: {"slot": slot, "release": release}}


STEPS = (0, 4.5, 7.2, 19.8, 35.1, 48.9, 56.0)


def run(**more: t.Any) -> report.Data:
    """A deploy of a new core image to two APIs, as the role says it."""
    names = ("plan", "pull", "database", "prepare", "switch", "settle", "finish")
    return {
        **{"fleet": "lab", "action": "deploy", "result": "stable", "who": "me@control", "release": NEW, "earlier": OLD},
        **{"revision": "0123456789abcdef", "version": "0.2.0", "topology": "split"},
        "steps": [{"name": name, "at": BEGAN + at} for name, at in zip(names, STEPS, strict=True)],
        "plan": [
            ["cpu1", "api", f"{OLD} -> {NEW}", "core@1a2b -> core@9f8e", "blue -> green", "replaced"],
            ["cpu2", "api", f"{OLD} -> {NEW}", "core@1a2b -> core@9f8e", "blue -> green", "replaced"],
            ["gpu1", "inference", "0f3a", "ml@5c5c", "blue", "nothing"],
        ],
        "failures": [],
        "outcome": "",
        "images": {"core": reference("core-new"), "ml": reference("ml")},
        "earlier_images": {"core": reference("core-old"), "ml": reference("ml")},
        "sizes": {
            DIGESTS["core-new"]: {"unpacked_bytes": 203_400_000, "compressed_bytes": 71_200_000},
            DIGESTS["core-old"]: {"unpacked_bytes": 201_900_000, "compressed_bytes": 70_800_000},
            DIGESTS["ml"]: {"unpacked_bytes": 1_310_000_000, "compressed_bytes": 512_000_000},
        },
        "schema": {"before": ["0001"], "after": ["0002"], "seconds": 2.3},
        "backup": "20260921T141325Z",
        "data": {},
        "pruned": {
            "cpu1": {"images": [reference("core-old")], "records": ["0a0a0a0a0a0a"], "bills": [], "problems": []},
            "cpu2": {"images": [], "records": [], "bills": [], "problems": []},
        },
        "registry": [reference("core-old")],
        **more,
    }


NOTES = [
    note("cpu1", "prepared", 20.1, 34.0, actions=["truthgraph-api-green created and started"]),
    note("cpu2", "prepared", 20.1, 33.2, actions=["truthgraph-api-green created and started"]),
    note("gpu1", "prepared", 20.1, 20.9, "inference"),
    note(
        "cpu1", "committed", 35.3, 47.6, actions=["switched"], watched={"requests": 101, "errors": 0, "seconds": 10.0}
    ),
    note("cpu2", "committed", 35.3, 48.1, actions=["switched"], watched={"requests": 99, "errors": 0, "seconds": 10.0}),
    note("cpu1", "settled", 49.0, 53.1, actions=["confirmed"], serves=serves("api", "green", NEW)),
    note("cpu2", "settled", 49.0, 52.4, actions=["confirmed"], serves=serves("api", "green", NEW)),
    note("gpu1", "settled", 49.0, 49.4, "inference", serves=serves("inference", "blue", "inference_0f3a")),
]


def document(
    found: list[report.Sample] | None = None, notes: list[report.Data] | None = None, **more: t.Any
) -> report.Data:
    found = samples() if found is None else found
    return report.document(run(**more), NOTES if notes is None else notes, counts(found), found, BEGAN + 63.4)


def failed_document(**more: t.Any) -> report.Data:
    """A deploy whose release made errors on cpu2 and was taken back."""
    notes = [
        *NOTES[:3],
        note("cpu1", "committed", 35.3, 47.6, actions=["switched"], serves=serves("api", "green", NEW)),
        note("cpu2", "committed", 35.3, 40.2, failed=True, actions=["switched", "switched back"]),
        note("cpu1", "undone", 48.0, 50.2, actions=["switched back"], serves=serves("api", "blue", OLD)),
        note("cpu2", "undone", 48.0, 49.7, actions=["api removed"], serves=serves("api", "blue", OLD)),
    ]
    why = {
        **{
            "result": "failed",
            "outcome": "Everything was taken back, and what served before serves again.",
            "pruned": {},
        },
        "failures": [
            f"cpu2: The new slot was taken back 4.9 s after the switch. Last lines of its log:\nhunter2 {SECRET}"
        ],
        "steps": [{"name": name, "at": BEGAN + at} for name, at in (("plan", 0), ("switch", 35.1), ("undo", 48.0))],
    }
    return document(samples(fail=[36.0, 37.5, 38.0], back=45.6), notes, **{**why, **more})


# The facts.


def test_every_request_is_in_a_bucket_and_the_switches_are_where_the_answers_change() -> None:
    facts = document(samples(fail=[20.0]))
    assert facts["probe"]["bucket_seconds"] == 0.5
    for name, switch in (("cpu1", 35.0), ("cpu2", 35.4)):
        target = facts["probe"]["targets"][name]
        assert sum(bucket["requests"] for bucket in target["buckets"]) == target["requests"] == 600
        assert sum(bucket["failures"] for bucket in target["buckets"]) == target["failures"]
        assert [(entry["before"], entry["after"]) for entry in target["switches"]] == [(OLD, NEW)]
        # The prober began two and a half seconds after the run.
        assert abs(target["switches"][0]["at"] - 2.5 - switch) <= 0.1
        before, after = target["latency"]
        assert (before["release"], after["release"]) == (OLD, NEW) and before["p50"] > after["p50"]
        assert before["p50"] <= before["p95"] <= before["p99"] <= before["max"]
    assert facts["probe"]["failures"] == 2 and facts["probe"]["requests"] == 1200


def test_what_failed_before_the_first_answer_is_unanswered() -> None:
    found = [(0.1, "a", 0, 1.0, ""), (0.2, "a", 503, 1.0, ""), (0.3, "a", 200, 2.0, NEW), (0.4, "a", 500, 1.0, NEW)]
    target = report.measured(found, 0.25, 0)
    assert [(entry["unanswered"], entry["failures"], entry["requests"]) for entry in target["buckets"]] == [
        (2, 0, 2),
        (0, 1, 2),
    ]
    assert target["switches"] == [] and target["buckets"][0]["p50"] is None and target["buckets"][1]["p50"] == 2.0


@pytest.mark.parametrize(
    ("span", "requests", "wanted"),
    [(0, 0, 0.25), (10, 500, 0.25), (60, 600, 0.5), (149, 1490, 0.5), (151, 1510, 1), (3600, 36000, 30), (60, 30, 10)],
)
def test_the_width_of_buckets_follows_from_the_run(span: float, requests: int, wanted: float) -> None:
    assert report.width(span, requests) == wanted


def test_a_day_of_requests_is_bounded() -> None:
    assert 86400 / report.width(86400, 864000) <= report.MOST_BUCKETS


def test_flicker_between_releases_is_bounded() -> None:
    found = [(number / 10, "a", 200, 1.0, (OLD, NEW)[number % 2]) for number in range(200)]
    assert len(report.measured(found, 1, 0)["switches"]) == report.MOST_SWITCHES


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [report.percentile(values, part) for part in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert report.percentile([], 0.5) is None and report.percentile([7.0], 0.01) == 7
    assert report.percentile([3.0, 1.0, 2.0], 0.5) == 2


def test_steps_last_until_the_next_and_the_last_until_the_end() -> None:
    facts = document()
    assert sum(step["seconds"] for step in facts["steps"]) == pytest.approx(facts["seconds"], abs=0.05)
    assert facts["steps"][3] == {"name": "prepare", "began": 19.8, "ended": 35.1, "seconds": 15.3}
    assert facts["started"] == "2026-09-21T14:13:20Z" and facts["seconds"] == 63.4


def test_phases_are_by_host_and_what_serves_is_what_was_said_last() -> None:
    facts = document()
    assert [entry["host"] for entry in facts["phases"]] == ["cpu1"] * 3 + ["cpu2"] * 3 + ["gpu1"] * 2
    assert [entry["phase"] for entry in facts["phases"][:3]] == ["prepare", "switch and watch", "settle"]
    assert facts["phases"][0]["seconds"] == 13.9
    undone = failed_document()
    assert [(entry["host"], entry["release"]) for entry in undone["serves"]] == [("cpu1", OLD), ("cpu2", OLD)]


def test_notes_of_an_earlier_run_are_left_out() -> None:
    facts = document(notes=[note("cpu9", "undone", -50, -40, serves=serves("api", "blue", OLD)), *NOTES])
    assert "cpu9" not in json.dumps(facts)


def test_images_beside_those_of_the_release_before() -> None:
    core, ml = document()["images"]
    assert (core["name"], core["now"]["unpacked_bytes"], core["before"]["unpacked_bytes"]) == (
        "core",
        203_400_000,
        201_900_000,
    )
    assert ml["now"] == ml["before"]
    facts = document(images={"api": "x@sha256:1"}, earlier_images={"core": reference("core-old")}, sizes={})
    api, core = facts["images"]
    assert api["before"] is None and api["now"] == {
        "digest": "sha256:1",
        "unpacked_bytes": None,
        "compressed_bytes": None,
    }
    assert core["now"] is None


def test_a_log_is_not_in_the_report() -> None:
    facts = failed_document()
    assert facts["failures"] == ["cpu2: The new slot was taken back 4.9 s after the switch."]
    assert "hunter2" not in json.dumps(facts)


def test_secrets_are_hidden_wherever_they_are() -> None:
    secrets = report.texts({"api": {"release": {"TOKEN": SECRET, "SHORT": "abc"}, "current": [f"{SECRET}-longer"]}})
    assert secrets == [f"{SECRET}-longer", SECRET]
    value = {"a": [f"x{SECRET}y", 5, None], "b": {"c": f"{SECRET}-longer"}}
    assert report.hidden(value, secrets) == {"a": ["x(hidden)y", 5, None], "b": {"c": "(hidden)"}}


def test_ticks_are_round_and_few() -> None:
    assert report.ticks(63.4) == [0, 20, 40, 60]
    for seconds in (0, 0.3, 7, 59, 61, 3599, 86400):
        assert 1 <= len(report.ticks(seconds)) <= 6


def test_lines_that_are_not_whole_and_files_that_are_too_long(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    assert report.read_lines(str(path)) == ([], False)
    path.write_text("[1]\n[2]\n[3]\n[4")
    assert report.read_lines(str(path)) == ([[1], [2], [3]], False)
    assert report.read_lines(str(path), 8) == ([[3]], True)


class Service(ThreadingHTTPServer):
    """An API: it answers with its release, or 503."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.release, self.status = OLD, 200
        self.answered: list[tuple[int, str]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, release = self.server.status, self.server.release
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.send_header("X-TruthGraph-Release", release)
        self.end_headers()
        self.wfile.write(b"{}")
        self.server.answered.append((status, release))

    def log_message(self, *arguments: t.Any) -> None:
        pass


def test_what_the_prober_has_seen_of_a_real_server(tmp_path: Path) -> None:
    service, path = Service(), tmp_path / "probe"
    config = {
        "targets": {"cpu1": f"http://127.0.0.1:{service.server_port}/health"},
        "rate": 50,
        "timeout": 1,
        "limit": 20,
    }
    began = time.time()
    prober_action.start(str(path), config)
    try:
        for status, release, most in ((200, OLD, 40), (503, OLD, 50), (200, NEW, 100)):
            service.status, service.release = status, release
            deadline = time.monotonic() + 10
            while len(service.answered) < most:
                assert time.monotonic() < deadline
                time.sleep(0.005)
    finally:
        prober_action.end(str(path))
        service.shutdown()
        service.server_close()
    result = json.loads((path / "result.json").read_text())
    assert action.probed(str(path), "2026-01-01T00:00:00.000Z") == ({}, [])
    seen = report.probed(*action.probed(str(path), result["started"]), began)
    target = seen["targets"]["cpu1"]
    failed = sum(1 for status, _ in service.answered if status == 503)
    assert seen["measured"] and 5 <= failed == target["failures"] == sum(one["failures"] for one in target["buckets"])
    # The last answer may have come after the prober's end.
    assert len(service.answered) - 1 <= target["requests"] <= len(service.answered)
    assert sum(one["requests"] for one in target["buckets"]) == target["requests"]
    assert [(one["before"], one["after"]) for one in target["switches"]] == [(OLD, NEW)]
    assert 0 < target["switches"][0]["at"] < time.time() - began
    answered = {name: service.answered.count((200, name)) for name in (OLD, NEW)}
    assert {one["release"]: one["requests"] for one in target["latency"]} == pytest.approx(answered, abs=1)


# The page.


class Texts(HTMLParser):
    """The tags of a page, and whether each one that is opened is closed again."""

    VOID = frozenset({"meta", "br", "line", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"{tag} ends and {self.open[-3:]} is open"


def hostile_document() -> report.Data:
    found = [(*sample[:4], HOSTILE if sample[4] == NEW else sample[4]) for sample in samples(fail=[9.0])]
    probe = counts(found)
    probe["targets"]["cpu1"]["first_failures"][0]["what"] = HOSTILE
    names = "fleet action result who release revision version outcome backup".split()
    facts = run(**dict.fromkeys(names, HOSTILE), failures=[HOSTILE], plan=[[HOSTILE] * 6], registry=[HOSTILE])
    facts["steps"][0]["name"] = HOSTILE
    facts["pruned"] = {HOSTILE: {"images": [HOSTILE], "records": [HOSTILE], "problems": [HOSTILE]}}
    facts["images"] = {HOSTILE: HOSTILE}
    notes = [*NOTES, note(HOSTILE, HOSTILE, 1, 2, HOSTILE, actions=[HOSTILE], serves=serves(HOSTILE, HOSTILE, HOSTILE))]
    return report.document(facts, notes, probe, found, BEGAN + 63.4)


@pytest.mark.parametrize("kind", ["stable", "failed", "hostile", "first", "nothing"])
def test_the_page_is_whole_and_asks_for_nothing(kind: str) -> None:
    kinds: dict[str, t.Callable[[], report.Data]] = {
        "stable": document,
        "failed": failed_document,
        "hostile": hostile_document,
        "first": lambda: document(
            earlier="", earlier_images={}, pruned={}, registry=[], schema={"before": [], "after": ["1"]}
        ),
        "nothing": lambda: report.document({"result": "failed"}, [], {}, [], BEGAN),
    }
    facts = kinds[kind]()
    text = report.page(facts)
    tags = Texts(text).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "img", "link", "iframe", "object", "form", "a"})
    for _, attributes in tags:
        assert not {name for name in attributes if name in ("src", "href", "srcset") or name.startswith("on")}
    assert "url(" not in text and "@import" not in text and "49" not in re.findall(r"{{.*?}}|7 \* 7", text)
    # JSON is the same facts.
    assert json.loads(json.dumps(facts)) == facts


def test_the_page_of_a_run_without_prober_says_so() -> None:
    text = report.page(report.document(run(), NOTES, {}, [], BEGAN + 63.4))
    assert "Nothing was measured" in text and 'id="latency"' not in text


def test_what_is_not_drawn_is_said() -> None:
    found = samples()
    pages = [report.document(run(), NOTES, {**counts(found), "left_out": cut}, found, BEGAN + 63.4) for cut in (False, True)]
    assert [("counted only" in report.page(facts)) for facts in pages] == [False, True]


def test_the_page_of_many_requests_is_bounded() -> None:
    dice = random.Random(1)
    found = [(number / 10, name, 200, dice.uniform(1, 9), OLD) for number in range(36000) for name in ("cpu1", "cpu2")]
    began = time.monotonic()
    text = report.page(report.document(run(), NOTES, counts(found), found, BEGAN + 3600))
    assert len(text) < 300_000
    # An hour; it takes a second, and the machine may be busy.
    assert time.monotonic() - began < 10


# In a browser.


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[browser.Browser]:
    running = browser.started(tmp_path_factory.mktemp("browser"))
    yield running
    running.end()


def shown(chromium: browser.Browser) -> dict[str, tuple[str, str]]:
    """Return value and text of everything on the page that has a key."""
    expression = """[...document.querySelectorAll('[data-key]')].map(
        e => [e.dataset.key, [e.getAttribute('value'), e.innerText]])"""
    return {key: tuple(both) for key, both in chromium.read(expression)}


def opened(chromium: browser.Browser, tmp_path: Path, facts: report.Data, **more: t.Any) -> dict[str, tuple[str, str]]:
    path = tmp_path / "report.html"
    path.write_text(report.page(facts), encoding="utf-8")
    chromium.open(path, **more)
    assert chromium.requests == [path.as_uri()] and chromium.complaints == []
    return shown(chromium)


def test_the_numbers_on_the_page_are_those_of_the_facts(chromium: browser.Browser, tmp_path: Path) -> None:
    facts = document(samples(fail=[20.0]))
    page = opened(chromium, tmp_path, facts)
    assert page["release"][1] == NEW and page["earlier"][1] == OLD and page["result"][1] == "stable"
    assert page["seconds"] == ("63.4", "63.4 s")
    assert page["probe.requests"] == ("1200", "1200") and page["probe.failures"] == ("2", "2")
    assert page["probe.longest_gap"][1] == "0.138 s"
    for name, target in facts["probe"]["targets"].items():
        assert float(page[f"switch.{name}.0"][0]) == target["switches"][0]["at"]
        for seen in target["latency"]:
            for part in ("requests", "p50", "p95", "p99", "max"):
                value, text = page[f"latency.{name}.{seen['release']}.{part}"]
                assert float(value) == seen[part] == pytest.approx(float(text), abs=0.051)
    for step in facts["steps"]:
        assert float(page[f"step.{step['name']}.seconds"][0]) == step["seconds"]
    assert page["phase.cpu1.0.seconds"] == ("13.9", "13.9 s")
    assert page["image.core.now.unpacked_bytes"] == ("203400000", "203.4 MB")
    assert page["image.core.before.compressed_bytes"] == ("70800000", "70.8 MB")
    assert page["image.ml.now.unpacked_bytes"][1] == "1.31 GB"
    assert (page["schema.before"][1], page["schema.after"][1], page["backup"][1]) == (
        "0001",
        "0002",
        "20260921T141325Z",
    )
    assert page["pruned.cpu1.images"][1] == "1" and page["pruned.registry"][1] == "1"
    assert page["serves.cpu2.api"][1] == NEW


def test_the_picture_marks_the_switch_and_the_failures(chromium: browser.Browser, tmp_path: Path) -> None:
    opened(chromium, tmp_path, document(samples(fail=[20.0])))
    places = """[...document.querySelectorAll('#requests figure')].map(figure => {
        const box = figure.querySelector('svg').getBoundingClientRect();
        const middle = e => { const b = e.getBoundingClientRect(); return (b.left + b.width / 2 - box.left) / box.width };
        const svg = figure.querySelector('svg');
        return [middle(svg.querySelector('.switch')), [...svg.querySelectorAll('.failed')].map(middle)] })"""
    for (switch, failed), at in zip(chromium.read(places), (37.5, 37.95), strict=True):
        assert switch == pytest.approx(at / 63.4, abs=0.005)
        # In the middle of its interval.
        assert failed == [pytest.approx(22.5 / 63.4, abs=0.01)]


def test_what_failed_what_was_undone_and_what_serves(chromium: browser.Browser, tmp_path: Path) -> None:
    page = opened(chromium, tmp_path, failed_document())
    assert page["result"][1] == "failed"
    assert page["failure.0"][1].startswith("cpu2: The new slot was taken back 4.9 s after the switch.")
    assert page["outcome"][1] == "Everything was taken back, and what served before serves again."
    assert page["serves.cpu1.api"][1] == page["serves.cpu2.api"][1] == OLD
    text = chromium.read("document.body.innerText")
    assert "switched back" in text and "switch and watch: api (failed)" in text and "undo: api" in text
    # To the new release and back.
    assert {"switch.cpu1.0", "switch.cpu1.1"} <= set(page) and int(page["probe.failures"][0]) == 6


@pytest.mark.parametrize("kind", [document, failed_document, hostile_document])
def test_a_phone_does_not_scroll_sideways(
    chromium: browser.Browser, tmp_path: Path, kind: t.Callable[[], report.Data]
) -> None:
    opened(chromium, tmp_path, kind(), width=360, height=740)
    chromium.read("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert chromium.read("innerWidth") == 360
    assert chromium.read("document.scrollingElement.scrollWidth") <= 360
    sizes = (
        "[...document.querySelectorAll('td, p, span, dd, dt, text')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(chromium.read(sizes)) >= 11
    # The rows of the time line have room to be seen.
    widths = "[...document.querySelectorAll('#steps .bar')].map(e => e.getBoundingClientRect().width)"
    assert min(chromium.read(widths)) > 250


def test_hostile_texts_are_only_texts(chromium: browser.Browser, tmp_path: Path) -> None:
    page = opened(chromium, tmp_path, hostile_document())
    assert chromium.read("document.title").startswith(HOSTILE)
    assert chromium.read("document.querySelectorAll('script, img').length") == 0
    assert page["failure.0"][1] == HOSTILE


def test_it_is_readable_in_the_dark(chromium: browser.Browser, tmp_path: Path) -> None:
    contrast = """(() => { const part = c => { c /= 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4 };
        const light = e => (s => .2126 * part(s[0]) + .7152 * part(s[1]) + .0722 * part(s[2]))(e.match(/\\d+/g).map(Number));
        const style = getComputedStyle(document.body), faint = getComputedStyle(document.querySelector('.faint'));
        const pair = [light(style.backgroundColor), light(faint.color)].sort((a, b) => a - b);
        return [style.backgroundColor, (pair[1] + .05) / (pair[0] + .05)] })()"""
    seen = []
    for dark in (False, True):
        opened(chromium, tmp_path, document(), dark=dark)
        ground, ratio = chromium.read(contrast)
        assert ratio >= 4.5
        seen.append(ground)
    assert seen[0] != seen[1]


# As Ansible runs it.


def play(tmp_path: Path, *options: str, **arguments: t.Any) -> report.Data:
    """Run the action, and return its answer."""
    arguments = {
        "directory": str(tmp_path / "reports"),
        "notes": str(tmp_path / "reports" / ".steps-7.jsonl"),
        **arguments,
    }
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("ansible")), "localhost", "-i", "localhost,", "-c", "local"]
        + ["-m", "truthgraph.platform.release_report", "-a", json.dumps(arguments), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )
    found = re.search(r"^localhost \| \w+!? => (\{.*\})$", answer.stdout, re.MULTILINE | re.DOTALL)
    assert found, answer.stdout + answer.stderr
    assert SECRET not in answer.stdout + answer.stderr
    told: dict[str, t.Any] = json.loads(found[1])
    return told


def test_the_action_writes_page_and_facts(tmp_path: Path) -> None:
    probe, reports = tmp_path / "probe", tmp_path / "reports"
    probe.mkdir()
    reports.mkdir()
    found = samples()
    (probe / "result.json").write_text(json.dumps(counts(found)))
    (probe / "samples.jsonl").write_text("".join(f"{json.dumps(sample)}\n" for sample in found))
    (reports / ".steps-7.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in NOTES))
    told = run(who=f"{SECRET}@control", failures=[f"no {SECRET}"])
    answer = play(
        tmp_path, run=told, probe=str(probe), probe_started=counts(found)["started"], secrets={"api": {"TOKEN": SECRET}}
    )
    assert answer["changed"] and not answer["problem"], answer
    page, data = Path(answer["path"]), Path(answer["data_path"])
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-deploy-{NEW}\.html", page.name) and data.name == f"{page.stem}.json"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, data)] == [0o600, 0o600]
    assert SECRET not in page.read_text() + data.read_text()
    facts = json.loads(data.read_text())
    assert (
        facts["who"] == "(hidden)@control" and facts["probe"]["requests"] == 1200 and len(facts["phases"]) == len(NOTES)
    )
    # What it was made from is not left.
    assert sorted(os.listdir(reports)) == sorted([page.name, data.name])


def test_a_report_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("")
    answer = play(tmp_path, run=run())
    assert not answer["changed"] and "File exists" in answer["problem"] and not answer.get("failed")
    (tmp_path / "reports").unlink()
    answer = play(tmp_path, run={"steps": 5})
    assert answer["problem"].startswith("TypeError") and not answer.get("failed")


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    answer = play(tmp_path, "--check", run=run())
    assert not answer["changed"] and not (tmp_path / "reports").exists()


def test_the_newest_reports_are_kept(tmp_path: Path) -> None:
    names = [f"2026010{day}T000000Z-deploy-{NEW}" for day in range(1, 5)]
    for name in names:
        for kind in ("html", "json"):
            (tmp_path / f"{name}.{kind}").touch()
    for name in ("mine.html", ".steps-3.jsonl", ".steps-4.jsonl"):
        (tmp_path / name).touch()
    os.utime(tmp_path / ".steps-3.jsonl", (1, 1))
    assert action.prune(str(tmp_path), 0) == []
    assert action.prune(str(tmp_path), 2) == names[:2]
    left = [f"{name}.{kind}" for name in names[2:] for kind in ("html", "json")]
    assert sorted(os.listdir(tmp_path)) == sorted([".steps-4.jsonl", "mine.html", *left])
