"""Which backup on the control node a new host gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {fleet_name: lab}
  tasks:
    - ansible.builtin.include_role: {name: truthgraph.platform.backup, tasks_from: find_copy, public: true}
    - ansible.builtin.copy: {content: "{{ __backup_on_controller }}", dest: "{{ answer }}", mode: "0600"}
"""


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("latest", "20260302T000000Z-b"),
        ("20260301T000000Z-a", "20260301T000000Z-a"),
        # A name is a whole one, and what has no manifest did not arrive whole.
        ("a", ""),
        ("20260303T000000Z-c", ""),
    ],
)
def test_the_named_one_or_the_newest_is_found(wanted: str, found: str, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    for fleet, name, whole in (
        ("lab", "20260301T000000Z-a", True),
        ("lab", "20260302T000000Z-b", True),
        ("lab", "20260303T000000Z-c", False),
        ("other", "20260304T000000Z-d", True),
    ):
        (copies / fleet / name).mkdir(parents=True)
        for file in ("database.dump", *(["manifest.json"] if whole else [])):
            (copies / fleet / name / file).write_text("{}", encoding="utf-8")
    (tmp_path / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
    variables = {
        "ansible_python_interpreter": sys.executable,
        "backup_controller_dir": str(copies),
        "backup_name": wanted,
        "answer": str(tmp_path / "answer"),
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", "localhost,", "play.yml", "-e", json.dumps(variables)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "answer").read_text(encoding="utf-8") == (str(copies / "lab" / found) if found else "")
