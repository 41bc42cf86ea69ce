# Runs that are killed at each step, and hosts that start anew in the middle. Clients are served all the while, and the next
# run, whichever it is, says what it has found, and finishes or undoes it.
import pathlib
import re
import time

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import APIS, Fleet, Playbook, Seen, UnderLoad, header, play

# By step: on which hosts to look for what, in the expression the slot that is still idle; and what becomes of the release.
STEPS = {
    "lock": (["cpu1"], "s.lock is not None", "nothing"),
    "prepare": (["cpu1", "cpu2"], "'truthgraph-api-{idle}' in s.running", "undone"),
    "bake": (["cpu1", "cpu2"], "s.map['api'].startswith('{idle}')", "undone"),
    "commit": (["cpu1"], "any(record['result'] == 'committed' for record in s.records.values())", "finished"),
    "settle": (["cpu1"], "s.map['api'] == '{idle}'", "finished"),
}


def idle_slots(found: dict[str, Seen]) -> dict[str, str]:
    return {name: found[name].other_slot for name in APIS}


def nobody_probes() -> bool:
    # The killed run's own prober has seen that its owner is gone.
    deadline = time.monotonic() + 5
    while True:
        lines = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        probing = [line for line in lines if "plugin_utils/prober.py" in line]
        if not probing or time.monotonic() > deadline:
            return probing == []
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("killed", "step", "following"),
    [
        ("deploy", "lock", "status"),
        ("rollback", "lock", "deploy"),
        ("deploy", "prepare", "rollback"),
        ("rollback", "prepare", "status"),
        ("deploy", "bake", "deploy"),
        ("rollback", "bake", "status"),
        ("deploy", "commit", "rollback"),
        ("rollback", "commit", "status"),
        ("deploy", "settle", "status"),
        ("rollback", "settle", "deploy"),
    ],
)
def test_killed(fleet: Fleet, under_load: UnderLoad, killed: str, step: str, following: str) -> None:
    new = fleet.once("other")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    hosts, condition, outcome = STEPS[step]
    variables = fleet.tree("other") if killed == "deploy" else {"release": new}
    with under_load() as seen:
        with Playbook(killed, {**variables, "release_bake": 6 if step == "bake" else 2}) as running:
            for name in hosts:
                running.until(name, condition.format(idle=idle_slots(before)[name]))
            running.kill()
            assert running.process.returncode == -9
        left = fleet.hosts["cpu1"].look()
        assert left.lock and left.lock["action"] == killed, "it has ended before it was killed"
        assert {header(url) for url in APIS.values()} <= {old, new}

        run = play(following, fleet.tree("other") if following == "deploy" else {})
        assert run.code == 0, str(run)
        serves = new if outcome == "finished" else old
        if following == "deploy":
            serves = new
        elif following == "rollback":
            serves = old if serves == new else new
        fleet.check_serves(serves)

    # It says what it has found, and whose lock that was.
    assert re.search(r"Took over the lock of .*owner gone", run.said), str(run)
    # What was begun on the hosts ends without the run that began it. All of them settle at once where the inference service
    # stays as it is: then nothing is left to be finished.
    may_be_done = step == "settle"
    if outcome == "nothing":
        assert "was interrupted" not in run.said, str(run)
    elif not may_be_done or "was interrupted" in run.said:
        assert re.search(rf"was interrupted \(.+\)\. Release {new} is now {outcome}", run.said, re.DOTALL), str(run)
    for name in APIS:
        assert set(seen.releases(name)) <= {old, new}, name
    assert nobody_probes()


def test_docker_restarts_during_prepare(fleet: Fleet, under_load: UnderLoad) -> None:
    new = fleet.once("other")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    with under_load() as seen:
        with Playbook("deploy", fleet.tree("other")) as running:
            running.until("cpu2", f"'truthgraph-api-{before['cpu2'].other_slot}' in s.running")
            fleet.hosts["cpu2"].run("systemctl", "restart", "docker")
            run = running.result()
        # Either it has waited until the engine was back, or it has taken everything back.
        if run.code:
            fleet.check_serves(old)
            run = fleet.deploy("other")
            assert run.code == 0, str(run)
        fleet.check_serves(new)
    for name in APIS:
        assert seen.releases(name) == [old, new], name


def test_host_restarts_during_the_bake(fleet: Fleet, under_load: UnderLoad) -> None:
    new = fleet.once("other")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    cpu2 = fleet.hosts["cpu2"]
    # The clients of the host that restarts have to wait for it; those of the other are served.
    with under_load(["cpu1"]) as seen:
        with Playbook("deploy", {**fleet.tree("other"), "release_bake": 10}) as running:
            for name in APIS:
                running.until(name, f"s.map['api'].startswith('{before[name].other_slot}')")
            cpu2.restart()
            run = running.result()
        assert run.code != 0, str(run)
        # It depends on what ends first there, the proxy that is watched or SSH.
        lost = "cpu2: cannot be reached" in run.last_words
        assert lost or re.search(r"cpu2: The new slot .* HAProxy does not answer", run.last_words), str(run)
        # The host came back with what had served before the switch that nobody confirmed.
        found = cpu2.look("s.slots and s.slots['truthgraph-api-" + before["cpu2"].slot + "']['health'] == 'healthy'", 60)
        assert found.release == old, found.map
        assert header(APIS["cpu2"]) == old
        # Who was missed by SSH could not be told to clean up; the other has done so before it went.
        fleet.check_serves(old, without={"cpu2"} if lost else ())
        run = play("status")
        assert run.code == 0, str(run)
        assert ("was interrupted" in run.said) == lost, str(run)
        fleet.check_serves(old)
        run = fleet.deploy("other")
        assert run.code == 0, str(run)
        fleet.check_serves(new)
    assert set(seen.releases("cpu1")) == {old, new}
