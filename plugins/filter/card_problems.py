# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what is wrong with a choice of NVIDIA cards."""

from __future__ import annotations

DOCUMENTATION = r"""
name: card_problems
short_description: Say what is wrong with a choice of NVIDIA cards
version_added: 0.1.0
description: Compares the cards that are to be used with those that a host has.
positional: wanted, host
options:
  _input:
    description: The host's cards, as the module M(truthgraph.platform.nvidia_smi_info) answers them.
    type: list
    elements: dict
    required: true
  wanted:
    description: Indexes or UUIDs of the cards to use.
    type: list
    elements: str
    required: true
  host:
    description: What the host is called in the answers.
    type: str
    required: true
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
# []
- ansible.builtin.debug:
    msg: "{{ found.cards | truthgraph.platform.card_problems(['0'], inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: A sentence for each problem, which names the way out; empty if there is none.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.truthgraph.platform.plugins.module_utils import card_fit


class FilterModule:
    """What Ansible asks a filter file for."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters of this file by name."""
        return {"card_problems": card_fit.selection_problems}
