# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example inventories of staging and of a site of production, on hosts of the lab.

They are copies in which nothing is other than addresses, passwords, and what the lab needs: how its hosts are reached, its
simulated cards, and who looks at it. Staging is the lab's own fleet in this layout; production is a fleet beside it.
"""

from __future__ import annotations

import pathlib
import re
import secrets
import shutil
import subprocess
import typing as t

import yaml

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, tool

INVENTORIES = CHECKOUT / "inventories"
# This machine, as the lab's hosts see it.
HERE = "10.203.77.1"
STAGING = "10.203.77.11"
# The hosts of the site; its second inference host is left out, for which the lab's machine is too small.
SITE = {
    "eu-build1": "10.203.77.111",
    "eu-db1": "10.203.77.121",
    "eu-api1": "10.203.77.131",
    "eu-api2": "10.203.77.132",
    "eu-gpu1": "10.203.77.141",
}
LEFT_OUT = "eu-gpu2"
# As the role lab wants them.
SITE_HOSTS: dict[str, t.Any] = {name: {"address": address, "published_ports": []} for name, address in SITE.items()}
APIS = {name: f"http://{address}:8000" for name, address in SITE.items() if "-api" in name}


class Layouts:
    """Both inventories, in a directory."""

    def __init__(self, directory: pathlib.Path, lab_state: pathlib.Path) -> None:
        self.directory = directory
        self.lab_state = lab_state
        self.passwords = {name: secrets.token_hex(16) for name in ("registry", "database")}
        self.staging_password = (lab_state / "passwords" / "registry").read_text(encoding="utf-8").strip()
        # The one of the examples, which the lab leaves as they are where it does not need its own.
        self._vault_password = directory / "vault_password"
        self._vault_password.write_text("example", encoding="utf-8")
        self.staging = self._make_staging()
        self.production = self._make_production()

    @property
    def options(self) -> tuple[str, str]:
        """What a playbook needs to read them."""
        return "--vault-password-file", str(self._vault_password)

    @property
    def state(self) -> pathlib.Path:
        """The state of production on the control node."""
        return self.directory / "state"

    def _make_staging(self) -> pathlib.Path:
        made = self.directory / "staging"
        shutil.copytree(INVENTORIES / "staging", made)
        hosts = made / "hosts.yml"
        hosts.write_text(hosts.read_text(encoding="utf-8").replace("192.0.2.", "10.203.77."), encoding="utf-8")
        variables = made / "group_vars" / "truthgraph"
        # Ansible reads them in the order of their names: what the lab says of itself counts, and then who looks at it.
        for name in ("connection", "vars"):
            shutil.copy(LAB / "group_vars" / "truthgraph" / f"{name}.yml", variables / f"zz_lab_{name}.yml")
        doors = {"registry": [HERE, SITE["eu-build1"]], "metrics": [HERE]}
        self._write(variables / "zzz_door.yml", firewall_further_sources=doors)
        return made

    def _make_production(self) -> pathlib.Path:
        made = self.directory / "prod"
        shutil.copytree(INVENTORIES / "prod", made)
        (made / "us.yml").unlink()
        site = made / "eu.yml"
        text = "".join(
            line for line in site.read_text(encoding="utf-8").splitlines(keepends=True) if f"{LEFT_OUT}:" not in line
        )
        for name, address in SITE.items():
            text, count = re.subn(
                rf"{name}: {{.*?}}", f"{name}: {{ansible_host: {address}, fleet_private_address: {address}}}", text
            )
            assert count == 1, f"{site} names no addresses of {name}"
        site.write_text(text, encoding="utf-8")
        shared = made / "group_vars" / "truthgraph" / "vars.yml"
        text = shared.read_text(encoding="utf-8")
        for old, new in (("192.0.2.11", STAGING), ("truthgraph/staging/ca/", "truthgraph/lab/ca/")):
            assert text.count(old) == 1, f"{shared} has {old} {text.count(old)} times"
            text = text.replace(old, new)
        shared.write_text(text, encoding="utf-8")
        self._encrypt(shared.with_name("vault.yml"), vault_staging_registry_password=self.staging_password)
        own = made / "group_vars" / "eu"
        self._encrypt(
            own / "vault.yml", **{f"vault_fleet_{name}_password": password for name, password in self.passwords.items()}
        )
        lab = yaml.safe_load((LAB / "group_vars" / "truthgraph" / "vars.yml").read_text(encoding="utf-8"))
        needed = ("inference_device", "inference_environment", "nvidia_container_toolkit_repository_url")
        self._write(
            own / "zz_lab.yml",
            ansible_ssh_private_key_file=str(self.lab_state / "ssh" / "id_ed25519"),
            ansible_ssh_common_args=(
                f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={self.lab_state / 'ssh' / 'known_hosts'}"
            ),
            ansible_python_interpreter="/usr/bin/python3",
            fleet_state_dir=str(self.state),
            firewall_further_sources={"registry": [HERE]},
            **{name: lab[name] for name in needed},
        )
        return site

    @staticmethod
    def _write(path: pathlib.Path, **variables: t.Any) -> None:
        path.write_text(yaml.safe_dump(variables), encoding="utf-8")

    def _encrypt(self, path: pathlib.Path, **variables: str) -> None:
        """Write a vault of one's own in the place of the example's, as inventories/README.md says."""
        path.unlink()
        command = [tool("ansible-vault"), "encrypt", "--vault-password-file", str(self._vault_password), "--output", str(path)]
        subprocess.run(command, input=yaml.safe_dump(variables), text=True, check=True, capture_output=True)
