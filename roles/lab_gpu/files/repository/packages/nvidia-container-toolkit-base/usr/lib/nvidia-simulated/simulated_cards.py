"""What the simulated toolkit's programs know of the cards that the state file of the lab describes."""

from __future__ import annotations

import json
import os

STATE_IN_CONTAINERS = "/etc/nvidia-simulated/state.json"
STATE = os.environ.get("NVIDIA_SIMULATED_STATE", STATE_IN_CONTAINERS)
DEV = os.environ.get("NVIDIA_SIMULATED_DEV", "/dev")

# What every container with a card has beside the cards' own nodes: the node of the driver, nvidia-smi, and its state.
CONTROL = "nvidiactl"
MOUNTS = [("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"), (STATE, STATE_IN_CONTAINERS)]
MOUNT_OPTIONS = ["ro", "nosuid", "nodev", "bind"]


class SimulatedError(Exception):
    """Something that NVIDIA's programs would fail on as well."""


def devices() -> dict[str, list[str]]:
    """Return the device nodes, relative to /dev, by each name that a card or a MIG device is asked for by."""
    try:
        with open(STATE, encoding="utf-8") as file:
            state = json.load(file)
        if not state["working"]:
            raise SimulatedError("failed to initialize NVML: Driver Not Loaded")
        found: dict[str, list[str]] = {}
        everything: list[str] = []
        for index, card in enumerate(state["cards"]):
            node = f"nvidia{index}"
            # A card that is divided comes whole under its own name: with the nodes of all its MIG devices.
            parts = [f"nvidia-caps/nvidia-cap{100 * index + number}" for number in range(len(card["mig"]))]
            found[str(index)] = found[card["uuid"]] = [node, *parts]
            for number, part in enumerate(card["mig"]):
                found[f"{index}:{number}"] = found[part["uuid"]] = [node, parts[number]]
            everything += [node, *parts]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SimulatedError(f"the state of the simulated driver cannot be read: {STATE}: {error!r}") from error
    if not everything:
        raise SimulatedError("no NVIDIA device found")
    found["all"] = everything
    return found
