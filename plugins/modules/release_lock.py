#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take, renew and give back the lock of the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_lock
short_description: Let one run at a time work on the fleet
version_added: 0.1.0
description:
  - The lock is a lease with an owner, an expiry and a fencing number. It lies on one host of the fleet, the lock host.
  - A number is never given out twice, and later ones are higher. Hosts that have accepted one refuse lower ones, so a
    run that has lost the lock without noticing can change nothing. See M(truthgraph.platform.release_record).
  - A lock that has expired is replaced. One that has not is replaced only if it is said that its owner is gone, or if
    it is broken explicitly. The journal on the lock host tells of every lock that was replaced.
  - The lock says something about the runs and nothing about what the fleet is, so it never counts as a change.
options:
  root:
    description: Directory of the ledger. It is made if it is missing, for root only.
    type: path
    default: /var/lib/truthgraph
  state:
    description:
      - V(acquired) takes the lock. The owner that has it already gets it again, renewed and with the same number.
      - V(renewed) lets it expire O(lease) seconds from now. It is an error if the lock is no longer ours.
      - V(released) gives it back. It does nothing if the lock is not ours, or no longer.
    type: str
    choices: [acquired, renewed, released]
    default: acquired
  owner:
    description: Who takes the lock, as names and values that tell this run from all others. Required to take it.
    type: dict
    default: {}
  action:
    description: What the lock is taken for, for whoever has to wait. Required to take it.
    type: str
    default: ""
  lease:
    description: Seconds after which the lock expires if it is not renewed.
    type: int
    default: 900
  fence:
    description: Fencing number of the lock. Required to renew it and to give it back.
    type: int
  take_over:
    description: Replace the lock of another owner, because that owner is known to be gone.
    type: bool
    default: false
  broken:
    description: Reason to break the lock of another owner. An empty one breaks nothing.
    type: str
    default: ""
  replaces:
    description:
      - Fencing number of the one lock that O(take_over) and O(broken) are about. A lock that has taken its place
        meanwhile is left alone.
      - With V(0) they are about whichever lock there is.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: Takes, renews and gives back nothing. It still fails where the lock is somebody else's.
  diff_mode:
    support: none
    description: Nothing that is shown as a difference is changed.
  idempotent:
    support: full
    description: The module never reports a change. The same owner can take the lock as often as it likes.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Take the lock
  truthgraph.platform.release_lock:
    owner: {user: alice, host: control, process: 4711, started: "2024-05-01T12:00:00Z"}
    action: deploy
  register: lock

- name: Give it back
  truthgraph.platform.release_lock:
    state: released
    fence: "{{ lock.fence }}"
"""

RETURN = r"""
fence:
  description:
    - Fencing number of the lock.
    - V(0) in check mode, where none is given out, unless the lock is ours already.
  returned: success
  type: int
  sample: 1714564801
replaced:
  description:
    - The earlier lock that was replaced, and in C(how) the reason, V(expired), V(owner gone) or V(broken).
    - Empty if there was none.
  returned: success
  type: dict
lock:
  description:
    - The lock as it is now, with C(fence), C(owner), C(action), C(since) and C(expires), both in seconds since 1970.
    - Empty if there is none. If the module fails because of a lock, it is the one that is in the way.
  returned: success, and on failure if there is a lock
  type: dict
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Held, Lock, Lost


def acquire(module: AnsibleModule, lock: Lock, now: float) -> dict[str, t.Any]:
    """Take the lock, and return its number and the lock that it replaced. In check mode, see whether that would go."""
    params = module.params
    how = {"take_over": params["take_over"], "broken": params["broken"].strip(), "replaces": params["replaces"]}
    if not module.check_mode:
        fence, replaced = lock.acquire(params["owner"], params["action"], params["lease"], now, **how)
        return {"fence": fence, "replaced": replaced or {}}
    replaced = lock.replaceable(params["owner"], now, **how)
    ours = None if replaced else lock.read()
    return {"fence": ours["fence"] if ours else 0, "replaced": replaced or {}}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/var/lib/truthgraph"},
            "state": {"type": "str", "choices": ["acquired", "renewed", "released"], "default": "acquired"},
            "owner": {"type": "dict", "default": {}},
            "action": {"type": "str", "default": ""},
            "lease": {"type": "int", "default": 900},
            "fence": {"type": "int"},
            "take_over": {"type": "bool", "default": False},
            "broken": {"type": "str", "default": ""},
            "replaces": {"type": "int", "default": 0},
        },
        required_if=[("state", "renewed", ["fence"]), ("state", "released", ["fence"])],
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "acquired" and not (params["owner"] and params["action"]):
        module.fail_json(msg="Say in owner who takes the lock, and in action what for.")
    if params["lease"] < 1:
        module.fail_json(msg=f"A lock cannot be taken for {params['lease']} seconds. Give a lease of 1 or more.")
    lock = Lock(params["root"])
    result: dict[str, t.Any] = {"fence": params["fence"] or 0, "replaced": {}}
    try:
        if params["state"] == "acquired":
            result = acquire(module, lock, time.time())
        elif params["state"] == "renewed" and not module.check_mode:
            lock.renew(params["fence"], params["lease"], time.time())
        elif params["state"] == "released" and not module.check_mode:
            lock.release(params["fence"])
        module.exit_json(changed=False, lock=lock.read() or {}, **result)
    except Held as error:
        way_out = "Wait until it is free. If that run is gone, break its lock with -e break_lock=true."
        module.fail_json(msg=f"{error} {way_out}", lock=error.lock)
    except Lost as error:
        module.fail_json(msg=f"{error} This run stops here. Start it again.", lock=error.lock or {})
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The lock in {params['root']} cannot be used: {error}")


if __name__ == "__main__":
    main()
