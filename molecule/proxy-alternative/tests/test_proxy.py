# A proxy with other ports, addresses, limits and certificates, with stand-ins for the services behind it.
import os
import pathlib
import time
import typing as t

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.slots import ask, asked, egress, slot

API, INFERENCE = "10.203.77.171", "10.203.77.172"
URL = "https://claims.example.org:8443"
CONFIG = "/etc/claims"
STATE = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "state"
# As clients reach the API.
NAMED = ("--resolve", f"claims.example.org:8443:{API}", "--cacert", str(STATE / "ca" / "ca.crt"))
# Some that are not the load balancer, so that each has a rate of his own.
FROM = "X-Forwarded-For: 192.0.2."


@pytest.fixture(scope="module", autouse=True)
def serving(hosts: dict[str, testinfra.host.Host]) -> t.Iterator[None]:
    api = {"api": "blue", "api_blue": "r1", "egress_blue": "r1"}
    with (
        slot(hosts["role1"], "10.99.4.10", 8000, api, CONFIG, health="/well"),
        slot(hosts["role2"], "10.99.4.20", 8001, {"inference": "blue", "r1": "blue"}, CONFIG, health="/well"),
    ):
        yield


def client(number: int) -> tuple[str, ...]:
    return (*NAMED, "--header", f"{FROM}{number}")


def test_clients_come_by_tls(control: testinfra.host.Host) -> None:
    status, headers, _ = ask(control, f"{URL}/some", *client(1), "--http1.1")
    assert status == 200 and headers["strict-transport-security"] == "max-age=31536000"
    status, headers, _ = ask(control, f"http://{API}:8080/some?a=b", "--header", "Host: claims.example.org:8080")
    assert (status, headers["location"]) == (308, f"{URL}/some?a=b")


def test_the_load_balancer_is_believed_who_the_client_is(
    control: testinfra.host.Host, hosts: dict[str, testinfra.host.Host]
) -> None:
    found = asked(control, f"{URL}/some", *client(2))
    assert found["slot"] == "10.99.4.10" and found["headers"]["x-forwarded-for"] == ["192.0.2.2"]
    # Another host is not. It has the authority's certificate for the way to the inference service only, and asks without.
    found = asked(hosts["role2"], f"{URL}/some", *NAMED[:2], "--insecure", "--header", f"{FROM}2")
    assert found["headers"]["x-forwarded-for"] == [INFERENCE]


def test_it_listens_where_it_is_told_to(hosts: dict[str, testinfra.host.Host]) -> None:
    def listens(name: str) -> set[str]:
        lines = hosts[name].check_output("ss -Hltnp | grep haproxy | awk '{print $4}'")
        return {*lines.split("\n")}

    assert listens("role1") == {f"{API}:8080", f"{API}:8443", "127.0.0.1:9405", "10.99.4.1:8101", "10.99.4.1:8102"}
    assert listens("role2") == {"0.0.0.0:9001", "127.0.0.1:9405"}


def test_the_hosts_know_each_other_by_the_certificates_that_were_brought(hosts: dict[str, testinfra.host.Host]) -> None:
    role1, directory = hosts["role1"], f"{CONFIG}/tls/egress"
    shown = ("--cert", f"{directory}/egress.crt", "--key", f"{directory}/egress.key", "--cacert", f"{directory}/ca.crt")
    assert asked(role1, f"https://{INFERENCE}:9001/some", *shown)["slot"] == "10.99.4.20"
    issuer = role1.check_output("openssl x509 -noout -issuer -in %s", f"{directory}/egress.crt")
    assert issuer.replace(" ", "") == "issuer=CN=Somebody"
    with egress(role1, "10.99.4.1") as url:
        assert asked(role1, f"{url}/some")["slot"] == "10.99.4.20"


def test_slots_are_asked_for_their_health_where_they_answer(hosts: dict[str, testinfra.host.Host]) -> None:
    for host, name in ((hosts["role1"], "api_blue"), (hosts["role2"], "inference_blue")):
        up = f'haproxy_server_check_status{{proxy="{name}",server="{name}",state="L7OK"}} 1'
        assert up in ask(host, "http://127.0.0.1:9405/metrics")[2]


