#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait until a container answers its readiness path several times in a row."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_ready
short_description: Wait until a container has proved itself
version_added: 0.1.0
description:
  - Asks a container of this host, at its own address on a Docker network, for its readiness path until it has answered
    200 a number of times in a row. Its health check, if it has one, must not say unhealthy meanwhile.
  - Gives up at once when the container has exited or keeps restarting, otherwise at the deadline.
  - What was seen last, and the last lines of the container's log, are part of the failure.
options:
  name:
    description: Name of the container.
    type: str
    required: true
  network:
    description: Docker network on which the container is asked.
    type: str
    required: true
  port:
    description: Port of the container.
    type: int
    required: true
  path:
    description:
      - Path that answers 200 when the service can do its work.
      - If it is empty, the container's health check alone decides.
    type: str
    default: /ready
  passes:
    description: How many answers in a row must be good.
    type: int
    default: 3
  timeout:
    description: Seconds after which to give up.
    type: int
    default: 120
  request_timeout:
    description: Seconds that one answer may take.
    type: float
    default: 5
  interval:
    description: Seconds between two questions.
    type: float
    default: 0.3
  expect:
    description: Fields that the answer, a JSON object, must have with these values; for example its version.
    type: dict
    default: {}
  log_lines:
    description: How many lines of the container's log to show in a failure, without those about the questions asked.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: Waiting changes nothing. A container that is not there yet is no failure in check mode.
  diff_mode:
    support: none
    description: Nothing is changed.
  idempotent:
    support: full
    description: Nothing is changed.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Wait until the new container has proved itself
  truthgraph.platform.container_ready:
    name: truthgraph-api-candidate
    network: truthgraph
    port: 8000
    path: /ready
"""

RETURN = r"""
passed:
  description: That the container has proved itself.
  returned: success, unless in check mode the container is not there yet
  type: bool
address:
  description: Address at which the container was asked.
  returned: when it has one
  type: str
  sample: 172.30.240.11
seen:
  description: What was seen last.
  returned: always
  type: str
  sample: GET /ready answered 200
seconds:
  description: How long it took.
  returned: always
  type: float
log:
  description: Last lines of the container's log.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli
from ansible_collections.truthgraph.platform.plugins.module_utils.readiness import failure, watch


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "path": {"type": "str", "default": "/ready"},
            "passes": {"type": "int", "default": 3, "no_log": False},
            "timeout": {"type": "int", "default": 120},
            "request_timeout": {"type": "float", "default": 5},
            "interval": {"type": "float", "default": 0.3},
            "expect": {"type": "dict", "default": {}},
            "log_lines": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    docker = DockerCli(module)
    name = module.params["name"]
    if module.check_mode and (not docker.present or docker.inspect(name) is None):
        module.exit_json(changed=False, seen="there is no such container yet", seconds=0.0)
    ready, result = watch(docker, module.params)
    if ready:
        module.exit_json(changed=False, passed=True, **result)
    message, lines = failure(docker, module.params, result)
    module.fail_json(msg=message, log=lines, **result)


if __name__ == "__main__":
    main()
