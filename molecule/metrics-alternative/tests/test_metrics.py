# What a Prometheus needs to watch an application that tells nothing, at another port, in another directory.
import os
import pathlib

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role import prometheus

DIRECTORY = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "watched"


def test_prometheus_finds_no_fault_in_it(host: testinfra.host.Host, state: pathlib.Path) -> None:
    prometheus.install(host)
    assert "SUCCESS" in prometheus.check(host, DIRECTORY)
    assert not (state / "prometheus").exists()


def test_only_the_proxy_is_scraped(state: pathlib.Path) -> None:
    labels = {"fleet": "claims", "topology": "split", "host": "role1", "service": "proxy"}
    assert prometheus.targets(DIRECTORY) == {"/metrics": ("10.203.77.171:9405", labels)}
