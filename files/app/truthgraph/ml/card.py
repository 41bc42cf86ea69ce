"""The graphics card as a container has it: device nodes that can be opened. Without that, the card is lost."""

import errno
import os
import re
from pathlib import Path

NODES_AT = Path("/dev")
NODE = re.compile(r"nvidia[0-9]+")
# What the process itself has too little of says nothing about the card.
OWN_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class NoCard(Exception):
    """The service is to use a card, and its container has none."""


class CardLost(Exception):
    """A card that was there when the service started cannot be used any more."""


class Card:
    """The device nodes of the container's cards, as they were found at the start."""

    def __init__(self, directory: Path = NODES_AT, *, hold: bool = False) -> None:
        """Find the nodes. `hold` keeps them open, as CUDA does, so that this process counts as a user of the card."""
        self.nodes = sorted(path for path in directory.glob("nvidia*") if NODE.fullmatch(path.name))
        if not self.nodes:
            raise NoCard(
                f"no NVIDIA card is visible in this container: {directory} has no nvidia0 or other card; "
                "start the container with a card, or set TRUTHGRAPH_DEVICE=cpu"
            )
        self._hold = hold
        self._held: list[int] = []
        self.check()

    def __str__(self) -> str:
        return ", ".join(map(str, self.nodes))

    def check(self) -> None:
        """Open each node anew. Raises CardLost with the node and the reason."""
        opened: list[int] = []
        try:
            for node in self.nodes:
                opened.append(os.open(node, os.O_RDWR))
        except OSError as error:
            if error.errno not in OWN_SHORTAGE:
                raise CardLost(f"{node} cannot be opened: {error.strerror}") from error
        else:
            if self._hold:
                # What was held may be a node that has been replaced.
                self._held, opened = opened, self._held
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def release(self) -> None:
        """Hold nothing any more."""
        while self._held:
            os.close(self._held.pop())
