#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module: which volume has the data of Postgres, and which major version has written it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_data_info
short_description: Tell where the data of Postgres lies, and which major version has written it
description:
  - An upgrade to another major version puts the data into a volume of another name, and notes that in a file on the
    host. So the volume in use is the one of that note, or without a note the one that is configured.
  - Reads files and asks the engine. It starts nothing, so it can be asked before anything is changed, and on a host that
    has no engine yet.
options:
  volume:
    description: Name of the volume as it is configured.
    type: str
    required: true
  record:
    description: >-
      File with the notes, a JSON object. By the name of the configured volume it has C(volume), the one in use,
      C(before), what was in use before the last upgrade, and C(prepared), one that is meant for an upgrade and has never
      served.
    type: path
    required: true
  journal:
    description: File with what an upgrade does, as long as it does it; a JSON object.
    type: path
    required: true
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Look at the data of Postgres
  truthgraph.platform.postgres_data_info:
    volume: truthgraph-postgres-data
    record: /etc/truthgraph/postgres/volumes.json
    journal: /etc/truthgraph/postgres/upgrade.json
  register: data
"""

RETURN = r"""
volume:
  description: The volume in use.
  returned: always
  type: str
version:
  description: Major version that has written the data; V(0) if there is no data yet.
  returned: always
  type: int
before:
  description: >-
    What was in use before the last upgrade, with C(volume), C(version), C(backup), and by table the C(rows) that it had
    then; else empty.
  returned: always
  type: dict
prepared:
  description: The volume that is meant for an upgrade, with C(volume) and C(version); else empty.
  returned: always
  type: dict
record:
  description: All notes.
  returned: always
  type: dict
journal:
  description: What an upgrade does that has not ended; else empty.
  returned: always
  type: dict
volumes:
  description: Names of all volumes on the host.
  returned: always
  type: list
  elements: str
"""

import json
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli


class Damaged(Exception):
    """A file that cannot be what was written there."""


def read_object(path: str) -> dict[str, t.Any]:
    """Return the JSON object in a file; an empty one if there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise Damaged(f"{path} is damaged: it is no JSON object")
    return found


def version_of(mountpoint: str) -> int:
    """Return the major version that has written the data in a directory; 0 if there is none."""
    path = os.path.join(mountpoint, "PG_VERSION")
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except FileNotFoundError:
        return 0
    try:
        # Before version 10 the major version had two parts.
        return int(text.split(".")[0])
    except ValueError:
        raise Damaged(f"{path} is damaged: it says '{text}' and no version") from None


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "volume": {"type": "str", "required": True},
            "record": {"type": "path", "required": True},
            "journal": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    docker = DockerCli(module)
    try:
        record = read_object(module.params["record"])
        note = record.get(module.params["volume"], {})
        volume = note.get("volume", module.params["volume"])
        volumes: list[str] = []
        version = 0
        # Where the engine does not run there is nothing that could be asked; whatever runs Postgres says so.
        code, out, _err = docker.try_run("volume", "ls", "--format", "{{.Name}}") if docker.present else (1, "", "")
        if code == 0:
            volumes = sorted(out.split())
        if volume in volumes:
            version = version_of(docker.run("volume", "inspect", "--format", "{{.Mountpoint}}", volume).strip())
        journal = read_object(module.params["journal"])
    except Damaged as error:
        module.fail_json(
            msg=f"{error}. Nothing was changed. Which volume has the data says `docker inspect truthgraph-postgres`; "
            "with that in postgres_volume the file can be removed."
        )
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Nothing was changed.")
    module.exit_json(
        changed=False,
        volume=volume,
        version=version,
        before=note.get("before", {}),
        prepared=note.get("prepared", {}),
        record=record,
        journal=journal,
        volumes=volumes,
    )


if __name__ == "__main__":
    main()
