#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look into an image: its size by layer and package, whether that is within its budget, and its bill of materials."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_inventory
short_description: Measure an image, hold it against its budget, and keep its bill of materials
version_added: 0.1.0
description:
  - Looks once into each image, with the image's own Python and without a network, and keeps what it found in
    O(directory) by the image's digest, C(<digest>.json), with a bill of materials beside it, C(<digest>.cdx.json)
    (CycloneDX 1.6). An image that the engine does not have is pulled for that.
  - Imports the module that the image serves, once. Fails if that needs a module which the image does not have, and names
    the line; if it is one of ML, the way out is another topology.
  - Fails if the image is larger than O(budget) allows, and says what has grown since the last image of the same name
    that was within it.
options:
  reference:
    description: The image by digest.
    type: str
    required: true
  name:
    description: What the image is, such as V(core). Images of one name are compared with each other.
    type: str
    required: true
  version:
    description: Version of the application in it.
    type: str
    default: ""
  created:
    description: The time of its source, in ISO 8601; empty where it is not known.
    type: str
    default: ""
  compressed_bytes:
    description: Size of the image in the registry, in bytes.
    type: int
    required: true
  budget:
    description: Bytes that it may have, C(unpacked) and C(compressed); what is missing or V(0) is not limited.
    type: dict
    default: {}
  option:
    description: The variable in which the operator finds the budget, for the error.
    type: str
    default: budget
  directory:
    description: Directory for what was found.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Answers what was found before; the image is not looked into.
  diff_mode:
    support: none
    description: Nothing that is shown as a difference is changed.
  idempotent:
    support: full
    description: An image is looked into once.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Measure the core image
  truthgraph.platform.image_inventory:
    reference: registry.example:5000/truthgraph/core@sha256:0123456789abcdef…
    name: core
    compressed_bytes: 61000000
    budget: {unpacked: 210000000, compressed: 80000000}
    directory: /var/lib/truthgraph-build/inventories
"""

RETURN = r"""
unpacked_bytes:
  description: Size of the image in the engine; V(0) if it is not known.
  returned: always
  type: int
groups:
  description: Bytes of its parts, C(base), C(python), C(torch), C(cuda), C(weights) and C(app).
  returned: when the image was looked into
  type: dict
grown:
  description: What has grown since the last image of this name, as sentences.
  returned: failure
  type: list
  elements: str
sbom:
  description: Path of the bill of materials.
  returned: always
  type: str
"""

import json
import os
import re
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import inventory, source_tree, traffic
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

CONTAINER = ("run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--entrypoint", "python3")
SERVED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# The last line: what ended the import, and nothing that it could do without.
MISSING = re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'\s*\Z", re.MULTILINE)
OUR_LINES = re.compile(r'File "/app/([^"]+)", line (\d+)')


def lacking(docker: DockerCli, reference: str, name: str) -> str:
    """Import what an image serves, as its command names it; return what is wrong if a module for it is not there."""
    command = json.loads(docker.run("image", "inspect", "--format", "{{json .Config.Cmd}}", reference)) or []
    module = next((word.partition(":")[0] for word in command if SERVED.fullmatch(word)), "")
    if not module:
        return ""
    code, _out, said = docker.try_run(*CONTAINER, "--tmpfs", "/tmp", reference, "-c", f"import {module}")
    # Other errors, such as of a setting that is missing here, are not for a build to judge.
    missing = MISSING.search(said)
    if code == 0 or not missing:
        return ""
    package = missing[1].partition(".")[0]
    places = [f"{path}:{line}" for path, line in OUR_LINES.findall(said)]
    where = f"{places[-1]} needs {missing[1]}" if places else f"{module} needs {missing[1]}"
    way_out = (
        "Import it inside the function that uses it, or deploy with fleet_topology: monolith, whose image has it."
        if package in source_tree.HEAVY and name.startswith("core")
        else f"Add {package} to the dependencies of the tree, and lock them again."
    )
    return f"The image {name} cannot serve {module}: {where}, which it does not have. {way_out}"


def look(docker: DockerCli, reference: str) -> dict[str, t.Any]:
    """Return the inventory of an image."""
    if docker.try_run("image", "inspect", reference)[0] != 0:
        docker.run("pull", "--quiet", reference)
    history = docker.run("history", "--no-trunc", "--human=false", "--format", "{{json .}}", reference)
    inside = docker.run(*CONTAINER, reference, "-c", inventory.LOOK)
    return {
        "unpacked_bytes": int(docker.run("image", "inspect", "--format", "{{.Size}}", reference)),
        "layers": inventory.layers_of(history),
        **json.loads(inside),
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "reference": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "default": ""},
            "created": {"type": "str", "default": ""},
            "compressed_bytes": {"type": "int", "required": True},
            "budget": {"type": "dict", "default": {}},
            "option": {"type": "str", "default": "budget"},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    digest = params["reference"].rpartition("@")[2]
    if not digest.startswith("sha256:"):
        module.fail_json(msg=f"{params['reference']} names no digest, so it may be any image. Name it as repository@sha256:...")
    path = os.path.join(params["directory"], digest.replace(":", "-"))
    sbom, last = f"{path}.cdx.json", os.path.join(params["directory"], f"last-{params['name']}.json")
    found = traffic.read_json(f"{path}.json")
    if not found and module.check_mode:
        module.exit_json(changed=False, unpacked_bytes=0, sbom=sbom)
    if not found:
        os.makedirs(params["directory"], mode=0o755, exist_ok=True)
        docker = DockerCli(module)
        found = look(docker, params["reference"])
        problem = lacking(docker, params["reference"], params["name"])
        if problem:
            module.fail_json(msg=problem)
        bill = inventory.cyclonedx(found, params["name"], digest, params["version"], params["created"])
        # The bill first: an inventory that is there says that both are.
        traffic.write_atomically(sbom, json.dumps(bill, indent=1) + "\n")
        traffic.write_atomically(f"{path}.json", json.dumps(found) + "\n")
    result = {"unpacked_bytes": found["unpacked_bytes"], "groups": inventory.groups_of(found), "sbom": sbom}
    sizes = {"unpacked": found["unpacked_bytes"], "compressed": params["compressed_bytes"]}
    problems = inventory.over_budget(sizes, params["budget"])
    before = traffic.read_json(last) or {}
    if problems:
        grown = inventory.growth(found, before) if before else []
        what = "What has grown since the last one that was within it" if grown else "What is largest in it"
        # It may be the budget that has become smaller.
        grown = grown or inventory.growth(found, {})
        module.fail_json(
            msg=f"The image {params['name']} is larger than its budget ({params['option']}): {'; '.join(problems)}. "
            f"{what}:\n" + "\n".join(f"- {one}" for one in grown) + "\nTake out what it does not need, or allow it more.",
            grown=grown,
            **result,
        )
    if found != before and not module.check_mode:
        traffic.write_atomically(last, json.dumps(found) + "\n")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
