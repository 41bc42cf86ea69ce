#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check an application tree against what its images need."""

from __future__ import annotations

DOCUMENTATION = r"""
module: source_tree_info
short_description: Check an application tree before anything is built from it
version_added: 0.1.0
description:
  - Reads a source tree on the control node and says everything that would keep it from being built or from starting,
    each with file, line, reason and way out.
  - Nothing of the tree is imported or run. What a module imports when it is loaded is read from its syntax tree and
    followed through the package; imports inside functions, under C(TYPE_CHECKING) or in a C(try) that handles
    C(ImportError) are fine.
options:
  path:
    description: Directory of the tree, the one with C(pyproject.toml).
    type: path
    required: true
  topology:
    description: What is built from it. An unknown topology is a finding.
    type: str
    default: split
  runtime:
    description: What computes the embeddings, torch or ONNX Runtime.
    type: str
    choices: [torch, onnx]
    default: torch
  torch:
    description: Variant of torch, which names the requirement file C(requirements/torch-<variant>.txt).
    type: str
    default: cpu
  resolved:
    description: Directory with the lock that M(truthgraph.platform.source_lock) has answered for a tree without one.
    type: path
    default: ""
  fail:
    description: Whether to fail if there is a finding, with all of them in one message.
    type: bool
    default: false
requirements:
  - python >= 3.11
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Check the source tree
  truthgraph.platform.source_tree_info:
    path: /srv/truthgraph
    topology: split
    fail: true
  delegate_to: localhost
"""

RETURN = r"""
source:
  description: The tree's absolute path.
  returned: always
  type: str
version:
  description: What C(truthgraph.__version__) says.
  returned: always
  type: str
revision:
  description: >-
    The last commit that touched the tree, if all of it is committed; otherwise C(content-) and a hash over the files
    that the images are built from. Empty if there are findings.
  returned: always
  type: str
committed_at:
  description: The time of that commit, in seconds since 1970; V(0) where the revision is no commit.
  returned: always
  type: int
requires_python:
  description: The field of that name in C(pyproject.toml).
  returned: always
  type: str
migrations:
  description: The migrations of the tree, in the order of their files.
  returned: always
  type: list
  elements: dict
  sample: [{revision: "0001", file: 0001_evidence.py, contract: false}]
findings:
  description: What is wrong with the tree.
  returned: always
  type: list
  elements: dict
  contains:
    what:
      description: What is wrong.
      type: str
    file:
      description: The file, with its line if there is one.
      type: str
    why:
      description: Why that matters.
      type: str
    remedy:
      description: The way out.
      type: str
"""

import dataclasses
import pathlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.source_tree import inspect_tree, message


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "topology": {"type": "str", "default": "split"},
            "runtime": {"type": "str", "choices": ["torch", "onnx"], "default": "torch"},
            "torch": {"type": "str", "default": "cpu"},
            "resolved": {"type": "path", "default": ""},
            "fail": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    root = pathlib.Path(module.params["path"])
    try:
        resolved = pathlib.Path(module.params["resolved"]) if module.params["resolved"] else None
        report = inspect_tree(
            root, module.params["topology"], module.params["torch"], resolved, module.params["runtime"]
        )
    except (OSError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"The source tree {root} cannot be read: {error}")
    result = {"source": str(root.absolute()), **dataclasses.asdict(report)}
    # What is done about the tree that its authors may not expect.
    for text in result.pop("warnings"):
        module.warn(text)
    if report.findings and module.params["fail"]:
        module.fail_json(msg=message(str(root), report.findings), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
