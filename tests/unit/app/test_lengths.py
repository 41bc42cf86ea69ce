"""Which texts the ML service computes together."""

import pathlib
import random
import typing as t

import pytest


@pytest.fixture
def share(app_path: pathlib.Path) -> t.Callable[..., list[list[int]]]:
    from truthgraph.ml.lengths import of_like_length

    def sizes(lengths: list[int], most: int = 32, call: int = 100) -> list[list[int]]:
        texts = ["x" * length for length in lengths]
        calls = list(of_like_length(texts, most, call))
        assert sorted(place for call in calls for place in call) == list(range(len(texts)))
        return [[lengths[place] for place in call] for call in calls]

    return sizes


def padded(calls: list[list[int]], call: int) -> int:
    """What calls cost, in characters."""
    return sum(call + len(one) * max(one) for one in calls)


def test_texts_of_like_length_are_computed_together(share: t.Callable[..., list[list[int]]]) -> None:
    assert share([]) == []
    assert share([7]) == [[7]]
    assert share([500, 10, 30, 520, 20]) == [[10, 20, 30], [500, 520]]
    # Short ones beside a long one: three would be padded by more than a call costs, one would not.
    assert share([10, 10, 10, 50]) == [[10, 10, 10], [50]]
    assert share([10, 50]) == [[10, 50]]


def test_padding_adds_up(share: t.Callable[..., list[list[int]]]) -> None:
    assert share([10, 40, 70, 100]) == [[10, 40, 70], [100]]


def test_no_call_has_more_than_the_most(share: t.Callable[..., list[list[int]]]) -> None:
    assert share([5] * 7, most=3) == [[5] * 3, [5] * 3, [5]]
    assert share([1, 900], most=1, call=10**6) == [[1], [900]]


def test_a_dear_call_is_made_once(share: t.Callable[..., list[list[int]]]) -> None:
    assert len(share([1, 10, 100, 1000], call=10**6)) == 1


def test_it_computes_half_of_what_one_call_would(share: t.Callable[..., list[list[int]]]) -> None:
    chosen = random.Random(1)
    lengths = [chosen.choice((20, 60, 110, 500)) + chosen.randrange(20) for _ in range(32)]
    assert padded(share(lengths, call=400), 400) < 0.6 * padded([lengths], 400)
