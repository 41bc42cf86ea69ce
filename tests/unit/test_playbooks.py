"""A playbook that finds no host says so, and fails: Ansible itself would do nothing, and end well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# The lab makes its own hosts.
PLAYBOOKS = sorted(path for path in (ROOT / "playbooks").glob("*.yml") if path.name != "lab.yml")
INVENTORIES = {
    "none": "",
    "other hosts": "all: {hosts: {somebody: {}}}",
    "no host": "truthgraph: {children: {truthgraph_api: {}, truthgraph_postgres: {}, truthgraph_build: {}}}",
    "no database": "truthgraph: {children: {truthgraph_api: {hosts: {api1: {ansible_connection: local}}}}}",
}


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_playbook_looks_for_its_hosts_first(path: Path) -> None:
    play = yaml.safe_load(path.read_text(encoding="utf-8"))[0]
    first = play["tasks"][0]
    assert first["ansible.builtin.import_tasks"] == "tasks/hosts.yml"
    group = first["vars"]["wanted_group"]
    assert group in play["hosts"] and f"groups['{group}']" in play["hosts"] and "'localhost'" in play["hosts"]


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_playbook_that_changes_something_looks_at_all_variables(path: Path) -> None:
    """By itself, or by the role release, whose first step does. Who only looks is not kept from it."""
    tasks = yaml.safe_load(path.read_text(encoding="utf-8"))[0]["tasks"]
    by_itself = [task for task in tasks if task.get("ansible.builtin.import_tasks") == "tasks/variables.yml"]
    by_release = "truthgraph.platform.release" in str(tasks)
    assert bool(by_itself) != by_release and (by_release or tasks.index(by_itself[0]) == 1)


@pytest.mark.parametrize(
    ("playbook", "inventory", "group"),
    [
        ("deploy", "none", "truthgraph"),
        ("rollback", "no host", "truthgraph_api"),
        ("status", "other hosts", "truthgraph"),
        ("backup", "no database", "truthgraph_postgres"),
    ],
)
def test_without_hosts_it_fails_and_says_why(tmp_path: Path, playbook: str, inventory: str, group: str) -> None:
    text = INVENTORIES[inventory]
    (tmp_path / "hosts.yml").write_text(text)
    command = [str(Path(sys.executable).with_name("ansible-playbook")), *(["-i", "hosts.yml"] if text else [])]
    done = subprocess.run(
        [*command, str(ROOT / f"playbooks/{playbook}.yml")],
        cwd=tmp_path,
        # From elsewhere, with no inventory by default.
        env={**os.environ, "ANSIBLE_INVENTORY": str(tmp_path / "nowhere"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, said
    places = {*re.findall(rf"The inventory \(([^)]*)\) has no host in the group {group}, so there is nothing to do\.", said)}
    assert len(places) == 1 and places.pop().endswith("hosts.yml" if text else "nowhere"), said
    assert ("is looked after by whoever runs it" in said) == (inventory == "no database")
    assert re.findall(r"failed=(\d+)", said) == ["1"]
