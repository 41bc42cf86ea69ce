#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module: whether a container registry can be used, and what it holds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_info
short_description: Ask a container registry whether it lets us in and which digests its tags have
description:
  - Works from a host without an engine. It talks to the registry itself, without a proxy.
  - It does not fail if the registry cannot be used, but says why in RV(state), so that the caller can say what to do.
options:
  images:
    description: Images to look up, as V(address/repository:tag).
    type: list
    elements: str
    default: []
  repositories:
    description: Repositories whose tags are wanted, without the address.
    type: list
    elements: str
    default: []
  architecture:
    description: Which platform's size and labels to answer for a multi-platform image.
    type: str
    default: amd64
extends_documentation_fragment:
  - truthgraph.platform.registry
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Ask which digest the base image has
  truthgraph.platform.registry_info:
    address: 192.0.2.11:5000
    username: truthgraph
    password: "{{ fleet_registry_password }}"
    ca_content: "{{ lookup('ansible.builtin.file', 'ca.crt') }}"
    images: ["192.0.2.11:5000/truthgraph/base/python:3.13"]
  register: found
"""

RETURN = r"""
state:
  description:
    - V(ok), V(unreachable) (nobody listens or answers), V(untrusted) (certificate), V(unauthorized) (user name or
      password), V(forbidden) (no access to an image) or V(unexpected) (no registry, or not over TLS).
  returned: always
  type: str
detail:
  description: What exactly went wrong.
  returned: always
  type: str
tags:
  description: The tags of each repository asked for; one that the registry does not have has none.
  returned: always
  type: dict
  sample: {truthgraph/core: ["1ec2a4922d7e", "release-0f3a5c77d2e1"]}
images:
  description: What is known about each image, by the reference asked for.
  returned: always
  type: dict
  sample:
    192.0.2.11:5000/truthgraph/base/python:3.13:
      exists: true
      digest: sha256:4f0c…
      compressed_bytes: 31457280
      labels: {}
      created: "2026-01-01T00:00:00Z"
      layers: {"sha256:7c1e…": 29360128}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.registry import CONNECTION, RegistryError, connect


def main() -> None:
    """Ask, and answer in one go."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "images": {"type": "list", "elements": "str", "default": []},
            "repositories": {"type": "list", "elements": "str", "default": []},
            "architecture": {"type": "str", "default": "amd64"},
        },
        supports_check_mode=True,
    )
    params = module.params
    images: dict[str, dict[str, t.Any]] = {}
    tags: dict[str, list[str]] = {}
    result = {"changed": False, "state": "ok", "detail": "", "images": images, "tags": tags}
    try:
        registry = connect(params)
        registry.ping()
        for reference in params["images"]:
            images[reference] = registry.image(reference, params["architecture"])
        for repository in params["repositories"]:
            tags[repository] = registry.tags(repository)
    except RegistryError as error:
        result.update(state=error.reason, detail=error.detail)
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
