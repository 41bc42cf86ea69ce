#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's NVIDIA driver says of itself and of its cards."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_smi_info
short_description: What a host's NVIDIA driver says of itself and of its cards
version_added: 0.1.0
description:
  - Asks C(nvidia-smi). That there is none, or that it does not work, is an answer too and no failure; the caller
    decides.
options:
  program:
    description: The program to ask, by name or path.
    type: str
    default: nvidia-smi
  timeout:
    description: Seconds after which a driver that does not answer counts as one that does not work.
    type: int
    default: 60
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Ask the driver for the cards
  truthgraph.platform.nvidia_smi_info:
  register: driver

- name: Refuse a host without a card
  ansible.builtin.assert:
    that: driver.working
    fail_msg: "{{ driver.problem }}"
"""

RETURN = r"""
found:
  description: Whether the program is there.
  returned: always
  type: bool
working:
  description: Whether it answered, with at least one card.
  returned: always
  type: bool
problem:
  description: What it said where it does not work; empty where it works.
  returned: always
  type: str
driver_version:
  description: Version of the driver; empty where it is not known.
  returned: always
  type: str
cuda_version:
  description: The newest CUDA that the driver can run, such as V(13.0); empty where it is not known.
  returned: always
  type: str
cards:
  description: The cards, in the driver's order.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description: The driver's number of the card.
      type: int
    uuid:
      description: The card's identity, such as V(GPU-...).
      type: str
    name:
      description: Name of the product.
      type: str
    memory_total:
      description: Its memory in MiB; null where the driver does not say.
      type: int
    memory_used:
      description: What is used of it, in MiB; null where the driver does not say.
      type: int
    memory_free:
      description: What is free of it, in MiB; null where the driver does not say.
      type: int
    compute_capability:
      description: Such as V(9.0); empty where the driver does not say.
      type: str
    mig:
      description: Whether the card is divided into MIG devices.
      type: bool
    mig_devices:
      description: Those devices, each with C(uuid) and C(profile), such as V(1g.10gb).
      type: list
      elements: dict
simulated:
  description: Whether a card says that it is simulated, as those of the lab do.
  returned: always
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import nvidia_smi


def main() -> None:
    """Ask, and answer what was said."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "str", "default": nvidia_smi.PROGRAM},
            "timeout": {"type": "int", "default": nvidia_smi.TIMEOUT},
        },
        supports_check_mode=True,
    )
    program = module.get_bin_path(module.params["program"])
    module.exit_json(changed=False, **nvidia_smi.inspect(program, module.params["timeout"]))


if __name__ == "__main__":
    main()
