#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write down on a host what becomes of the releases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_record
short_description: Write records of releases and the journal of a host
version_added: 0.1.0
description:
  - Writes the records given, then appends to the journal, then removes records. Each record is replaced in one step.
  - With a fencing number nothing is written on a host that has accepted a higher one, and none comes in between.
  - Records that cannot be read are set aside at every call, so that nothing stumbles over them again.
  - The ledger tells what was done and is no part of what the fleet is, so it never counts as a change.
options:
  root:
    description: Directory of the ledger. It is made if it is missing, for root only.
    type: path
    default: /var/lib/truthgraph
  records:
    description: Records to write, each with the id of its release as C(id). They replace records of the same ids.
    type: list
    elements: dict
    default: []
  journal:
    description: Entries to append to the journal.
    type: list
    elements: dict
    default: []
  remove:
    description: Ids of releases whose records are removed.
    type: list
    elements: str
    default: []
  fence:
    description:
      - Fencing number of the lock under which this is written, from M(truthgraph.platform.release_lock).
      - In check mode V(0), which that module answers there, stands for none.
    type: int
attributes:
  check_mode:
    support: full
    description: Says what would be written, removed and set aside, and writes nothing.
  diff_mode:
    support: none
    description: Nothing that is shown as a difference is changed.
  idempotent:
    support: partial
    description: The module never reports a change, but entries of the journal are appended at every call.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Write down that the release is stable
  truthgraph.platform.release_record:
    fence: "{{ lock.fence }}"
    records:
      - id: "0f3a5c77d2e1"
        result: stable
        stable_at: 1714564812.5
        images: {api: "10.0.0.1:5000/truthgraph/api@sha256:27cb…"}
    journal:
      - {time: 1714564812.5, event: stable, release: "0f3a5c77d2e1"}
"""

RETURN = r"""
written:
  description: Ids of the releases whose records differ from what was there.
  returned: success
  type: list
  elements: str
removed:
  description: Ids of the releases whose records were there and are removed.
  returned: success
  type: list
  elements: str
set_aside:
  description: Where damaged records are now. In check mode, where they are still.
  returned: success
  type: list
  elements: str
"""

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import (
    Ledger,
    Outdated,
    accept_fence,
    check_fence,
    checked_id,
    guard,
)


def look(ledger: Ledger, params: dict[str, t.Any]) -> dict[str, list[str]]:
    """Return what `write` would do."""
    there, damaged = ledger.records()
    written = [record["id"] for record in params["records"] if ledger.differs(record)]
    removed = [release for release in params["remove"] if release in there or release in written]
    return {"written": written, "removed": removed, "set_aside": damaged}


def write(ledger: Ledger, params: dict[str, t.Any]) -> dict[str, list[str]]:
    """Write, append and remove as asked for, and return what that was."""
    set_aside = ledger.set_aside_damaged()
    written = [record["id"] for record in params["records"] if ledger.write(record)]
    for entry in params["journal"]:
        ledger.append(entry)
    removed = [release for release in params["remove"] if ledger.remove(release)]
    return {"written": written, "removed": removed, "set_aside": set_aside}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/var/lib/truthgraph"},
            "records": {"type": "list", "elements": "dict", "default": []},
            "journal": {"type": "list", "elements": "dict", "default": []},
            "remove": {"type": "list", "elements": "str", "default": []},
            "fence": {"type": "int"},
        },
        supports_check_mode=True,
    )
    params = module.params
    root, fence = params["root"], params["fence"]
    if module.check_mode:
        fence = fence or None
    try:
        for release in [record.get("id") for record in params["records"]] + params["remove"]:
            checked_id(release)
        # What is checked under one guard with what is written cannot be overtaken by a run with a higher number.
        with contextlib.nullcontext() if module.check_mode else guard(root):
            if fence is not None:
                (check_fence if module.check_mode else accept_fence)(root, fence)
            result = (look if module.check_mode else write)(Ledger(root), params)
    except Outdated as error:
        module.fail_json(
            msg=(
                f"{error} This run has the lower number {fence}: another run has taken the lock since. "
                "Nothing was written. See what the other run does, then start this one again."
            )
        )
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The ledger in {root} cannot be written: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
