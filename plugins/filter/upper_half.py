"""Filter that halves a network."""

from __future__ import annotations

DOCUMENTATION = r"""
name: upper_half
short_description: Upper half of a network
version_added: 0.1.0
description: Returns the second of the two networks into which a network can be divided.
options:
  _input:
    description: The network, such as V(172.30.240.0/24).
    type: str
    required: true
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
# 172.30.240.128/25
- ansible.builtin.debug:
    msg: "{{ '172.30.240.0/24' | truthgraph.platform.upper_half }}"
"""

RETURN = r"""
_value:
  description: The network.
  type: str
"""

import ipaddress
import typing as t

from ansible.errors import AnsibleFilterError


def upper_half(network: str) -> str:
    """Return the second half of a network."""
    try:
        return str(list(ipaddress.ip_network(network).subnets())[1])
    except (ValueError, IndexError) as error:
        raise AnsibleFilterError(f"'{network}' is not a network that can be halved: {error}") from error


class FilterModule:
    """What Ansible asks a filter file for."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters of this file by name."""
        return {"upper_half": upper_half}
