"""The filter text_table."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.truthgraph.platform.plugins.filter.text_table import FilterModule, text_table


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert text_table([["cpu1", "api"], ["gpu1", "inference"]], ["host", "service"]) == [
        "host  service",
        "----  ---------",
        "cpu1  api",
        "gpu1  inference",
    ]


def test_a_heading_may_be_the_longest_cell() -> None:
    assert text_table([["a", "b"]], ["image", "health"]) == ["image  health", "-----  ------", "a      b"]


def test_numbers_are_flush_right() -> None:
    assert text_table([["core", 207], ["ml", 1290]], ["image", "MB"]) == [
        "image    MB",
        "-----  ----",
        "core    207",
        "ml     1290",
    ]


@pytest.mark.parametrize("cells", [[1, "-"], [True, False]])
def test_a_column_with_anything_else_is_flush_left(cells: list[t.Any]) -> None:
    assert text_table([[cell, "x"] for cell in cells], ["wide column", "y"])[2] == f"{cells[0]!s:<11}  x"


def test_without_rows_only_the_heading() -> None:
    assert text_table([], ["host", "service"]) == ["host  service", "----  -------"]


def test_no_spaces_at_the_end_of_a_line() -> None:
    assert all(line == line.rstrip() for line in text_table([["cpu1", ""]], ["host", "service"]))


@pytest.mark.parametrize("row", [["cpu1"], ["cpu1", "api", "more"]])
def test_a_row_that_does_not_fit_is_an_error(row: list[t.Any]) -> None:
    with pytest.raises(AnsibleFilterError, match="2 columns"):
        text_table([row], ["host", "service"])


def test_the_rows_are_not_changed() -> None:
    rows = [["cpu1", 1]]
    text_table(rows, ["host", "number"])
    assert rows == [["cpu1", 1]]


def test_it_is_a_filter() -> None:
    assert FilterModule().filters() == {"text_table": text_table}
