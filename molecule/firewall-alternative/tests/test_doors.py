# Other ports, another network, others who are let in; and a host on which the doors are open again.
import typing as t

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.doors import found, listener

ADDRESS = "10.203.77.171"
# Postgres, inference and registry, and then the ports that they have as shipped, and the metrics'.
PORTS = (6432, 9001, 5443, 5432, 8001, 5000, 8405)


@pytest.fixture(scope="module", autouse=True)
def listening(hosts: dict[str, testinfra.host.Host]) -> t.Iterator[None]:
    with listener(hosts["role1"], PORTS), listener(hosts["role3"], PORTS):
        yield


def test_hosts_of_the_fleet_reach_what_they_need(hosts: dict[str, testinfra.host.Host]) -> None:
    assert {*found(hosts["role2"], ADDRESS, PORTS).values()} == {"open"}
    # An inference host needs the registry only.
    assert found(hosts["role3"], ADDRESS, PORTS[:3]) == {6432: "dropped", 9001: "dropped", 5443: "open"}


def test_who_is_named_is_let_in_where_he_is_named(control: testinfra.host.Host) -> None:
    # By his address, by his network, and not at all.
    assert found(control, ADDRESS, PORTS[:3]) == {6432: "open", 9001: "open", 5443: "dropped"}


def test_ports_that_have_no_service_are_left_alone(control: testinfra.host.Host) -> None:
    assert {*found(control, ADDRESS, PORTS[3:]).values()} == {"open"}


def test_networks_of_the_other_family_are_let_in_by_theirs(hosts: dict[str, testinfra.host.Host]) -> None:
    chain = hosts["role1"].check_output("nft list chain inet truthgraph inference")
    assert "ip6 saddr { 2001:db8::/64 } accept" in chain or "ip6 saddr 2001:db8::/64 accept" in chain


def test_the_containers_network_is_the_one_that_is_set(hosts: dict[str, testinfra.host.Host]) -> None:
    chain = hosts["role1"].check_output("nft list chain inet truthgraph doors")
    assert "ip daddr 10.99.4.0/22" in chain


def test_the_rules_lie_where_the_configuration_does(hosts: dict[str, testinfra.host.Host]) -> None:
    rules = hosts["role1"].file("/etc/claims/firewall.nft")
    assert oct(rules.mode) == "0o600"
    assert not hosts["role1"].file("/etc/truthgraph").exists


def test_open_doors_are_open_to_everybody(hosts: dict[str, testinfra.host.Host], control: testinfra.host.Host) -> None:
    assert {*found(control, "10.203.77.173", PORTS).values()} == {"open"}
    role3 = hosts["role3"]
    assert role3.run("nft list table inet truthgraph").rc
    assert not role3.file("/etc/claims/firewall.nft").exists
    assert not role3.file("/etc/systemd/system/truthgraph-firewall.service").exists
    assert role3.run("systemctl is-enabled truthgraph-firewall").rc
