# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's toolkit on a role's host, and the cards that containers get."""

from __future__ import annotations

import typing as t

import testinfra.host

PACKAGES = (
    "libnvidia-container-tools", "libnvidia-container1", "nvidia-container-toolkit", "nvidia-container-toolkit-base"
)


def packages(host: testinfra.host.Host) -> dict[str, str]:
    """Return the versions of the toolkit's packages that are installed."""
    return {name: host.package(name).version for name in PACKAGES if host.package(name).is_installed}


def upgrade(host: testinfra.host.Host) -> str:
    """Return what an upgrade of the host would do."""
    return str(host.check_output("apt-get --quiet update >&2; apt-get --simulate dist-upgrade"))


def cards(host: testinfra.host.Host, made: dict[str, t.Any]) -> list[str]:
    """Return the nodes of cards in a running container."""
    return str(host.check_output(f"ls /proc/{made['State']['Pid']}/root/dev | grep nvidia; true")).split()
