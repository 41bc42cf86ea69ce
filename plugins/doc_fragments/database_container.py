# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What several modules say of a database in a container."""

from __future__ import annotations


class ModuleDocFragment:
    """The options, described once."""

    DOCUMENTATION = r"""
options:
  container:
    description: The container of Postgres on this host.
    type: str
    required: true
  database:
    description: The database.
    type: str
    required: true
  user:
    description: A superuser, who logs in over the socket in the container.
    type: str
    default: postgres
"""
