"""What playbooks/deploy.yml relies on in Ansible: a failure anywhere in its block is taken back everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Deploy, or take it back
      any_errors_fatal: true
      block:
        - name: Fail on some hosts
          ansible.builtin.include_tasks: some.yml
        - name: Never come here
          ansible.builtin.debug:
      rescue:
        - name: Take back
          ansible.builtin.set_fact:
            failed_with: "{{ ansible_failed_result.msg if ansible_failed_result is defined else '' }}"
        - name: Fail in the end
          ansible.builtin.fail:
            msg: taken back
          run_once: true
    - name: Never come here either
      ansible.builtin.debug:
"""
SOME = """
- name: Reach the host
  ansible.builtin.ping:
  when: inventory_hostname in reached | default([])
- name: Fail here
  ansible.builtin.fail:
    msg: this one
  when: inventory_hostname in failing | default([])
"""
INVENTORY = """
all:
  vars: {ansible_python_interpreter: "PYTHON"}
  hosts:
    a: {ansible_connection: local}
    b: {ansible_connection: local}
    lost: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}
""".replace("PYTHON", sys.executable)


@pytest.mark.parametrize(
    ("variables", "taken_back"),
    [({"failing": ["a"]}, {"a", "b", "lost"}), ({"reached": ["lost"]}, {"a", "b"})],
    ids=["a host fails", "a host cannot be reached"],
)
def test_every_host_that_can_be_reached_takes_back(tmp_path: Path, variables: dict[str, t.Any], taken_back: set[str]) -> None:
    for name, text in {"playbook.yml": PLAYBOOK, "some.yml": SOME, "inventory.yml": INVENTORY}.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory.yml", "playbook.yml"]
        + ["-e", json.dumps(variables)],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    tasks = json.loads(done.stdout[done.stdout.index("{") :])["plays"][0]["tasks"]
    by_name = {task["task"]["name"]: set(task["hosts"]) for task in tasks}
    assert by_name["Take back"] == taken_back
    assert "Never come here" not in by_name and "Never come here either" not in by_name
