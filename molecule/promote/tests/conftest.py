# The fixtures that the scenarios with rollouts share, and the two layouts with the hosts of production.
import pathlib
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fixtures import *  # noqa: F403
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Run, forget_connections, play
from ansible_collections.truthgraph.platform.molecule.shared.sites import SITE_HOSTS, Layouts


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


def remove_hosts() -> None:
    for name in SITE_HOSTS:
        good(play("remove_host", {"host": name, "lab_hosts": SITE_HOSTS}))
    forget_connections()


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    state = pathlib.Path.home() / ".local" / "state" / "truthgraph" / "lab"
    return Layouts(tmp_path_factory.mktemp("layouts"), state)


@pytest.fixture(scope="session")
def staging(fleet: Fleet, layouts: Layouts) -> t.Iterator[Fleet]:
    """The lab's fleet in the layout of staging, which lets production's build host read its registry."""
    good(play("deploy", fleet.tree("reference"), *layouts.options, inventory=layouts.staging, timeout=1800))
    yield fleet
    good(fleet.deploy("reference"))


@pytest.fixture(scope="session")
def production(layouts: Layouts) -> t.Iterator[Layouts]:
    """The site's hosts, blank at first, with nothing but simulated cards."""
    remove_hosts()
    good(play("lab", {"lab_hosts": SITE_HOSTS}, *layouts.options, inventory=layouts.production, timeout=1200))
    yield layouts
    remove_hosts()
