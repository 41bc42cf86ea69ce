"""Finding, holding and watching the card's device nodes, with files in their place."""

import os
import resource
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def card(app_path: Path, node: Path) -> ModuleType:
    """What is under test, and the card of a container with one."""
    from truthgraph.ml import card

    return card


def held() -> list[str]:
    """What this process has open."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.append(str(Path("/proc/self/fd", descriptor).readlink()))
        except FileNotFoundError:
            # The descriptor of the listing itself.
            continue
    return links


def test_only_the_cards_themselves_count(card: ModuleType, node: Path) -> None:
    for name in ("nvidia1", "nvidiactl", "nvidia-uvm", "nvidia0x"):
        (node.parent / name).touch()
    assert [path.name for path in card.Card(node.parent).nodes] == ["nvidia0", "nvidia1"]


def test_no_card_is_refused_with_the_way_out(card: ModuleType, node: Path) -> None:
    node.rename(node.with_name("nvidiactl"))
    with pytest.raises(card.NoCard, match=r"no NVIDIA card is visible in this container: .*TRUTHGRAPH_DEVICE=cpu"):
        card.Card(node.parent)


def test_a_card_that_cannot_be_opened_is_named(card: ModuleType, node: Path) -> None:
    node.unlink()
    # Root may open every file, but no directory.
    node.mkdir()
    with pytest.raises(card.CardLost, match="nvidia0 cannot be opened: Is a directory"):
        card.Card(node.parent)


def test_a_removed_node_is_a_lost_card_until_it_is_there_again(card: ModuleType, node: Path) -> None:
    (node.parent / "nvidia1").touch()
    found = card.Card(node.parent)
    node.unlink()
    with pytest.raises(card.CardLost, match="nvidia0 cannot be opened: No such file or directory"):
        found.check()
    node.touch()
    found.check()
    assert str(node) not in held()


def test_a_held_card_stays_open_until_it_is_released(card: ModuleType, node: Path) -> None:
    found = card.Card(node.parent, hold=True)
    found.check()
    assert held().count(str(node)) == 1
    found.release()
    assert str(node) not in held()


def test_a_lost_card_is_held_on_and_a_new_node_is_held_instead(card: ModuleType, node: Path) -> None:
    found = card.Card(node.parent, hold=True)
    node.unlink()
    with pytest.raises(card.CardLost):
        found.check()
    assert f"{node} (deleted)" in held()
    node.touch()
    found.check()
    assert held().count(str(node)) == 1 and f"{node} (deleted)" not in held()
    found.release()


def test_a_process_without_descriptors_has_not_lost_its_card(card: ModuleType, node: Path) -> None:
    found = card.Card(node.parent)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        found.check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
