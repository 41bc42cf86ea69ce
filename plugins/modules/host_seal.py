#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Note that a host is prepared, and from what."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_seal
short_description: Note that a host is prepared, and from what
version_added: 0.1.0
description:
  - M(truthgraph.platform.release_state) then says whether the host is still so, and a deploy leaves out what would find
    nothing to do.
  - Noted are modes, owners, sizes and times of the files that the collection's roles write, never their contents.
options:
  fingerprint:
    description: What stands for the inputs from which the host was prepared.
    type: str
    required: true
  images:
    description: Images that were built, by what stands for what they were built from.
    type: dict
    default: {}
  fleet:
    description: Name of the fleet.
    type: str
    required: true
extends_documentation_fragment:
  - truthgraph.platform.host_state
attributes:
  check_mode:
    support: full
    description: Nothing is noted.
  diff_mode:
    support: none
    description: A note is no change of the host.
  idempotent:
    support: full
    description: A note is no change of the host.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Note that the host is prepared
  truthgraph.platform.host_seal:
    fleet: prod
    fingerprint: 3f9c2a7b1c04
"""

RETURN = r"""
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import seal, slots
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "fingerprint": {"type": "str", "required": True},
            "images": {"type": "dict", "default": {}},
            "fleet": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/var/lib/truthgraph"},
            "config": {"type": "path", "default": "/etc/truthgraph"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if not module.check_mode:
        running = slots.without_slots(slots.containers(DockerCli(module), params["fleet"]))
        seal.write(params["root"], params["config"], params["fingerprint"], running, params["images"])
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
