# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that lay out what a play says at its end."""

from __future__ import annotations

DOCUMENTATION = r"""
name: text_table
short_description: Lay rows out as a table of plain text
description:
  - Answers the lines of a table whose columns are as wide as their longest cell. Numbers are set flush right.
positional: _input
options:
  _input:
    description: The rows, each a list with a cell per column.
    type: list
    elements: list
    required: true
  columns:
    description: The headings.
    type: list
    elements: str
    required: true
author: The truthgraph.platform developers
"""

EXAMPLES = r"""
- name: Show what runs where
  ansible.builtin.debug:
    msg: "{{ [['cpu1', 'api'], ['gpu1', 'inference']] | truthgraph.platform.text_table(['host', 'service']) }}"
"""

RETURN = r"""
_value:
  description: The lines, heading first.
  type: list
  elements: str
"""

import typing as t

from ansible.errors import AnsibleFilterError


def text_table(rows: t.Sequence[t.Sequence[t.Any]], columns: t.Sequence[str]) -> list[str]:
    """Lines of a table: C(rows) is a list of lists of cells, C(columns) the headings."""
    rows = [list(row) for row in rows]
    for row in rows:
        if len(row) != len(columns):
            raise AnsibleFilterError(f"text_table: {row} has {len(row)} cells, but there are {len(columns)} columns")
    numeric = [
        bool(rows) and all(isinstance(row[index], (int, float)) and not isinstance(row[index], bool) for row in rows)
        for index in range(len(columns))
    ]
    cells = [[str(cell) for cell in row] for row in [list(columns), *rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]

    def line(row: list[str]) -> str:
        laid_out = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(laid_out).rstrip()

    return [line(cells[0]), line(["-" * width for width in widths]), *(line(row) for row in cells[1:])]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Names and functions."""
        return {"text_table": text_table}
