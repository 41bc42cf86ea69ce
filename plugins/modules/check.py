#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check something of a host before it is changed. The work is done by the action of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check
short_description: Check something before anything is changed
version_added: 0.1.0
description:
  - As M(ansible.builtin.assert), for checks that do not need each other. While a play gathers findings (the variable
    C(release_gathers) is true, as in C(playbooks/doctor.yml)), one that fails is noted in the host's fact
    C(release_findings), and the play goes on with the next. Otherwise it fails the task.
  - Use M(ansible.builtin.assert) where what follows makes no sense if it fails.
options:
  that:
    description: Conditions that must hold.
    type: list
    elements: str
    required: true
  fail_msg:
    description: What is wrong, and the way out.
    type: str
    default: Assertion failed
  success_msg:
    description: What the task says if they hold.
    type: str
    default: All assertions passed
  quiet:
    description: Whether it says less.
    type: bool
    default: false
  severity:
    description: Whether a failure is an V(error), or a V(warning), which fails no task.
    type: str
    choices: [error, warning]
    default: error
  role:
    description: Whose check it is. By default that of the role in which the task stands.
    type: str
  check:
    description: What the check is called. By default as the task.
    type: str
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Check that the application is no superuser
  truthgraph.platform.check:
    that: fleet_database_user != 'postgres'
    fail_msg: fleet_database_user is postgres, the superuser. Choose another name.
    quiet: true
"""

RETURN = r"""
finding:
  description: >-
    What is wrong, where findings are gathered. An object with C(host), C(role), C(check), C(severity) and C(message).
  returned: when findings are gathered and a condition does not hold
  type: dict
"""
