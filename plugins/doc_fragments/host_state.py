# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What several modules say of the places in which a host keeps the state of rollouts."""

from __future__ import annotations


class ModuleDocFragment:
    """The options, described once."""

    DOCUMENTATION = r"""
options:
  root:
    description: Directory in which the host keeps the state of rollouts.
    type: path
    default: /var/lib/truthgraph
  config:
    description: Directory for configuration and secrets.
    type: path
    default: /etc/truthgraph
"""

    TRAFFIC = r"""
options:
  map:
    description: HAProxy's map that says which slot serves.
    type: path
    default: /etc/truthgraph/proxy/traffic.map
  socket:
    description: HAProxy's socket.
    type: path
    default: /run/haproxy/admin.sock
  gid:
    description: Numeric group of the containers' user, which may read their secrets.
    type: int
    default: 10001
"""
