# An older toolkit from another repository, whose runtime gives containers their cards; and a host that is rid of it.
import json

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.cards import PACKAGES, cards, packages, upgrade
from ansible_collections.truthgraph.platform.molecule.shared.role.engine import container, image, info, inspect

ASKING = ("--runtime", "nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=0")

with_it = pytest.mark.parametrize("name", ["role1", "role3"])


@with_it
def test_the_version_is_the_one_that_is_set_and_an_upgrade_moves_nothing(
    hosts: dict[str, testinfra.host.Host], name: str
) -> None:
    assert packages(hosts[name]) == dict.fromkeys(PACKAGES, "1.17.8-1")
    assert "1.20.0-1" in hosts[name].check_output("apt-cache madison nvidia-container-toolkit")
    assert "nvidia" not in upgrade(hosts[name])


@with_it
def test_it_comes_from_the_repository_that_is_named(hosts: dict[str, testinfra.host.Host], name: str) -> None:
    assert "http://10.203.77.173:9091/stable/deb" in hosts[name].check_output("apt-cache policy nvidia-container-toolkit")


@with_it
def test_a_container_gets_the_card_that_it_asks_the_runtime_for(
    hosts: dict[str, testinfra.host.Host], name: str
) -> None:
    with container(hosts[name], *ASKING) as made:
        assert cards(hosts[name], made) == ["nvidia0", "nvidiactl"]


@with_it
def test_a_container_that_asks_for_none_gets_none(hosts: dict[str, testinfra.host.Host], name: str) -> None:
    with container(hosts[name], "--env", "NVIDIA_VISIBLE_DEVICES=0") as made:
        assert made["HostConfig"]["Runtime"] == "runc" and cards(hosts[name], made) == []


def test_cdi_is_given_up_where_it_was(hosts: dict[str, testinfra.host.Host]) -> None:
    role3 = hosts["role3"]
    settings = json.loads(role3.file("/etc/docker/daemon.json").content_string)
    assert {*settings} == {"labels", "runtimes"} and {*settings["runtimes"]} == {"nvidia"}
    # The engine had to restart for that, and ended what ran.
    assert not info(role3)["CDISpecDirs"]
    assert not inspect(role3, "container", "bystander")["State"]["Running"]
    for unit in ("truthgraph-nvidia-cdi.service", "truthgraph-nvidia-start.service"):
        assert not role3.file(f"/etc/systemd/system/{unit}").exists, unit
    assert not role3.file("/var/run/cdi/nvidia.yaml").exists


def test_what_stood_in_the_configuration_stands_there_still(hosts: dict[str, testinfra.host.Host]) -> None:
    assert info(hosts["role3"])["Labels"] == ["site=here"]
    assert hosts["role2"].file("/etc/docker/daemon.json").content_string == '{"labels": ["site=here"] }'
    assert info(hosts["role2"])["Labels"] == ["site=here"]


def test_the_engine_has_forgotten_the_runtime_without_a_restart(hosts: dict[str, testinfra.host.Host]) -> None:
    role2 = hosts["role2"]
    assert "nvidia" not in info(role2)["Runtimes"]
    refused = role2.run(f"docker run --rm {' '.join(ASKING)} %s", image(role2))
    assert refused.rc == 125 and "untime" in refused.stderr and "nvidia" in refused.stderr, refused.stderr
    assert inspect(role2, "container", "bystander")["State"]["Running"]


def test_nothing_of_it_is_left(hosts: dict[str, testinfra.host.Host]) -> None:
    role2 = hosts["role2"]
    assert packages(role2) == {}
    left = "find /etc /var/lib /run /usr/local -iname '*nvidia*' ! -path '*nvidia-simulated*' ! -path '/var/lib/apt/lists/*'"
    assert role2.check_output(f"{left} ! -path '/var/lib/docker/*' ! -path '/etc/apt/apt.conf.d/*'").split() == [
        "/etc/apt/sources.list.d/nvidia-docker.list"
    ]
