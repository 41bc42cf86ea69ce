#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module: one more tag for an image that a registry has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_tag
short_description: Give an image in a container registry one more tag, without moving its contents
description:
  - Puts the manifest of an image that the registry has under one more tag of the same repository.
options:
  image:
    description: The image as it is, V(address/repository:tag) or V(address/repository@sha256:…).
    type: str
    required: true
  tag:
    description: The tag to give it in the same repository.
    type: str
    required: true
extends_documentation_fragment:
  - truthgraph.platform.registry
attributes:
  check_mode:
    description: Says what it would do.
    support: full
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Name the image again
  truthgraph.platform.registry_tag:
    address: 192.0.2.11:5000
    image: 192.0.2.11:5000/truthgraph/base/python:3.13-debian-0123456789ab
    tag: "3.13"
"""

RETURN = r"""
digest:
  description: The image's digest.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.registry import (
    CONNECTION,
    RegistryError,
    connect,
    parse_reference,
)


def main() -> None:
    """Compare, and tag."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "image": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        parts = parse_reference(params["image"])
        registry = connect(params)
        manifest = registry.manifest(parts["repository"], parts["digest"] or parts["tag"])
        if manifest is None:
            module.fail_json(msg=f"The registry has no image {params['image']}.")
        current = registry.manifest(parts["repository"], params["tag"])
        changed = current is None or current["digest"] != manifest["digest"]
        if changed and not module.check_mode:
            registry.tag(parts["repository"], manifest, params["tag"])
    except RegistryError as error:
        module.fail_json(msg=f"The registry {params['address']} is {error.reason}: {error.detail}")
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, digest=manifest["digest"])


if __name__ == "__main__":
    main()
