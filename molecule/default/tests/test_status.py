# What status.yml says of the hosts.
import json
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet, Member
from ansible_collections.truthgraph.platform.molecule.shared.rollout import play


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, t.Any]]:
    path = tmp_path_factory.mktemp("status") / "status.json"
    run = play("status", {"status_file": str(path)})
    assert run.code == 0, str(run)
    assert run.changed in ({}, {"build1": 1}), str(run)
    assert path.stat().st_mode & 0o777 == 0o600
    return run.said, json.loads(path.read_text(encoding="utf-8"))


def test_every_host_is_there(fleet: Fleet, status: tuple[str, dict[str, t.Any]]) -> None:
    said, written = status
    assert sorted(written["hosts"]) == sorted(fleet.members)
    for name, host in written["hosts"].items():
        assert host["reachable"] and host["engine"] and host["prepared"] and host["changed"] == [], (name, host)
        assert any(line.startswith(f"{name} ") and line.endswith(" nothing") for line in said.splitlines()), said
    assert written["lock"] == {} and written["left_over"]["what"] == "nothing"


def test_disks_and_containers_are_those_of_the_host(member: Member, status: tuple[str, dict[str, t.Any]]) -> None:
    host = status[1]["hosts"][member.name]
    total = member.host.check_output("df --block-size=1 --output=size /var/lib/docker | tail -1")
    assert host["disk"]["/var/lib/docker"]["total"] == int(total)
    names = member.host.check_output("docker ps --all --format '{{.Names}}' --filter label=truthgraph.fleet").split()
    assert sorted(found["name"] for found in host["containers"]) == sorted(names)


def test_backups_are_those_of_the_database_host(fleet: Fleet, status: tuple[str, dict[str, t.Any]]) -> None:
    [member] = fleet.of_group("truthgraph_postgres")
    found = json.loads(member.host.check_output("truthgraph-backup list --json"))["backups"]
    said = status[1]["hosts"][member.name]["backups"]
    assert said["count"] == len(found)
    assert said["newest"].get("backup") == (found[0]["backup"] if found else None)


def test_no_secret_is_written_down(fleet: Fleet, status: tuple[str, dict[str, t.Any]]) -> None:
    secrets = [fleet.variables["registry_password"], fleet.variables["database_password"]]
    text = json.dumps(status[1]) + status[0]
    assert all(secret and secret not in text for secret in secrets)
