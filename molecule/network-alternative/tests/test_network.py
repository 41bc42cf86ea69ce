# The network with another name and another subnet.
import ipaddress

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.engine import container, inspect


def test_it_is_there_by_its_name_only(host: testinfra.host.Host) -> None:
    names = host.check_output("docker network ls --filter driver=bridge --format '{{.Name}}'").split()
    assert sorted(names) == ["bridge", "claims"]


def test_it_has_its_subnet_and_the_host_the_first_address(host: testinfra.host.Host) -> None:
    found = inspect(host, "network", "claims")
    assert [one["Subnet"] for one in found["IPAM"]["Config"]] == ["10.99.4.0/22"]
    assert host.interface(f"br-{found['Id'][:12]}").addresses == ["10.99.4.1"]


def test_the_upper_half_is_for_containers_without_an_address(host: testinfra.host.Host) -> None:
    with container(host, "--network", "claims") as one:
        address = one["NetworkSettings"]["Networks"]["claims"]["IPAddress"]
        assert ipaddress.ip_address(address) in ipaddress.ip_network("10.99.6.0/23")


def test_the_lower_half_is_for_slots(host: testinfra.host.Host) -> None:
    with container(host, "--network", "claims", "--ip", "10.99.4.10") as slot:
        assert slot["NetworkSettings"]["Networks"]["claims"]["IPAddress"] == "10.99.4.10"
