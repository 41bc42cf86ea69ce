# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host's NVIDIA cards fit an image: what it needs of driver and card, and whether two copies of it have room.

Shapes: `needs` is what an image says of itself: `cuda`, the version that its torch was built for (empty for a CPU build);
`architectures`, such as `sm_90` and `compute_90`; `require`, its NVIDIA_REQUIRE_CUDA. `cards` are those of the module
nvidia_smi_info; memory is in MiB.
"""

from __future__ import annotations

import re
import typing as t

Card = dict[str, t.Any]
# Prints what torch was built for, if it is there. It takes no card.
QUESTION = """
import json
try:
    import torch
    print(json.dumps({"cuda": torch.version.cuda or "", "architectures": torch.cuda.get_arch_list()}))
except ImportError:
    print(json.dumps({"cuda": "", "architectures": []}))
"""


def version(text: str) -> tuple[int, ...]:
    """Return a version such as `12.8` as numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def card_named(cards: list[Card], name: str) -> Card | None:
    """Return the card that an index, a UUID or the UUID of one of its MIG devices names."""
    for card in cards:
        if name in (str(card["index"]), card["uuid"], *(device["uuid"] for device in card["mig_devices"])):
            return card
    return None


def selection_problems(cards: list[Card], names: list[str], host: str) -> list[str]:
    """Say which of the wanted cards are not there, or cannot be used as they are."""
    if not cards:
        return [
            f"{host} has no NVIDIA card. Take it out of truthgraph_inference, or set inference_device: cpu for it to "
            "compute there without one."
        ]
    there = ", ".join(f"{card['index']} ({card['name']}, {card['uuid']})" for card in cards)
    problems = []
    for name in names:
        card = card_named(cards, name)
        if card is None:
            problems.append(f"{host} has no card {name}, which inference_cards names. It has {there}.")
        elif card["mig"] and name in (str(card["index"]), card["uuid"]):
            devices = ", ".join(device["uuid"] for device in card["mig_devices"]) or "none yet"
            problems.append(
                f"The card {name} of {host} is split (MIG), so it cannot be used whole. Name its devices in "
                f"inference_cards instead: {devices}."
            )
    return problems + [f"inference_cards of {host} names {name} twice." for name in sorted(set(names)) if names.count(name) > 1]


def runs_on(architectures: list[str], capability: str) -> bool:
    """Say whether code built for some architectures runs on a card of a compute capability such as `8.9`.

    Machine code (sm) runs on cards of the same generation that are no older; code for the driver to compile (compute), on
    all that are no older.
    """
    card = version(capability)
    for name in architectures:
        kind, _line, number = name.partition("_")
        digits = re.match(r"\d+", number)
        if digits:
            built = (int(digits[0][:-1]), int(digits[0][-1]))
            if (kind == "sm" and built[0] == card[0] and built <= card) or (kind == "compute" and built <= card):
                return True
    return False


def needs_problems(needs: dict[str, t.Any], driver: dict[str, t.Any], cards: list[Card], host: str) -> list[str]:
    """Say what an image needs that the driver or one of the cards has not."""
    has, problems = version(driver["cuda_version"]), []
    way_out = "Install a newer driver there, or deploy an image whose torch was built for an earlier CUDA."
    # Drivers run what was built for any CUDA of their own generation.
    if needs["cuda"] and version(needs["cuda"])[:1] > has[:1]:
        problems.append(
            f"The image needs a driver for CUDA {version(needs['cuda'])[0]}, and that of {host} "
            f"({driver['driver_version']}) is for CUDA {driver['cuda_version']}. {way_out}"
        )
    wanted = re.search(r"\bcuda>=(\d+(?:\.\d+)*)", needs["require"])
    if wanted and version(wanted[1]) > has:
        problems.append(
            f"The image says that it needs CUDA {wanted[1]} (NVIDIA_REQUIRE_CUDA), and the driver of {host} "
            f"({driver['driver_version']}) is for CUDA {driver['cuda_version']}. {way_out}"
        )
    return problems + [
        f"The card {card['index']} of {host} ({card['name']}) has compute capability {card['compute_capability']}, and "
        f"the image's torch was built for {', '.join(needs['architectures'])}. Use another card "
        "(inference_cards), or a torch that was built for it."
        for card in (cards if needs["cuda"] else [])
        if not runs_on(needs["architectures"], card["compute_capability"])
    ]


def has_room(card: Card, copy: int, headroom: int) -> bool:
    """Say whether another copy finds room on a card beside what is on it now; one that does not say is believed to have."""
    return card["memory_free"] is None or card["memory_free"] >= copy + headroom
