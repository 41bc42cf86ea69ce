"""Whether a host's cards fit an image."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import card_fit

DRIVER = {"driver_version": "570.86.15", "cuda_version": "12.8"}
ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "compute_90"]


def card(index: int = 0, **more: t.Any) -> dict[str, t.Any]:
    found = {"index": index, "uuid": f"GPU-{index}", "name": "NVIDIA L4", "memory_total": 24000, "memory_free": 20000}
    return {**found, "compute_capability": "8.9", "mig": False, "mig_devices": [], **more}


def needs(**more: t.Any) -> dict[str, t.Any]:
    return {"cuda": "12.8", "architectures": ARCHITECTURES, "require": "", **more}


SPLIT = card(1, mig=True, mig_devices=[{"uuid": "MIG-a", "profile": "1g.10gb"}])


@pytest.mark.parametrize("names", [["0"], ["GPU-0"], ["MIG-a"], ["0", "MIG-a"], []])
def test_cards_that_are_there(names: list[str]) -> None:
    assert card_fit.selection_problems([card(), SPLIT], names, "g") == []


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["2"], ["g has no card 2", "It has 0 (NVIDIA L4, GPU-0), 1"]),
        (["1"], ["split (MIG)", "MIG-a"]),
        (["0", "0"], ["names 0 twice"]),
    ],
)
def test_cards_that_cannot_be_used(names: list[str], says: list[str]) -> None:
    problems = " ".join(card_fit.selection_problems([card(), SPLIT], names, "g"))
    assert all(text in problems for text in says)


def test_a_host_without_a_card_is_told_of_the_cpu() -> None:
    [problem] = card_fit.selection_problems([], ["0"], "gpu7")
    assert "gpu7 has no NVIDIA card" in problem and "inference_device: cpu" in problem


@pytest.mark.parametrize(
    ("capability", "fits"),
    # Machine code of the same generation, or what the driver compiles for a later one.
    [("7.5", True), ("8.0", True), ("8.9", True), ("9.0", True), ("12.0", True), ("7.0", False), ("6.1", False)],
)
def test_which_cards_code_runs_on(capability: str, fits: bool) -> None:
    assert card_fit.runs_on(ARCHITECTURES, capability) is fits


def test_machine_code_alone_does_not_run_on_a_later_generation() -> None:
    assert not card_fit.runs_on(["sm_80", "sm_90a"], "10.0") and card_fit.runs_on(["sm_90a"], "9.0")


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({}, ""),
        # A driver runs what was built for a later CUDA of its own generation.
        ({"cuda": "12.9"}, ""),
        ({"cuda": "13.0"}, "needs a driver for CUDA 13, and that of g (570.86.15) is for CUDA 12.8"),
        ({"cuda": "", "require": "cuda>=12.9 brand=tesla"}, "CUDA 12.9 (NVIDIA_REQUIRE_CUDA)"),
        ({"cuda": "", "require": "cuda>=12.4"}, ""),
        ({"architectures": ["sm_70"]}, "has compute capability 8.9, and the image's torch was built for sm_70"),
        # A CPU build needs nothing of a card.
        ({"cuda": "", "architectures": []}, ""),
    ],
)
def test_what_an_image_needs(wanted: dict[str, t.Any], says: str) -> None:
    problems = card_fit.needs_problems(needs(**wanted), DRIVER, [card()], "g")
    assert len(problems) == bool(says) and says in "".join(problems)


def test_room_for_another_copy() -> None:
    assert card_fit.has_room(card(memory_free=1756), 1500, 256) and not card_fit.has_room(card(memory_free=1755), 1500, 256)
    # One that shares the host's memory does not say.
    assert card_fit.has_room(card(memory_free=None), 1500, 256)
