"""The module release_lock, run as Ansible runs it, on real files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger, Lock

MODULE = "ansible_collections.truthgraph.platform.plugins.modules.release_lock"
ALICE, BOB = {"user": "alice", "process": 1}, {"user": "bob", "process": 2}
RUNS = 4


def start(root: Path, **options: t.Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {"root": str(root), **options}}))
    return process


def answer(process: subprocess.Popen[str]) -> dict[str, t.Any]:
    out, err = process.communicate()
    assert out, err
    result: dict[str, t.Any] = json.loads(out)
    assert result.get("failed") or result["changed"] is False
    return result


def run(root: Path, **options: t.Any) -> dict[str, t.Any]:
    return answer(start(root, **options))


def take(root: Path, owner: dict[str, t.Any], **options: t.Any) -> dict[str, t.Any]:
    return run(root, owner=owner, action="deploy", **options)


def held(root: Path) -> dict[str, t.Any]:
    found = Lock(str(root)).read()
    assert found
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "truthgraph"


def test_taken_renewed_and_given_back(root: Path) -> None:
    before = time.time()
    taken = take(root, ALICE)
    assert taken["fence"] > 0 and taken["replaced"] == {}
    assert taken["lock"] == {**held(root), "owner": ALICE, "action": "deploy", "fence": taken["fence"]}
    assert before + 899 < taken["lock"]["expires"] < time.time() + 901
    renewed = run(root, state="renewed", fence=taken["fence"], lease=3600)
    assert renewed["fence"] == taken["fence"] and renewed["lock"]["expires"] > before + 3599
    released = run(root, state="released", fence=taken["fence"])
    assert released["lock"] == {} and Lock(str(root)).read() is None
    assert not run(root, state="released", fence=taken["fence"]).get("failed")


def test_the_same_owner_gets_it_again(root: Path) -> None:
    first = take(root, ALICE)
    second = take(root, ALICE)
    assert second["fence"] == first["fence"] and second["replaced"] == {}


@pytest.mark.parametrize("check", [False, True])
def test_who_has_to_wait_is_told_for_whom_and_how_to_get_out(root: Path, check: bool) -> None:
    Lock(str(root)).acquire(ALICE, "deploy", 4_000_000_000, 1_700_000_000)
    result = take(root, BOB, _ansible_check_mode=check)
    assert result["failed"]
    assert result["msg"] == (
        "The fleet is locked: held by process 1, user alice for 'deploy' since 2023-11-14T22:13:20Z, until "
        "2150-08-17T05:20:00Z. Wait until it is free. If that run is gone, break its lock with -e break_lock=true."
    )
    assert result["lock"]["owner"] == ALICE
    assert held(root)["owner"] == ALICE


def test_one_of_several_runs_gets_it(root: Path) -> None:
    processes = [start(root, owner={"process": number}, action="deploy") for number in range(RUNS)]
    results = [answer(process) for process in processes]
    assert sorted(bool(result.get("failed")) for result in results) == [False] + [True] * (RUNS - 1)
    assert [result["fence"] for result in results if "fence" in result] == [held(root)["fence"]]


@pytest.mark.parametrize(
    ("options", "how"),
    [({"take_over": True}, "owner gone"), ({"broken": "alice is ill"}, "broken"), ({}, "expired")],
)
def test_a_replaced_lock_is_returned_and_recorded(root: Path, options: dict[str, t.Any], how: str) -> None:
    fence, _ = Lock(str(root)).acquire(ALICE, "deploy", 1 if how == "expired" else 900, time.time() - 1)
    old = held(root)
    result = take(root, BOB, replaces=fence, **options)
    assert result["fence"] > fence and result["replaced"] == {**old, "how": how}
    (entry,) = Ledger(str(root)).journal()
    assert {key: entry[key] for key in ("event", "how", "by", "lock")} == {
        "event": "lock replaced",
        "how": how,
        "by": BOB,
        "lock": old,
    }
    assert entry.get("reason", "") == options.get("broken", "")


@pytest.mark.parametrize(
    "options", [{"broken": "  "}, {"broken": "x", "replaces": 3}, {"take_over": True, "replaces": 3}]
)
def test_what_does_not_mean_this_lock_does_not_break_it(root: Path, options: dict[str, t.Any]) -> None:
    take(root, ALICE)
    assert take(root, BOB, **options)["failed"]
    assert held(root)["owner"] == ALICE


def test_a_lost_lock_is_not_renewed_and_not_given_back(root: Path) -> None:
    mine = take(root, ALICE)["fence"]
    take(root, BOB, broken="test")
    result = run(root, state="renewed", fence=mine)
    assert result["failed"] and f"fencing number {mine} is lost" in result["msg"] and "user bob" in result["msg"]
    assert run(root, state="released", fence=mine)["lock"]["owner"] == BOB
    assert held(root)["owner"] == BOB


def test_check_mode_takes_nothing(root: Path) -> None:
    result = take(root, ALICE, _ansible_check_mode=True)
    assert (result["fence"], result["replaced"], result["lock"]) == (0, {}, {})
    assert not root.exists()
    for state in ("renewed", "released"):
        assert not run(root, state=state, fence=0, _ansible_check_mode=True).get("failed")
    assert not root.exists()


def test_check_mode_touches_no_lock(root: Path) -> None:
    taken = take(root, ALICE)
    before = (root / "lock.json").read_bytes()
    assert take(root, ALICE, _ansible_check_mode=True)["fence"] == taken["fence"]
    result = take(root, BOB, broken="test", _ansible_check_mode=True)
    assert result["fence"] == 0 and result["replaced"]["how"] == "broken" and result["lock"]["owner"] == ALICE
    run(root, state="renewed", fence=taken["fence"], _ansible_check_mode=True)
    run(root, state="released", fence=taken["fence"], _ansible_check_mode=True)
    assert (root / "lock.json").read_bytes() == before and not (root / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"owner": {}, "action": "deploy"}, "who takes the lock"),
        ({"owner": ALICE}, "what for"),
        ({"owner": ALICE, "action": "deploy", "lease": 0}, "Give a lease of 1 or more"),
        ({"state": "renewed"}, "fence"),
        ({"state": "released"}, "fence"),
    ],
)
def test_what_is_missing_is_named(root: Path, options: dict[str, t.Any], message: str) -> None:
    result = run(root, **options)
    assert result["failed"] and message in result["msg"]
    assert not root.exists()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = take(tmp_path / "file", ALICE)
    assert result["failed"] and f"The lock in {tmp_path / 'file'} cannot be used" in result["msg"]
