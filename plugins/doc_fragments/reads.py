# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every module that only looks says of itself."""

from __future__ import annotations


class ModuleDocFragment:
    """The attributes, described once."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    support: full
    description: Looks in check mode, too.
  diff_mode:
    support: none
    description: Nothing is changed.
  idempotent:
    support: full
    description: Nothing is changed.
"""
