"""The module slot, run as Ansible runs it; the engine, systemd and HAProxy's socket are doubles, the rest is real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import slots, traffic
from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger
from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble, ProxyDouble

BLUE, GREEN = "truthgraph-api-blue", "truthgraph-api-green"
OLD, NEW = "111111111111", "222222222222"
KEY = "inference_0123456789ab"
SECRET = "s3cr3t-which-must-not-show"
RECORD = {"id": NEW, "result": "pending"}


class Service(ThreadingHTTPServer):
    """Answers every path with a code, and with the release that serves, as HAProxy writes it into each answer."""

    def __init__(self, code: int = 200, release: str = NEW) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.code, self.release = code, release
        self.codes: dict[str, int] = {}
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.asked.append(f"{self.command} {self.path} {body}".strip())
        self.send_response(self.server.codes.get(self.path, self.server.code))
        self.send_header("X-TruthGraph-Release", self.server.release)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *arguments: t.Any) -> None:
        pass


class Host:
    """A host: its engine, its HAProxy, and what the module is called with."""

    def __init__(self, home: Path) -> None:
        self.home, self.root, self.config = home, home / "root", home / "etc"
        self.engine = EngineDouble(home / "engine")
        self.map = home / "traffic.map"
        self.haproxy = ProxyDouble(home / "sock", self.map)
        self.service = Service()
        for name in ("systemd-run", "systemctl"):
            program = self.engine.bin / name
            # What was there when the undo was armed.
            keep = f"cp {self.map} {home}/map-then; cp {self.root}/pending.json {home}/pending-then"
            body = keep if name == "systemd-run" else "true"
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> {home}/systemd\n{body}\n')
            program.chmod(0o755)
        for slot in traffic.SLOTS:
            self.haproxy.server(f"inference_{slot}", f"inference_{slot}")
            self.haproxy.server(f"api_{slot}", f"api_{slot}")
            self.haproxy.server(f"api_{slot}_{traffic.other(slot)}", f"api_{slot}", check_status="")

    def plan(self, service: str = "api", **more: t.Any) -> dict[str, t.Any]:
        """Return the plan of a service on this host: from blue to green."""
        plan = {
            **{"action": "replace", "slot": "green", "live": "blue", "behind": True, "identity": NEW, "drain": 5},
            **{"port": self.service.server_port, "smoke": {}, "ready": {"path": "/ready", "timeout": 1, "passes": 2}},
            "container": {"image": "core@sha256:2", "environment": {"A": "1"}},
            "map": {"api_green": NEW, "egress_green": KEY},
            "public": {"address": "127.0.0.1", "port": self.service.server_port, "path": "/health"},
            **more,
        }
        directory = str(self.config / "slots" / f"{service}-{plan['slot']}")
        place = {"service": service, "slot": plan["slot"], "fleet": "test", "network": "truthgraph"}
        return {"copies": [{**place, "address": "127.0.0.1", "secrets": directory}], **plan}

    def create(self, slot: str, identity: str, status: str = "running", service: str = "api", **more: t.Any) -> None:
        """Have a container in a slot, as an earlier run created it."""
        plan, name = self.plan(service, slot=slot, **more), f"truthgraph-{service}-{slot}"
        command = slots.create_command(plan["container"], plan["copies"][0], identity)
        subprocess.run([self.engine.bin / "docker", *command], check=True)
        if status != "created":
            subprocess.run([self.engine.bin / "docker", "start", name], check=True)
        if status == "exited":
            subprocess.run([self.engine.bin / "docker", "stop", name], check=True)
        (self.engine.home / "commands").unlink()

    def publish(self, **entries: str) -> None:
        traffic.publish(entries, str(self.map), traffic.Proxy(self.haproxy.path))
        self.haproxy.commands.clear()

    def serve_old(self) -> None:
        """Have the old release serve on blue."""
        self.create("blue", OLD)
        self.publish(api="blue", api_blue=OLD, egress_blue=KEY)

    def run(self, state: str, plan: dict[str, t.Any] | None = None, **more: t.Any) -> dict[str, t.Any]:
        paths = {"root": str(self.root), "config": str(self.config), "map": str(self.map), "socket": self.haproxy.path}
        services = {"api": self.plan() if plan is None else plan}
        options = {"state": state, "release": NEW, "services": services, "fence": 5, "gid": os.getgid(), "bake": 0.3}
        result = self.engine.run("slot", **{**options, **paths, "up_timeout": 1, **more})
        assert SECRET not in json.dumps({name: value for name, value in result.items() if name != "invocation"})
        return result

    @property
    def traffic(self) -> dict[str, str]:
        """Return what the file says, which is what HAProxy has."""
        found = traffic.read_map(str(self.map))
        assert found == self.haproxy.maps[str(self.map)]
        return found

    def done(self, command: str) -> list[str]:
        """Return to which containers something was done, in its order."""
        return [line.split()[-1] for line in self.commands if line.split()[0] == command]

    @property
    def commands(self) -> list[str]:
        """Return what the engine was asked to do, without questions."""
        log = self.engine.home / "commands"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if not line.startswith(("container ", "ps ", "info "))]


@pytest.fixture
def host(tmp_path: Path) -> t.Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.haproxy.shutdown()
    host.haproxy.server_close()
    host.service.shutdown()
    host.service.server_close()


# Prepare.


def test_a_slot_is_prepared(host: Host) -> None:
    host.serve_old()
    secrets = {"api": {"release": {"TOKEN": SECRET}, "current": {"DATABASE_URL": "postgresql://x"}}}
    plan = host.plan(smoke={"path": "/search", "timeout": 5, "body": {"q": "x"}})
    result = host.run("prepared", plan, secrets=secrets, records=[RECORD], journal=[{"event": "deploy"}])
    assert result["changed"] and not result.get("failed")
    assert result["serves"] == {"api": {"slot": "blue", "release": OLD}}
    assert host.engine.containers == {BLUE: "running", GREEN: "running"}
    # No request goes there yet, but the proxy can check it.
    assert host.traffic == {"api": "blue", "api_blue": OLD, "api_green": NEW, "egress_blue": KEY, "egress_green": KEY}
    assert host.service.asked == ["GET /ready", "GET /ready", 'POST /search {"q": "x"}']
    slot, kept = host.config / "slots" / "api-green", host.config / "releases" / NEW / "api"
    assert sorted(os.listdir(slot)) == ["DATABASE_URL", "TOKEN"] and (slot / "TOKEN").read_text() == SECRET
    # What is never rolled back is not kept with the release.
    assert os.listdir(kept) == ["TOKEN"]
    assert Ledger(str(host.root)).records()[0][NEW]["result"] == "pending"
    assert [entry["event"] for entry in Ledger(str(host.root)).journal()] == ["deploy"]
    assert SECRET not in (host.engine.home / "commands").read_text()


def test_a_prepared_slot_is_left_alone(host: Host) -> None:
    host.serve_old()
    host.run("prepared")
    before = host.commands
    result = host.run("prepared")
    assert host.commands == before and [action.split(" after")[0] for action in result["actions"]] == [f"{GREEN} ready"]


def test_what_is_never_ready_fails_with_its_log(host: Host) -> None:
    host.serve_old()
    host.service.code = 503
    result = host.run("prepared")
    assert result["failed"] and f"The container {GREEN} was not ready" in result["msg"]
    assert result["msg"].endswith(f"last line of {GREEN}")
    assert host.traffic["api"] == "blue" and host.engine.containers[BLUE] == "running"
    assert not (host.root / "pending.json").exists()


def test_a_failed_trial_request_fails(host: Host) -> None:
    host.serve_old()
    host.service.codes["/search"] = 500
    result = host.run("prepared", host.plan(smoke={"path": "/search", "body": {}}))
    assert result["failed"] and "its trial request failed: POST /search answered 500" in result["msg"]
    assert host.traffic["api"] == "blue"


def test_the_same_kept_container_is_started_again(host: Host) -> None:
    host.serve_old()
    host.create("green", NEW, "exited")
    assert host.run("prepared")["actions"][0] == f"{GREEN} started"
    assert host.commands == [f"start {GREEN}"]


@pytest.mark.parametrize(("identity", "container"), [(OLD, {}), (NEW, {"container": {"image": "by-hand"}})])
def test_another_kept_container_is_created_anew(host: Host, identity: str, container: dict[str, t.Any]) -> None:
    host.serve_old()
    host.create("green", identity, "exited", **container)
    assert host.run("prepared")["actions"][0] == f"{GREEN} created and started"
    assert [command.split(" --")[0] for command in host.commands] == ["rm", "create", f"start {GREEN}"]


def test_other_secrets_restart_a_running_container(host: Host) -> None:
    host.serve_old()
    host.create("green", NEW)
    host.run("prepared", secrets={"api": {"release": {"TOKEN": SECRET}}})
    assert host.commands == [f"stop {GREEN}", f"start {GREEN}"]


def test_a_return_uses_the_secrets_that_were_kept(host: Host) -> None:
    host.serve_old()
    kept = host.config / "releases" / NEW / "api"
    kept.mkdir(parents=True)
    (kept / "TOKEN").write_text(SECRET)
    host.run("prepared", secrets={"api": {"current": {"DATABASE_URL": "new"}}})
    slot = host.config / "slots" / "api-green"
    assert (slot / "TOKEN").read_text() == SECRET and (slot / "DATABASE_URL").read_text() == "new"


def test_secrets_that_are_no_longer_wanted_go(host: Host) -> None:
    host.serve_old()
    slot = host.config / "slots" / "api-green"
    slot.mkdir(parents=True)
    (slot / "TOKEN").write_text(SECRET)
    assert not host.run("prepared", secrets={"api": {"release": {}, "current": {}}}).get("failed")
    # What is mounted is there, whoever has secrets: a release without any may be returned to by one with some.
    assert slot.is_dir() and not list(slot.iterdir())


def test_a_secret_that_cannot_be_used_is_named(host: Host) -> None:
    host.serve_old()
    result = host.run("prepared", secrets={"api": {"release": {"NOT A NAME": SECRET}}})
    assert result["failed"] and "'NOT A NAME' cannot be the name of a secret" in result["msg"]
    assert host.commands == []


def test_the_inference_service_that_serves_keeps_its_name(host: Host) -> None:
    """Its successor has another one, so the live API never asks what has not proved itself."""
    host.create("blue", KEY, service="inference")
    host.publish(inference="blue", **{KEY: "blue"})
    plan = host.plan("inference", identity=f"{KEY}.2", map={f"{KEY}.2": "green"})
    host.service.code = 503
    assert host.run("prepared", services={"inference": plan})["failed"]
    assert host.traffic == {"inference": "blue", KEY: "blue", f"{KEY}.2": "green"}
    host.run("undone", services={"inference": plan})
    assert host.traffic == {"inference": "blue", KEY: "blue"}
    assert host.engine.containers == {"truthgraph-inference-blue": "running"}


def test_the_inference_service_serves_by_the_names_that_apis_ask_for(host: Host) -> None:
    host.create("blue", KEY, service="inference")
    host.publish(inference="blue", **{KEY: "blue", f"{KEY}.2": "blue", "inference_ffff": "green"})
    result = host.engine.run(
        module="slot", state="undone", release=NEW, services={"inference": {"action": "keep"}}, fence=5,
        root=str(host.root), map=str(host.map), socket=host.haproxy.path, config=str(host.config),
    )
    assert result["serves"] == {"inference": {"slot": "blue", "release": f"{KEY}, {KEY}.2"}}


def test_what_is_kept_is_not_started(host: Host) -> None:
    host.serve_old()
    plan = host.plan(action="keep", slot="blue", map={"api_blue": OLD, "egress_blue": KEY})
    for state in ("prepared", "committed"):
        result = host.run(state, plan)
        assert not result["changed"] and host.commands == [] and host.service.asked == []


# Fences and check mode.


@pytest.mark.parametrize("state", ["prepared", "committed", "settled", "undone"])
def test_an_outdated_fence_is_refused(host: Host, state: str) -> None:
    host.serve_old()
    host.root.mkdir()
    (host.root / "fence-seen").write_text("6\n")
    result = host.run(state, records=[RECORD])
    assert result["failed"] and "This run's lock is outdated" in result["msg"]
    assert host.commands == [] and host.haproxy.commands == [] and Ledger(str(host.root)).records()[0] == {}


@pytest.mark.parametrize(
    ("state", "more", "message"),
    [("prepared", {"fence": 0}, "fenc"), ("undone", {"records": [{"id": "none"}]}, "'none'")],
)
def test_what_the_ledger_does_not_take_is_said(host: Host, state: str, more: dict[str, t.Any], message: str) -> None:
    host.serve_old()
    result = host.run(state, **more)
    assert result["failed"] and message in result["msg"] and "Traceback" not in result["msg"]


@pytest.mark.parametrize("state", ["prepared", "committed", "settled", "undone"])
def test_check_mode_does_nothing(host: Host, state: str) -> None:
    host.serve_old()
    result = host.run(state, records=[RECORD], _ansible_check_mode=True)
    assert not result["changed"] and result["actions"] == [] and "serves" not in result
    assert host.commands == [] and host.haproxy.commands == [] and not host.root.exists()


# Commit.


def prepared(host: Host) -> None:
    """Have the new release prepared on green."""
    host.serve_old()
    host.create("green", NEW)
    host.publish(**host.traffic, api_green=NEW, egress_green=KEY)


def test_a_switch(host: Host) -> None:
    prepared(host)
    result = host.run("committed")
    assert result["actions"] == ["switched"] and result["switched_at"] > 0
    assert host.traffic["api"] == "green_blue" and host.engine.containers == {BLUE: "running", GREEN: "running"}
    assert result["watched"]["errors"] == 0 and result["watched"]["seconds"] >= 0.3
    assert host.commands == [f"update --restart unless-stopped --cpu-shares 4096 {GREEN}"]
    assert host.service.asked == ["GET /health"]


def test_the_undo_is_armed_before_the_switch(host: Host) -> None:
    prepared(host)
    before = host.traffic
    host.run("committed", undo_after=77)
    assert traffic.read_map(str(host.home / "map-then")) == before
    note = json.loads((host.home / "pending-then").read_text())
    assert (note["restore"], note["release"], note["fence"]) == ({"api": "blue"}, NEW, 5)
    assert "--on-active=77.0s" in (host.home / "systemd").read_text()
    # And stays so until it is confirmed.
    assert json.loads((host.root / "pending.json").read_text()) == note


def test_a_switch_that_was_made_is_left_alone(host: Host) -> None:
    prepared(host)
    host.run("committed")
    host.haproxy.commands.clear()
    result = host.run("committed")
    assert not result["changed"] and "switched_at" not in result
    assert not any(command.startswith("commit") for command in host.haproxy.commands)


def test_nothing_is_put_behind_where_nothing_serves(host: Host) -> None:
    prepared(host)
    host.run("committed", host.plan(behind=False))
    assert host.traffic["api"] == "green"


@pytest.mark.parametrize("field", ["hrsp_5xx", "econ", "eresp", "wredis"])
def test_errors_switch_back_at_once(host: Host, field: str) -> None:
    prepared(host)
    host.haproxy.server("api_green_blue", "api_green", stot=1000, **{field: 500})

    def requests_fail() -> None:
        host.haproxy.server("api_green_blue", "api_green", stot=1100, **{field: 520})

    host.haproxy.committed = requests_fail
    result = host.run("committed", bake=15)
    assert result.get("failed") and "20 of 100 requests failed on it" in result["msg"] and result["seconds"] < 10
    assert result["msg"].endswith(f"last line of {GREEN}") and result["watched"]["errors"] == 20
    assert host.traffic["api"] == "blue" and result["actions"] == ["switched", "switched back"]
    assert not (host.root / "pending.json").exists()


@pytest.mark.parametrize(("total", "failed"), [(1100, 502), (1000 + 10000, 520)])
def test_few_errors_are_borne(host: Host, total: int, failed: int) -> None:
    prepared(host)
    host.haproxy.server("api_green_blue", "api_green", stot=1000, hrsp_5xx=500)
    host.haproxy.committed = lambda: host.haproxy.server("api_green_blue", "api_green", stot=total, hrsp_5xx=failed)
    result = host.run("committed")
    assert not result.get("failed") and host.traffic["api"] == "green_blue"
    assert result["watched"]["requests"] == total - 1000 and result["watched"]["errors"] == failed - 500


def test_a_failing_check_switches_back(host: Host) -> None:
    prepared(host)
    host.haproxy.committed = lambda: host.haproxy.server("api_green", "api_green", status="DOWN", check_status="L4CON")
    result = host.run("committed", bake=15)
    assert "HAProxy's check of it fails" in result["msg"] and host.traffic["api"] == "blue"


def test_a_check_that_is_under_way_does_not_switch_back(host: Host) -> None:
    prepared(host)
    host.haproxy.committed = lambda: host.haproxy.server("api_green", "api_green", check_status="* L7OK")
    result = host.run("committed")
    assert not result.get("failed") and host.traffic["api"] == "green_blue"


def test_what_cannot_be_switched_back_at_once_is_left_to_the_armed_undo(host: Host) -> None:
    prepared(host)
    host.service.release = OLD
    host.haproxy.committed = lambda: host.haproxy.answers.update({"commit map": "Permission denied"})
    result = host.run("committed")
    assert result["failed"] and f"answers the release {OLD}; and it could not be switched back at once" in result["msg"]
    assert "switched back" not in result["actions"] and (host.root / "pending.json").exists()


def test_without_an_undo_nothing_is_switched(host: Host) -> None:
    prepared(host)
    program = host.engine.bin / "systemd-run"
    program.write_text("#!/bin/sh\necho 'Unit truthgraph-undo.timer already exists' >&2; exit 1\n")
    result = host.run("committed")
    assert result["failed"]
    assert result["msg"].endswith("nothing was switched: Unit truthgraph-undo.timer already exists")
    assert host.traffic["api"] == "blue" and not (host.root / "pending.json").exists()


def test_the_wrong_release_in_front_switches_back(host: Host) -> None:
    prepared(host)
    host.service.release = OLD
    result = host.run("committed", bake=15)
    assert f"the public path answers the release {OLD}" in result["msg"] and host.traffic["api"] == "blue"


def test_a_public_path_without_an_answer_switches_back(host: Host) -> None:
    prepared(host)
    plan = host.plan(public={"address": "127.0.0.1", "port": 1, "path": "/health"})
    result = host.run("committed", plan, bake=15)
    assert "the public path does not answer" in result["msg"] and host.traffic["api"] == "blue"


def test_what_haproxy_does_not_find_up_is_not_switched_to(host: Host) -> None:
    prepared(host)
    host.haproxy.server("api_green", "api_green", check_status="INI")
    result = host.run("committed", up_timeout=0.3)
    assert "HAProxy does not find api_green up" in result["msg"] and host.traffic["api"] == "blue"
    assert not (host.root / "pending.json").exists() and not (host.home / "systemd").exists()


# Settle.


def test_a_switch_is_settled(host: Host) -> None:
    prepared(host)
    host.run("committed")
    result = host.run("settled", records=[{**RECORD, "result": "stable"}])
    assert result["actions"][0] == "confirmed" and f"{BLUE} stopped" in result["actions"]
    assert result["serves"] == {"api": {"slot": "green", "release": NEW}}
    assert host.traffic == {"api": "green", "api_green": NEW, "egress_green": KEY}
    # Kept, and not started by the engine.
    assert host.engine.containers == {BLUE: "exited", GREEN: "running"}
    assert host.commands[-2:] == [f"update --restart no --cpu-shares 512 {BLUE}", f"stop {BLUE}"]
    assert not (host.root / "pending.json").exists()
    assert Ledger(str(host.root)).records()[0][NEW]["result"] == "stable"
    assert not host.run("settled")["changed"]


def test_what_served_before_stands_by_and_is_returned_to_without_a_start(host: Host) -> None:
    prepared(host)
    host.run("committed")
    assert f"{BLUE} stands by" in host.run("settled", standby=["api"])["actions"]
    assert host.engine.containers == {BLUE: "running", GREEN: "running"}
    # It gets no request.
    assert host.traffic == {"api": "green", "api_green": NEW, "egress_green": KEY}
    assert not host.run("settled", standby=["api"])["changed"]
    back = host.plan(slot="blue", live="green", identity=OLD, map={"api_blue": OLD, "egress_blue": KEY})
    (host.engine.home / "commands").unlink()
    host.run("prepared", back, release=OLD)
    assert host.commands == [] and host.service.asked[-1] == "GET /ready"


def test_a_slot_that_stands_by_outlasts_the_undoing_of_another_release(host: Host) -> None:
    prepared(host)
    host.run("committed")
    host.run("settled", standby=["api"])
    host.run("undone", host.plan(slot="blue", live="green", identity="newer"), release="newer")
    assert host.engine.containers == {BLUE: "running", GREEN: "running"}


def test_what_served_before_finishes_its_requests(host: Host) -> None:
    prepared(host)
    host.run("committed")
    host.haproxy.server("api_blue", "api_blue", scur=1)
    threading.Timer(2, lambda: host.haproxy.server("api_blue", "api_blue", scur=0)).start()
    assert 1 < host.run("settled")["seconds"] < 5
    assert host.engine.containers[BLUE] == "exited"


def test_a_request_that_does_not_end_is_not_waited_for(host: Host) -> None:
    prepared(host)
    host.run("committed")
    host.haproxy.server("api_blue", "api_blue", scur=1)
    assert host.run("settled", host.plan(drain=1))["seconds"] < 5
    assert host.engine.containers[BLUE] == "exited"


def test_the_api_is_stopped_before_the_inference_service(host: Host) -> None:
    """Its last requests still ask the earlier one."""
    prepared(host)
    host.run("committed")
    host.create("blue", "inference_old", service="inference")
    host.create("green", KEY, service="inference")
    host.publish(**{**host.traffic, "inference": "green", "inference_old": "blue", KEY: "green"})
    host.run("settled", services={"inference": host.plan("inference", identity=KEY), "api": host.plan()})
    assert host.done("stop") == [BLUE, "truthgraph-inference-blue"]
    assert host.traffic == {"api": "green", "api_green": NEW, "egress_green": KEY, "inference": "green", KEY: "green"}


def test_a_service_that_the_release_has_no_more_is_retired_last(host: Host) -> None:
    prepared(host)
    host.create("blue", KEY, service="inference")
    host.create("green", "inference_older", status="exited", service="inference")
    host.publish(**{**host.traffic, "inference": "blue", KEY: "blue"})
    retired = {"action": "retire", "live": "blue", "slot": "", "identity": ""}
    services = {"inference": retired, "api": host.plan()}
    # Until the switch is confirmed, the earlier API needs it.
    for phase in ("prepared", "committed"):
        host.run(phase, services=services)
        assert host.engine.containers["truthgraph-inference-blue"] == "running" and host.traffic["inference"] == "blue"
    result = host.run("settled", services=services)
    assert "inference is retired" in result["actions"] and host.done("stop") == [BLUE, "truthgraph-inference-blue"]
    # Kept for a return, and not started by the engine.
    assert host.engine.containers["truthgraph-inference-blue"] == "exited"
    assert "update --restart no --cpu-shares 512 truthgraph-inference-blue" in host.commands
    assert host.traffic == {"api": "green", "api_green": NEW, "egress_green": KEY}
    assert not host.run("settled", services=services)["changed"]


@pytest.mark.parametrize("routed", [{"inference": "blue", KEY: "blue"}, {}], ids=["served", "running-alone"])
def test_an_undone_release_retires_nothing(host: Host, routed: dict[str, str]) -> None:
    host.create("blue", KEY, service="inference")
    host.publish(**routed)
    retired = {"action": "retire", "live": routed.get("inference", ""), "slot": "", "identity": ""}
    assert not host.run("undone", services={"inference": retired})["changed"]
    assert host.engine.containers == {"truthgraph-inference-blue": "running"}
    assert host.traffic == routed


# Cards: a copy for each, and one slot that makes room for the other.


BLUE_ML, GREEN_ML = "truthgraph-inference-blue", "truthgraph-inference-green"
OLD_KEY = "inference_old"


def cards(host: Host, count: int, slot: str = "green", **more: t.Any) -> dict[str, t.Any]:
    """Return the plan of an inference service with a copy for each of some cards."""
    plan = host.plan("inference", slot=slot, identity=KEY, map={KEY: slot}, **more)
    [place] = plan["copies"]
    numbers = range(count)
    copies = [
        {**place, **({"copy": number} if number else {}), "card": str(number), "card_access": "auto"} for number in numbers
    ]
    return {**plan, "copies": copies}


def serve_inference(host: Host, **entries: str) -> None:
    host.create("blue", OLD_KEY, service="inference")
    host.publish(inference="blue", **{OLD_KEY: "blue"}, **entries)


def test_each_card_gets_a_copy(host: Host) -> None:
    (host.engine.home / "info").write_text('["/etc/cdi", "/var/run/cdi"]')
    host.haproxy.server("inference_green", "inference_green_1")
    host.create("green", OLD_KEY, "exited", "inference")
    # One of an earlier deploy, with more cards.
    (host.engine.home / f"{GREEN_ML}.json").replace(host.engine.home / f"{GREEN_ML}-2.json")
    plan = {"inference": cards(host, 2)}
    host.run("prepared", services=plan)
    assert host.engine.containers == {GREEN_ML: "running", f"{GREEN_ML}-1": "running"}
    created = [line for line in host.commands if line.startswith("create ")]
    assert ["--device nvidia.com/gpu=0 " in created[0], "--device nvidia.com/gpu=1 " in created[1]] == [True, True]
    assert "truthgraph.copy=1" in created[1] and "truthgraph.copy" not in created[0]
    host.run("committed", services=plan)
    assert f"update --restart unless-stopped --cpu-shares 4096 {GREEN_ML} {GREEN_ML}-1" in host.commands
    host.run("undone", services=plan)
    assert host.engine.containers == {}


def test_a_switch_waits_for_every_copy(host: Host) -> None:
    host.haproxy.server("inference_green", "inference_green_1", status="DOWN")
    plan = {"inference": cards(host, 2)}
    host.run("prepared", services=plan)
    assert "does not find inference_green up" in host.run("committed", services=plan)["msg"]


def test_an_engine_without_cdi_uses_the_runtime(host: Host) -> None:
    host.run("prepared", services={"inference": cards(host, 1)})
    [created] = [line for line in host.commands if line.startswith("create ")]
    assert "--runtime nvidia --env NVIDIA_VISIBLE_DEVICES=0" in created and "nvidia.com" not in created


def test_the_earlier_slot_leaves_the_pool_and_ends_before_the_new_one_starts(host: Host) -> None:
    serve_inference(host)
    plan = {"inference": cards(host, 1)}
    published, times = [], []

    def note() -> None:
        published.append(traffic.read_map(str(host.map)))
        times.append(time.monotonic())

    host.haproxy.committed = note
    host.run("prepared", services=plan, makes_room="pool")
    # It serves on until those who ask have heard that it leaves.
    assert published[:2] == [{"inference": "blue", OLD_KEY: "blue", "leaving": "yes"}, {}]
    assert times[1] - times[0] > 2, "they ask every second"
    verbs = [line.split()[0] for line in host.commands]
    assert verbs.index("stop") < verbs.index("create") and host.engine.containers[BLUE_ML] == "exited"
    assert host.traffic == {KEY: "green"}
    host.run("committed", services=plan)
    host.run("settled", services=plan)
    assert host.traffic == {"inference": "green", KEY: "green"} and not (host.root / "displaced.json").exists()


def test_requests_wait_where_nobody_else_serves(host: Host) -> None:
    serve_inference(host)
    plan = {"inference": cards(host, 1)}
    published = []
    host.haproxy.committed = lambda: published.append(traffic.read_map(str(host.map)))
    host.run("prepared", services=plan, makes_room="alone")
    assert published[0] == {"inference": "blue", OLD_KEY: "blue", "waiting": "yes"}
    # Then the new slot answers for both releases.
    assert host.traffic == {"inference": "green", OLD_KEY: "green", KEY: "green"}
    host.run("committed", services=plan)
    host.run("settled", services=plan)
    assert host.traffic == {"inference": "green", KEY: "green"} and not (host.root / "displaced.json").exists()


@pytest.mark.parametrize("how", ["pool", "alone"])
@pytest.mark.parametrize("named", ["by its plan", "by its name"])
def test_what_made_room_is_brought_back(host: Host, how: str, named: str) -> None:
    serve_inference(host)
    before = host.traffic
    plan = {"inference": cards(host, 1)}
    host.run("prepared", services=plan, makes_room=how)
    result = host.run("undone", services=plan if named == "by its plan" else {"inference": {}})
    assert f"{BLUE_ML} started again" in result["actions"] and host.traffic == before
    assert host.engine.containers == {BLUE_ML: "running"} and not (host.root / "displaced.json").exists()
    assert f"update --restart unless-stopped --cpu-shares 4096 {BLUE_ML}" in host.commands
    assert not host.run("undone", services={"inference": {}})["changed"]


def test_what_made_room_for_a_slot_that_fails_is_brought_back(host: Host) -> None:
    serve_inference(host)
    before = host.traffic
    host.service.codes["/ready"] = 503
    plan = {"inference": cards(host, 1)}
    assert "was not ready" in host.run("prepared", services=plan, makes_room="alone")["msg"]
    assert host.traffic["waiting"] == "yes"
    host.run("undone", services=plan)
    assert host.traffic == before and host.engine.containers == {BLUE_ML: "running"}


# Undo.


def test_a_prepared_release_is_undone(host: Host) -> None:
    host.serve_old()
    before = host.traffic
    host.run("prepared", secrets={"api": {"release": {"TOKEN": SECRET}}})
    result = host.run("undone")
    assert result["actions"] == [f"{GREEN} removed", "api is served by blue"]
    assert host.engine.containers == {BLUE: "running"} and host.traffic == before
    assert not (host.config / "slots" / "api-green").exists()
    assert not host.run("undone")["changed"]


def test_a_switched_release_is_undone(host: Host) -> None:
    prepared(host)
    host.run("committed")
    result = host.run("undone")
    assert result["actions"][:2] == ["switched back", f"{GREEN} removed"]
    assert host.traffic == {"api": "blue", "api_blue": OLD, "egress_blue": KEY}
    assert host.engine.containers == {BLUE: "running"} and os.listdir(host.root).count("undone.json") == 0


def test_a_release_is_undone_by_the_names_of_its_services(host: Host) -> None:
    prepared(host)
    host.run("committed")
    assert host.run("undone", {})["actions"][:2] == ["switched back", f"{GREEN} removed"]
    assert host.traffic["api"] == "blue"


def test_the_api_is_removed_before_the_inference_service(host: Host) -> None:
    """A request that it has in hand still asks the inference service of its release."""
    prepared(host)
    host.run("committed")
    host.create("green", "inference_new", service="inference")
    host.haproxy.server("api_green", "api_green", scur=1)
    inference = host.plan("inference", identity="inference_new")
    host.run("undone", services={"inference": inference, "api": host.plan(drain=1)})
    assert host.done("rm") == [GREEN, "truthgraph-inference-green"]


def test_the_slot_that_is_kept_stopped_stays(host: Host) -> None:
    host.serve_old()
    host.create("green", "000000000000", "exited")
    result = host.run("undone")
    assert result["actions"] == [] and host.engine.containers == {BLUE: "running", GREEN: "exited"}


def test_what_the_undone_release_left_stopped_goes(host: Host) -> None:
    host.serve_old()
    host.create("green", NEW, "created")
    assert host.run("undone")["actions"] == [f"{GREEN} removed"]


def test_a_first_release_is_undone_to_nothing(host: Host) -> None:
    host.create("blue", NEW)
    host.publish()
    plan = host.plan(slot="blue", live="", behind=False, map={"api_blue": NEW, "egress_blue": KEY})
    host.run("prepared", plan)
    host.run("committed", plan)
    assert host.traffic["api"] == "blue"
    result = host.run("undone", plan)
    assert result["actions"][:2] == ["switched back", f"{BLUE} removed"]
    assert result["serves"] == {"api": {"slot": "", "release": ""}}
    assert host.traffic == {} and host.engine.containers == {}


def test_an_undo_without_haproxy_leaves_the_truth_in_the_file(host: Host) -> None:
    prepared(host)
    host.run("committed")
    result = host.run("undone", socket=str(host.home / "nobody"))
    assert result["actions"][0] == "switched back"
    assert traffic.read_map(str(host.map)) == {"api": "blue", "api_blue": OLD, "egress_blue": KEY}


# As an action, which notes on the control node what was done.


def as_action(host: Host, *options: str, **more: t.Any) -> tuple[dict[str, t.Any], list[dict[str, t.Any]]]:
    """Run the action on this machine with the engine's double, and return its answer and the notes."""
    notes = host.home / "reports" / "notes.jsonl"
    arguments = {
        **{"state": "undone", "release": NEW, "services": {"api": {}}, "fence": 5, "notes": str(notes), "root": str(host.root)},
        **{"config": str(host.config), "map": str(host.map), "socket": host.haproxy.path, **more},
    }
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("ansible")), "localhost", "-i", "localhost,", "-c", "local"]
        + ["-e", json.dumps({"ansible_python_interpreter": sys.executable})]
        + ["-m", "truthgraph.platform.slot", "-a", json.dumps(arguments), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PATH": f"{host.engine.bin}:{os.environ['PATH']}", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )
    found = re.search(r"^localhost \| \w+!? => (\{.*\})$", answer.stdout, re.MULTILINE | re.DOTALL)
    assert found, answer.stdout + answer.stderr
    lines = notes.read_text().splitlines() if notes.exists() else []
    return {**json.loads(found[1]), "said": answer.stdout + answer.stderr}, [json.loads(line) for line in lines]


def test_each_phase_is_noted(host: Host) -> None:
    prepared(host)
    before = time.time()
    answer, [note] = as_action(host)
    assert answer["changed"] and f"{GREEN} removed" in answer["actions"]
    assert before <= note["began"] < note["ended"] <= time.time()
    assert (note["host"], note["phase"], note["services"], note["failed"]) == ("localhost", "undone", ["api"], False)
    assert note["actions"] == answer["actions"] and note["serves"] == {"api": {"slot": "blue", "release": OLD}}
    assert (host.home / "reports" / "notes.jsonl").stat().st_mode & 0o777 == 0o600
    # What fails is noted, too, and why it does is not: that may be anybody's words.
    answer, [_, note] = as_action(host, fence=3)
    assert "outdated" in answer["msg"] and note["failed"] and "outdated" not in json.dumps(note)


def test_a_host_that_cannot_be_reached_is_noted(host: Host) -> None:
    answer, [note] = as_action(host, "-c", "ssh", "-e", "ansible_host=127.0.0.1 ansible_port=9")
    assert answer["unreachable"] and note["failed"] and "serves" not in note


def test_nothing_is_noted_unasked(host: Host) -> None:
    host.serve_old()
    assert as_action(host, notes="")[1] == []
    assert as_action(host, "--check")[1] == []
    # What cannot be noted is no failure of what was done.
    (host.home / "reports").write_text("")
    answer, _ = as_action(host, notes=str(host.home / "reports" / "x"))
    assert not answer.get("failed") and "is missing in the report" in answer["said"]
