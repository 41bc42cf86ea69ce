# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nearly every task needs, loaded once.

Ansible forks a process for each task on each host. What it has not loaded itself until then, each of them loads anew: the
filters and tests of Jinja above all, which it imports when the first template asks for one. `make bench-scale` shows what a
run of many short tasks takes.
"""

from __future__ import annotations

import pathlib

from ansible.plugins import loader

COLLECTION = "truthgraph.platform"
PLUGINS = pathlib.Path(__file__).resolve().parents[1]


def preload() -> None:
    """Load what templates and connections are made of. To do it again takes no time."""
    for jinja in (loader.filter_loader, loader.test_loader):
        list(jinja.all())
    for kind, where in (("filter", loader.filter_loader), ("lookup", loader.lookup_loader)):
        # A filter is found by its name, which is that of its documentation if its file has several.
        for name in {path.stem for path in (PLUGINS / kind).iterdir() if path.suffix in (".py", ".yml")}:
            where.get(f"{COLLECTION}.{name}")
    loader.lookup_loader.get("ansible.builtin.env")
    loader.connection_loader.get("ansible.builtin.ssh", class_only=True)
    loader.become_loader.get("ansible.builtin.sudo", class_only=True)
    loader.shell_loader.get("ansible.builtin.sh", class_only=True)
