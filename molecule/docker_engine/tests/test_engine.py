# The engine as shipped: it runs, keeps containers over its own restart, and does not let their logs fill the disk.
import json

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.engine import container, info


def test_it_runs_and_starts_at_boot(host: testinfra.host.Host) -> None:
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled


def test_it_is_the_distributions(host: testinfra.host.Host) -> None:
    assert host.package("docker.io").is_installed and not host.package("docker-ce").is_installed
    assert not host.file("/etc/apt/sources.list.d/docker.sources").exists


def test_it_can_build(host: testinfra.host.Host) -> None:
    assert "buildx" in host.check_output("docker buildx version")


def test_containers_live_on_while_it_restarts(host: testinfra.host.Host) -> None:
    assert info(host)["LiveRestoreEnabled"] is True


def test_logs_of_containers_are_rotated(host: testinfra.host.Host) -> None:
    with container(host) as made:
        assert made["HostConfig"]["LogConfig"] == {"Type": "local", "Config": {"max-size": "10m", "max-file": "3"}}


def test_modules_of_ansible_find_what_they_need(host: testinfra.host.Host) -> None:
    host.check_output("python3 -c 'import requests'")


def test_the_configuration_is_well_formed_and_nothing_else_stands_in_it(host: testinfra.host.Host) -> None:
    host.check_output("dockerd --validate --config-file /etc/docker/daemon.json")
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert {*settings} == {"live-restore", "log-driver", "log-opts"}
