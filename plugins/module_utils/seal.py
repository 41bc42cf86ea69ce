"""Whether a host is still as the last deploy left it, so that what prepares hosts need not run again.

A seal is a note of the inputs from which a host was prepared, and of the state of every file that was written then: mode,
owner, size and times, never contents. A file that was edited, replaced or removed since breaks it, and so does a container
that was replaced or stopped.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import time
import typing as t

from ansible_collections.truthgraph.platform.plugins.module_utils import certificate, traffic

# What the roles of this collection write on a host, besides what has a state of its own (slots, releases, the map).
WATCHED = (
    "/etc/docker/daemon.json",
    "/etc/docker/certs.d/**",
    "/root/.docker/config.json",
    "/etc/haproxy/haproxy.cfg",
    "/etc/systemd/system/haproxy.service.d/truthgraph.conf",
    "/etc/systemd/system/truthgraph-*",
    "/usr/local/lib/truthgraph/*",
    "/usr/local/sbin/truthgraph-*",
    "{config}/backup*",
    "{config}/firewall.nft",
    "{config}/postgres/**",
    "{config}/registry/**",
    "{config}/tls/**",
)
# The certificates among them by which a service says who it is.
CERTIFICATES = ("{config}/tls/*/*.crt", "{config}/postgres/mounted/tls/*.crt", "{config}/registry/tls/*.crt")
# A certificate that ends within so many seconds breaks the seal, so that the next deploy replaces it.
ENDS_SOON = 30 * 24 * 3600.0
# What the kernel said of the firewall's rules when they were loaded, and how it is asked.
RULES_LOADED = "/run/truthgraph-firewall"
RULES = ("/usr/sbin/nft", "--stateless", "list", "table", "inet", "truthgraph")
# Images of this many source trees are remembered.
REMEMBERED = 20


def seal_path(root: str) -> str:
    """Return where a host keeps its seal."""
    return os.path.join(root, "seal.json")


def files(config: str) -> dict[str, list[int]]:
    """Return the state of every watched file and directory by its path."""
    found = {}
    for pattern in WATCHED:
        for path in glob.glob(pattern.format(config=config), recursive=True):
            # Before Python 3.13 a directory that is missing is found, too.
            if not os.path.lexists(path):
                continue
            info = os.lstat(path)
            times = [] if os.path.isdir(path) else [info.st_size, info.st_mtime_ns, info.st_ctime_ns]
            found[path] = [info.st_mode, info.st_uid, info.st_gid, *times]
    return found


def certificates(config: str) -> dict[str, float | None]:
    """Return when each certificate of the host ends, in seconds since the epoch, by its path; None if it cannot be read."""
    found: dict[str, float | None] = {}
    for path in sorted(path for pattern in CERTIFICATES for path in glob.glob(pattern.format(config=config))):
        if os.path.basename(path) == "ca.crt":
            continue
        try:
            with open(path, encoding="utf-8") as file:
                found[path] = certificate.ends(file.read())
        except (OSError, ValueError):
            found[path] = None
    return found


def drift(seal: dict[str, t.Any], config: str, containers: dict[str, str]) -> list[str]:
    """Return what has changed since a host was sealed; `containers` are the ids of those that run, by name."""
    now = files(config)
    before = seal.get("files", {})
    changed = [path for path in sorted({*now, *before}) if now.get(path) != before.get(path)]
    gone = [name for name, number in sorted(seal.get("containers", {}).items()) if containers.get(name) != number]
    old = [
        f"{path} ends soon"
        for path, ends in certificates(config).items()
        if ends is None or ends - time.time() < ENDS_SOON
    ]
    return changed + gone + old + rules_drift(config)


def rules_drift(config: str, loaded: str = RULES_LOADED, command: t.Sequence[str] = RULES) -> list[str]:
    """Return what is wrong with the firewall's rules in the kernel: somebody may have flushed or changed them."""
    if not os.path.exists(os.path.join(config, "firewall.nft")):
        return []
    try:
        with open(loaded, encoding="utf-8") as file:
            before = file.read()
        now = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ["the firewall's rules"]
    return [] if now == before else ["the firewall's rules"]


def write(root: str, config: str, fingerprint: str, containers: dict[str, str], images: dict[str, t.Any]) -> None:
    """Seal a host as it is now; `images` are added to those that it remembers, by what they were built from."""
    known = (traffic.read_json(seal_path(root)) or {}).get("images", {})
    for key in images:
        known.pop(key, None)
    known = dict([*known.items(), *images.items()][-REMEMBERED:])
    seal = {"fingerprint": fingerprint, "files": files(config), "containers": containers, "images": known}
    # A host without services of its own has no state yet.
    os.makedirs(root, mode=0o700, exist_ok=True)
    traffic.write_atomically(seal_path(root), json.dumps(seal) + "\n")
