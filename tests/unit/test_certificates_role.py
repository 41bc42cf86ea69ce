"""The fleet's authority, made by the role on a control node that has none, as a first deploy does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority

CHECK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: truthgraph.platform.certificates, tasks_from: check}
      vars:
        certificates_name: api
        certificates_certificate_file: %s
        certificates_key_file: %s
        certificates_brought_by: fleet_api
"""
PLAYBOOK = """
- name: Make the authority
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Make the fleet's authority, where there is none yet
      ansible.builtin.include_role:
        name: truthgraph.platform.certificates
"""


def play(directory: Path, playbook: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook with directory/state as the fleet's state."""
    (directory / "playbook.yml").write_text(playbook)
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "playbook.yml"]
        + ["-e", f"fleet_name=one fleet_state_dir={directory}/state ansible_python_interpreter={sys.executable}"],
        cwd=directory,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "default"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def make_the_authority(directory: Path) -> str:
    """Runs the role; what Ansible printed."""
    done = play(directory, PLAYBOOK)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("certificate.pem", "key.pem", ""),
        ("certificate.pem", "", "set both fleet_api_certificate_file and fleet_api_key_file to bring your own"),
        ("nowhere.pem", "key.pem", "nowhere.pem does not exist on the control node or cannot be read. Correct fleet_api_cert"),
        (".", "key.pem", "does not exist on the control node or cannot be read. Correct fleet_api_"),
        ("certificate.pem", "playbook.yml", "playbook.yml its key, both as PEM, the key without a passphrase. Correct fleet_"),
        ("playbook.yml", "key.pem", "playbook.yml has to be a certificate and"),
    ],
)
def test_a_certificate_that_is_brought_is_looked_at(tmp_path: Path, certificate: str, key: str, said: str) -> None:
    """And what is wrong with it is said by the names of the variables that an operator sets."""
    Authority().write(tmp_path, "api.example.org")
    done = play(tmp_path, CHECK % tuple(f"{tmp_path}/{name}" if name else '""' for name in (certificate, key)))
    assert (done.returncode == 0) == (not said), done.stdout + done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())


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
