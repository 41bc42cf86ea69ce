# The network as shipped: half of it is for slots, which have fixed addresses, and half for whatever else runs.
import ipaddress

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.engine import container, inspect


def test_it_is_a_bridge_with_the_subnet(host: testinfra.host.Host) -> None:
    found = inspect(host, "network", "truthgraph")
    assert found["Driver"] == "bridge" and not found["Internal"]
    assert [one["Subnet"] for one in found["IPAM"]["Config"]] == ["172.30.240.0/24"]


def test_the_host_has_its_first_address(host: testinfra.host.Host) -> None:
    bridge = f"br-{inspect(host, 'network', 'truthgraph')['Id'][:12]}"
    assert host.interface(bridge).addresses == ["172.30.240.1"]


def test_containers_without_an_address_leave_those_of_the_slots_alone(host: testinfra.host.Host) -> None:
    with container(host, "--network", "truthgraph") as one:
        address = one["NetworkSettings"]["Networks"]["truthgraph"]["IPAddress"]
        assert ipaddress.ip_address(address) in ipaddress.ip_network("172.30.240.128/25")


def test_a_slot_has_its_address(host: testinfra.host.Host) -> None:
    with container(host, "--network", "truthgraph", "--ip", "172.30.240.10") as slot:
        assert slot["NetworkSettings"]["Networks"]["truthgraph"]["IPAddress"] == "172.30.240.10"
