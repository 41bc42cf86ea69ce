#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait until a container is healthy and answers its readiness path several times in a row."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_ready
short_description: Wait until a container has proved itself
version_added: 0.1.0
description:
  - Asks a container of this host, at its own address on a Docker network, for its readiness path until it has answered
    200 a number of times in a row and its health check, if it has one, says healthy.
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

import http.client
import itertools
import json
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

MOST_RESTARTS = 3
BODY_LIMIT = 65536
QUESTIONS = 2000
SHOWN = 300


def ask(address: str, port: int, path: str, timeout: float, expect: dict[str, t.Any]) -> tuple[bool, str]:
    """Send one request; return whether the answer was good, and what it was in words."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read(BODY_LIMIT).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return False, f"GET {path} on {address}:{port} failed: {error or type(error).__name__}"
    finally:
        connection.close()
    seen = f"GET {path} answered {response.status}"
    if response.status != 200:
        return False, f"{seen}: {body[:SHOWN].strip()}"
    for field, wanted in expect.items():
        found = _field(body, field)
        if found != wanted:
            return False, f"{seen}, but its {field} is {found!r} and not {wanted!r}"
    return True, seen


def condition(info: dict[str, t.Any]) -> tuple[bool, str]:
    """Return whether a container runs and is healthy as far as it says, and its condition in words."""
    state = info["State"]
    words = state["Status"]
    if words == "exited":
        words = f"exited with code {state.get('ExitCode')}"
        if state.get("OOMKilled"):
            words += ", killed for its memory"
        if state.get("Error"):
            words += f" ({state['Error']})"
    health = state.get("Health") or {}
    status = health.get("Status", "none")
    if status != "none":
        words += f", {status}"
        checks = [check for check in health.get("Log") or [] if check.get("ExitCode")]
        if status != "healthy" and checks:
            words += f" ({checks[-1].get('Output', '').strip()[:SHOWN]})"
    return state["Status"] == "running" and status in ("none", "healthy"), words


def lost(info: dict[str, t.Any], restarts: int) -> bool:
    """Say whether waiting on is of no use: the container has ended or keeps ending."""
    return info["State"]["Status"] in ("exited", "dead") or info.get("RestartCount", 0) - restarts >= MOST_RESTARTS


def folded(lines: list[str]) -> list[str]:
    """Return the lines with those that repeat the one before counted instead of shown."""
    groups = [(line, len(list(group))) for line, group in itertools.groupby(lines)]
    return [line if times == 1 else f"{line} ({times} times)" for line, times in groups]


def _field(body: str, field: str) -> t.Any:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer.get(field) if isinstance(answer, dict) else None


def _address(info: dict[str, t.Any], network: str) -> str:
    return (info["NetworkSettings"]["Networks"].get(network) or {}).get("IPAddress", "")


def watch(docker: DockerCli, wanted: dict[str, t.Any]) -> tuple[bool, dict[str, t.Any]]:
    """Ask until the container has passed or cannot pass any more; return which, and what was seen."""
    start = time.monotonic()
    result: dict[str, t.Any] = {"seen": "no answer", "address": ""}
    passes = 0
    restarts: int | None = None
    while True:
        info = docker.inspect(wanted["name"])
        left = wanted["timeout"] - (time.monotonic() - start)
        if info is None:
            result["seen"] = "there is no container of that name"
            break
        restarts = info.get("RestartCount", 0) if restarts is None else restarts
        healthy, words = condition(info)
        address = _address(info, wanted["network"])
        good, seen = False, ""
        if not wanted["path"]:
            good, seen = healthy, "its health check"
        elif address and info["State"]["Status"] == "running":
            result["address"] = address
            request_timeout = max(0.1, min(wanted["request_timeout"], left))
            good, seen = ask(address, wanted["port"], wanted["path"], request_timeout, wanted["expect"])
        elif info["State"]["Status"] == "running":
            seen = f"it has no address on the network {wanted['network']}"
        # What a container answered before it ended says more than that it answers no more.
        result["seen"] = seen or result["seen"]
        result["condition"] = words
        passes = passes + 1 if good and healthy else 0
        if passes >= wanted["passes"]:
            break
        if lost(info, restarts) or time.monotonic() - start >= wanted["timeout"]:
            break
        time.sleep(wanted["interval"])
    result["seconds"] = round(time.monotonic() - start, 2)
    return passes >= wanted["passes"], result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "path": {"type": "str", "default": "/ready"},
            "passes": {"type": "int", "default": 3},
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
    count = module.params["log_lines"]
    lines = docker.last_log_lines(name, count + QUESTIONS) if "condition" in result else []
    # Many services log each of the questions asked here, which would leave no place for what matters.
    lines = [line for line in lines if not any(f"GET {path} " in line for path in (module.params["path"], "/health"))]
    lines = folded(lines)[-count:]
    text = "\n".join(lines) if lines else "(it wrote nothing)"
    module.fail_json(
        msg=(
            f"The container {name} was not ready after {result['seconds']} s. "
            f"Seen last: {result['seen']}; the container: {result.get('condition', 'missing')}. "
            f"Last lines of its log:\n{text}"
        ),
        log=lines,
        **result,
    )


if __name__ == "__main__":
    main()
