# An engine that somebody else has set up and uses, with every variable of the role other than as shipped.
import json

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.engine import container, info


def test_its_packages_are_those_of_the_repository(host: testinfra.host.Host) -> None:
    for name in ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin"):
        assert host.package(name).is_installed, name
        assert "file:/srv/docker/debian bookworm/stable" in host.check_output("apt-cache policy %s", name), name


def test_the_repository_is_known_by_its_own_key(host: testinfra.host.Host) -> None:
    source = host.file("/etc/apt/sources.list.d/docker.sources").content_string
    [key] = [line.partition(": ")[2] for line in source.splitlines() if line.startswith("Signed-By: ")]
    assert host.file(key).content == host.file("/srv/docker/debian/gpg").content


def test_what_stood_in_the_configuration_stands_there_still(host: testinfra.host.Host) -> None:
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert settings == {
        "labels": ["site=here"],
        "max-concurrent-uploads": 2,
        "data-root": "/var/lib/docker/moved",
        "live-restore": False,
        "max-concurrent-downloads": 5,
    }


def test_the_engine_was_restarted_for_what_needs_it(host: testinfra.host.Host) -> None:
    found = info(host)
    assert found["DockerRootDir"] == "/var/lib/docker/moved"
    assert found["Labels"] == ["site=here"]
    # What ran is where the data was.
    assert found["Containers"] == 0
    assert host.run("pgrep -x sleep").rc == 1


def test_containers_end_when_it_restarts(host: testinfra.host.Host) -> None:
    assert info(host)["LiveRestoreEnabled"] is False


def test_logs_of_containers_are_not_rotated(host: testinfra.host.Host) -> None:
    with container(host) as made:
        assert made["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}


def test_it_runs_and_starts_at_boot(host: testinfra.host.Host) -> None:
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled
