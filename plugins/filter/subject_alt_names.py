# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: addresses and host names as the subject alternative names of a certificate."""

from __future__ import annotations

DOCUMENTATION = r"""
name: subject_alt_names
short_description: Turn addresses and host names into subject alternative names
description:
  - Marks each entry as C(IP) or C(DNS), as the modules of community.crypto want them, and drops doubles.
options:
  _input:
    description: Addresses and host names.
    type: list
    elements: str
    required: true
author: The truthgraph.platform developers
"""

EXAMPLES = r"""
# -> ["IP:192.0.2.1", "DNS:build1"]
- ansible.builtin.debug:
    msg: "{{ ['192.0.2.1', 'build1', 'build1'] | truthgraph.platform.subject_alt_names }}"
"""

RETURN = r"""
_value:
  description: The subject alternative names, in the order given.
  type: list
  elements: str
"""

import ipaddress
import typing as t

from ansible.errors import AnsibleFilterError


def subject_alt_names(subjects: t.Any) -> list[str]:
    """Return each of subjects as IP:… or DNS:…, without doubles."""
    if isinstance(subjects, str) or not hasattr(subjects, "__iter__"):
        raise AnsibleFilterError("subject_alt_names wants a list of addresses and host names")
    names = []
    for subject in subjects:
        text = str(subject).strip()
        if not text:
            continue
        try:
            name = f"IP:{ipaddress.ip_address(text.strip('[]'))}"
        except ValueError:
            name = f"DNS:{text.lower()}"
        if name not in names:
            names.append(name)
    return names


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """The filters in this file, by name."""
        return {"subject_alt_names": subject_alt_names}
