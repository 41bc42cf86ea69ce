"""The doctor: the roles' own checks, all of them, on this machine and on a host that nobody reaches. No engine is asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ["truthgraph_build", "truthgraph_registry", "truthgraph_postgres", "truthgraph_api", "truthgraph_inference"]
GOOD = {
    "fleet_registry_password": "eiW4thoo",
    "fleet_database_password": "Ohn7eiph",
    "inference_device": "cpu",
}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def inventory(directory: Path, variables: dict[str, t.Any], groups: t.Sequence[str] = tuple(GROUPS), **more: t.Any) -> Path:
    """The inventory of a fleet that is this machine, with further API hosts; everything that is read lies in the directory."""
    names = ("fleet_api_port", "fleet_inference_port", "fleet_database_port", "fleet_metrics_port")
    own = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "fleet_state_dir": f"{directory}/state",
        "fleet_config_dir": f"{directory}/etc",
        "release_state_dir": f"{directory}/var",
        "fleet_private_address": "127.0.0.1",
        "fleet_registry_address": f"127.0.0.1:{free_ports(1)[0]}",
        "release_min_free_build": 1,
        "release_min_free_host": 1,
        "release_min_memory_mb": 1,
        **dict(zip(names, free_ports(len(names)), strict=True)),
        **GOOD,
        **variables,
    }
    children: dict[str, t.Any] = {group: {"hosts": {"here": {}}} for group in groups}
    children.setdefault("truthgraph_api", {"hosts": {}})["hosts"].update(more)
    path = directory / "inventory.yml"
    path.write_text(yaml.safe_dump({"truthgraph": {"vars": own, "children": children}}))
    return path


def play(directory: Path, playbook: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # Whatever engine this machine has, it is not asked.
    (directory / "bin").mkdir(exist_ok=True)
    (directory / "bin/docker").write_text("#!/bin/sh\nexit 1\n")
    (directory / "bin/docker").chmod(0o755)
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", f"{directory}/inventory.yml", str(playbook)]
    return subprocess.run(
        [*command, *options],
        cwd=directory,
        env={**os.environ, "PATH": f"{directory}/bin:{os.environ['PATH']}", "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def doctor(directory: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, t.Any]]:
    """What the doctor said, and what it wrote."""
    answer = directory / "found.json"
    # Nor does it count what HAProxy does on this machine.
    given = f"doctor_json={answer} __proxy_config={directory}/haproxy.cfg"
    done = play(directory, ROOT / "playbooks/doctor.yml", "-e", given, *options)
    assert answer.exists(), done.stdout + done.stderr
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}, done.stdout
    return done, json.loads(answer.read_text())


def test_a_warning_passes_and_what_a_deploy_brings_is_no_finding(tmp_path: Path) -> None:
    # There is neither engine nor registry nor authority, which a deploy brings. A certificate ends tomorrow.
    inventory(tmp_path, {})
    certificate, _key = Authority().write(tmp_path / "etc/tls/egress", "here", use="client")
    Path(certificate).rename(tmp_path / "etc/tls/egress/egress.crt")
    done, found = doctor(tmp_path)
    assert (done.returncode, found["errors"], found["warnings"]) == (0, 0, 1), done.stdout
    [finding] = found["findings"]
    assert (finding["host"], finding["severity"], finding["role"]) == ("here", "warning", "release")
    assert re.search(r"egress\.crt ends at .* The next deploy replaces it", finding["message"])
    assert not (tmp_path / "var").exists() and not (tmp_path / "state/ca").exists()


def test_all_findings_of_all_hosts_come_at_once(tmp_path: Path) -> None:
    taken = [socket.create_server(("", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in taken]
    spoilt = {
        "release_min_memory_mb": 10**9,
        "release_min_free_build": 10**18,
        "fleet_registry_password": "",
        "fleet_database_user": "postgres",
        "backup_keep_last": 0,
        "backup_encryption": "age",
        "backup_schedule": "no such day",
        "backup_identity_file": "/nowhere/key",
        "base_images_mirror_references": {"python:9": "docker.example/python:9"},
        "image_build_core_python": "4.0",
        "fleet_database_ca_file": "/nowhere/ca.crt",
        "inference_device": "cuda",
        "fleet_api_tls": "often",
        "firewall_further_sources": {"metrics": ["prometheus"]},
        **dict(zip(("fleet_api_port", "fleet_api_tls_port", "fleet_metrics_port"), ports, strict=True)),
    }
    lost = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": free_ports(1)[0]}
    inventory(tmp_path, spoilt, lost=lost)
    # In check mode it says the same.
    done, found = doctor(tmp_path, "--check")
    for one in taken:
        one.close()
    wanted = [
        ("here", "release", "fleet_api_tls is 'often'; it has to be one of"),
        ("here", "release", "MB of memory"),
        ("here", "release", "GB free in /var/lib/docker"),
        ("here", "base_images", "base_images_mirror_references is .* Its names are those of the catalogue"),
        ("here", "image_build", "image_build_core_python is 4.0"),
        ("here", "registry", "fleet_registry_password is empty"),
        ("here", "backup", "backup_recipients is empty"),
        ("here", "backup", "/nowhere/key .backup_identity_file. does not exist"),
        ("here", "backup", "backup_keep_last must be 1"),
        ("here", "backup", "systemd of here does not understand .*no such day"),
        ("here", "firewall", "'prometheus' is no address"),
        ("here", "postgres", "fleet_database_user is postgres"),
        ("here", "inference", "no driver"),
        ("here", "api", "Correct fleet_database_ca_file"),
        ("here", "proxy", "fleet_api_tls is 'often'"),
        ("here", "proxy", f"Port {ports[0]} is taken by .*fleet_api_port"),
        ("here", "proxy", f"Port {ports[1]} is taken by .*fleet_api_tls_port"),
        ("here", "proxy", f"Port {ports[2]} is taken by .*fleet_metrics_port"),
        ("lost", "release", "fleet_api_tls is 'often'; it has to be one of"),
        ("lost", "release", "cannot be reached. .*replace_host.yml -e host=lost"),
    ]
    assert [(one["host"], one["role"]) for one in found["findings"]] == [one[:2] for one in wanted], found["findings"]
    for finding, (_, _, pattern) in zip(found["findings"], wanted, strict=True):
        assert re.search(pattern, finding["message"]), finding
        assert finding["severity"] == "error" and finding["check"]
    assert (done.returncode, found["errors"], found["warnings"]) == (2, len(wanted), 0)
    assert found["hosts"] == ["here", "lost"]
    table = [line for line in done.stdout.splitlines() if re.match(r" *(here|lost) +error ", line)]
    assert len(table) == len(wanted)
    # Nothing of it is a secret.
    assert GOOD["fleet_database_password"] not in done.stdout + json.dumps(found)


def test_an_inventory_without_the_groups_is_the_only_finding(tmp_path: Path) -> None:
    inventory(tmp_path, {}, groups=[group for group in GROUPS if group != "truthgraph_inference"])
    done, found = doctor(tmp_path)
    [finding] = found["findings"]
    assert "no host in truthgraph_inference" in finding["message"] and done.returncode == 2


def test_a_doctor_looks_at_everything_that_a_preflight_looks_at() -> None:
    tasks = yaml.safe_load((ROOT / "roles/release/tasks/preflight.yml").read_text())
    checked = set()
    for task in tasks:
        if task.get("ansible.builtin.import_tasks") == "step.yml":
            continue
        role = task.get("ansible.builtin.include_role", {})
        files = task.get("ansible.builtin.include_tasks", "")
        name, file = role.get("name", "release").rpartition(".")[2], role.get("tasks_from", files.removesuffix(".yml"))
        checked.add((name, file))
    variables: dict[str, str] = {}
    for path in (ROOT / "roles/release/vars/main").glob("*.yml"):
        variables.update(yaml.safe_load(path.read_text()))
    areas = yaml.safe_load((ROOT / "roles/release/vars/main/doctor.yml").read_text())["__release_areas"]
    assert checked and checked <= {(area["role"], area["tasks"]) for area in areas}
    for area in areas:
        # One that is chosen by a variable names all that it may be.
        [name] = re.findall(r"^{{ (\w+) }}$", area["tasks"]) or [""]
        for file in re.findall(r"'(\w+)'", variables[name]) if name else [area["tasks"]]:
            assert (ROOT / "roles" / area["role"] / "tasks" / f"{file}.yml").is_file()


CHECK = """
- hosts: localhost
  gather_facts: false
  vars: {release_gathers: %s}
  tasks:
    - name: Check one thing
      truthgraph.platform.check:
        that: ["1 + 1 == 2", "limit | int > 5"]
        fail_msg: "the limit is {{ limit }}"
        severity: "{{ severity | default('error') }}"
      vars: {limit: "{{ given | default(9) }}"}
    - name: Go on
      ansible.builtin.debug:
        msg: "found {{ ansible_facts.release_findings | default([]) | map(attribute='message') | join }}"
"""


@pytest.mark.parametrize(
    ("gathers", "options", "code", "said"),
    [
        ("false", [], 0, "found"),
        ("false", ["-e", "given=3"], 2, "the limit is 3"),
        ("false", ["-e", "given=3", "-e", "severity=warning"], 0, "WARNING]: the limit is 3"),
        ("false", ["-e", "severity=grave"], 2, "severity is grave; it must be error or warning"),
        ("true", [], 0, "found"),
        ("true", ["-e", "given=3"], 0, "found the limit is 3"),
    ],
)
def test_a_check_fails_a_deploy_and_is_noted_by_a_doctor(
    tmp_path: Path, gathers: str, options: list[str], code: int, said: str
) -> None:
    (tmp_path / "inventory.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}")
    (tmp_path / "playbook.yml").write_text(CHECK % gathers)
    done = play(tmp_path, tmp_path / "playbook.yml", *options)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert ("found the limit" in done.stdout) == (gathers == "true" and "given=3" in options)
