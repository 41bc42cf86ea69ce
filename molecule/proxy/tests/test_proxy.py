# The proxy as shipped, with stand-ins for the services behind it.
import typing as t

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.slots import ask, asked, egress, slot

API, INFERENCE = "10.203.77.171", "10.203.77.172"
CONFIG = "/etc/truthgraph"


@pytest.fixture(scope="module")
def serving(hosts: dict[str, testinfra.host.Host]) -> t.Iterator[None]:
    api = {"api": "blue", "api_blue": "r1", "egress_blue": "r1"}
    with (
        slot(hosts["role1"], "172.30.240.10", 8000, api, CONFIG),
        slot(hosts["role2"], "172.30.240.20", 8001, {"inference": "blue", "r1": "blue"}, CONFIG),
    ):
        yield


def test_before_there_is_a_release_clients_are_told(control: testinfra.host.Host) -> None:
    status, headers, body = ask(control, f"http://{API}:8000/health")
    assert (status, headers["retry-after"], body) == (503, "5", "No release serves here yet.\n")


@pytest.mark.usefixtures("serving")
def test_clients_reach_the_slot_that_serves(control: testinfra.host.Host) -> None:
    status, headers, _ = ask(control, f"http://{API}:8000/some")
    assert (status, headers["x-truthgraph-release"], headers["x-content-type-options"]) == (200, "r1", "nosniff")
    found = asked(control, f"http://{API}:8000/some", "--header", "X-Forwarded-For: 192.0.2.1")
    assert found["slot"] == "172.30.240.10"
    # Nobody is believed who he says he is.
    assert found["headers"]["x-forwarded-for"] == ["10.203.77.1"]
    assert found["headers"]["x-forwarded-proto"] == ["http"]


@pytest.mark.usefixtures("serving")
def test_clients_do_not_get_the_metrics(control: testinfra.host.Host) -> None:
    assert ask(control, f"http://{API}:8000/metrics")[0] == 404
    assert ask(control, f"http://{API}:8000//%6detrics/x", "--path-as-is")[0] == 404


@pytest.mark.usefixtures("serving")
def test_bodies_may_have_ten_megabytes(hosts: dict[str, testinfra.host.Host]) -> None:
    host = hosts["role1"]
    host.check_output("truncate --size 10485760 /tmp/most; truncate --size 10485761 /tmp/more")
    # The slot reads all of it.
    found = asked(host, f"http://{API}:8000/", "--data-binary", "@/tmp/most", "--header", "Expect:")
    assert found["length"] == 10485760
    assert ask(host, f"http://{API}:8000/", "--data-binary", "@/tmp/more", "--header", "Expect:")[0] == 413


@pytest.mark.usefixtures("serving")
def test_a_slot_asks_the_inference_service_of_its_release(hosts: dict[str, testinfra.host.Host]) -> None:
    role1 = hosts["role1"]
    with egress(role1, "172.30.240.1") as url:
        found = asked(role1, f"{url}/some")
    assert (found["slot"], found["headers"]["x-truthgraph-inference"]) == ("172.30.240.20", ["r1"])


@pytest.mark.usefixtures("serving")
def test_the_inference_service_hears_who_has_a_certificate(hosts: dict[str, testinfra.host.Host]) -> None:
    directory = f"{CONFIG}/tls/egress"
    shown = ("--cert", f"{directory}/egress.crt", "--key", f"{directory}/egress.key")
    known = ("--cacert", f"{directory}/ca.crt")
    assert asked(hosts["role1"], f"https://{INFERENCE}:8001/some", *known, *shown)["slot"] == "172.30.240.20"
    assert ask(hosts["role1"], f"https://{INFERENCE}:8001/some", *known)[0] == 0
    assert ask(hosts["role1"], f"https://{INFERENCE}:8001/some", *known, *shown, "--tls-max", "1.2")[0] == 0
    assert ask(hosts["role1"], f"http://{INFERENCE}:8001/some")[0] == 0


def test_metrics_are_for_whoever_reaches_the_private_address(hosts: dict[str, testinfra.host.Host]) -> None:
    for name, address in {"role1": API, "role2": INFERENCE}.items():
        status, _, body = ask(hosts[name], f"http://{address}:8405/metrics")
        assert status == 200 and "haproxy_process_uptime_seconds" in body
        assert ask(hosts[name], "http://127.0.0.1:8405/metrics")[0] == 0


@pytest.mark.usefixtures("serving")
def test_only_what_goes_wrong_is_logged(hosts: dict[str, testinfra.host.Host], control: testinfra.host.Host) -> None:
    asked(control, f"http://{API}:8000/went-well")
    assert ask(control, f"http://{API}:8000/broken/went-wrong")[0] == 500
    hosts["role1"].check_output("timeout 10 sh -c %s", "until journalctl --boot | grep -q went-wrong; do sleep 0.2; done")
    assert hosts["role1"].run("journalctl --boot | grep -q went-well").rc == 1


def test_it_runs_starts_at_boot_and_comes_first(hosts: dict[str, testinfra.host.Host]) -> None:
    for host in hosts.values():
        assert host.service("haproxy").is_running and host.service("haproxy").is_enabled
        assert host.check_output("systemctl show --value --property CPUWeight haproxy") == "1000"
        assert host.service("truthgraph-undo-at-boot").is_enabled


def test_what_is_there_already_is_nobodys_but_roots(hosts: dict[str, testinfra.host.Host]) -> None:
    for host in hosts.values():
        keys = host.check_output("find /etc/truthgraph -name '*.key' -printf '%m %U %G\\n'").split("\n")
        assert {*keys} == {"600 0 0"}
        assert oct(host.file("/etc/truthgraph/proxy/traffic.map").mode) == "0o600"
