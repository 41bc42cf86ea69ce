# The fixtures that the scenarios with rollouts share, and those of the simulated cards.
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fixtures import *  # noqa: F403
from ansible_collections.truthgraph.platform.molecule.shared.gpu import GpuHost


@pytest.fixture(scope="session")
def gpu1() -> GpuHost:
    return GpuHost("gpu1")


@pytest.fixture(autouse=True)
def documented_cards(gpu1: GpuHost) -> t.Iterator[None]:
    # A test that changes the cards leaves them as the lab has them.
    before = gpu1.cards_file
    yield
    if gpu1.cards_file != before:
        gpu1.set_cards_file(before)
