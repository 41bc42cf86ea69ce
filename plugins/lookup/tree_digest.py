# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup that answers what stands for the contents of directories."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tree_digest
short_description: What stands for the contents of directories
version_added: 0.1.0
description:
  - Answers twelve hexadecimal digits for each directory of the control node, by names, contents and the right to execute.
  - Times and owners do not count, nor do repositories' own files, virtual environments and what Python has compiled.
  - A directory that does not exist is answered by an empty text.
options:
  _terms:
    description: Paths of the directories.
    type: list
    elements: path
    required: true
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('truthgraph.platform.tree_digest', 'files/app') }}"
"""

RETURN = r"""
_raw:
  description: The digests.
  type: list
  elements: str
"""

import hashlib
import os
import typing as t

from ansible.plugins.lookup import LookupBase

LEFT_OUT = {".git", ".venv", "__pycache__", ".pytest_cache", ".ansible", ".cache"}


def digest(root: str) -> str:
    """Return what stands for the contents of a directory."""
    if not os.path.isdir(root):
        return ""
    whole = hashlib.sha256()
    for parent, names, leaves in os.walk(root):
        names[:] = sorted(set(names) - LEFT_OUT)
        for leaf in sorted(leaves):
            path = os.path.join(parent, leaf)
            if os.path.islink(path):
                kind, content = "link", os.readlink(path).encode()
            else:
                kind = "program" if os.access(path, os.X_OK) else "file"
                with open(path, "rb") as file:
                    content = file.read()
            whole.update(f"{kind} {os.path.relpath(path, root)} {len(content)}\n".encode())
            whole.update(content)
    return whole.hexdigest()[:12]


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[t.Any], variables: t.Any = None, **kwargs: t.Any) -> list[str]:
        """Return what stands for each directory."""
        self.set_options(var_options=variables, direct=kwargs)
        return [digest(os.path.realpath(os.path.expanduser(str(term)))) for term in terms]
