# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup that says who runs this playbook."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controller
short_description: Who runs this playbook
version_added: 0.1.0
description:
  - Answers the user, the machine and the process of this run, as the owner of a lock is written down.
  - A process is told from a later one of the same number by the time at which it was started.
options: {}
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('truthgraph.platform.controller') }}"
"""

RETURN = r"""
_raw:
  description: C(who), C(machine), C(boot), C(pid) and C(started).
  type: list
  elements: dict
"""

import getpass
import hashlib
import multiprocessing
import os
import socket
import typing as t

from ansible.plugins.lookup import LookupBase

from ansible_collections.truthgraph.platform.plugins.plugin_utils.rollout import process_started


def identity(path: str, fallback: str) -> str:
    """Return twelve digits for what a file of the system says, or for the fallback where it says nothing."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        text = ""
    return hashlib.sha256((text or fallback).encode()).hexdigest()[:12]


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[t.Any], variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        """Return who runs this playbook."""
        self.set_options(var_options=variables, direct=kwargs)
        # Tasks are templated in processes of their own; the run is the one above them.
        pid = os.getppid() if multiprocessing.parent_process() else os.getpid()
        host = socket.gethostname()
        return [
            {
                "who": f"{getpass.getuser()}@{host}",
                "machine": identity("/etc/machine-id", host),
                "boot": identity("/proc/sys/kernel/random/boot_id", host),
                "pid": pid,
                "started": process_started(pid),
            }
        ]
