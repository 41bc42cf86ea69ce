# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: a password file with bcrypt hashes that changes only if the password does."""

from __future__ import annotations

DOCUMENTATION = r"""
name: htpasswd
short_description: Contents of a htpasswd file with bcrypt hashes, unchanged while the password matches
description:
  - A bcrypt hash has a random salt, so hashing anew on every run would never be idempotent. This filter keeps the line
    that is already in the file if it verifies the password.
  - It runs on the control node, so the hosts need neither C(apache2-utils) nor a Python library.
options:
  _input:
    description: What the file holds now; empty if there is none.
    type: str
    required: true
  username:
    description: User name.
    type: str
    required: true
  password:
    description: Password, 1 to 72 bytes (bcrypt ignores the rest).
    type: str
    required: true
  rounds:
    description: Cost of a new hash, as a power of two. The registry verifies it on every request.
    type: int
    default: 8
requirements:
  - bcrypt (on the control node)
author: The truthgraph.platform developers
"""

EXAMPLES = r"""
- ansible.builtin.copy:
    dest: /etc/truthgraph/registry/htpasswd
    content: "{{ current | truthgraph.platform.htpasswd('truthgraph', password) }}"
    mode: "0640"
"""

RETURN = r"""
_value:
  description: The wanted contents, one line for the one user.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError

try:
    import bcrypt
except ImportError:
    HAS_BCRYPT = False
else:
    HAS_BCRYPT = True

MAX_BYTES = 72


def htpasswd(current: str | None, username: str, password: str, rounds: int = 8) -> str:
    """Return the contents of a htpasswd file for one user, keeping a hash that still matches."""
    if not HAS_BCRYPT:
        raise AnsibleFilterError(
            "The Python library bcrypt is missing on the control node: pip install bcrypt"
        )
    username, secret = str(username), str(password).encode()
    if not username or ":" in username or "\n" in username:
        raise AnsibleFilterError("A htpasswd user name must not be empty and must not contain ':' or a line break")
    if not 0 < len(secret) <= MAX_BYTES:
        raise AnsibleFilterError(f"The password of {username} must have 1 to {MAX_BYTES} bytes (bcrypt's limit)")
    lines = str(current or "").splitlines()
    if len(lines) == 1:
        user, _separator, hashed = lines[0].partition(":")
        if user == username and _matches(secret, hashed.encode()):
            return lines[0] + "\n"
    # Go's bcrypt, which the registry uses, knows the prefix $2y$ as well as $2b$; htpasswd itself writes $2y$.
    hashed = bcrypt.hashpw(secret, bcrypt.gensalt(rounds=int(rounds))).decode().replace("$2b$", "$2y$", 1)
    return f"{username}:{hashed}\n"


def _matches(secret: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(secret, hashed)
    except ValueError:
        return False


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """The filters in this file, by name."""
        return {"htpasswd": htpasswd}
