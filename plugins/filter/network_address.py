"""Filter that counts addresses of a network."""

from __future__ import annotations

DOCUMENTATION = r"""
name: network_address
short_description: Address number N of a network
version_added: 0.1.0
description: Returns the address that lies a number of places behind the first address of a network; several for several.
positional: offset
options:
  _input:
    description: The network, such as V(172.30.240.0/24).
    type: str
    required: true
  offset:
    description: How many places behind the network's own address, or a list of such numbers.
    type: raw
    required: true
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
# 172.30.240.10
- ansible.builtin.debug:
    msg: "{{ '172.30.240.0/24' | truthgraph.platform.network_address(10) }}"

# ['172.30.240.20', '172.30.240.22']
- ansible.builtin.debug:
    msg: "{{ '172.30.240.0/24' | truthgraph.platform.network_address([20, 22]) }}"
"""

RETURN = r"""
_value:
  description: The address, or the addresses.
  type: raw
"""

import ipaddress
import typing as t

from ansible.errors import AnsibleFilterError


def network_address(network: str, offset: int | list[int]) -> str | list[str]:
    """Return the address `offset` places behind the first one of a network, or those of several offsets."""
    if isinstance(offset, list):
        return [str(network_address(network, one)) for one in offset]
    try:
        addresses = ipaddress.ip_network(network)
        return str(addresses[int(offset)])
    except (ValueError, IndexError) as error:
        raise AnsibleFilterError(f"There is no address number {offset} in the network '{network}': {error}") from error


class FilterModule:
    """What Ansible asks a filter file for."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters of this file by name."""
        return {"network_address": network_address}
