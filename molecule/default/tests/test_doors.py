# Who reaches what, asked from every host of the fleet, and by a stranger who lies in the same network as they.
import base64
import contextlib
import pathlib
import typing as t

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority
from ansible_collections.truthgraph.platform.molecule.shared.fleet import EGRESS, Fleet, Member, ask, inspect, knock, stranger

# The group of the hosts that have a private service, its port, and the groups of those that need it.
DOORS = {
    "postgres": ("truthgraph_postgres", 5432, {"truthgraph_api"}),
    "inference": ("truthgraph_inference", 8001, {"truthgraph_api"}),
    "registry": ("truthgraph_registry", 5000, {"truthgraph"}),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_private_service_answers_who_needs_it_and_nobody_else(fleet: Fleet, door: str) -> None:
    group, port, needed_by = DOORS[door]
    for owner in fleet.of_group(group):
        found = {one.name: knock(one.host, owner.address, port) for one in fleet.members.values() if one is not owner}
        expected = {
            name: "open" if needed_by & {*fleet.members[name].variables["groups"], "truthgraph"} else "dropped"
            for name in found
        }
        assert {**found, "stranger": stranger(fleet, owner.address, port)} == {**expected, "stranger": "dropped"}


def test_the_inventory_may_let_somebody_in_besides(fleet: Fleet, registry: Member) -> None:
    # The lab's says so of the machine that it lies on.
    assert knock(fleet.control, registry.address, 5000) == "open"


def test_the_api_answers_everybody(fleet: Fleet, api: Member) -> None:
    assert stranger(fleet, api.address, 8000) == "open"


@contextlib.contextmanager
def route(host: testinfra.host.Host, to: str, by: str) -> t.Iterator[None]:
    host.check_output(f"ip route add {to} via {by}")
    try:
        yield
    finally:
        host.check_output(f"ip route del {to}")


def test_a_container_is_not_reached_past_its_door(fleet: Fleet, database: Member, builder: Member) -> None:
    [network] = inspect(database.host, "truthgraph-postgres")["NetworkSettings"]["Networks"].values()
    with route(builder.host, network["IPAddress"], database.address):
        assert knock(builder.host, network["IPAddress"], 5432) == "dropped"


LISTEN = """
import select, socket
sockets = [socket.create_server(("::", port), family=socket.AF_INET6) for port in (8001, 8999)]
while True:
    for one in select.select(sockets, [], [])[0]:
        one.accept()[0].close()
"""


@contextlib.contextmanager
def ipv6(*hosts: testinfra.host.Host) -> t.Iterator[list[str]]:
    """Let hosts speak IPv6, and answer the address of each in their network."""
    try:
        for host in hosts:
            host.check_output("sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.disable_ipv6=0")
        yield [host.check_output("ip -6 -o addr show dev eth0 scope link").split()[3].partition("/")[0] for host in hosts]
    finally:
        for host in hosts:
            host.check_output("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1")


def test_the_rules_hold_for_ipv6(fleet: Fleet, inference: Member) -> None:
    # Of the hosts that may ask the inference service, but the address of IPv6 is nobody's that is known.
    asking = fleet.of_group("truthgraph_api")[-1].host
    with ipv6(inference.host, asking) as (address, _):
        unit = "truthgraph-test-listener"
        inference.host.check_output(f"systemd-run --collect --unit {unit} python3 -c %s", LISTEN)
        try:
            listens = "until ss -Hltn 'sport = :8999' | grep -q 8999; do sleep 0.1; done"
            inference.host.check_output("timeout 10 sh -c %s", listens)
            found = {port: knock(asking, f"{address}%eth0", port) for port in (8999, 8001)}
        finally:
            inference.host.check_output(f"systemctl stop {unit}")
    assert found == {8999: "open", 8001: "dropped"}


def test_there_is_no_ipv6_way_in(fleet: Fleet, member: Member) -> None:
    # Nothing private listens on an address of IPv6 that another machine could reach.
    lines = member.host.check_output("ss --numeric --listening --tcp --no-header --ipv6").splitlines()
    ports = {int(line.split()[3].rpartition(":")[2]) for line in lines if not line.split()[3].startswith("[::1]")}
    assert not ports & {port for _, port, _ in DOORS.values()}, lines


def test_rules_are_loaded_at_every_start_and_are_those_of_the_deploy(member: Member) -> None:
    unit = member.host.service("truthgraph-firewall")
    assert unit.is_running and unit.is_enabled
    loaded = member.host.check_output("nft --stateless list table inet truthgraph")
    assert loaded == member.host.file("/run/truthgraph-firewall").content_string.rstrip("\n")


# Who it is that asks the inference service.


@pytest.fixture(scope="module")
def certificates(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[dict[str, dict[str, str]]]:
    """Certificates that somebody might show, by whose and what they are, as the files on a host."""
    ours, stranger = Authority(fleet.ca_file.parent), Authority(name="truthgraph lab CA")
    [asking, *_] = fleet.of_group("truthgraph_api")
    directory = tmp_path_factory.mktemp("certificates")
    shown = {
        "of-another-authority": stranger.write(directory / "of-another-authority", "egress", use="client"),
        "expired": ours.write(directory / "expired", "egress", days=-1, use="client"),
        "of-a-server": ours.write(directory / "of-a-server", "egress", use="server"),
        "good": ours.write(directory / "good", "egress", use="client"),
    }
    place = asking.host.check_output("mktemp -d")
    found = {"none": {"ca": EGRESS["ca"]}, "of-the-host": EGRESS}
    for name, files in shown.items():
        paths = [f"{place}/{name}.{kind}" for kind in ("crt", "key")]
        for source, path in zip(files, paths, strict=True):
            content = base64.b64encode(pathlib.Path(source).read_bytes()).decode()
            asking.host.check_output("echo %s | base64 -d > %s", content, path)
        found[name] = {"ca": EGRESS["ca"], "certificate": paths[0], "key": paths[1]}
    yield found
    asking.host.check_output("rm -r %s", place)


@pytest.mark.parametrize(
    ("shown", "heard"),
    [
        ("of-the-host", True),
        ("good", True),
        ("none", False),
        ("of-another-authority", False),
        ("expired", False),
        ("of-a-server", False),
    ],
)
def test_the_inference_service_hears_who_has_a_certificate_for_it(
    fleet: Fleet, inference: Member, certificates: dict[str, dict[str, str]], shown: str, heard: bool
) -> None:
    [asking, *_] = fleet.of_group("truthgraph_api")
    answer = ask(asking.host, f"https://{inference.address}:8001/health", tls=certificates[shown])
    assert answer.status == (200 if heard else 0), answer
    assert heard or "alert" in answer.text or "reset" in answer.text.lower(), answer


def test_the_inference_service_does_not_hear_plain_text(fleet: Fleet, inference: Member) -> None:
    [asking, *_] = fleet.of_group("truthgraph_api")
    answer = ask(asking.host, f"http://{inference.address}:8001/health")
    assert answer.status == 0, answer


def test_keys_are_readable_by_root_only(member: Member) -> None:
    # Of a service with a user of its own, by that user's group, too.
    found = member.host.check_output("find /etc/truthgraph -name '*.key' -printf '%m %U %G\\n'").splitlines()
    assert {*found} <= {"600 0 0", "640 0 999", "640 0 10001"}, found
