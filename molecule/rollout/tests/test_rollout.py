# Releases that change hands as they should. The tests run in their order, since each starts from what the one before has
# left; alone, each makes for itself what it needs.
import contextlib
import re
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import (
    APIS,
    SERVICES,
    Clients,
    Fleet,
    Seen,
    UnderLoad,
    header,
    never_ready,
    play,
    unchanged,
)

ROLLED_OUT = list(SERVICES)
SAW_NOTHING = r"Meanwhile (\d+) requests were sent to the API from here: 0 failed"
VARIABLE = "TRUTHGRAPH_TEST_COLOUR"
SECRET = "TRUTHGRAPH_TEST_TOKEN"
SECRET_FILE = f"/run/secrets/truthgraph/{SECRET}"


def switched(fleet: Fleet, seen: Clients, old: str, new: str) -> dict[str, Seen]:
    # On every host the other release serves, the earlier slot is kept and does not run, and clients saw one after the other.
    found = fleet.check_serves(new)
    for name in APIS:
        kept = found[name].slots[found[name].other_slot]
        assert kept["state"] == "exited", f"{name}: {kept}"
        assert kept["restart"] == "no", f"{name}: {kept}"
        assert seen.releases(name) == [old, new], name
        assert found[name].records[old]["result"] == "stable", name
    return found


def environment(found: dict[str, Seen], name: str) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in found[name].live["environment"])


@contextlib.contextmanager
def no_registry(fleet: Fleet) -> t.Iterator[None]:
    build = fleet.hosts["build1"]
    build.run("docker", "stop", "truthgraph-registry")
    try:
        yield
    finally:
        build.run("docker", "start", "truthgraph-registry")


def test_good_deploy(fleet: Fleet, under_load: UnderLoad) -> None:
    fleet.tree("other")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    with under_load() as seen:
        run = fleet.deploy("other")
    assert run.code == 0, str(run)
    new = fleet.release
    assert new != old
    found = switched(fleet, seen, old, new)
    for name in APIS:
        assert found[name].slot != before[name].slot, name
        assert found[name].slots[found[name].other_slot]["id"] == before[name].live["id"], name
    # The inference service is the same in both releases, and did not notice.
    assert found["gpu1"].running == before["gpu1"].running
    for name in ROLLED_OUT:
        entry = found[name].journal[-1]
        assert (entry["event"], entry["release"], entry["result"]) == ("deploy", new, "stable"), f"{name}: {entry}"
    # The product measures the same itself.
    probed = re.search(SAW_NOTHING, run.said)
    assert probed and int(probed[1]) > 0, run.said
    # And leaves it in its report, with who did what when.
    report = run.report
    assert (report["result"], report["release"], report["earlier"]) == ("stable", new, old)
    assert (report["probe"]["requests"], report["probe"]["failures"]) == (int(probed[1]), 0)
    for name, target in report["probe"]["targets"].items():
        assert [(entry["before"], entry["after"]) for entry in target["switches"]] == [(old, new)], name
    done = {(entry["host"], entry["phase"]) for entry in report["phases"]}
    assert done >= {(name, phase) for name in APIS for phase in ("prepare", "switch and watch", "settle")}
    assert report["serves"] and {entry["release"] for entry in report["serves"] if entry["service"] == "api"} == {new}
    assert all(image["now"]["unpacked_bytes"] and image["before"]["digest"] for image in report["images"]), report["images"]


def test_same_release_again(fleet: Fleet, under_load: UnderLoad) -> None:
    release = fleet.bring("other")
    before = fleet.check_serves(release)
    with under_load() as seen:
        run = fleet.deploy("other")
    assert run.code == 0, str(run)
    assert run.changed == {}, str(run)
    after = fleet.check_serves(release)
    unchanged(before, after)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [release]


@pytest.mark.parametrize("times", ["rollback", "rollback-of-the-rollback"])
def test_rollback_without_the_registry(fleet: Fleet, under_load: UnderLoad, times: str) -> None:
    if times == "rollback":
        fleet.once("reference")
        fleet.bring("other")
    old = fleet.release
    with under_load() as seen, no_registry(fleet):
        run = play("rollback")
    assert run.code == 0, str(run)
    new = fleet.release
    assert new != old
    found = switched(fleet, seen, old, new)
    for name in ROLLED_OUT:
        entry = found[name].journal[-1]
        assert (entry["event"], entry["release"], entry["result"]) == ("rollback", new, "stable"), f"{name}: {entry}"
    assert new == fleet.once("reference" if times == "rollback" else "other")


def test_list_changes_nothing(fleet: Fleet, under_load: UnderLoad) -> None:
    other = fleet.once("other")
    release = fleet.bring("reference")
    before = fleet.look()
    with under_load():
        run = play("rollback", {"list": True})
    assert run.code == 0, str(run)
    assert re.search(rf"^{other} +stable .* yes +- +-$", run.said, re.MULTILINE), run.said
    assert not re.search(rf"^{release} ", run.said, re.MULTILINE), run.said
    unchanged(before, fleet.check_serves(release))


