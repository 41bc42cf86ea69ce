"""Which texts are computed together: those of like length, since a shorter one is padded to the longest of its call."""

from collections.abc import Iterator

# What a call of the model costs on a CPU beside its texts, in characters of text: it reads all weights once.
CPU_CALL = 400
# On a card a call costs more than all the padding in it.
CUDA_CALL = 1_000_000


def of_like_length(texts: list[str], most: int, call: int) -> Iterator[list[int]]:
    """Share texts out among calls of at most `most` texts, as their places in the list, the shortest first.

    A further call is begun where padding would cost more than it.
    """
    together: list[int] = []
    longest = padding = 0
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        more = len(together) * (len(texts[place]) - longest)
        if together and (len(together) == most or padding + more > call):
            yield together
            together, padding, more = [], 0, 0
        together.append(place)
        padding += more
        longest = len(texts[place])
    if together:
        yield together
