# What a Prometheus needs, as shipped.
import pathlib

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role import prometheus


def test_prometheus_finds_no_fault_in_it(host: testinfra.host.Host, state: pathlib.Path) -> None:
    prometheus.install(host)
    assert "SUCCESS" in prometheus.check(host, state / "prometheus")


def test_every_service_of_the_host_is_scraped(state: pathlib.Path) -> None:
    labels = {"fleet": "truthgraph", "topology": "split", "host": "role1"}
    address = "10.203.77.171:8405"
    assert prometheus.targets(state / "prometheus") == {
        "/metrics": (address, {**labels, "service": "proxy"}),
        "/metrics/api": (address, {**labels, "service": "api"}),
        "/metrics/inference": (address, {**labels, "service": "inference"}),
    }


def test_whoever_runs_prometheus_may_read_the_files(control: testinfra.host.Host, state: pathlib.Path) -> None:
    modes = control.check_output("stat --format '%%n %%a' %s/*", str(state / "prometheus")).split("\n")
    assert [mode.rpartition("/")[2] for mode in modes] == ["prometheus.yml 644", "rules.yml 644", "targets.yml 644"]
