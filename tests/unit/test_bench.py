"""What benchmarks/rollout.py makes of what it has measured, and how the figures of all benchmarks come into docs/."""

from __future__ import annotations

import http.server
import json
import pathlib
import shlex
import threading
import types
import typing as t

import pytest

from ansible_collections.truthgraph.platform.benchmarks import embeddings, rollout, scale
from ansible_collections.truthgraph.platform.benchmarks.document import BenchError, between_markers
from ansible_collections.truthgraph.platform.benchmarks.rollout import Row, Run, Service

CONTAINER: dict[str, t.Any] = {
    "Config": {
        "Cmd": ["uvicorn", "truthgraph.main:app", "--port", "8000"],
        "Env": ["ML_SERVICE_URL=http://172.30.240.1:8102", "PYTHON_ENV=production"],
        "User": "10001:10001",
        "StopTimeout": 30,
    },
    "HostConfig": {"Tmpfs": {"/tmp": "size=64m,mode=1777"}, "NetworkMode": "truthgraph", "PidsLimit": 512},
    "Mounts": [
        {"Type": "bind", "Source": "/etc/truthgraph/slots/api-green", "Destination": "/run/secrets/truthgraph"},
        {"Type": "volume", "Source": "/var/lib/docker/volumes/x", "Destination": "/data"},
    ],
}


def seen(*, old: t.Any = None, new: t.Any = None, failed: tuple[int, int] = (0, 0)) -> dict[str, t.Any]:
    """A load's result as tests/load/client.py gives it, for two targets with the same times of releases."""
    releases = [
        {"release": name, "first": first, "last": last, "requests": 9}
        for name, (first, last) in (("old", old or (None, None)), ("new", new or (None, None)))
        if first is not None
    ]
    target = {"releases": releases, "longest_gap": 0.02, "since_last": 0.1}
    return {
        "targets": {"cpu1": target, "cpu2": {**target, "longest_gap": 0.034}},
        "methods": {
            "GET": {"requests": 900, "good": 900 - failed[0], "failures": failed[0]},
            "POST": {"requests": 100, "good": 100 - failed[1], "failures": failed[1]},
        },
        "longest_gap": 0.034,
        "max_late": 0.012,
    }


BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def test_text_goes_between_the_markers_and_nothing_else_changes() -> None:
    document = f"# Title\n\nbefore\n\n{BEGIN}\nearlier\n{END}\n\nafter\n"
    once = between_markers(document, "figures", "| a |")
    assert once == f"# Title\n\nbefore\n\n{BEGIN}\n\n| a |\n\n{END}\n\nafter\n"
    assert between_markers(once, "figures", "| a |") == once


