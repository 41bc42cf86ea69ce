#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Say whether a TCP port is free or held by a container of ours."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_check
short_description: Fail if a TCP port is held by something that is not ours
version_added: 0.1.0
description:
  - A port may be free, or held by a container or process that carries one of our names. Anything else is a failure that
    names the process which holds it, or the container of docker compose.
options:
  address:
    description: Address of the host on which the port is wanted.
    type: str
    default: 0.0.0.0
  port:
    description: The port.
    type: int
    required: true
  containers:
    description: Names of the containers that may hold it.
    type: list
    elements: str
    default: []
  processes:
    description: Names of the host's processes that may hold it, such as a proxy of ours.
    type: list
    elements: str
    default: []
  option:
    description: Name of the variable that chooses the port, for the message.
    type: str
    default: the port
  address_option:
    description: Name of the variable that chooses the address, for the message.
    type: str
    default: fleet_private_address
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Check that the port of the API is free or ours
  truthgraph.platform.port_check:
    port: 8000
    containers: [truthgraph-api]
    option: fleet_api_port
"""

RETURN = r"""
holder:
  description: Name of what of ours holds the port, empty if the port is free.
  returned: success
  type: str
"""

import contextlib
import errno
import os
import socket
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

LISTENING = "0A"


def is_free(address: str, port: int) -> bool:
    """Say whether the port can be listened on, by doing so for a moment."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As a server does, so that connections that have just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def publishes(info: dict[str, t.Any] | None, port: int) -> bool:
    """Say whether a container, as the engine describes it, has the port now (paused, it keeps it)."""
    if not info or info["State"]["Status"] not in ("running", "restarting", "paused"):
        return False
    ports = (info.get("HostConfig") or {}).get("PortBindings") or {}
    return any(binding.get("HostPort") == str(port) for bindings in ports.values() for binding in bindings or [])


def composed(docker: DockerCli, port: int) -> tuple[str, str]:
    """Return the container that publishes the port and its composition, if docker compose has made one that does."""
    if not docker.present:
        return "", ""
    label = "com.docker.compose.project"
    code, out, _err = docker.try_run(
        *("ps", "--filter", f"publish={port}", "--filter", f"label={label}"),
        *("--format", f'{{{{.Names}}}} {{{{.Label "{label}"}}}}'),
    )
    name, _space, project = (out.splitlines() or [""])[0].partition(" ") if code == 0 else ("", "", "")
    return name, project


def listening_process(port: int, proc: str = "/proc") -> str:
    """Return the name and number of the process that listens on a port, as far as it can be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(os.path.join(proc, "net", table), encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        inodes |= {row[9] for row in rows if row[3] == LISTENING and int(row[1].rsplit(":", 1)[1], 16) == port}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdecimal, os.listdir(proc)):
        try:
            if wanted & _links(os.path.join(proc, pid, "fd")):
                with open(os.path.join(proc, pid, "comm"), encoding="utf-8") as file:
                    return f"{file.read().strip()} (process {pid})"
        except OSError:
            # Processes end while they are looked at.
            continue
    return "a process that cannot be seen from here"


def _links(directory: str) -> set[str]:
    """Return where a process' descriptors lead; a busy one opens and closes them while they are looked at."""
    links = set()
    for descriptor in os.listdir(directory):
        with contextlib.suppress(OSError):
            links.add(os.readlink(os.path.join(directory, descriptor)))
    return links


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "default": "0.0.0.0"},
            "port": {"type": "int", "required": True},
            "containers": {"type": "list", "elements": "str", "default": []},
            "processes": {"type": "list", "elements": "str", "default": []},
            "option": {"type": "str", "default": "the port"},
            "address_option": {"type": "str", "default": "fleet_private_address"},
        },
        supports_check_mode=True,
    )
    address, port = module.params["address"], module.params["port"]
    try:
        free = is_free(address, port)
    except OSError as error:
        reason = f"This host cannot listen on {address}:{port}: {error.strerror}."
        options = " or ".join(dict.fromkeys([module.params["address_option"], "fleet_private_address"]))
        module.fail_json(msg=f"{reason} Set {options} to an address of this host.")
    if free:
        module.exit_json(changed=False, holder="")
    docker = DockerCli(module)
    for name in module.params["containers"] if docker.present else []:
        if publishes(docker.inspect(name), port):
            module.exit_json(changed=False, holder=name)
    process = listening_process(port)
    if process.partition(" ")[0] in module.params["processes"]:
        module.exit_json(changed=False, holder=process.partition(" ")[0])
    name, project = composed(docker, port)
    if project:
        module.fail_json(
            msg=(
                f"Port {port} is taken by the container {name} of the composition {project}. To take over what it does, deploy "
                f"with another {module.params['option']} for now, and then see playbooks/adopt.yml. Else stop it."
            )
        )
    module.fail_json(
        msg=(
            f"Port {port} is taken by {process}, which is not ours. "
            f"Stop it, or choose another port with {module.params['option']}."
        )
    )


if __name__ == "__main__":
    main()
