#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Say what a composition of docker compose runs on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: composition_info
short_description: Say what a composition of docker compose runs on a host
version_added: 0.1.0
description:
  - Finds the containers of a composition by the labels that docker compose has given them, stopped ones too.
  - Of a container's environment nothing is read but the names of a database and its user, so no secret is answered.
options:
  project:
    description: Name of the composition.
    type: str
    required: true
  services:
    description: What its services are called, by what they are here.
    type: dict
    required: true
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Look for the composition
  truthgraph.platform.composition_info:
    project: truthgraph
    services: {api: api-core, postgres: postgres}
"""

RETURN = r"""
found:
  description: Whether the host has any container of the composition.
  returned: success
  type: bool
directory:
  description: Directory in which the composition was started, for whoever wants to use docker compose there.
  returned: success
  type: str
others:
  description: Names of its containers that belong to none of the services.
  returned: success
  type: list
  elements: str
services:
  description: >-
    Each service that has a container, by what it is here: C(name), C(state), C(health), C(restart) (the policy, as
    C(docker update) takes it), C(address), C(pid), C(image), C(published) (a list of C(address), C(port) and
    C(container_port)) and C(mounts) (a list of C(volume) and C(path)).
  returned: success
  type: dict
several:
  description: The services that have more than one container.
  returned: success
  type: list
  elements: str
database:
  description: C(name) and C(user), as the environment of the service C(postgres) says.
  returned: success
  type: dict
"""

import json
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

LABEL = "com.docker.compose."


def described(info: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return what matters of a container as the engine describes it."""
    state, host = info["State"], info["HostConfig"]
    policy = host.get("RestartPolicy") or {}
    retries = policy.get("MaximumRetryCount") or 0
    networks = (info.get("NetworkSettings") or {}).get("Networks") or {}
    published = [
        {
            "address": binding.get("HostIp") or "0.0.0.0",
            "port": int(binding["HostPort"]),
            "container_port": int(port.split("/")[0]),
        }
        for port, bindings in sorted((host.get("PortBindings") or {}).items())
        for binding in bindings or []
        if binding.get("HostPort") and port.endswith("/tcp")
    ]
    return {
        "name": info["Name"].lstrip("/"),
        "state": state["Status"],
        "health": (state.get("Health") or {}).get("Status", ""),
        "pid": state.get("Pid", 0),
        "restart": (policy.get("Name") or "no") + (f":{retries}" if retries else ""),
        "address": next((network["IPAddress"] for network in networks.values() if network.get("IPAddress")), ""),
        "image": info["Config"]["Image"],
        "published": published,
        "mounts": [
            {"volume": mount.get("Name") or mount.get("Source", ""), "path": mount["Destination"]}
            for mount in info.get("Mounts") or []
        ],
    }


def database_of(info: dict[str, t.Any] | None) -> dict[str, str]:
    """Return which database the official image of Postgres has made, as it reads its environment."""
    given = dict(line.partition("=")[::2] for line in (info["Config"].get("Env") or [])) if info else {}
    user = given.get("POSTGRES_USER") or "postgres"
    return {"name": given.get("POSTGRES_DB") or user, "user": user}


def composition(infos: list[dict[str, t.Any]], services: dict[str, str]) -> dict[str, t.Any]:
    """Return what is answered of the containers of a composition."""
    by_service: dict[str, list[dict[str, t.Any]]] = {}
    for info in infos:
        labels = info["Config"].get("Labels") or {}
        # What `docker compose run` has left is no service.
        if labels.get(f"{LABEL}oneoff", "False") != "True":
            by_service.setdefault(labels.get(f"{LABEL}service", ""), []).append(info)
    known = {kind: by_service[name] for kind, name in services.items() if name in by_service}
    others = [info for name, found in by_service.items() if name not in services.values() for info in found]
    labels = infos[0]["Config"].get("Labels") or {} if infos else {}
    return {
        "found": bool(known),
        "directory": labels.get(f"{LABEL}project.working_dir", ""),
        "services": {kind: described(found[0]) for kind, found in known.items()},
        "several": sorted(kind for kind, found in known.items() if len(found) > 1),
        "others": sorted(info["Name"].lstrip("/") for info in others),
        "database": database_of(known["postgres"][0] if "postgres" in known else None),
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"project": {"type": "str", "required": True}, "services": {"type": "dict", "required": True}},
        supports_check_mode=True,
    )
    docker = DockerCli(module)
    names = []
    if docker.present:
        names = docker.run(
            "ps", "--all", "--quiet", "--filter", f"label={LABEL}project={module.params['project']}"
        ).split()
    infos = json.loads(docker.run("container", "inspect", *names)) if names else []
    module.exit_json(changed=False, **composition(infos, module.params["services"]))


if __name__ == "__main__":
    main()