@pytest.mark.parametrize(
    "document",
    ["no markers", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n", BEGIN + END.replace("figures", "x")],
)
def test_document_without_its_markers_is_refused(document: str) -> None:
    with pytest.raises(BenchError, match="once each"):
        between_markers(document, "figures", "")


@pytest.mark.parametrize("program", [rollout, embeddings, scale], ids=lambda program: program.__name__.rpartition(".")[2])
def test_the_document_of_this_checkout_has_its_markers(program: t.Any) -> None:
    between_markers(program.DOCUMENT.read_text(encoding="utf-8"), program.MARKERS, "")


def test_run_counts_from_the_beginning_of_the_change() -> None:
    run = rollout.run_of(seen(old=(1, 104.5), new=(104.0, 120), failed=(2, 1)), 100.0, 9.0, "new")
    # The new release was seen first after 4 s, the earlier one last after 4.5 s.
    assert run == Run(9.0, 4.5, 1000, 2, 1, 0.034, 0.012)


def test_run_without_a_new_release_has_no_time_of_it() -> None:
    assert rollout.run_of(seen(old=(1, 120)), 100.0, 5.0).answers is None


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"old": (1, 5), "new": (6, 20)}, 6),
        ({"old": (1, 7), "new": (6, 20)}, 7),
        ({"new": (6, 20)}, 6),
        ({"old": (1, 20)}, float("inf")),
        # It took itself back.
        ({"old": (1, 20), "new": (6, 9)}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_release_answers_once_no_other_does(times: dict[str, t.Any], expected: float) -> None:
    [target, _other] = seen(**times)["targets"].values()
    assert rollout.answering_since(target["releases"], "new") == expected


def test_spans_and_ratios() -> None:
    assert rollout.span([], 1) == "-"
    assert rollout.span([4.21], 1) == "4.2"
    assert rollout.span([4.31, 4.12], 1) == "4.1-4.3"
    # The best of ours with the worst of theirs, and the other way round.
    assert rollout.ratio([4.0, 6.0], (5.0, 8.0)) == "0.50-1.20"
    assert rollout.ratio([], (5.0, 8.0)) == "-"


def test_report() -> None:
    updates = [Run(24.0, 8.0, 9000, 0, 0, 0.02), Run(26.0, 9.0, 9100, 1, 2, 0.03)]
    rows = [
        Row("floor", "static server", "python3", [Run(requests=4000, failed_idempotent=0, failed_others=0, gap=0.011)]),
        Row("swarm", "swarm: update", "docker service update", [Run(wall=9.81), Run(wall=9.62)]),
        Row("update", "ours: new release", "deploy.yml", updates),
        Row("nothing", "ours: nothing new", "deploy.yml", [Run(5.0, None, 3000, 0, 0, 0.02, 0.004)]),
    ]
    lines = rollout.report(rows, ["Date: today"], ["No ingress."], 10).splitlines()
    assert lines[0] == "- Date: today"
    assert "| static server | - | - | 4000 | 0 | 0 | 0.011 | `python3` |" in lines
    assert "| swarm: update | - | 9.6-9.8 | - | - | - | - | `docker service update` |" in lines
    assert "| ours: new release | 8.0-9.0 | 24.0-26.0 | 18100 | 1 | 2 | 0.030 | `deploy.yml` |" in lines
    assert "The client itself was at most 0.004 s late with a request." in lines
    assert "- No ingress." in lines
    assert any("measured earlier" in line and "0 of 37,331" in line for line in lines)
    assert "| ours: new release, until it answers everywhere | 6.9-8.0 | 8.0-9.0 | 1.00-1.30 |" in lines
    assert "| ours: new release, all of it less the bake window | 6.9-8.0 | 14.0-16.0 | 1.75-2.32 |" in lines
    assert "| ours: nothing new, all of it | 4.8-5.7 | 5.0 | 0.88-1.04 |" in lines
    columns = {line.count("|") for line in lines if line.startswith("|")}
    assert columns == {9, 5}


def test_report_without_the_rollout_does_not_compare() -> None:
    assert "Kamal" not in rollout.report([Row("floor", "static", "python3", [Run(gap=0.01)])], [], [], 10)


def test_compose_file_runs_the_service_as_it_runs() -> None:
    parsed = json.loads(Service.of(CONTAINER).compose_file())
    assert parsed["networks"]["bench"] == {"name": "truthgraph", "external": True}
    [service] = parsed["services"].values()
    assert service["image"] == "${IMAGE}"
    assert service["command"][-2:] == ["--header", "X-TruthGraph-Release:${RELEASE}"]
    assert service["environment"] == CONTAINER["Config"]["Env"]
    assert service["volumes"] == ["/etc/truthgraph/slots/api-green:/run/secrets/truthgraph:ro"]
    assert service["tmpfs"] == ["/tmp:size=64m,mode=1777"]
    assert service["ports"] == ["18080:8000"]
    assert service["stop_grace_period"] == "30s"


def test_swarm_gets_the_same_in_its_own_words() -> None:
    service = Service.of(CONTAINER)
    words = shlex.split(service.create_service("core@sha256:aa", "one"))
    assert words[:3] == ["docker", "service", "create"]
    image = words.index("core@sha256:aa")
    assert words[image + 1 :] == [*CONTAINER["Config"]["Cmd"], "--header", "X-TruthGraph-Release:one"]
    assert "type=bind,src=/etc/truthgraph/slots/api-green,dst=/run/secrets/truthgraph,readonly" in words[:image]
    assert words[words.index("--update-order") + 1] == words[words.index("--rollback-order") + 1] == "start-first"
    update = shlex.split(service.update_service("core@sha256:bb", "two"))
    assert update[update.index("--image") + 1] == "core@sha256:bb"
    assert shlex.split(update[update.index("--args") + 1])[-1] == "X-TruthGraph-Release:two"
    assert update[-1] == "truthgraph-bench"


def test_container_by_hand_is_found_again_by_its_label() -> None:
    words = shlex.split(Service.of(CONTAINER).create("core@sha256:aa", "one", "new"))
    assert words[:4] == ["docker", "create", "--name", "new"]
    assert words[words.index("--label") + 1] == "truthgraph.bench=1" and "truthgraph.bench" in rollout.CLEAN
    assert words[words.index("--publish") + 1] == "18080:8000"


@pytest.mark.parametrize("script", [rollout.CLEAN, rollout.INSTALL_COMPOSE, rollout.START_SWARM])
def test_scripts_are_filled_in(script: str) -> None:
    assert rollout.OWN in script
    assert "NAME" not in script and "OWN" not in script


def test_programs_for_hosts_are_python() -> None:
    compile(rollout.FORGET, "forget", "exec")
    compile(rollout.STATIC.replace("%d", "1"), "static", "exec")


@pytest.fixture
def api() -> t.Iterator[t.Any]:
    """A server that says of itself which release it is, and how often it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        server: t.Any
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("X-TruthGraph-Release", self.server.release)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server: t.Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.release = "b" * 12
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_stage_rollout(api: t.Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(rollout, "LEAD", 0.2)
    monkeypatch.setattr(rollout, "TRAIL", 0.2)
    bench: t.Any = object.__new__(rollout.Bench)
    bench.rows, bench.rounds = [], 1
    bench.releases = {name: name * 12 for name in "ab"}
    bench.trees = {name: tmp_path / name for name in ("a", "b", *rollout.BROKEN)}
    bench.member = types.SimpleNamespace(name="cpu1")
    bench.apis = {"cpu1": bench.member}
    bench.remembered = tmp_path / "bench.json"
    ledger = [*bench.releases.values(), "e" * 12]
    bench.records = lambda member: list(ledger)
    bench.urls = {"cpu1": f"http://127.0.0.1:{api.server_address[1]}"}
    bench.on = lambda script, seconds=0, member=None: ""
    done = []

    def playbook(name: str, variables: t.Any, cold: bool = False, fails: str = "") -> None:
        tree = pathlib.Path(variables.get("image_build_source", "")).name
        done.append((name, tree, cold, bool(fails), variables.get("release_standby")))
        if fails:
            ledger.append(tree.ljust(12, "0"))
        else:
            back = "a" if api.release == bench.releases["b"] else "b"
            api.release = bench.releases[back if name == "rollback" else tree]

    bench.playbook = playbook
    bench.rollout()
    assert done == [
        # So that nothing but the change is measured.
        ("deploy", "b", False, False, None),
        ("deploy", "a", True, False, True),
        ("rollback", "", True, False, True),
        ("rollback", "", True, False, False),
        ("rollback", "", True, False, False),
        *(("deploy", name, True, True, False) for name in rollout.BROKEN),
        ("deploy", "b", True, False, False),
    ]
    assert [row.key for row in bench.rows] == ["update", "standby", "rollback", *rollout.BROKEN, "nothing"]
    assert len(bench.rows[1].runs) == 2
    update, _standby, rollback, *undone, nothing = (row.runs[0] for row in bench.rows)
    assert all(run.answers is None for run in undone)
    # What was there before is not its to forget, those that failed are.
    made = {*bench.releases.values(), *(name.ljust(12, "0") for name in rollout.BROKEN)}
    assert set(bench.noted()["made"]) == made
    assert 0 <= update.answers < 1 and 0 <= rollback.answers < 1 and nothing.answers is None
    assert update.failed_idempotent == update.failed_others == 0 and update.requests > 50
    assert len(rollout.kamal_table(bench.rows, 0)) == 9


def test_bake_window_is_that_of_the_role() -> None:
    assert rollout.bake_window() > 0
