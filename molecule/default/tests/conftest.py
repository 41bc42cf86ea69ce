# Fixtures for tests of the deployed fleet. A test that asks for `api`, `inference` ... runs once for each host of the group.
import pytest
import testinfra.host

pytest.register_assert_rewrite("ansible_collections.truthgraph.platform.molecule.shared.image_checks")

from ansible_collections.truthgraph.platform.molecule.shared.fleet import LAB, Fleet
from ansible_collections.truthgraph.platform.molecule.shared.image_checks import ca, deployed, secrets  # noqa: F401

FLEET = pytest.StashKey[Fleet]()
GROUPS = {
    "member": "truthgraph",
    "builder": "truthgraph_build",
    "registry": "truthgraph_registry",
    "database": "truthgraph_postgres",
    "api": "truthgraph_api",
    "inference": "truthgraph_inference",
}


def fleet_of(config: pytest.Config) -> Fleet:
    if FLEET not in config.stash:
        config.stash[FLEET] = Fleet(config.getoption("ansible_inventory") or LAB)
    return config.stash[FLEET]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in metafunc.fixturenames:
        if name in GROUPS:
            members = fleet_of(metafunc.config).of_group(GROUPS[name])
            metafunc.parametrize(name, members, ids=[member.name for member in members], scope="session")


@pytest.fixture(scope="session")
def fleet(pytestconfig: pytest.Config) -> Fleet:
    return fleet_of(pytestconfig)


@pytest.fixture(scope="session")
def control(fleet: Fleet) -> testinfra.host.Host:
    return fleet.control
