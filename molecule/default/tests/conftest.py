# Fixtures for tests of the deployed fleet. A test that asks for `api`, `inference` ... runs once for each host of the group.
import pathlib

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import LAB, Fleet

GROUPS = {
    "member": "truthgraph",
    "builder": "truthgraph_build",
    "registry": "truthgraph_registry",
    "database": "truthgraph_postgres",
    "api": "truthgraph_api",
    "inference": "truthgraph_inference",
}


class Secrets(dict):
    # Passwords by name, which a failing test does not show.
    def __repr__(self):
        return f"<secrets {', '.join(self)}>"


def fleet_of(config):
    if not hasattr(config, "truthgraph_fleet"):
        config.truthgraph_fleet = Fleet(config.getoption("ansible_inventory") or LAB)
    return config.truthgraph_fleet


def pytest_generate_tests(metafunc):
    for name in metafunc.fixturenames:
        if name in GROUPS:
            members = fleet_of(metafunc.config).of_group(GROUPS[name])
            metafunc.parametrize(name, members, ids=[member.name for member in members], scope="session")


@pytest.fixture(scope="session")
def fleet(pytestconfig):
    return fleet_of(pytestconfig)


@pytest.fixture(scope="session")
def control(fleet):
    return fleet.control


@pytest.fixture(scope="session")
def ca(fleet):
    return pathlib.Path(fleet.ca_file).read_text(encoding="ascii")


@pytest.fixture(scope="session")
def secrets(fleet):
    state = pathlib.Path(fleet.variables["state_dir"])
    known = Secrets((path.name, path.read_text(encoding="ascii").strip()) for path in (state / "passwords").iterdir())
    assert fleet.variables["database_password"] in known.values()
    return known
