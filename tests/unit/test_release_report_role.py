"""What the role release says of a run, and hands to its report: its own task files, on hosts that are only named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger, Lock

OLD, NEW = "1a2b3c4d5e6f", "9f8e7d6c5b4a"
SECRET = "correct/horse battery"
LOCK = 7
CORE = {name: f"10.0.0.1:5000/truthgraph/core@sha256:{digit * 64}" for name, digit in ((OLD, "a"), (NEW, "b"))}
ML = f"10.0.0.1:5000/truthgraph/ml@sha256:{'c' * 64}"


def size(reference: str, unpacked: int) -> dict[str, t.Any]:
    sizes = {"unpacked_bytes": unpacked, "compressed_bytes": unpacked // 3}
    return {
        "reference": reference,
        "digest": reference.rpartition("@")[2],
        "revision": "abc",
        "version": "0.2.0",
        **sizes,
    }


def record(release: str) -> dict[str, t.Any]:
    sizes = {CORE[OLD].rpartition("@")[2]: {"unpacked_bytes": 201_000_000, "compressed_bytes": 70_000_000}}
    return {
        **{
            "id": release,
            "result": "stable",
            "stable_at": 5,
            "topology": "split",
            "revision": "abc",
            "version": "0.2.0",
        },
        **{"images": {"core": CORE[release], "ml": ML}, "sizes": sizes if release == OLD else {}},
    }


def state(live: str, *found: tuple[str, str, str], **more: t.Any) -> dict[str, t.Any]:
    containers = [
        {"service": service, "slot": slot, "identity": identity, "name": f"{service}-{slot}", "health": "healthy"}
        for service, slot, identity in found
    ]
    routes = {f"{service}_{slot}": identity for service, slot, identity in found if service == "api"}
    return {
        **{
            "containers": containers,
            "records": {},
            "seal": {"images": {}, "fingerprint": ""},
            "certificates": {},
            "now": 0,
        },
        **{"traffic": {**({found[0][0]: live} if live else {}), **routes}, "fence": 0, "images": [], **more},
    }


# An engine that has nothing, and a way to root that stays who it is.
PROGRAMS = {"docker": ":", "sudo": 'while [ "$1" != /bin/sh ]; do shift; done; exec "$@"', "systemctl": ":"}
HOSTS = {
    "build1": ["truthgraph_build", "truthgraph_registry"],
    "cpu1": ["truthgraph_postgres", "truthgraph_api"],
    "cpu2": ["truthgraph_api"],
    "gpu1": ["truthgraph_inference"],
}
STATES = {
    "build1": state(""),
    "cpu1": state("blue", ("api", "blue", OLD), records={OLD: record(OLD)}, fence=LOCK),
    "cpu2": state("blue", ("api", "blue", OLD), records={OLD: record(OLD)}),
    "gpu1": state("blue", ("inference", "blue", "inference_0f3a")),
}
PLAN = {
    "release": NEW,
    "changes": True,
    "record": record(NEW),
    "hosts": {
        "cpu1": {"api": {"action": "replace", "live": "blue", "slot": "green", "identity": NEW}},
        "cpu2": {"api": {"action": "replace", "live": "blue", "slot": "green", "identity": NEW}},
        "gpu1": {"inference": {"action": "keep", "live": "blue", "slot": "blue", "identity": "inference_0f3a"}},
    },
}
FACTS = {
    "release_plan": PLAN,
    "release_hosts_are_sealed": True,
    "release_images_are_there": False,
    "release_probe": {"measured": False, "requests": 0, "failures": 0, "longest_gap": 0.0, "targets": {}},
}


def task(name: str, module: str, arguments: t.Any, **more: t.Any) -> dict[str, t.Any]:
    return {"name": name, module: arguments, **more}


def role(entry: str, **variables: t.Any) -> dict[str, t.Any]:
    arguments = {"name": "truthgraph.platform.release", "tasks_from": entry}
    return task(entry, "ansible.builtin.include_role", arguments, vars=variables)


def facts(values: dict[str, t.Any]) -> dict[str, t.Any]:
    return task("Facts", "ansible.builtin.set_fact", values)


class Lab:
    """A control node and the names of four hosts."""

    def __init__(self, home: Path) -> None:
        self.home, self.reports = home, home / "state" / "reports"
        (home / "state" / "ca").mkdir(parents=True)
        (home / "state" / "ca" / "ca.crt").write_text("")
        groups: dict[str, t.Any] = {}
        for host, members in HOSTS.items():
            for group in members:
                groups.setdefault(group, {"hosts": {}})["hosts"][host] = {}
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "fleet_name": "test"}
        paths = {"fleet_state_dir": str(home / "state"), "release_state_dir": str(home / "root")}
        secrets = {"fleet_registry_password": SECRET, "fleet_database_password": SECRET, "inference_device": "cpu"}
        whole = {"children": {name: {} for name in groups}, "vars": {**variables, **paths, **secrets}}
        (home / "hosts.yml").write_text(yaml.safe_dump({**groups, "truthgraph": whole}))
        entry = {"host": "cpu1", "phase": "settled", "services": ["api"], "failed": False, "actions": ["confirmed"]}
        now = time.time() + 5
        entry.update(began=now, ended=now + 1, serves={"api": {"slot": "green", "release": NEW}})
        self.reports.mkdir()
        (home / "bin").mkdir()
        for name, body in PROGRAMS.items():
            (home / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
            (home / "bin" / name).chmod(0o755)
        (self.reports / f".steps-{LOCK}.jsonl").write_text(f"{json.dumps(entry)}\n")

    def play(self, *tasks: dict[str, t.Any], code: int = 0, without: tuple[str, ...] = (), **variables: t.Any) -> str:
        """Run tasks on the hosts after what a run has noted by then, and return what was printed."""
        states = task("State", "ansible.builtin.set_fact", {"release_state": "{{ states[inventory_hostname] }}"})
        images = {"core": size(CORE[NEW], 203_000_000), "ml": size(ML, 9**9)}
        settings = {"release_action": "deploy", "states": STATES, "images": images}
        built = facts({"image_build_images": "{{ images }}"})
        built["when"] = "inventory_hostname == 'build1'"
        step = [f"{{{{ {{'name': 'plan', 'at': {time.time()} }} }}}}"]
        known = {name: value for name, value in {**FACTS, "release_steps": step}.items() if name not in without}
        whole = {
            **{"hosts": "truthgraph", "gather_facts": False, "vars": {**settings, **variables}},
            "tasks": [states, built, facts(known), *tasks],
        }
        (self.home / "play.yml").write_text(yaml.safe_dump([whole], sort_keys=False))
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(self.home / "hosts.yml"),
            "play.yml",
        ]
        path = f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command, cwd=self.home, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done.stdout

    @property
    def facts(self) -> dict[str, t.Any]:
        """The facts of the one report."""
        [path] = self.reports.glob("*.json")
        assert path.with_suffix(".html").stat().st_size > 5000
        told: dict[str, t.Any] = json.loads(path.read_text())
        return told


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def earlier() -> dict[str, t.Any]:
    """What serves before anything is switched, as the step that plans the release notes it."""
    return facts({"release_earlier": {"release": OLD, "images": record(OLD)["images"], "sizes": record(OLD)["sizes"]}})


def test_a_good_run_leaves_a_report(lab: Lab) -> None:
    pruned = facts({"release_pruned": {"images": [CORE[OLD]], "records": ["0a0a0a0a0a0a"], "problems": [], "kept": []}})
    pruned["when"] = "inventory_hostname == 'cpu2'"
    schema = facts({"api_schema": {"before": ["0001"], "after": ["0002"], "seconds": 2.5, "image": CORE[NEW]}})
    said = lab.play(earlier(), pruned, schema, role("report_file", __release_result="stable"))
    path = re.search(r"The report of this run is (\S+\.html)", said)
    assert path and Path(path[1]).parent == lab.reports
    found = lab.facts
    assert (found["fleet"], found["action"], found["result"]) == ("test", "deploy", "stable")
    assert (found["release"], found["earlier"], found["version"], found["topology"]) == (NEW, OLD, "0.2.0", "split")
    assert found["plan"][0] == {
        **{"host": "cpu1", "service": "api", "release": f"{OLD} -> {NEW}", "image": "to be built"},
        **{"slot": "blue -> green", "done": "replaced"},
    }
    core, ml = found["images"]
    assert core["now"]["unpacked_bytes"] == 203_000_000 and core["before"]["unpacked_bytes"] == 201_000_000
    assert ml["now"]["digest"] == ml["before"]["digest"] and ml["now"]["unpacked_bytes"] == 9**9
    assert found["schema"] == {"before": ["0001"], "after": ["0002"], "seconds": 2.5}
    assert found["pruned"] == [{"host": "cpu2", "images": [CORE[OLD]], "records": ["0a0a0a0a0a0a"], "problems": []}]
    assert found["serves"] == [{"host": "cpu1", "service": "api", "slot": "green", "release": NEW}]
    assert [step["name"] for step in found["steps"]] == ["plan"] and found["steps"][0]["seconds"] > 0


def test_a_failed_run_leaves_a_report_without_secrets(lab: Lab) -> None:
    why = facts(
        {"release_failure": f"{{{{ inventory_hostname }}}}: no {SECRET}\nits log", "release_phase": "switching"}
    )
    said = lab.play(earlier(), why, role("report_file", __release_result="failed"))
    assert "The report of this run is" in said
    found = lab.facts
    assert sorted(found["failures"]) == [f"{host}: no (hidden)" for host in HOSTS]
    assert found["outcome"] == "Everything was taken back, and what served before serves again."


def test_a_run_that_failed_before_it_had_a_plan(lab: Lab) -> None:
    why = facts({"release_failure": "cpu1: no room"})
    lab.play(why, role("report_file", __release_result="failed"), without=("release_plan",))
    assert lab.facts["failures"] == ["cpu1: no room"] and lab.facts["plan"] == [] and lab.facts["images"] == []


def test_a_rollback_knows_the_sizes_from_the_ledger(lab: Lab) -> None:
    known = {**STATES, "cpu1": {**STATES["cpu1"], "records": {name: record(name) for name in (OLD, NEW)}}}
    plan = {**PLAN, "release": OLD, "record": {name: value for name, value in record(OLD).items() if name != "sizes"}}
    served = {"release": NEW, "images": record(NEW)["images"], "sizes": {}}
    returned = facts({"release_plan": plan, "release_earlier": served})
    variables: dict[str, t.Any] = {"states": known, "images": {}, "release_action": "rollback"}
    lab.play(returned, role("report_file", __release_result="stable"), **variables)
    core = lab.facts["images"][0]
    assert (lab.facts["action"], lab.facts["release"], lab.facts["earlier"]) == ("rollback", OLD, NEW)
    assert core["now"]["unpacked_bytes"] == 201_000_000 and core["before"]["unpacked_bytes"] is None


def test_a_host_that_is_lost_is_named(lab: Lab) -> None:
    gone = task("Gone", "ansible.builtin.fail", {"msg": "as if it were"}, when="inventory_hostname == 'cpu2'")
    why = facts({"release_failure": "cpu1: no room", "release_phase": "preparing"})
    lab.play(earlier(), gone, why, role("report_file", __release_result="failed"), code=2)
    assert any(text.startswith("cpu2: cannot be reached.") for text in lab.facts["failures"])
    # What it ran is not known any more.
    assert {"host": "cpu2", "release": NEW, "done": "replaced"}.items() <= lab.facts["plan"][1].items()


def test_what_an_earlier_deploy_of_the_same_run_has_answered_is_not_told_again(lab: Lab) -> None:
    schema = facts(
        {"api_schema": {"before": ["0001"], "after": ["0002"]}, "registry_pruned": {"deleted": ["x@sha256:1"]}}
    )
    before = {"schema": {"before": ["0001"], "after": ["0002"]}, "backup": "", "registry": ["x@sha256:1"]}
    lab.play(
        earlier(), schema, facts({"release_answers_before": before}), role("report_file", __release_result="stable")
    )
    assert lab.facts["schema"]["after"] == [] and lab.facts["registry"] == []


def test_a_report_that_cannot_be_made_hides_no_failure(lab: Lab) -> None:
    """In a rescue where any error is fatal, as in the steps of a deploy; the last task is what a run ends with."""
    last = task("Last words", "ansible.builtin.fail", {"msg": "this is what failed"}, run_once=True)
    block = {
        "name": "Steps",
        "any_errors_fatal": True,
        "block": [task("Fail", "ansible.builtin.fail", {"msg": "first"}, when="inventory_hostname == 'cpu2'")],
        "rescue": [role("report_file", __release_result="failed", __release_report="{{ nothing.of.the.kind }}"), last],
    }
    said = lab.play(block, code=2)
    assert "this is what failed" in said and "could not be written" in said
    assert not list(lab.reports.glob("*.html"))


@pytest.mark.parametrize(
    ("steps", "left", "outcome"),
    [
        (["plan", "preflight"], "nothing", "Nothing was changed."),
        (["plan", "preflight"], "undo", "No request went to the new release."),
        (["plan", "preflight", "hosts"], "nothing", "No request went to the new release."),
    ],
)
def test_a_refused_run_says_that_nothing_was_changed(lab: Lab, steps: list[str], left: str, outcome: str) -> None:
    noted = [{"name": name, "at": time.time()} for name in steps]
    why = facts({"release_failure": "cpu1: no room", "release_steps": noted, "release_leftovers": {"what": left, "why": []}})
    lab.play(earlier(), why, role("report_file", __release_result="failed"))
    assert lab.facts["outcome"] == outcome


def test_an_undone_run_ends_with_its_report(lab: Lab) -> None:
    """The whole of tasks/undo.yml, as the steps of a deploy come to it, on hosts on which there is nothing to be undone."""
    fence, _ = Lock(str(lab.home / "root")).acquire({"who": "me"}, "deploy", 60, time.time())
    states = {**STATES, "cpu1": {**STATES["cpu1"], "fence": fence}}
    (lab.reports / f".steps-{LOCK}.jsonl").unlink()
    block = {
        "name": "Steps",
        "any_errors_fatal": True,
        "block": [task("Fail", "ansible.builtin.fail", {"msg": "no room"}, when="inventory_hostname == 'cpu2'")],
        "rescue": [role("undo")],
    }
    said = lab.play(earlier(), facts({"release_phase": "preparing"}), block, code=2, states=states)
    assert said.index("The report of this run is") < said.index("cpu2: no room")
    found = lab.facts
    assert found["failures"] == ["cpu2: no room"] and found["outcome"] == "No request went to the new release."
    assert [step["name"] for step in found["steps"]] == ["plan", "undo"]
    assert {(entry["host"], *entry["services"]) for entry in found["phases"] if entry["phase"] == "undo"} == {
        ("cpu1", "api"),
        ("cpu2", "api"),
        ("gpu1", "inference"),
    }
    assert found["serves"][0] == {"host": "cpu1", "service": "api", "slot": "", "release": ""}
    # The lock is free again, and the ledger says what the report says.
    assert Lock(str(lab.home / "root")).read() is None
    assert Ledger(str(lab.home / "root")).journal()[-1]["why"] == "cpu2: no room"
    assert Ledger(str(lab.home / "root")).records()[0][NEW]["sizes"].keys() == {CORE[NEW][-71:], ML[-71:]}


def test_a_release_that_was_stable_is_so_again_when_a_host_is_lost(lab: Lab) -> None:
    """A rollback to it ends, since nobody reaches cpu2 any more: it can still be returned to."""
    fence, _ = Lock(str(lab.home / "root")).acquire({"who": "me"}, "rollback", 60, time.time())
    known = {name: record(name) for name in (OLD, NEW)}
    states = {host: {**found, "records": known} for host, found in STATES.items()}
    states["cpu1"]["fence"] = fence
    nowhere = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    gone = task("Reach it", "ansible.builtin.ping", {}, when="inventory_hostname == 'cpu2'", vars=nowhere)
    block = {"name": "Steps", "any_errors_fatal": True, "block": [gone], "rescue": [role("undo")]}
    wanted = {name: value for name, value in known[NEW].items() if name not in ("result", "stable_at", "sizes")}
    begun = facts({"release_phase": "preparing", "release_plan": {**PLAN, "record": wanted}})
    said = lab.play(earlier(), begun, block, code=4, states=states, release_action="rollback")
    assert "cpu2: cannot be reached" in said
    left = Ledger(str(lab.home / "root")).records()[0][NEW]
    assert (left["result"], left["stable_at"]) == ("stable", known[NEW]["stable_at"])
