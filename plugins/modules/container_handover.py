#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Set a container aside while another takes its name, and put it back or remove it afterwards."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_handover
short_description: Hand the name of a container over to its successor, reversibly
version_added: 0.1.0
description:
  - Keeps the container that served so far, stopped and under another name, until its successor has proved itself.
  - Looks at what is there and not at what an earlier run meant to do, so that a killed run is continued.
options:
  name:
    description: Name of the container.
    type: str
    required: true
  previous:
    description: Name under which the earlier container is set aside. By default O(name) with C(-previous) behind it.
    type: str
  leftovers:
    description: Names of further containers that V(settled) removes.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(aside) stops the container and gives it the name O(previous). If there is one of that name already, a run was
        interrupted; then the one that is fit to serve is kept, and the other removed.
      - V(restored) removes the container that failed and gives the earlier one its name back and starts it. Without an
        earlier one, nothing is touched.
      - V(settled) removes the earlier container and O(leftovers).
    type: str
    choices: [aside, restored, settled]
    required: true
attributes:
  check_mode:
    support: full
    description: Says what would be done.
  diff_mode:
    support: none
    description: RV(actions) lists what was done.
  idempotent:
    support: full
    description: A state that is reached already is left alone.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Set the serving container aside
  truthgraph.platform.container_handover:
    name: truthgraph-api
    state: aside
"""

RETURN = r"""
actions:
  description: What was done, in words.
  returned: always
  type: list
  elements: str
previous_exists:
  description: Whether an earlier container is set aside afterwards.
  returned: always
  type: bool
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli


def fit(info: dict[str, t.Any]) -> bool:
    """Say whether a container runs and does not call itself unhealthy or still starting."""
    state = info["State"]
    return state["Status"] == "running" and (state.get("Health") or {}).get("Status", "none") in ("none", "healthy")


def steps(
    state: str,
    name: str,
    previous: str,
    leftovers: list[str],
    look: t.Callable[[str], dict[str, t.Any] | None],
) -> list[tuple[str, ...]]:
    """Return the docker commands that lead from what is there to the state."""
    if state == "settled":
        return [("rm", "--force", other) for other in [previous, *leftovers] if look(other)]
    current, earlier = look(name), look(previous)
    if state == "restored":
        if not earlier:
            return []
        removal = [("rm", "--force", name)] if current else []
        return [*removal, ("rename", previous, name), ("start", name)]
    if not current:
        return []
    if earlier and not fit(current):
        return [("rm", "--force", name)]
    removal = [("rm", "--force", previous)] if earlier else []
    return [*removal, ("stop", name), ("rename", name, previous)]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "previous": {"type": "str"},
            "leftovers": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["aside", "restored", "settled"], "required": True},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    previous = module.params["previous"] or f"{name}-previous"
    docker = DockerCli(module)
    if module.check_mode and not docker.present:
        module.exit_json(changed=False, actions=[], previous_exists=False)
    commands = steps(module.params["state"], name, previous, module.params["leftovers"], docker.inspect)
    if not module.check_mode:
        for command in commands:
            docker.run(*command)
    module.exit_json(
        changed=bool(commands),
        actions=[" ".join(command) for command in commands],
        previous_exists=not module.check_mode and docker.inspect(previous) is not None,
    )


if __name__ == "__main__":
    main()
