# Releases that fail, each in its way. The earlier one serves before, during and after, and the ledger says what failed.
import pathlib
import re
import types
import typing as t
import uuid

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.rollout import (
    APIS,
    LAST_WORDS,
    SERVICES,
    Fleet,
    Playbook,
    Run,
    Seen,
    UnderLoad,
    play,
)

# What a POST may cost when a release fails after the switch: the seconds until that is noticed.
NOTICED = 2.0


class Case(t.NamedTuple):
    # A broken release: how, with which variables, who complains, and what the ledger says.
    name: str
    spoil: t.Callable[[pathlib.Path], None]
    hosts: set[str]
    words: str
    variables: t.Mapping[str, t.Any] = types.MappingProxyType({})
    recorded: bool = True
    switched: bool = False


CASES = [
    Case("ends-at-once", rollout.ends_at_once, {"cpu1", "cpu2"}, LAST_WORDS, {"api_ready_timeout": 30}),
    Case("never-ready", rollout.never_ready, {"cpu1", "cpu2"}, LAST_WORDS, {"api_ready_timeout": 8}),
    Case("slower-than-the-deadline", rollout.starts_too_slowly, {"cpu1", "cpu2"}, LAST_WORDS, {"api_ready_timeout": 8}),
    Case("model-never-loads", rollout.model_never_loads, {"gpu1"}, LAST_WORDS, {"inference_ready_timeout": 60}),
    Case("migration-fails", rollout.migration_fails, {"cpu1"}, LAST_WORDS, recorded=False),
    Case("fails-for-every-client", rollout.fails_for_every_client, {"cpu1", "cpu2"}, "was taken back", switched=True),
    Case("fails-a-second-later", rollout.fails_a_second_later, {"cpu1", "cpu2"}, "requests failed on it", switched=True),
    Case("fails-at-its-work", rollout.fails_at_its_work, {"cpu1", "cpu2"}, "requests failed on it", switched=True),
]


def plain(text: str) -> str:
    return " ".join(text.split())


def complaining(run: Run) -> set[str]:
    # The hosts that the end of a run names.
    return {host for host in ("build1", *SERVICES) if re.search(rf"(^|\s){host}: ", run.last_words)}


def check_ledger(
    before: dict[str, Seen],
    after: dict[str, Seen],
    words: str,
    recorded: bool = True,
    hosts: t.Iterable[str] = tuple(SERVICES),
) -> None:
    # Every host remembers that this was tried, that it failed, and why.
    for name in hosts:
        entry = after[name].journal[-1]
        assert entry["time"] > before[name].journal[-1]["time"], f"{name}: {entry}"
        assert (entry["event"], entry["result"]) == ("deploy", "failed"), f"{name}: {entry}"
        assert words in plain(entry["why"]), f"{name}: {entry['why']}"
        if recorded:
            record = after[name].records[entry["release"]]
            assert record["result"] == "failed", f"{name}: {record['result']}"
            assert words in plain(record["why"]), f"{name}: {record['why']}"
            assert "stable_at" not in record, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_broken_release(fleet: Fleet, under_load: UnderLoad, case: Case) -> None:
    variables = fleet.tree(case.name, case.spoil)
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    with under_load(posts_may_fail_for=NOTICED if case.switched else 0) as seen:
        run = play("deploy", {**variables, **case.variables, "release_bake": 8})
    assert run.code != 0, str(run)
    assert case.words in run.last_words, str(run)
    assert complaining(run) and complaining(run) <= case.hosts, str(run)

    # The very same containers serve as before, and nothing else runs.
    after = fleet.check_serves(old)
    for name in before:
        assert after[name].running == before[name].running, name
    check_ledger(before, after, case.words, case.recorded)
    report = run.report
    assert report["result"] == "failed" and report["failures"], report
    assert {entry["release"] for entry in report["serves"] if entry["service"] == "api"} == {old}, report["serves"]
    assert "undo" in {entry["phase"] for entry in report["phases"]} and report["outcome"] in run.last_words, report
    new = after["cpu1"].journal[-1]["release"]
    for name in APIS:
        if case.switched:
            assert set(seen.releases(name)) <= {old, new}, name
        else:
            assert seen.releases(name) == [old], name
    if case.switched:
        # It did serve, or this would not be what it says.
        assert [host for _, host, result in run.results if "switched_at" in result], str(run)
    if case.name == "migration-fails":
        query = "SELECT to_regclass('broken_on_purpose') IS NULL"
        psql = ["psql", "--username", "postgres", "--dbname", "truthgraph", "--tuples-only", "--no-align", "--command", query]
        assert fleet.hosts["cpu1"].run("docker", "exec", "truthgraph-postgres", *psql).strip() == "t"