def test_longer_bodies_are_refused(control: testinfra.host.Host) -> None:
    assert asked(control, f"{URL}/", *client(3), "--data", "x" * 1000)["length"] == 1000
    assert ask(control, f"{URL}/", *client(3), "--http1.1", "--data", "x" * 1001)[0] == 413


def test_a_slow_answer_is_given_up(control: testinfra.host.Host) -> None:
    start = time.monotonic()
    assert ask(control, f"{URL}/slow", *client(4), "--http1.1")[0] == 504
    assert 2.5 < time.monotonic() - start < 10


# Sends the beginning of a request, reads what comes, and prints it with the seconds until the connection was closed.
HALF = """
import socket, sys, time
start = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as connection:
    connection.settimeout(30)
    connection.sendall(sys.argv[3].encode())
    text = b""
    while part := connection.recv(4096):
        text += part
print(round(time.monotonic() - start, 1), text.decode().partition("\\r\\n")[0])
"""


def test_a_slow_client_is_given_up(hosts: dict[str, testinfra.host.Host]) -> None:
    # The host itself may come by plain text.
    half = "POST / HTTP/1.1\r\nHost: claims\r\nContent-Length: 100\r\n\r\nhalf"
    seconds, _, line = hosts["role1"].check_output("python3 -c %s %s 8080 %s", HALF, API, half).partition(" ")
    # A client that is silent for longer is given up after 5 seconds in any case.
    assert line.startswith("HTTP/1.1 408") and 1.5 < float(seconds) < 4.5


def test_a_silent_client_is_given_up(hosts: dict[str, testinfra.host.Host]) -> None:
    assert "    timeout client 5s\n" in hosts["role1"].file("/etc/haproxy/haproxy.cfg").content_string


def test_who_asks_too_often_is_told(control: testinfra.host.Host) -> None:
    def statuses(number: int, times: int) -> list[str]:
        # By one curl, so that they come quickly.
        options = (*client(number), "--http1.1", "--write-out", "%{http_code}\n")
        command = f"curl --silent --noproxy '*' {' '.join(['%s'] * len(options))} --output /dev/null %s"
        return [*control.check_output(command, *options, f"{URL}/[1-{times}]").split()]

    # Five a second, over ten seconds.
    assert statuses(5, 60) == ["200"] * 50 + ["429"] * 10
    assert statuses(6, 1) == ["200"]


def test_requests_wait_while_the_card_changes_its_slot(hosts: dict[str, testinfra.host.Host]) -> None:
    role1, role2, directory = hosts["role1"], hosts["role2"], f"{CONFIG}/tls/egress"
    shown = ("--cert", f"{directory}/egress.crt", "--key", f"{directory}/egress.key", "--cacert", f"{directory}/ca.crt")
    path = f"{CONFIG}/proxy/traffic.map"
    before = role2.check_output("cat %s", path)
    role2.check_output("echo waiting yes >>%s; systemctl reload haproxy", path)
    try:
        start = time.monotonic()
        asked(role1, f"https://{INFERENCE}:9001/some", *shown)
        assert 1 < time.monotonic() - start < 10
    finally:
        role2.check_output("printf %s >%s; systemctl reload haproxy", before + "\n", path)


def test_every_request_is_logged(control: testinfra.host.Host, hosts: dict[str, testinfra.host.Host]) -> None:
    asked(control, f"{URL}/went-well", *client(7))
    hosts["role1"].check_output("timeout 10 sh -c %s", "until journalctl --boot | grep -q /went-well; do sleep 0.2; done")


def test_it_holds_as_many_connections_as_it_should(hosts: dict[str, testinfra.host.Host]) -> None:
    for host in hosts.values():
        assert "\nhaproxy_process_max_connections 500\n" in ask(host, "http://127.0.0.1:9405/metrics")[2]
