# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of an inventory for tests: what Ansible resolves for them, and a Testinfra connection to each."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import typing as t

import testinfra
import testinfra.host

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
LAB = CHECKOUT / "inventories" / "lab"

# What the tests want to know of every host, as Ansible expressions. `ansible-inventory` would show the templates unresolved.
VARIABLES = {
    "address": "ansible_host",
    "user": "ansible_user",
    "key_file": "ansible_ssh_private_key_file",
    "ssh_arguments": "ansible_ssh_common_args",
    "groups": "group_names",
    "state_dir": "fleet_state_dir",
    "database_password": "fleet_database_password",
    "registry_password": "fleet_registry_password",
    "index": "lookup('truthgraph.platform.package_index')",
}

# By what an API host says who it is to the inference service, on that host.
EGRESS = {name: f"/etc/truthgraph/tls/egress/{file}" for name, file in
          {"certificate": "egress.crt", "key": "egress.key", "ca": "ca.crt"}.items()}

# Asks URLs, several at a time if there are several, and prints what each answered. Runs on hosts that have nothing but Python.
ASK = """
import concurrent.futures, json, ssl, sys, time, urllib.error, urllib.request
def secured(tls):
    context = ssl.create_default_context(cafile=tls["ca"])
    if tls.get("certificate"):
        context.load_cert_chain(tls["certificate"], tls["key"])
    return context
def ask(request):
    context = secured(request["tls"]) if request["tls"] else None
    data = None if request["body"] is None else request["body"].encode()
    wanted = urllib.request.Request(request["url"], data, {"Content-Type": "application/json"})
    start = time.monotonic()
    try:
        with urllib.request.urlopen(wanted, timeout=request["timeout"], context=context) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    except OSError as error:
        status, text = 0, str(error)
    return {"status": status, "text": text, "seconds": time.monotonic() - start}
requests = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
    print(json.dumps(list(pool.map(ask, requests))))
"""

# Tries to connect, and prints what came of it.
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
    print("open")
except TimeoutError:
    print("dropped")
except OSError as error:
    print(error)
"""


def tool(name: str) -> str:
    """Return the path of a program of the toolchain that runs the tests."""
    return str(pathlib.Path(sys.executable).with_name(name))


def toolchain_environment(**more: str) -> dict[str, str]:
    """Return the environment in which Ansible finds this checkout's configuration and toolchain."""
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        **more,
    }


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a URL answered; status 0 means that there was no answer, and text says why."""

    status: int
    text: str
    seconds: float

    @functools.cached_property
    def json(self) -> t.Any:
        """The body."""
        return json.loads(self.text)


def ask_many(
    host: testinfra.host.Host,
    url: str,
    bodies: t.Sequence[t.Any],
    timeout: int = 20,
    tls: dict[str, str] | None = None,
) -> list[Answer]:
    """Send bodies to a URL at the same time, from a host. A body that is text is sent as it is.

    `tls` names the files on that host by which it knows the server, and says who it is.
    """
    texts = [body if body is None or isinstance(body, str) else json.dumps(body) for body in bodies]
    requests = [{"url": url, "body": text, "timeout": timeout, "tls": tls} for text in texts]
    answers = host.check_output("python3 -c %s %s", ASK, json.dumps(requests))
    return [Answer(**answer) for answer in json.loads(answers)]


def ask(
    host: testinfra.host.Host, url: str, body: t.Any = None, timeout: int = 20, tls: dict[str, str] | None = None
) -> Answer:
    """Ask a URL from a host; with a body it is a POST."""
    return ask_many(host, url, [body], timeout, tls)[0]


def knock(host: testinfra.host.Host, address: str, port: int) -> str:
    """Say what comes of a connection from a host: open, dropped, or the error."""
    return str(host.check_output("python3 -c %s %s %s", KNOCK, address, str(port)))


def traffic(host: testinfra.host.Host) -> dict[str, str]:
    """Return what a host's map says of which slot serves; nothing where there is no such map."""
    text = host.run("cat /etc/truthgraph/proxy/traffic.map").stdout
    return dict(line.split() for line in text.splitlines())


