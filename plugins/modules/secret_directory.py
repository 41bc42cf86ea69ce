#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write secrets as files into a numbered directory that changes its name when they change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_directory
short_description: Write secrets as files into a numbered directory
version_added: 0.1.0
description:
  - Writes each secret as one file into C(<path>/<generation>/), a directory that is mounted into a container.
  - A new generation is made only if the secrets differ from those of the newest one. So a changed secret changes the
    path of the mount, and a container that has the old one is seen to differ, even if a run was killed in between.
  - A generation appears complete or not at all. It is written beside its place and then renamed.
  - Neither a secret nor a hash of one is returned, logged, or written anywhere else.
options:
  path:
    description: Directory that holds the generations. It is made if it is missing, for root only.
    type: path
    required: true
  secrets:
    description: File names and their contents. Names must be usable as names of environment variables.
    type: dict
    required: true
  gid:
    description: Number of the group that may read the files.
    type: int
    default: 0
  generations:
    description:
      - How many of the newest generations to keep. V(0) keeps all of them.
      - The newest generation is always kept.
    type: int
    default: 0
  keep:
    description: Numbers of generations that are kept whatever their age, because something still uses them.
    type: list
    elements: int
    default: []
attributes:
  check_mode:
    support: full
    description: Says which generation would be written, and writes nothing.
  diff_mode:
    support: partial
    description: Shows the names of the secrets, never their contents.
  idempotent:
    support: full
    description: Nothing is written while the secrets stay as they are.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Write the secrets of the API
  truthgraph.platform.secret_directory:
    path: /etc/truthgraph/secrets/api
    gid: 10001
    secrets:
      DATABASE_URL: "{{ database_url }}"
  no_log: true
"""

RETURN = r"""
path:
  description: Directory of the generation that holds the secrets given.
  returned: success
  type: str
  sample: /etc/truthgraph/secrets/api/3
generation:
  description: Its number.
  returned: success
  type: int
  sample: 3
removed:
  description: Numbers of the old generations that were removed.
  returned: success
  type: list
  elements: int
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
UNFINISHED = ".unfinished-"
RETURNED = ("changed", "path", "generation", "removed", "failed", "invocation")
SHORTEST = 4
DIRECTORY_MODE = 0o750
FILE_MODE = 0o440


def generations_in(base: str) -> list[int]:
    """Return the numbers of the generations in a directory, oldest first."""
    if not os.path.isdir(base):
        return []
    return sorted(
        int(entry) for entry in os.listdir(base) if entry.isdecimal() and os.path.isdir(os.path.join(base, entry))
    )


def holds(directory: str, secrets: dict[str, bytes], gid: int) -> bool:
    """Say whether a generation has exactly these secrets, readable by exactly that group."""
    if not _is(directory, DIRECTORY_MODE, gid) or sorted(os.listdir(directory)) != sorted(secrets):
        return False
    for name, value in secrets.items():
        path = os.path.join(directory, name)
        if not stat.S_ISREG(os.lstat(path).st_mode) or not _is(path, FILE_MODE, gid):
            return False
        with open(path, "rb") as file:
            if file.read() != value:
                return False
    return True


def write(base: str, number: int, secrets: dict[str, bytes], gid: int) -> str:
    """Write one generation beside its place, then rename it there, and return its path."""
    beside = tempfile.mkdtemp(prefix=UNFINISHED, dir=base)
    for name, value in secrets.items():
        descriptor = os.open(os.path.join(beside, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            os.fchown(file.fileno(), -1, gid)
            os.fchmod(file.fileno(), FILE_MODE)
            file.flush()
            os.fsync(file.fileno())
    os.chown(beside, -1, gid)
    os.chmod(beside, DIRECTORY_MODE)
    final = os.path.join(base, str(number))
    os.rename(beside, final)
    _sync(base)
    return final


def outdated(numbers: list[int], count: int, keep: t.Iterable[int]) -> list[int]:
    """Return which generations may go when the newest `count` and those in `keep` stay."""
    if count <= 0:
        return []
    staying = set(numbers[-count:]) | set(keep)
    return [number for number in numbers if number not in staying]


def _is(path: str, mode: int, gid: int) -> bool:
    found = os.lstat(path)
    return stat.S_IMODE(found.st_mode) == mode and found.st_gid == gid


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked(module: AnsibleModule, base: str) -> dict[str, bytes]:
    """Return the secrets as bytes, or end the module with the name of one that cannot be used."""
    secrets: dict[str, bytes] = {}
    for name, value in module.params["secrets"].items():
        if not NAME.match(name):
            module.fail_json(msg=f"'{name}' cannot be the name of a secret: use letters, digits and underscores.")
        if value is None or not str(value):
            module.fail_json(msg=f"The secret {name} is empty. Give it a value or leave it out.")
        # Ansible blots secrets out of what a module returns; such a one would blot out the result itself.
        if len(str(value)) < SHORTEST or any(str(value) in text for text in (os.path.join(base, ""), *RETURNED)):
            module.fail_json(msg=f"The secret {name} is a short or common word. Choose a longer one.")
        secrets[name] = str(value).encode()
    return secrets


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "secrets": {"type": "dict", "required": True, "no_log": True},
            "gid": {"type": "int", "default": 0},
            "generations": {"type": "int", "default": 0},
            "keep": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )
    base = module.params["path"]
    gid = module.params["gid"]
    secrets = _checked(module, base)

    lock = None
    if not module.check_mode:
        os.makedirs(base, mode=0o700, exist_ok=True)
        # Two runs at once must not choose the same number. The lock goes with the process, so none is left behind.
        lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)

    numbers = generations_in(base)
    newest = numbers[-1] if numbers else 0
    current = os.path.join(base, str(newest))
    differs = not numbers or not holds(current, secrets, gid)
    if differs:
        before = sorted(os.listdir(current)) if numbers else []
        newest += 1
        current = os.path.join(base, str(newest))
        numbers.append(newest)
    removed = outdated(numbers, module.params["generations"], module.params["keep"])

    if not module.check_mode:
        for entry in os.listdir(base):
            if entry.startswith(UNFINISHED):
                shutil.rmtree(os.path.join(base, entry))
        if differs:
            write(base, newest, secrets, gid)
        for number in removed:
            shutil.rmtree(os.path.join(base, str(number)))
    if lock is not None:
        os.close(lock)

    result: dict[str, t.Any] = {"path": current, "generation": newest, "removed": removed}
    if module._diff and differs:
        names = {"before": before, "after": sorted(secrets)}
        result["diff"] = {key: "".join(f"{name}\n" for name in value) for key, value in names.items()}
    module.exit_json(changed=differs or bool(removed), **result)


if __name__ == "__main__":
    main()
