"""The filters ip_families, network_address and upper_half."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.truthgraph.platform.plugins.filter.ip_families import ip_families
from ansible_collections.truthgraph.platform.plugins.filter.network_address import network_address
from ansible_collections.truthgraph.platform.plugins.filter.upper_half import upper_half


def test_addresses_are_counted_from_the_network() -> None:
    assert network_address("172.30.240.0/24", 10) == "172.30.240.10"
    assert network_address("10.0.0.0/8", 256) == "10.0.1.0"


def test_an_address_outside_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="no address number 16"):
        network_address("172.30.240.0/28", 16)


def test_the_upper_half() -> None:
    assert upper_half("172.30.240.0/24") == "172.30.240.128/25"


@pytest.mark.parametrize("network", ["172.30.240.0/32", "nonsense", "172.30.240.1/24"])
def test_what_cannot_be_halved(network: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"cannot be halved|not a network"):
        upper_half(network)


def test_addresses_are_told_apart_by_family_each_once_and_in_order() -> None:
    found = ip_families(["192.0.2.7", "fd00::5", "10.0.0.0/24", "192.0.2.7", "10.0.0.9"])
    # What lies in a network is left out, since nftables takes no overlaps.
    assert found == {"ip": ["10.0.0.0/24", "192.0.2.7"], "ip6": ["fd00::5"]}
    assert ip_families([]) == {"ip": [], "ip6": []}


@pytest.mark.parametrize("source", ["db.example.org", "10.0.0.1/24", ""])
def test_what_is_no_address_is_refused_with_the_way_out(source: str) -> None:
    words = r"is no address and no network.*fleet_private_address.*firewall_further_sources"
    with pytest.raises(AnsibleFilterError, match=words):
        ip_families(["10.0.0.1", source])
