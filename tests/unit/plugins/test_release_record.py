"""The module release_record, run as Ansible runs it, on real files."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from concurrent import futures
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger, accept_fence, fence_seen
from ansible_collections.truthgraph.platform.plugins.modules import release_record

MODULE = "ansible_collections.truthgraph.platform.plugins.modules.release_record"
FIRST, SECOND, THIRD = "0f3a5c77d2e1", "aaaaaaaaaaaa", "bbbbbbbbbbbb.2"


def run(root: Path, **options: t.Any) -> dict[str, t.Any]:
    process = subprocess.run(
        [sys.executable, "-m", MODULE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"root": str(root), **options}}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout, process.stderr
    result = json.loads(process.stdout)
    assert result.get("failed") or result["changed"] is False
    told: dict[str, t.Any] = result
    return told


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "truthgraph"


@pytest.fixture
def ledger(root: Path) -> Ledger:
    return Ledger(str(root))


def test_written_appended_and_removed(root: Path, ledger: Ledger) -> None:
    ledger.write({"id": SECOND})
    ledger.write({"id": THIRD, "result": "stable"})
    result = run(
        root,
        fence=3,
        records=[{"id": FIRST, "result": "pending"}, {"id": THIRD, "result": "stable"}],
        journal=[{"event": "start", "time": 1.5}, {"event": "prepared", "time": 2}],
        remove=[SECOND, "cccccccccccc"],
    )
    assert (result["written"], result["removed"], result["set_aside"]) == ([FIRST], [SECOND], [])
    assert ledger.records() == (
        {FIRST: {"id": FIRST, "result": "pending"}, THIRD: {"id": THIRD, "result": "stable"}},
        [],
    )
    assert ledger.journal() == [{"event": "start", "time": 1.5}, {"event": "prepared", "time": 2}]
    assert fence_seen(str(root)) == 3


def test_damaged_records_are_set_aside_at_every_call(root: Path, ledger: Ledger) -> None:
    ledger.write({"id": FIRST})
    path = root / "releases" / f"{SECOND}.json"
    path.write_text("half")
    assert run(root, _ansible_check_mode=True)["set_aside"] == [str(path)]
    assert path.exists()
    assert run(root)["set_aside"] == [str(root / "damaged" / path.name)]
    path.write_text("half again")
    assert run(root, records=[{"id": SECOND}])["set_aside"] == [str(root / "damaged" / f"{path.name}.1")]
    assert ledger.records() == ({FIRST: {"id": FIRST}, SECOND: {"id": SECOND}}, [])
    assert run(root)["set_aside"] == []


@pytest.mark.parametrize("check", [False, True])
def test_an_outdated_run_writes_nothing(root: Path, ledger: Ledger, check: bool) -> None:
    ledger.write({"id": FIRST})
    accept_fence(str(root), 9)
    result = run(
        root, fence=8, records=[{"id": SECOND}], journal=[{"event": "x"}], remove=[FIRST], _ansible_check_mode=check
    )
    assert result["failed"]
    for part in ("already accepted the fencing number 9", "lower number 8", "start this one again"):
        assert part in result["msg"]
    assert list(ledger.records()[0]) == [FIRST] and ledger.journal() == []


def test_no_other_run_comes_between_the_check_and_the_writing(
    root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Run:
        """What the module asks of Ansible."""

        check_mode = False

        def __init__(self, **_arguments: object) -> None:
            self.params = {"root": str(root), "records": [{"id": FIRST}], "journal": [], "remove": [], "fence": 8}
            self.exit_json = lambda **_result: None

    write, other = release_record.write, []

    def slow_write(*arguments: t.Any) -> dict[str, t.Any]:
        # The number is accepted and nothing is written yet: now another run comes with a higher one.
        other.append(pool.submit(run, root, fence=9, records=[{"id": FIRST, "result": "newer"}]))
        with pytest.raises(futures.TimeoutError):
            other[0].result(timeout=1.5)
        return write(*arguments)

    monkeypatch.setattr(release_record, "AnsibleModule", Run)
    monkeypatch.setattr(release_record, "write", slow_write)
    with futures.ThreadPoolExecutor() as pool:
        release_record.main()
    assert other[0].result()["written"] == [FIRST]
    assert ledger.records()[0][FIRST]["result"] == "newer"


def test_check_mode_says_and_writes_nothing(root: Path, ledger: Ledger) -> None:
    ledger.write({"id": FIRST, "result": "stable"})
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    result = run(
        root,
        fence=0,
        records=[{"id": FIRST, "result": "stable"}, {"id": SECOND}],
        journal=[{"event": "x"}],
        remove=[FIRST, SECOND, THIRD],
        _ansible_check_mode=True,
    )
    assert (result["written"], result["removed"]) == ([SECOND], [FIRST, SECOND])
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_check_mode_makes_no_directory(root: Path) -> None:
    assert run(root, fence=7, records=[{"id": FIRST}], _ansible_check_mode=True)["written"] == [FIRST]
    assert not root.exists()


def test_without_a_number_none_is_asked_for(root: Path) -> None:
    accept_fence(str(root), 9)
    assert run(root, records=[{"id": FIRST}])["written"] == [FIRST]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records": [{"id": FIRST}, {"result": "stable"}]}, "None cannot be the id"),
        ({"records": [{"id": FIRST}, {"id": "../journal"}]}, "'../journal' cannot be the id"),
        ({"records": [{"id": FIRST}], "remove": ["*"]}, "'*' cannot be the id"),
        ({"records": [{"id": FIRST}], "fence": 0}, "Take the lock first"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(root: Path, ledger: Ledger, options: dict[str, t.Any], message: str) -> None:
    result = run(root, **options)
    assert result["failed"] and message in result["msg"] and str(root) in result["msg"]
    assert ledger.records() == ({}, [])