def test_host_that_cannot_be_reached_at_the_start(fleet: Fleet, under_load: UnderLoad) -> None:
    variables = fleet.tree("other")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    with under_load() as seen, fleet.hosts["cpu2"].cut_off():
        run = play("deploy", variables)
        assert run.code != 0, str(run)
        assert "cpu2: cannot be reached" in run.last_words, str(run)
        after = fleet.check_serves(old)
    for name in before:
        assert after[name].running == before[name].running, name
        assert after[name].map == before[name].map, name
        assert after[name].records == before[name].records, name
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old]


def test_host_that_is_lost_before_the_switch(fleet: Fleet, under_load: UnderLoad) -> None:
    variables = fleet.tree("other")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    idle = before["cpu2"].other_slot
    with under_load() as seen:
        with Playbook("deploy", variables) as running:
            running.until("cpu2", f"'truthgraph-api-{idle}' in s.running")
            with fleet.hosts["cpu2"].cut_off():
                run = running.result()
                assert run.code != 0, str(run)
                assert "cpu2: cannot be reached" in run.last_words, str(run)
                after = fleet.check_serves(old, without={"cpu2"})
        assert seen_so_far(before, after) == {"cpu1": True, "gpu1": True, "build1": True}
        check_ledger(before, after, "cpu2: cannot be reached", recorded=False, hosts=["cpu1", "gpu1"])
        # What the lost host still has is recognised and undone, and the deploy works.
        run = play("deploy", variables)
    assert run.code == 0, str(run)
    assert "was interrupted" in run.said, str(run)
    new = fleet.release
    assert new != old
    fleet.check_serves(new)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old, new]


def seen_so_far(before: dict[str, Seen], after: dict[str, Seen]) -> dict[str, bool]:
    # Whether exactly the same runs on the hosts that could be reached.
    return {name: after[name].running == before[name].running for name in before if name != "cpu2"}


def test_host_that_is_lost_after_the_switch(fleet: Fleet, under_load: UnderLoad) -> None:
    variables = fleet.tree("other")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    idle = before["cpu2"].other_slot
    with under_load() as seen:
        with Playbook("deploy", {**variables, "release_bake": 5, "release_undo_after": 5}) as running:
            running.until("cpu2", f"s.map['api'].startswith('{idle}')")
            with fleet.hosts["cpu2"].cut_off():
                run = running.result()
                assert run.code != 0, str(run)
                assert "cpu2: cannot be reached" in run.last_words, str(run)
                # Nobody tells the host; its own timer does.
                lost = fleet.hosts["cpu2"].look("s.undone", 30)
                assert lost.release == old, lost.map
                assert lost.pending is None, lost.pending
                after = fleet.check_serves(old, without={"cpu2"})
        check_ledger(before, after, "cpu2: cannot be reached", hosts=["cpu1", "gpu1"])
        run = play("status")
        assert run.code == 0, str(run)
        assert "was interrupted" in run.said, str(run)
        found = fleet.check_serves(old)
        new = after["cpu1"].journal[-1]["release"]
        assert found["cpu2"].records[new]["result"] != "stable", found["cpu2"].records[new]
        run = play("deploy", variables)
    assert run.code == 0, str(run)
    assert fleet.release == new
    fleet.check_serves(new)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old, new]


def test_registry_that_is_lost_before_the_pull(fleet: Fleet, under_load: UnderLoad) -> None:
    # An image that no host can have yet.
    variables = fleet.tree(f"unpulled-{uuid.uuid4().hex[:8]}")
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    build = fleet.hosts["build1"]
    try:
        with under_load() as seen:
            with Playbook("deploy", variables) as running:
                running.until_task("Check that every image is named by its digest")
                build.run("docker", "kill", "truthgraph-registry")
                running.go_on()
                run = running.result()
            assert run.code != 0, str(run)
            assert "Pull what is missing" in {task.rpartition(" : ")[2] for task, _, _ in run.failures}, str(run)
            assert complaining(run) and complaining(run) <= {"cpu1", "cpu2"}, str(run)
            after = fleet.check_serves(old)
    finally:
        build.run("docker", "start", "truthgraph-registry")
    for name in SERVICES:
        assert after[name].running == before[name].running, name
    check_ledger(before, after, "", recorded=False)
    assert after["cpu1"].journal[-1]["why"], after["cpu1"].journal[-1]
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old]
    # With the registry back, the very same works.
    with under_load() as seen:
        run = play("deploy", variables)
    assert run.code == 0, str(run)
    new = fleet.release
    fleet.check_serves(new)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old, new]


def test_next_good_deploy_works(fleet: Fleet, under_load: UnderLoad) -> None:
    fleet.tree("other")
    old = fleet.bring("reference")
    with under_load() as seen:
        run = fleet.deploy("other")
        assert run.code == 0, str(run)
        new = fleet.release
        fleet.check_serves(new)
        run = play("rollback")
    assert run.code == 0, str(run)
    fleet.check_serves(old)
    for name in APIS:
        assert seen.releases(name) == [old, new], name
        assert seen.release_span(name, old)[1] > seen.release_span(name, new)[1], name
