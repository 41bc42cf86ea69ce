"""The fleet's authority, made by the role on a control node that has none, as a first deploy does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

PLAYBOOK = """
- name: Make the authority
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Make the fleet's authority, where there is none yet
      ansible.builtin.include_role:
        name: truthgraph.platform.certificates
"""


def make_the_authority(directory: Path) -> str:
    """Runs the role with directory/state as the fleet's state; what Ansible printed."""
    (directory / "playbook.yml").write_text(PLAYBOOK)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "playbook.yml"]
        + ["-e", f"fleet_name=one fleet_state_dir={directory}/state ansible_python_interpreter={sys.executable}"],
        cwd=directory,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "default"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    assert "changed=0" not in make_the_authority(tmp_path)
    key = (tmp_path / "state/ca/ca.key").read_bytes()
    certificate = (tmp_path / "state/ca/ca.crt").read_bytes()
    read = x509.load_pem_x509_certificate(certificate)
    assert read.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert load_pem_private_key(key, None).public_key() == read.public_key()
    assert (tmp_path / "state/ca/ca.key").stat().st_mode & 0o777 == 0o600

    assert "changed=0" in make_the_authority(tmp_path)
    assert (tmp_path / "state/ca/ca.key").read_bytes() == key
    assert (tmp_path / "state/ca/ca.crt").read_bytes() == certificate
