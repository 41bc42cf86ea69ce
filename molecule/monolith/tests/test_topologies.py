# From one topology to the other and back, as any other release: no client sees an error, and nothing is left running. The
# tests run in their order, since each starts from what the one before has left.
import http.client
import json
import re
import typing as t
import urllib.parse

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import APIS, Fleet, Playbook, Seen, UnderLoad, play

MONOLITH = {"fleet_topology": "monolith"}
CLAIM = {"claim": "The Seine flows through Paris.", "limit": 1}


def verify(url: str, path: str = "/api/v1/verify", body: t.Any = None, wanted: int = 200) -> t.Any:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request("POST", path, json.dumps(body or CLAIM), {"Content-Type": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        assert answer.status == wanted, answer.read()
        return json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def known(fleet: Fleet) -> dict[str, t.Any]:
    # What both topologies have to find again, with the same vectors.
    fleet.bring("reference")
    text = {"text": "Paris lies on the Seine.", "source": "molecule/monolith"}
    verify(APIS["cpu1"], "/api/v1/evidence", text, 201)
    found: dict[str, t.Any]
    [found] = verify(APIS["cpu1"])["evidence"]
    return found


@pytest.fixture(scope="module")
def built(fleet: Fleet) -> None:
    # The machine is too small for a build and for the load of the tests at the same time.
    run = play("prepare", {**fleet.tree("reference"), **MONOLITH})
    assert run.code == 0, str(run)


def check(fleet: Fleet, release: str, services: t.Any, known: dict[str, t.Any]) -> dict[str, Seen]:
    found = fleet.check_serves(release, services=services)
    for name, url in APIS.items():
        told = [one for one in found[name].live["environment"] if one.startswith("ML_SERVICE_URL=")]
        assert bool(told) == ("inference" in services), f"{name}: {told}"
        [again] = verify(url)["evidence"]
        assert again["id"] == known["id"] and abs(again["similarity"] - known["similarity"]) < 1e-4, name
    return found


def test_split_to_monolith_by_a_deploy(fleet: Fleet, under_load: UnderLoad, known: dict[str, t.Any], built: t.Any) -> None:
    old = fleet.bring("reference")
    before = fleet.check_serves(old)
    with under_load() as seen:
        run = fleet.deploy("reference", **MONOLITH)
    assert run.code == 0, str(run)
    new = fleet.release
    found = check(fleet, new, ["api"], known)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old, new]
    # The earlier one is kept, stopped.
    kept = found["gpu1"].slots[before["gpu1"].slot]
    assert (kept["id"], kept["state"], kept["restart"]) == (before["gpu1"].live["id"], "exited", "no")
    assert re.search(r"^gpu1 +inference .* stopped$", run.said, re.MULTILINE), run.said


def test_monolith_again_changes_nothing(fleet: Fleet, known: dict[str, t.Any], built: t.Any) -> None:
    release = fleet.release
    before = check(fleet, release, ["api"], known)
    run = fleet.deploy("reference", **MONOLITH)
    assert (run.code, run.changed) == (0, {}), str(run)
    after = check(fleet, release, ["api"], known)
    assert {name: after[name].running for name in after} == {name: before[name].running for name in before}


# The inventory says what was deployed last; a release knows its own topology.
@pytest.mark.parametrize(
    ("inventory", "services"), [("monolith", ["api", "inference"]), ("split", ["api"])], ids=["to-split", "to-monolith"]
)
def test_rollback(fleet: Fleet, under_load: UnderLoad, known: dict[str, t.Any], inventory: t.Any, services: t.Any) -> None:
    old = fleet.release
    with under_load() as seen:
        run = play("rollback", {"fleet_topology": inventory})
    assert run.code == 0, str(run)
    new = fleet.release
    assert new != old
    check(fleet, new, services, known)
    # What is verified follows what serves.
    verified = play("verify", {"fleet_topology": inventory})
    assert verified.code == 0, str(verified)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old, new]


def test_killed_before_the_inference_service_is_retired(fleet: Fleet, under_load: UnderLoad, known: dict[str, t.Any]) -> None:
    new = fleet.release
    old = fleet.bring("reference")
    with under_load() as seen:
        with Playbook("rollback", {"release": new, **MONOLITH}) as running:
            for result in ("pending", "stable"):
                running.until("cpu1", f"s.records['{new}']['result'] == '{result}'")
            running.kill()
        run = play("status", MONOLITH)
        assert run.code == 0, str(run)
    check(fleet, new, ["api"], known)
    assert re.search(rf"was interrupted \(.+\)\. Release {new} is now finished", run.said, re.DOTALL), str(run)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old, new]


def test_monolith_to_split_by_a_deploy(fleet: Fleet, under_load: UnderLoad, known: dict[str, t.Any]) -> None:
    old = fleet.release
    check(fleet, old, ["api"], known)
    with under_load() as seen:
        run = fleet.deploy("reference")
    assert run.code == 0, str(run)
    check(fleet, fleet.release, ["api", "inference"], known)
    assert seen.releases("cpu1") == seen.releases("cpu2") == [old, fleet.release]
