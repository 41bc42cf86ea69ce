#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read in one call what a host of the fleet runs, has kept, and was left with."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_state
short_description: Read what a host runs, keeps and was left with
version_added: 0.1.0
description:
  - Answers the fleet's containers, which slot serves, the ledger, the lock, and what an interrupted run has left.
  - Changes nothing, except that it takes the fleet's lock if O(lock) asks for it and it is free, or gives it back if
    O(give_back) names it.
options:
  fleet:
    description: Name of the fleet; only its containers are answered.
    type: str
    required: true
  prefix:
    description: What the names of the fleet's images start with.
    type: str
    required: true
  secrets:
    description:
      - By service, the secrets that are wanted, in two parts as in M(truthgraph.platform.slot).
      - Answered is whether the host has the same ones, never what they are.
    type: dict
    default: {}
  lock:
    description:
      - Takes the lock before anything is read, so that what is read stays true. With C(owner), C(action) and C(lease), as in
        M(truthgraph.platform.release_lock).
      - Somebody else's lock is no failure here; RV(fence) is 0 then.
    type: dict
    default: {}
  give_back:
    description: Fencing number of the lock that is given back before anything is read; V(0) for none.
    type: int
    default: 0
  credentials:
    description:
      - What else the host must have, to be compared and never answered. C(registries), by address, the user name and
        password of Docker's login as Docker writes them down (with a colon between, in base64); C(files), by path, their
        contents.
    type: dict
    default: {}
  journal:
    description: How many of the journal's last entries to answer.
    type: int
    default: 20
  backups:
    description: Directory of the database's backups, if this host has any.
    type: path
    default: /var/lib/truthgraph/backups
extends_documentation_fragment:
  - truthgraph.platform.host_state
  - truthgraph.platform.host_state.traffic
attributes:
  check_mode:
    support: full
    description: The lock is neither taken nor given back.
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
- name: Read what the host runs
  truthgraph.platform.release_state:
    fleet: prod
    prefix: registry.example.org/truthgraph
  register: release_state
"""

RETURN = r"""
engine:
  description: Whether the host has a Docker engine that answers.
  returned: always
  type: bool
containers:
  description: The fleet's containers with service, slot, identity, state, health, image and revision.
  returned: always
  type: list
  elements: dict
images:
  description: Images of the fleet on this host, by digest.
  returned: always
  type: list
  elements: str
proxy:
  description: Whether HAProxy answers.
  returned: always
  type: bool
traffic:
  description: The map that says which slot serves.
  returned: always
  type: dict
records:
  description: The ledger's records by release.
  returned: always
  type: dict
damaged:
  description: Records that cannot be read.
  returned: always
  type: list
  elements: str
journal:
  description: The last entries of the journal, oldest first.
  returned: always
  type: list
  elements: dict
lock:
  description: The lock, if this host has it; otherwise empty.
  returned: always
  type: dict
fence:
  description: Fencing number of the lock, if it was taken; otherwise 0.
  returned: always
  type: int
pending:
  description: A switch that nobody has confirmed yet; otherwise empty.
  returned: always
  type: dict
undone:
  description: A switch that this host has taken back by itself; otherwise empty.
  returned: always
  type: dict
secrets:
  description:
    - By service, C(slots), whether each slot has the secrets that are wanted, C(releases), whether what the host keeps of
      each release is what is wanted, and C(kept), the releases of which each slot has the secrets.
  returned: always
  type: dict
seal:
  description:
    - What the host was prepared from (C(fingerprint)), what has changed there since (C(drift)), and which images were built
      from what (C(images)).
  returned: always
  type: dict
certificates:
  description: When the certificates of this host end, in seconds since the epoch, by path; none if one cannot be read.
  returned: always
  type: dict
other_credentials:
  description: Names of the credentials that the host has not, or has others of.
  returned: always
  type: list
  elements: str
backups:
  description:
    - C(count), how many backups of the database the host has, C(newest) and C(proven), the newest of all and of those that
      were proven, each with C(backup) (its name), C(begun) (in seconds since the epoch), C(rows) and C(bytes); C(since), from
      when on there ought to be some.
  returned: always
  type: dict
disk:
  description: Bytes in all (C(total)) and for new files (C(free)), by the path of what fills a disk.
  returned: always
  type: dict
now:
  description: The host's clock, in seconds since the epoch.
  returned: always
  type: float
"""

import os
import shutil
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import backups, seal, secret_files, slots, traffic
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli
from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Held, Ledger, Lock


def images(docker: DockerCli, prefix: str) -> list[str]:
    """Return the fleet's images on this host by digest."""
    rows = docker.run("image", "ls", "--digests", "--format", "{{.Repository}}@{{.Digest}}").splitlines()
    return sorted({row for row in rows if row.startswith(f"{prefix}/") and not row.endswith("<none>")})


def answers(proxy: traffic.Proxy) -> bool:
    """Say whether HAProxy answers; one that is there and says nothing is none that could be asked."""
    try:
        return proxy.answers
    except OSError:
        return False


