#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put files of others aside, and bring them back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: put_aside
short_description: Put files of others aside, and bring them back
version_added: 0.1.0
description:
  - Renames files to names that end in C(.save), which apt and readers of CDI specifications pass over in silence, and
    notes it. With O(state=back) exactly those files get their names back. Nothing is ever overwritten.
options:
  paths:
    description: Files to put aside; patterns such as V(/etc/cdi/*.yaml) are allowed. Required with O(state=aside).
    type: list
    elements: path
  containing:
    description: Regular expression that must be found in a file's text, line by line; others are left alone.
    type: str
  not_containing:
    description: Regular expression that must not be found in a file's text.
    type: str
  keep:
    description: Files that are left alone, by whatever path they are reached.
    type: list
    elements: path
    default: []
  note:
    description: File in which the module remembers what it renamed.
    type: path
    required: true
  state:
    description:
      - V(aside) renames. V(back) gives the names back and deletes the note; where a new file has the name meanwhile,
        that one stays, and the other stays aside.
    type: str
    choices: [aside, back]
    default: aside
attributes:
  check_mode:
    support: full
    description: Answers what would be renamed.
  diff_mode:
    support: none
    description: The answer says what was renamed.
  idempotent:
    support: full
    description: A file that is aside is not looked at again.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Put an old list of packages aside
  truthgraph.platform.put_aside:
    paths: [/etc/apt/sources.list.d/nvidia-docker.list]
    note: /var/lib/example/lists.json
"""

RETURN = r"""
moved:
  description: What was renamed, each with C(from) and C(to).
  returned: success
  type: list
  elements: dict
left:
  description: What could not get its name back because a new file has it, each with C(from) and C(to).
  returned: success
  type: list
  elements: dict
"""

import glob
import json
import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule


def free_name(path: str) -> str:
    """A name beside the file that nothing has, and that ends in .save."""
    name, number = f"{path}.save", 0
    while os.path.lexists(name):
        number += 1
        name = f"{path}.{number}.save"
    return name


def matches(path: str, containing: str | None, not_containing: str | None) -> bool:
    """Whether a file's text is one that is meant."""
    if not containing and not not_containing:
        return True
    with open(path, encoding="utf-8", errors="replace") as handle:
        text = handle.read()
    if containing and not re.search(containing, text, re.MULTILINE):
        return False
    return not (not_containing and re.search(not_containing, text, re.MULTILINE))


def choose(patterns: list[str], containing: str | None, not_containing: str | None, keep: list[str]) -> list[str]:
    """The files to put aside, sorted; one that is reached by two paths counts once."""
    kept = {os.path.realpath(path) for path in keep}
    chosen = {}
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            # The directory is resolved, not the file: a link is put aside as a link.
            place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if place in chosen or place in kept or os.path.realpath(path) in kept or not os.path.isfile(path):
                continue
            if matches(path, containing, not_containing):
                chosen[place] = path
    return sorted(chosen.values())


def read_note(module: AnsibleModule, path: str) -> dict[str, str]:
    """What was put aside before, by the name that it had."""
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as handle:
            note = json.load(handle)
    except ValueError:
        note = None
    if not isinstance(note, dict) or not all(isinstance(name, str) for name in note.values()):
        module.fail_json(
            msg=f"{path}, in which was written what was put aside, is damaged. Nothing was renamed. Bring back by hand "
            "what ends in .save and is needed, remove this file, and run this again."
        )
    return note


def write_note(module: AnsibleModule, path: str, note: dict[str, str]) -> None:
    """Replace the note in one step."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(json.dumps(note, indent=2, sort_keys=True) + "\n")
    module.atomic_move(temporary, path)


def put_aside(module: AnsibleModule, note: dict[str, str]) -> None:
    """Rename what is meant."""
    moved = []
    for path in choose(
        module.params["paths"], module.params["containing"], module.params["not_containing"], module.params["keep"]
    ):
        name = free_name(path)
        moved.append({"from": path, "to": name})
        if not module.check_mode:
            # Noted first: what is noted and was not renamed is passed over later.
            note[path] = name
            write_note(module, module.params["note"], note)
            os.rename(path, name)
    module.exit_json(changed=bool(moved), moved=moved, left=[])


def bring_back(module: AnsibleModule, note: dict[str, str]) -> None:
    """Give the names back."""
    moved, left = [], []
    for path, name in sorted(note.items()):
        if not os.path.lexists(name):
            continue
        if os.path.lexists(path):
            left.append({"from": name, "to": path})
            continue
        moved.append({"from": name, "to": path})
        if not module.check_mode:
            os.rename(name, path)
    there = os.path.exists(module.params["note"])
    if there and not module.check_mode:
        os.unlink(module.params["note"])
    module.exit_json(changed=bool(moved) or there, moved=moved, left=left)


def main() -> None:
    """Put aside, or bring back."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path"},
            "containing": {"type": "str"},
            "not_containing": {"type": "str"},
            "keep": {"type": "list", "elements": "path", "default": []},
            "note": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["aside", "back"], "default": "aside"},
        },
        required_if=[("state", "aside", ["paths"])],
        supports_check_mode=True,
    )
    note = read_note(module, module.params["note"])
    if module.params["state"] == "aside":
        put_aside(module, note)
    bring_back(module, note)


if __name__ == "__main__":
    main()
