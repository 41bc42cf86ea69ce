# The doors as shipped: who needs a private service reaches it, and nobody else does.
import typing as t

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.doors import found, listener
from ansible_collections.truthgraph.platform.molecule.shared.role.engine import container

ADDRESS = "10.203.77.171"
# Postgres, inference, registry, metrics, and a port that is none of the role's business.
PORTS = (5432, 8001, 5000, 8405, 9999)


@pytest.fixture(scope="module", autouse=True)
def listening(hosts: dict[str, testinfra.host.Host]) -> t.Iterator[None]:
    with listener(hosts["role1"], PORTS):
        yield


def test_the_api_host_reaches_what_it_needs(hosts: dict[str, testinfra.host.Host]) -> None:
    expected = {5432: "open", 8001: "open", 5000: "open", 8405: "dropped", 9999: "open"}
    assert found(hosts["role2"], ADDRESS, PORTS) == expected


def test_a_stranger_reaches_nothing_private(control: testinfra.host.Host) -> None:
    expected = {5432: "dropped", 8001: "dropped", 5000: "dropped", 8405: "dropped", 9999: "open"}
    assert found(control, ADDRESS, PORTS) == expected


def test_the_host_reaches_itself(hosts: dict[str, testinfra.host.Host]) -> None:
    assert {*found(hosts["role1"], ADDRESS, PORTS).values()} == {"open"}


def test_a_host_without_private_services_has_a_door_for_metrics_only(hosts: dict[str, testinfra.host.Host]) -> None:
    chains = hosts["role2"].check_output("nft list table inet truthgraph | grep -o 'chain .* {'").split("\n")
    assert chains == ["chain doors {", "chain metrics {"]


def test_what_is_dropped_is_counted(hosts: dict[str, testinfra.host.Host], control: testinfra.host.Host) -> None:
    def dropped() -> int:
        return int(hosts["role1"].check_output("nft list chain inet truthgraph postgres | grep -oP 'packets \\K[0-9]+'"))

    before = dropped()
    found(control, ADDRESS, [5432])
    assert dropped() > before


def test_a_published_port_of_a_container_has_the_same_door(
    hosts: dict[str, testinfra.host.Host], control: testinfra.host.Host
) -> None:
    # The container does not listen: who is let through hears that.
    with container(hosts["role2"], "--publish", "8405:1", "--publish", "8406:1"):
        assert found(control, "10.203.77.172", [8405]) == {8405: "dropped"}
        assert found(control, "10.203.77.172", [8406]) != {8406: "dropped"}


def test_nobody_reaches_a_container_but_by_a_published_port(
    hosts: dict[str, testinfra.host.Host], control: testinfra.host.Host
) -> None:
    role2 = hosts["role2"]
    role2.check_output("docker network create --subnet 172.30.240.0/24 fleet")
    try:
        # Even where the engine itself would let him.
        role2.check_output("iptables -I DOCKER-USER -j ACCEPT")
        hosts["role1"].check_output("ip route add 172.30.240.0/24 via 10.203.77.172")
        with container(role2, "--network", "fleet", "--ip", "172.30.240.10"):
            assert found(hosts["role1"], "172.30.240.10", [8000]) == {8000: "dropped"}
    finally:
        hosts["role1"].run("ip route del 172.30.240.0/24")
        role2.run("iptables -D DOCKER-USER -j ACCEPT")
        role2.check_output("docker network rm fleet")


def test_rules_come_back_with_the_host(hosts: dict[str, testinfra.host.Host], control: testinfra.host.Host) -> None:
    role1 = hosts["role1"]
    unit = role1.service("truthgraph-firewall")
    assert unit.is_running and unit.is_enabled
    role1.check_output("systemctl stop truthgraph-firewall")
    assert found(control, ADDRESS, [5432]) == {5432: "open"}
    role1.check_output("systemctl start truthgraph-firewall")
    assert found(control, ADDRESS, [5432]) == {5432: "dropped"}


def test_rules_are_readable_by_root_only(hosts: dict[str, testinfra.host.Host]) -> None:
    for host in hosts.values():
        assert oct(host.file("/etc/truthgraph").mode) == "0o700"
        assert oct(host.file("/etc/truthgraph/firewall.nft").mode) == "0o600"
