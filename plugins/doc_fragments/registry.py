# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the modules that talk to a registry reach it."""

from __future__ import annotations


class ModuleDocFragment:
    """The options, described once; module_utils/registry.py has their specification."""

    DOCUMENTATION = r"""
options:
  address:
    description: Host and port of the registry.
    type: str
    required: true
  username:
    description: User name; empty to ask without one.
    type: str
    default: ""
  password:
    description: Password.
    type: str
    default: ""
  ca_content:
    description: CA certificate (PEM) to trust; empty for the ones that the host trusts.
    type: str
    default: ""
  timeout:
    description: Seconds to wait for each answer.
    type: int
    default: 10
"""