def compare_secrets(parameters: dict[str, t.Any]) -> dict[str, t.Any]:
    """Say which slots and kept releases have the secrets that are wanted."""
    answer: dict[str, t.Any] = {}
    config = parameters["config"]
    for service, given in parameters["secrets"].items():
        own, current = (secret_files.checked(given.get(part) or {}) for part in ("release", "current"))
        wanted = {**own, **current}
        found: dict[str, t.Any] = {"slots": {}, "kept": {slot: [] for slot in traffic.SLOTS}, "releases": {}}
        for slot in traffic.SLOTS:
            directory = slots.secrets_directory(config, service, slot)
            found["slots"][slot] = (
                secret_files.holds(directory, wanted, parameters["gid"]) if wanted else not secret_files.read(directory)
            )
        kept = os.path.join(config, "releases")
        for release in sorted(os.listdir(kept)) if os.path.isdir(kept) else []:
            directory = slots.release_secrets_directory(config, release, service)
            if not os.path.isdir(directory):
                continue
            kept_own = secret_files.read(directory)
            found["releases"][release] = kept_own == own
            for slot in traffic.SLOTS:
                mounted = slots.secrets_directory(config, service, slot)
                whole = {**kept_own, **current}
                if secret_files.holds(mounted, whole, parameters["gid"]) if whole else not secret_files.read(mounted):
                    found["kept"][slot].append(release)
        answer[service] = found
    return answer


def other_credentials(wanted: dict[str, t.Any]) -> list[str]:
    """Return the names of the credentials that this host has not, or has others of."""
    logins = (traffic.read_json("/root/.docker/config.json") or {}).get("auths", {})
    others = []
    for address, login in (wanted.get("registries") or {}).items():
        if logins.get(address, {}).get("auth") != login:
            others.append(f"login to {address}")
    for path, content in (wanted.get("files") or {}).items():
        try:
            with open(path, encoding="utf-8") as file:
                same = file.read() == str(content)
        except OSError:
            same = False
        if not same:
            others.append(path)
    return others


def take(lock: Lock, wanted: dict[str, t.Any]) -> int:
    """Take the lock if that is wanted and it is free; return its fencing number, or 0."""
    if not wanted:
        return 0
    try:
        return lock.acquire(wanted["owner"], wanted["action"], float(wanted["lease"]), time.time())[0]
    except Held:
        return 0


def disk(paths: t.Iterable[str]) -> dict[str, dict[str, int]]:
    """Return how large the disks of these paths are and how much is free, each disk once. A path may be yet to come."""
    found: dict[int, tuple[str, dict[str, int]]] = {}
    for path in paths:
        there = path
        while not os.path.exists(there):
            there = os.path.dirname(there)
        usage = shutil.disk_usage(there)
        found.setdefault(os.stat(there).st_dev, (path, {"total": usage.total, "free": usage.free}))
    return dict(found.values())


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "prefix": {"type": "str", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "root": {"type": "path", "default": "/var/lib/truthgraph"},
            "config": {"type": "path", "default": "/etc/truthgraph"},
            "map": {"type": "path", "default": "/etc/truthgraph/proxy/traffic.map"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
            "gid": {"type": "int", "default": 10001},
            "credentials": {"type": "dict", "default": {}, "no_log": True},
            "lock": {"type": "dict", "default": {}},
            "give_back": {"type": "int", "default": 0},
            "journal": {"type": "int", "default": 20},
            "backups": {"type": "path", "default": "/var/lib/truthgraph/backups"},
        },
        supports_check_mode=True,
    )
    root = module.params["root"]
    lock = Lock(root)
    fence = 0 if module.check_mode else take(lock, module.params["lock"])
    if module.params["give_back"] and not module.check_mode:
        lock.release(module.params["give_back"])
    docker = DockerCli(module)
    # That the first question is answered says that there is an engine: each costs what a process costs.
    code, numbers, _error = docker.try_run(*slots.listing(module.params["fleet"])) if docker.present else (1, "", "")
    engine = code == 0
    found = slots.described(docker, numbers.split()) if engine else []
    sealed = traffic.read_json(seal.seal_path(root)) or {}
    ledger = Ledger(root)
    records, damaged = ledger.records()
    try:
        secrets = compare_secrets(module.params)
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        engine=engine,
        containers=found,
        images=images(docker, module.params["prefix"]) if engine else [],
        proxy=answers(traffic.Proxy(module.params["socket"])),
        traffic=traffic.read_map(module.params["map"]),
        records=records,
        damaged=damaged,
        journal=ledger.journal(module.params["journal"]),
        lock=lock.read() or {},
        fence=fence,
        pending=traffic.read_json(traffic.pending_path(root)) or {},
        undone=traffic.read_json(traffic.undone_path(root)) or {},
        secrets=secrets,
        seal={
            "fingerprint": sealed.get("fingerprint", ""),
            "images": sealed.get("images", {}),
            "drift": seal.drift(sealed, module.params["config"], slots.without_slots(found)) if sealed else [],
        },
        certificates=seal.certificates(module.params["config"]),
        other_credentials=other_credentials(module.params["credentials"]),
        backups=backups.summary(module.params["backups"]),
        disk=disk(("/var/lib/docker", root)),
        now=time.time(),
    )


if __name__ == "__main__":
    main()
