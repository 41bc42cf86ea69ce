# The toolkit as shipped: containers that ask for a card by CDI get it, and others have nothing to do with it.
import json

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.cards import PACKAGES, cards, packages
from ansible_collections.truthgraph.platform.molecule.shared.role.engine import container, info, inspect

SPEC = "/var/run/cdi/nvidia.yaml"


def test_the_four_packages_are_of_one_version_and_stay_there(host: testinfra.host.Host) -> None:
    assert packages(host) == dict.fromkeys(PACKAGES, "1.20.0-1")
    for name in PACKAGES:
        policy = host.check_output("apt-cache policy %s", name)
        assert "1.20.0-1 1001" in policy, policy


def test_they_come_from_the_repository_that_is_named_and_known_by_its_key(host: testinfra.host.Host) -> None:
    source = host.file("/etc/apt/sources.list.d/truthgraph-nvidia.sources").content_string
    assert "http://10.203.77.171:8091/stable/deb/" in source
    [key] = [line.partition(": ")[2] for line in source.splitlines() if line.startswith("Signed-By: ")]
    assert host.file(key).content_string.strip() == host.check_output("curl --silent http://10.203.77.171:8091/gpgkey")


def test_a_container_gets_the_card_that_it_asks_for(host: testinfra.host.Host) -> None:
    with container(host, "--device", "nvidia.com/gpu=all") as made:
        assert cards(host, made) == ["nvidia0", "nvidiactl"]


def test_a_container_that_asks_for_none_gets_none(host: testinfra.host.Host) -> None:
    with container(host) as made:
        assert made["HostConfig"]["Runtime"] == "runc" and cards(host, made) == []


def test_the_engine_knows_cdi_and_no_runtime_of_nvidias(host: testinfra.host.Host) -> None:
    found = info(host)
    assert found["CDISpecDirs"] and "nvidia" not in found["Runtimes"]
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {"features": {"cdi": True}}


def test_the_packages_own_unit_describes_the_cards(host: testinfra.host.Host) -> None:
    host.check_output("rm %s", SPEC)
    host.check_output("systemctl start nvidia-cdi-refresh.service")
    assert "nvidia.com/gpu=0" in host.check_output("nvidia-ctk cdi list").split()
    assert host.check_output("grep -ls nvidia.com/gpu /etc/cdi/* /run/cdi/*; true") == SPEC.replace("/var", "")
    assert not host.file("/etc/systemd/system/truthgraph-nvidia-cdi.service").exists


def test_a_container_has_its_card_again_when_the_engine_has_restarted(host: testinfra.host.Host) -> None:
    # Before Docker 28.2 the engine restarts it before it knows the card, and leaves it ended.
    with container(host, "--restart", "always", "--device", "nvidia.com/gpu=0") as made:
        host.check_output("systemctl restart docker")
        running = f"docker inspect --format '{{{{.State.Running}}}}' {made['Id']}"
        host.check_output("timeout 30 sh -c %s", f"until {running} | grep -q true; do sleep 0.5; done")
        assert cards(host, inspect(host, "container", made["Id"])) == ["nvidia0", "nvidiactl"]
