#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve once what an application tree needs that says nothing exact itself, and keep the answer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: source_lock
short_description: Resolve once what an application tree needs that has no lock
version_added: 0.1.0
description:
  - A tree with C(uv.lock) or with hashed requirement files says itself what is installed; nothing is done for it.
  - For every other tree uv resolves the dependencies in C(pyproject.toml) and its extras. The lock is kept and found again as
    long as these stay the same, so that builds do too. Nothing of the tree is run.
options:
  path:
    description: Directory of the tree, the one with C(pyproject.toml).
    type: path
    required: true
  directory:
    description: Where locks are kept.
    type: path
    required: true
  index:
    description: The package index settings, as the lookup P(truthgraph.platform.package_index#lookup) answers them.
    type: dict
    default: {}
    suboptions:
      index_url:
        description: The index, empty if it is the public one.
        type: str
        default: ""
      extra_index_urls:
        description: Further indexes.
        type: list
        elements: str
        default: []
      find_links_urls:
        description: Pages with links to wheels.
        type: list
        elements: str
        default: []
      find_links:
        description: Directories with wheels.
        type: list
        elements: str
        default: []
      ca_bundle:
        description: File with the certificates to trust.
        type: str
        default: ""
      timeout:
        description: Seconds after which a silent connection is given up; V(0) for uv's own.
        type: int
        default: 0
      dropped:
        description: Not used.
        type: list
        elements: str
        default: []
attributes:
  check_mode:
    support: full
    description: Resolves in check mode, too, since nothing but O(directory) is changed.
  diff_mode:
    support: none
    description: A lock is too long to be shown as a difference.
  idempotent:
    support: full
    description: What was resolved is not resolved again.
requirements:
  - python >= 3.11
  - uv
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Resolve what the tree needs
  truthgraph.platform.source_lock:
    path: /srv/truthgraph
    directory: /var/lib/resolved
    index: "{{ lookup('truthgraph.platform.package_index') }}"
  delegate_to: localhost
"""

RETURN = r"""
resolved:
  description: Directory with the lock that was made for the tree; empty if it needs none, or cannot be read.
  returned: always
  type: str
"""

import pathlib
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import source_tree, uv_lock


def settings_of(index: dict[str, t.Any]) -> dict[str, str]:
    """Return the settings of the package index as environment variables of uv."""
    settings = {
        "UV_DEFAULT_INDEX": index.get("index_url") or "",
        "UV_INDEX": " ".join(index.get("extra_index_urls") or []),
        "UV_FIND_LINKS": ",".join((index.get("find_links_urls") or []) + (index.get("find_links") or [])),
        "UV_HTTP_TIMEOUT": str(index.get("timeout") or ""),
        "SSL_CERT_FILE": index.get("ca_bundle") or "",
        "UV_PYTHON_DOWNLOADS": "never",
    }
    return {name: value for name, value in settings.items() if value}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "directory": {"type": "path", "required": True},
            "index": {
                "type": "dict",
                "default": {},
                # Only these may hold a password. What is secret is masked wherever it occurs in the answer, a "0" too.
                "options": {
                    "index_url": {"type": "str", "default": "", "no_log": True},
                    "extra_index_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
                    "find_links_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
                    "find_links": {"type": "list", "elements": "str", "default": []},
                    "ca_bundle": {"type": "str", "default": ""},
                    "timeout": {"type": "int", "default": 0},
                    "dropped": {"type": "list", "elements": "str", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )
    root = pathlib.Path(module.params["path"])
    # What is wrong with a tree is said by source_tree_info, all of it at once.
    if not (root / "pyproject.toml").is_file() or source_tree.has_requirements(root):
        module.exit_json(changed=False, resolved="")
    try:
        place, made = uv_lock.resolve(root, pathlib.Path(module.params["directory"]), settings_of(module.params["index"]))
    except uv_lock.LockError as error:
        module.fail_json(msg=f"The source tree {root} cannot be deployed. Nothing was changed. {error}")
    module.exit_json(changed=made, resolved=str(place))


if __name__ == "__main__":
    main()
