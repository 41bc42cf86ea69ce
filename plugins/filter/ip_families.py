"""Filter that tells addresses of the two versions of IP apart."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ip_families
short_description: Addresses and networks by the version of IP that they belong to
version_added: 0.1.0
description:
  - Returns them by the words that nftables has for the two versions, each once and in order, so that the same input always
    gives the same text.
options:
  _input:
    description: Addresses or networks, such as V(10.0.0.5) or V(fd00::/8).
    type: list
    elements: str
    required: true
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
# {'ip': ['10.0.0.0/24', '192.0.2.7'], 'ip6': ['fd00::5']}
- ansible.builtin.debug:
    msg: "{{ ['192.0.2.7', 'fd00::5', '10.0.0.0/24'] | truthgraph.platform.ip_families }}"
"""

RETURN = r"""
_value:
  description: The addresses and networks by V(ip) and V(ip6).
  type: dict
"""

import ipaddress
import typing as t

from ansible.errors import AnsibleFilterError


def ip_families(sources: t.Iterable[str]) -> dict[str, list[str]]:
    """Return addresses and networks by family. One that lies in another is left out: nftables takes no overlaps."""
    networks: dict[int, set[t.Any]] = {4: set(), 6: set()}
    for source in sources:
        try:
            network = ipaddress.ip_network(source)
        except ValueError as error:
            raise AnsibleFilterError(
                f"'{source}' is no address and no network: {error}. Who may reach a private service is told apart by "
                "addresses: set fleet_private_address of a host whose ansible_host is a name, or write "
                "firewall_further_sources as addresses or networks."
            ) from error
        networks[network.version].add(network)
    return {
        family: [
            str(one.network_address) if one.num_addresses == 1 else str(one)
            for one in ipaddress.collapse_addresses(networks[version])
        ]
        for family, version in (("ip", 4), ("ip6", 6))
    }


class FilterModule:
    """What Ansible asks a filter file for."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters of this file by name."""
        return {"ip_families": ip_families}