def serving(host: testinfra.host.Host, service: str) -> str:
    """Return the name of the container that serves: of a service with two slots, the one that gets the traffic."""
    slot = traffic(host).get(service, "").partition("_")[0]
    return f"truthgraph-{service}-{slot}" if slot else f"truthgraph-{service}"


def query(host: testinfra.host.Host, sql: str, database: str = "truthgraph") -> str:
    """Return what Postgres on a host answers to its superuser."""
    command = "docker exec truthgraph-postgres psql -h 127.0.0.1 -U postgres -d %s -At -c %s"
    return str(host.check_output(command, database, sql))


def inspect(host: testinfra.host.Host, name: str) -> dict[str, t.Any]:
    """Return what the engine of a host says about a container."""
    found: dict[str, t.Any] = json.loads(host.check_output("docker container inspect %s", name))[0]
    return found


@dataclasses.dataclass
class Member:
    """A host of the fleet."""

    name: str
    # Not shown when a test fails: there are passwords in it.
    variables: dict[str, t.Any] = dataclasses.field(repr=False)
    host: testinfra.host.Host

    @property
    def address(self) -> str:
        """The address by which the other hosts reach it."""
        address: str = self.variables["address"]
        return address


class Fleet:
    """All hosts of an inventory."""

    def __init__(self, inventory: pathlib.Path | str = LAB) -> None:
        self.inventory = str(inventory)
        self.control = testinfra.get_host("local://")
        self._sockets = tempfile.TemporaryDirectory(prefix="tg-ssh-")
        self.members = {name: self._member(name, found) for name, found in self._resolve().items()}

    def of_group(self, group: str) -> list[Member]:
        """Return the hosts of a group, by name."""
        return [member for _, member in sorted(self.members.items()) if group in member.variables["groups"]]

    @property
    def variables(self) -> dict[str, t.Any]:
        """What is the same for all hosts."""
        return next(iter(self.members.values())).variables

    @property
    def registry(self) -> str:
        """Host and port of the fleet's registry."""
        return f"{self.of_group('truthgraph_registry')[0].address}:5000"

    @property
    def ca_file(self) -> pathlib.Path:
        """The certificate of the fleet's CA."""
        return pathlib.Path(self.variables["state_dir"]) / "ca" / "ca.crt"

    def _resolve(self) -> dict[str, dict[str, t.Any]]:
        expression = "{{ {" + ", ".join(f"'{key}': {value}" for key, value in VARIABLES.items()) + "} }}"
        done = subprocess.run(
            [tool("ansible"), "-i", self.inventory, "truthgraph", "-m", "ansible.builtin.debug", "-a", f"msg={expression}"],
            env=toolchain_environment(
                ANSIBLE_LOAD_CALLBACK_PLUGINS="1", ANSIBLE_STDOUT_CALLBACK="ansible.posix.json"
            ),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"The inventory {self.inventory} cannot be read: {done.stdout}{done.stderr}"
        [task] = json.loads(done.stdout)["plays"][0]["tasks"]
        return {name: result["msg"] for name, result in task["hosts"].items()}

    def _member(self, name: str, variables: dict[str, t.Any]) -> Member:
        host = testinfra.get_host(
            f"ssh://{variables['user']}@{variables['address']}",
            ssh_identity_file=variables["key_file"],
            ssh_extra_args=variables["ssh_arguments"],
            controlpath=f"{self._sockets.name}/{name}",
        )
        return Member(name, variables, host)


def stranger(fleet: Fleet, address: str, port: int) -> str:
    """Say what comes of a connection from a container that lies in the lab's network, and is no host of the fleet."""
    image = fleet.control.check_output("docker container inspect --format '{{.Config.Image}}' truthgraph-lab-build1")
    command = "docker run --rm --network truthgraph-lab --entrypoint python3 %s -c %s %s %s"
    return str(fleet.control.check_output(command, image, KNOCK, address, str(port)))
