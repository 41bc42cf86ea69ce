#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hand over what the hosts of a fleet keep of its releases to a host that takes another's place."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_handover
short_description: Hand what hosts keep of their releases over to a new one
version_added: 0.1.0
description:
  - A host that takes the place of a dead one has no ledger, no journal, none of the secrets that are kept for a return to an
    earlier release, and does not know the fencing numbers that were given out. The others of the fleet have all of it.
  - What the new host has already stays, so that it can be done again.
options:
  state:
    description:
      - V(read) answers what this host keeps, its secrets among it. Use C(no_log).
      - V(numbered) has this host refuse fencing numbers below the highest of O(given), and give out none.
      - V(written) writes the records, the journal and the secrets of O(services).
    type: str
    choices: [read, numbered, written]
    required: true
  given:
    description: RV(kept) of the others, as a list. Of several records of a release the newest counts.
    type: list
    elements: dict
    default: []
  secrets:
    description: RV(secrets) of the others, as a list.
    type: list
    elements: dict
    default: []
  services:
    description: Services of this host whose secrets are kept here, by name, each with the secrets that the inventory has now.
      A release that no other host has kept secrets of gets these.
    type: dict
    default: {}
  journal:
    description: How many of the journal's last entries are answered.
    type: int
    default: 500
  fence:
    description: Fencing number of the fleet's lock. Required for V(written); an outdated one is refused.
    type: int
extends_documentation_fragment:
  - truthgraph.platform.host_state
attributes:
  check_mode:
    support: full
    description: Nothing is written.
  diff_mode:
    support: none
    description: Secrets are not shown.
  idempotent:
    support: full
    description: What is there already stays.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Read what the host keeps
  truthgraph.platform.release_handover:
    state: read
  register: kept
  no_log: true
"""

RETURN = r"""
kept:
  description:
    - With V(read), C(fence) (the highest number seen), C(records) by release, and C(journal).
  returned: state is read
  type: dict
secrets:
  description: The releases' own secrets by release, service and name, in base64.
  returned: state is read
  type: dict
records:
  description: Releases whose records were written.
  returned: state is written
  type: list
  elements: str
from_inventory:
  description: Releases and services (C(release/service)) whose secrets no other host has kept, so that they are the inventory's.
  returned: state is written
  type: list
  elements: str
"""

import base64
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import secret_files, slots
from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import (
    Ledger,
    Outdated,
    accept_fence,
    fence_seen,
    guard,
)

Kept = dict[str, t.Any]


def read_secrets(config: str) -> Kept:
    """Return the secrets that this host keeps of its releases."""
    secrets: Kept = {}
    kept = os.path.join(config, "releases")
    for release in sorted(os.listdir(kept)) if os.path.isdir(kept) else []:
        for service in slots.SERVICES:
            directory = slots.release_secrets_directory(config, release, service)
            if os.path.isdir(directory):
                values = secret_files.read(directory).items()
                encoded = {name: base64.b64encode(value).decode() for name, value in values}
                secrets.setdefault(release, {})[service] = encoded
    return secrets


def read(root: str, journal: int) -> Kept:
    """Return what else this host keeps of its releases."""
    ledger = Ledger(root)
    return {"fence": fence_seen(root), "records": ledger.records()[0], "journal": ledger.journal(journal)}


def newest_records(given: list[Kept]) -> dict[str, dict[str, t.Any]]:
    """Return the records of all hosts; of several of a release, the one that was written last."""
    found: dict[str, dict[str, t.Any]] = {}
    for kept in given:
        for release, record in kept["records"].items():
            if record.get("written_at", 0) >= found.get(release, {}).get("written_at", -1):
                found[release] = record
    return found


def secrets_of(secrets: list[Kept], release: str, service: str) -> dict[str, bytes] | None:
    """Return a release's own secrets of a service, as the first host has them that has kept them; None where none has."""
    for kept in secrets:
        encoded = kept.get(release, {}).get(service)
        if encoded is not None:
            return {name: base64.b64decode(value) for name, value in encoded.items()}
    return None


def write(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """Write what is not here yet, secrets before the records that promise them."""
    given, config = params["given"], params["config"]
    ledger = Ledger(params["root"])
    there, records = ledger.records()[0], newest_records(given)
    own = {service: secret_files.checked(values or {}) for service, values in params["services"].items()}
    from_inventory, written, changed = [], [], False
    for release, record in sorted(records.items()):
        for service in sorted(own):
            directory = slots.release_secrets_directory(config, release, service)
            if service not in record.get("services", {}) or os.path.isdir(directory):
                continue
            secrets = secrets_of(params["secrets"], release, service)
            if secrets is None:
                from_inventory.append(f"{release}/{service}")
                secrets = own[service]
            changed = secret_files.write(directory, secrets, 0) or changed
        if record.get("written_at", 0) > there.get(release, {}).get("written_at", -1):
            ledger.write(record)
            written.append(release)
    longest: list[dict[str, t.Any]] = max((kept["journal"] for kept in given), key=len, default=[])
    changed = ledger.merge(longest) or changed
    return {"changed": changed or bool(written), "records": written, "from_inventory": from_inventory}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["read", "numbered", "written"], "required": True},
            "given": {"type": "list", "elements": "dict", "default": []},
            "secrets": {"type": "list", "elements": "dict", "default": [], "no_log": True},
            "services": {"type": "dict", "default": {}, "no_log": True},
            "journal": {"type": "int", "default": 500},
            "fence": {"type": "int"},
            "root": {"type": "path", "default": "/var/lib/truthgraph"},
            "config": {"type": "path", "default": "/etc/truthgraph"},
        },
        required_if=[("state", "written", ["fence"])],
        supports_check_mode=True,
    )
    params = module.params
    state, root = params["state"], params["root"]
    if state == "read":
        module.exit_json(changed=False, kept=read(root, params["journal"]), secrets=read_secrets(params["config"]))
    if module.check_mode:
        module.exit_json(changed=False, records=[], from_inventory=[])
    try:
        if state == "numbered":
            highest = max((kept["fence"] for kept in params["given"]), default=0)
            if highest > fence_seen(root):
                accept_fence(root, highest)
            module.exit_json(changed=False)
        with guard(root):
            accept_fence(root, params["fence"])
            result = write(params)
    except Outdated as error:
        module.fail_json(msg=f"{error} Another run has taken the lock since; let it finish. Nothing was handed over.")
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"What the fleet keeps cannot be written here: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
