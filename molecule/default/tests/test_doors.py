# Who reaches what, asked from every host of the fleet, and by a stranger who lies in the same network as they.
import contextlib

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import inspect

KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
    print("open")
except TimeoutError:
    print("dropped")
except OSError as error:
    print(error)
"""
# The group of the hosts that have a private service, its port, and the groups of those that need it.
DOORS = {
    "postgres": ("truthgraph_postgres", 5432, {"truthgraph_api"}),
    "inference": ("truthgraph_inference", 8001, {"truthgraph_api"}),
    "registry": ("truthgraph_registry", 5000, {"truthgraph"}),
}


def knock(host, address, port):
    return host.check_output("python3 -c %s %s %s", KNOCK, address, str(port))


@pytest.mark.parametrize("door", DOORS)
def test_a_private_service_answers_who_needs_it_and_nobody_else(fleet, door):
    group, port, needed_by = DOORS[door]
    for owner in fleet.of_group(group):
        found = {one.name: knock(one.host, owner.address, port) for one in fleet.members.values() if one is not owner}
        expected = {
            name: "open" if needed_by & {*fleet.members[name].variables["groups"], "truthgraph"} else "dropped"
            for name in found
        }
        assert {**found, "stranger": stranger(fleet, owner.address, port)} == {**expected, "stranger": "dropped"}


def stranger(fleet, address, port):
    image = fleet.control.check_output("docker container inspect --format '{{.Config.Image}}' truthgraph-lab-build1")
    command = "docker run --rm --network truthgraph-lab --entrypoint python3 %s -c %s %s %s"
    return fleet.control.check_output(command, image, KNOCK, address, str(port))


def test_the_inventory_may_let_somebody_in_besides(fleet, registry):
    # The lab's says so of the machine that it lies on.
    assert knock(fleet.control, registry.address, 5000) == "open"


def test_the_api_answers_everybody(fleet, api):
    assert stranger(fleet, api.address, 8000) == "open"


@contextlib.contextmanager
def route(host, to, by):
    host.check_output(f"ip route add {to} via {by}")
    try:
        yield
    finally:
        host.check_output(f"ip route del {to}")


def test_a_container_is_not_reached_past_its_door(fleet, database, builder):
    [network] = inspect(database.host, "truthgraph-postgres")["NetworkSettings"]["Networks"].values()
    with route(builder.host, network["IPAddress"], database.address):
        assert knock(builder.host, network["IPAddress"], 5432) == "dropped"


def test_there_is_no_ipv6_way_in(fleet, member):
    # Nothing private listens on an address of IPv6 that another machine could reach.
    lines = member.host.check_output("ss --numeric --listening --tcp --no-header --ipv6").splitlines()
    ports = {int(line.split()[3].rpartition(":")[2]) for line in lines if not line.split()[3].startswith("[::1]")}
    assert not ports & {port for _, port, _ in DOORS.values()}, lines


def test_rules_are_loaded_at_every_start_and_are_those_of_the_deploy(member):
    unit = member.host.service("truthgraph-firewall")
    assert unit.is_running and unit.is_enabled
    loaded = member.host.check_output("nft --stateless list table inet truthgraph")
    assert loaded == member.host.file("/run/truthgraph-firewall").content_string.rstrip("\n")
