# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's promtool on a role's host, with what the role metrics has written on the control node."""

from __future__ import annotations

import base64
import pathlib
import typing as t

import testinfra.host
import yaml


def install(host: testinfra.host.Host) -> None:
    """Install promtool, and have no Prometheus run."""
    host.check_output(
        "systemctl mask prometheus; apt-get -q update && "
        "DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install prometheus"
    )


def check(host: testinfra.host.Host, directory: pathlib.Path) -> str:
    """Have promtool look at what was written, and return what it says; it fails where there is a fault."""
    place = host.check_output("mktemp -d")
    for path in directory.iterdir():
        host.check_output("echo %s | base64 -d >%s", base64.b64encode(path.read_bytes()).decode(), f"{place}/{path.name}")
    return str(host.check_output("promtool check config %s", f"{place}/prometheus.yml"))


def targets(directory: pathlib.Path) -> dict[str, tuple[str, dict[str, t.Any]]]:
    """Return who is scraped, by the path at which he is: his address, and what is noted with what he answers."""
    found = yaml.safe_load((directory / "targets.yml").read_text(encoding="utf-8"))
    return {one["labels"].pop("__metrics_path__"): (*one["targets"], one["labels"]) for one in found}
