"""The module release_handover, run as Ansible runs it, on real files."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import secret_files, slots
from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger, Lock, accept_fence, fence_seen
from ansible_collections.truthgraph.platform.plugins.modules import release_handover

MODULE = "ansible_collections.truthgraph.platform.plugins.modules.release_handover"
FIRST, SECOND = "0f3a5c77d2e1", "aaaaaaaaaaaa.2"
SERVICES: dict[str, dict[str, str]] = {"api": {}, "inference": {}}


class Host:
    """The two directories of a host."""

    def __init__(self, directory: Path) -> None:
        self.root, self.config = str(directory / "state"), str(directory / "config")
        self.ledger = Ledger(self.root)

    def run(self, state: str, **options: t.Any) -> dict[str, t.Any]:
        """Run the module there."""
        arguments = {"state": state, "root": self.root, "config": self.config, **options}
        process = subprocess.run(
            [sys.executable, "-m", MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.stdout, process.stderr
        told: dict[str, t.Any] = json.loads(process.stdout)
        return told

    def take_over(
        self, *others: Host, services: dict[str, t.Any] | None = None, fence: int = 42, **options: t.Any
    ) -> dict[str, t.Any]:
        """Have this host take over what others keep."""
        read = [other.run("read") for other in others]
        given, secrets = [one["kept"] for one in read], [one["secrets"] for one in read]
        return self.run("written", given=given, secrets=secrets, services=services or {}, fence=fence, **options)

    def keep(self, release: str, service: str, **secrets: str) -> None:
        """Keep the secrets of a release."""
        directory = slots.release_secrets_directory(self.config, release, service)
        secret_files.write(directory, {name: value.encode() for name, value in secrets.items()}, 0)

    def kept(self, release: str, service: str) -> dict[str, bytes] | None:
        """Return the secrets of a release that are kept."""
        directory = slots.release_secrets_directory(self.config, release, service)
        return secret_files.read(directory) if Path(directory).is_dir() else None


def record(
    release: str, written_at: float, result: str = "stable", services: tuple[str, ...] = ("api", "inference")
) -> dict[str, t.Any]:
    return {"id": release, "written_at": written_at, "result": result, "services": {name: {} for name in services}}


@pytest.fixture
def old(tmp_path: Path) -> Host:
    host = Host(tmp_path / "old")
    host.ledger.write(record(FIRST, 5))
    host.ledger.write(record(SECOND, 7))
    host.ledger.append({"event": "deploy", "release": FIRST})
    host.ledger.append({"event": "deploy", "release": SECOND})
    host.keep(FIRST, "api", TOKEN="of the first")
    host.keep(SECOND, "api", TOKEN="of the second")
    accept_fence(host.root, 41)
    return host


@pytest.fixture
def new(tmp_path: Path) -> Host:
    return Host(tmp_path / "new")


def test_a_blank_host_gets_all_of_it(old: Host, new: Host) -> None:
    result = new.take_over(old, services={"api": {"TOKEN": "of the inventory"}})
    assert (result["changed"], result["records"], result["from_inventory"]) == (True, [FIRST, SECOND], [])
    assert new.ledger.records() == old.ledger.records()
    assert new.ledger.journal() == old.ledger.journal()
    assert new.kept(FIRST, "api") == {"TOKEN": b"of the first"}
    assert new.kept(SECOND, "api") == {"TOKEN": b"of the second"}
    assert new.kept(FIRST, "inference") is None
    again = new.take_over(old, services={"api": {}})
    assert (again["changed"], again["records"]) == (False, [])


def test_nothing_that_is_secret_is_said(old: Host, new: Host) -> None:
    result = new.take_over(old, services={"api": {"TOKEN": "of the inventory"}})
    said = json.dumps({name: value for name, value in result.items() if name != "invocation"})
    assert "of the" not in said and "b2YgdGhl" not in said
    assert "b2YgdGhl" not in json.dumps(result.get("invocation")), "the arguments are shown"


def test_what_an_attempt_has_noted_stands_after_what_the_others_know(old: Host, new: Host) -> None:
    old.ledger.append({"event": "deploy", "release": SECOND, "time": 3})
    new.ledger.append({"event": "replace", "result": "failed", "time": 8})
    for changed in (True, False):
        assert new.take_over(old)["changed"] is changed
        assert new.ledger.journal() == [*old.ledger.journal(), {"event": "replace", "result": "failed", "time": 8}]


def test_what_nobody_has_kept_is_the_inventorys(old: Host, new: Host) -> None:
    result = new.take_over(old, services={"inference": {"KEY": "today's"}})
    assert result["from_inventory"] == [f"{FIRST}/inference", f"{SECOND}/inference"]
    assert new.kept(FIRST, "inference") == {"KEY": b"today's"}
    assert new.kept(FIRST, "api") is None


def test_the_newest_record_counts_and_a_newer_one_stays(tmp_path: Path, old: Host, new: Host) -> None:
    other = Host(tmp_path / "other")
    other.ledger.write(record(FIRST, 9, "rolled back"))
    new.ledger.write(record(SECOND, 8, "pending"))
    result = new.take_over(other, old)
    assert result["records"] == [FIRST]
    records = new.ledger.records()[0]
    assert (records[FIRST]["result"], records[SECOND]["result"]) == ("rolled back", "pending")


def test_secrets_that_are_there_stay(old: Host, new: Host) -> None:
    new.keep(FIRST, "api", TOKEN="another")
    new.take_over(old, services={"api": {}})
    assert new.kept(FIRST, "api") == {"TOKEN": b"another"}


def test_a_new_lock_host_gives_out_higher_numbers_even_with_a_wrong_clock(tmp_path: Path, old: Host, new: Host) -> None:
    accept_fence(old.root, 5_000_000_000)
    given = [Host(tmp_path / "blank").run("read")["kept"], old.run("read")["kept"]]
    assert new.run("numbered", given=given)["changed"] is False
    assert fence_seen(new.root) == 5_000_000_000
    assert Lock(new.root).acquire({"who": "me"}, "replace", 60, 1.0)[0] == 5_000_000_001
    assert new.ledger.records()[0] == {}


def test_an_outdated_run_hands_nothing_over(old: Host, new: Host) -> None:
    accept_fence(new.root, 50)
    result = new.take_over(old, services=SERVICES)
    assert result["failed"] and "50" in result["msg"]
    assert new.ledger.records()[0] == {} and new.kept(FIRST, "api") is None


def test_check_mode_writes_nothing(old: Host, new: Host) -> None:
    assert new.take_over(old, services=SERVICES, _ansible_check_mode=True)["changed"] is False
    new.run("numbered", given=[old.run("read")["kept"]], _ansible_check_mode=True)
    assert not Path(new.root).exists() and not Path(new.config).exists()


def test_a_bad_secret_of_the_inventory_is_named(old: Host, new: Host) -> None:
    result = new.take_over(old, services={"inference": {"no name": "x"}})
    assert result["failed"] and "'no name'" in result["msg"]
    assert release_handover.newest_records([]) == {}
