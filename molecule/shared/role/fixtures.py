# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the roles' scenarios. A conftest.py takes all of them: `from ...role.fixtures import *`."""

from __future__ import annotations

import os
import pathlib
import typing as t

import pytest
import testinfra
import testinfra.host
import yaml

__all__ = ["control", "host", "hosts", "state"]

# Molecule says both to what it runs.
SCENARIO = pathlib.Path(os.environ.get("MOLECULE_SCENARIO_DIRECTORY", ""))
EPHEMERAL = pathlib.Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", ""))


def addresses(node: t.Any) -> dict[str, str]:
    """Return the addresses in an inventory, by the hosts' names."""
    found: dict[str, str] = {}
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "hosts":
            found |= {name: variables["ansible_host"] for name, variables in value.items() if variables}
        else:
            found |= addresses(value)
    return found


@pytest.fixture(scope="session")
def hosts() -> dict[str, testinfra.host.Host]:
    """Return the scenario's hosts by name."""
    inventory = yaml.safe_load((SCENARIO / "hosts.yml").read_text(encoding="utf-8"))
    ssh = EPHEMERAL / "lab" / "ssh"
    options = f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={ssh / 'known_hosts'}"
    return {
        name: testinfra.get_host(
            f"ssh://root@{address}",
            ssh_identity_file=str(ssh / "id_ed25519"),
            ssh_extra_args=options,
            controlpersist=60,
        )
        for name, address in addresses(inventory).items()
    }


@pytest.fixture(scope="session")
def host(hosts: dict[str, testinfra.host.Host]) -> testinfra.host.Host:
    """Return the only host."""
    [only] = hosts.values()
    return only


@pytest.fixture(scope="session")
def control() -> testinfra.host.Host:
    """Return the control node."""
    return testinfra.get_host("local://")


@pytest.fixture(scope="session")
def state() -> pathlib.Path:
    """Return the fleet's state on the control node."""
    return EPHEMERAL / "state"