def test_unknown_release_is_refused(fleet: Fleet, under_load: UnderLoad) -> None:
    other = fleet.once("other")
    release = fleet.bring("reference")
    before = fleet.look()
    with under_load():
        run = play("rollback", {"release": "0123456789ab"})
    assert run.code != 0, str(run)
    assert "0123456789ab" in run.last_words, str(run)
    assert re.search(rf"can be returned to: .*{other}", run.last_words), str(run)
    after = fleet.check_serves(release)
    for name in before:
        assert after[name].running == before[name].running, name
        assert after[name].map == before[name].map, name
        assert after[name].records == before[name].records, name


def test_release_that_was_never_stable_is_refused(fleet: Fleet, under_load: UnderLoad) -> None:
    other = fleet.once("other")
    release = fleet.bring("reference")
    failed = play("deploy", {**fleet.tree("never-ready", never_ready), "api_ready_timeout": 3})
    assert failed.code != 0, str(failed)
    before = fleet.check_serves(release)
    [never] = [one for one in before["cpu1"].records if one == before["cpu1"].journal[-1]["release"]]
    with under_load():
        run = play("rollback", {"release": never})
    assert run.code != 0, str(run)
    assert re.search(rf"{never} cannot be returned to: it was never stable", run.last_words), str(run)
    assert re.search(rf"can be returned to: .*{other}", run.last_words), str(run)
    assert never not in run.last_words.rpartition("can be returned to: ")[2], str(run)
    after = fleet.check_serves(release)
    for name in before:
        assert after[name].running == before[name].running, name
        assert after[name].map == before[name].map, name
        assert after[name].records == before[name].records, name


def test_configuration_comes_back(fleet: Fleet, under_load: UnderLoad) -> None:
    fleet.bring("reference")
    releases = {}
    with under_load():
        for colour in ("red", "green"):
            run = fleet.deploy("reference", api_environment={VARIABLE: colour})
            assert run.code == 0, str(run)
            releases[colour] = fleet.release
            found = fleet.check_serves(releases[colour])
            assert [environment(found, name)[VARIABLE] for name in APIS] == [colour] * 2
        # Each has its own; what the inventory says now is neither.
        for colour in ("red", "green"):
            run = play("rollback", {"release": releases[colour]})
            assert run.code == 0, str(run)
            found = fleet.check_serves(releases[colour])
            assert [environment(found, name)[VARIABLE] for name in APIS] == [colour] * 2
    assert releases["red"] != releases["green"]


def test_secrets_come_back(fleet: Fleet, under_load: UnderLoad) -> None:
    fleet.bring("reference")
    releases = {}

    def secrets() -> list[str]:
        found = fleet.check_serves(fleet.release)
        names = {name: f"truthgraph-api-{found[name].slot}" for name in APIS}
        return [fleet.hosts[name].file_of(container, SECRET_FILE) for name, container in names.items()]

    with under_load():
        for value in ("first-5c1f", "second-9a7e"):
            run = fleet.deploy("reference", api_secrets={SECRET: value})
            assert run.code == 0, str(run)
            assert value not in run.output
            releases[value] = fleet.release
            assert secrets() == [value] * 2
        for value in ("first-5c1f", "second-9a7e"):
            run = play("rollback", {"release": releases[value]})
            assert run.code == 0, str(run)
            assert secrets() == [value] * 2
    # They are told apart although nothing in the ledger says what they are.
    assert releases["first-5c1f"] != releases["second-9a7e"]
    for name in ROLLED_OUT:
        patterns = [argument for value in releases for argument in ("-e", value)]
        holders = fleet.hosts[name].run("grep", "-rl", *patterns, "/var/lib/truthgraph", check=False)
        assert holders == "", f"{name}: {holders}"


# Which slot serves is the proxy's only memory; a slot that is not the first one shows whether it is kept.
def with_green(fleet: Fleet) -> tuple[str, dict[str, Seen]]:
    for name in ("reference", "other"):
        release = fleet.bring(name)
        found = fleet.check_serves(release)
        if found["cpu1"].slot == found["cpu2"].slot == "green":
            return release, found
    raise AssertionError(f"no slot green serves on both hosts: {found}")


@pytest.mark.parametrize(
    "command",
    [["systemctl", "reload", "haproxy"], ["systemctl", "restart", "docker"]],
    ids=["reload-of-the-proxy", "restart-of-docker"],
)
def test_live_slot_outlasts(fleet: Fleet, under_load: UnderLoad, command: str) -> None:
    release, before = with_green(fleet)
    with under_load() as seen:
        for name in APIS:
            fleet.hosts[name].run(*command)
    after = fleet.check_serves(release)
    for name in before:
        assert after[name].map == before[name].map, name
        assert after[name].running == before[name].running, name
    assert seen.releases("cpu1") == seen.releases("cpu2") == [release]


def test_live_slot_outlasts_a_restart_of_the_host(fleet: Fleet, under_load: UnderLoad) -> None:
    release, before = with_green(fleet)
    # The host's own clients have to wait for it; those of the other are not concerned.
    with under_load(["cpu1"]):
        fleet.hosts["cpu2"].restart()
        fleet.hosts["cpu2"].look("all(one['health'] == 'healthy' for one in s.slots.values() if one['state'] == 'running')", 60)
    after = fleet.check_serves(release)
    assert after["cpu2"].map == before["cpu2"].map
    assert after["cpu2"].live["id"] == before["cpu2"].live["id"]
    assert after["cpu2"].live["started"] != before["cpu2"].live["started"]
    assert header(APIS["cpu2"]) == release
