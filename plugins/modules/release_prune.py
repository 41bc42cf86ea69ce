#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remove the images and records of releases that a host does not need any more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_prune
short_description: Remove images and records of old releases
version_added: 0.1.0
description:
  - Releases that stay are the live ones, those that a run has not finished, and the newest ones that were ever stable.
    The records of all others are removed, and the images and bills of materials (C(sboms) below O(root)) that none of
    those that stay refers to.
  - Only images of this fleet are ever removed. They are those with all of their names in the repositories C(core),
    C(ml) and C(api) below O(prefix). An image that any container has, running or not, stays.
  - What cannot be removed is no failure, since the releases that run are none the worse for it. It is a warning, the
    record of such a release stays, and the next call tries again.
  - If it cannot be seen for certain what is needed, nothing is removed, and a warning says why.
  - What is removed is no part of what the fleet is, so it never counts as a change.
options:
  root:
    description: Directory of the ledger.
    type: path
    default: /var/lib/truthgraph
  prefix:
    description: What the repositories of the fleet's images begin with, such as V(10.0.0.1:5000/truthgraph).
    type: str
    required: true
  keep_images:
    description: References of images, by digest, that stay whatever the ledger says.
    type: list
    elements: str
    default: []
  live:
    description: Ids of the releases that serve.
    type: list
    elements: str
    default: []
  count:
    description: How many of the newest releases that were ever stable stay, live ones among them.
    type: int
    default: 5
attributes:
  check_mode:
    support: full
    description: Says what would be removed, and removes nothing.
  diff_mode:
    support: none
    description: Nothing that is shown as a difference is changed.
  idempotent:
    support: full
    description: The module never reports a change, and a second call finds nothing to remove.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Remove what is not needed any more
  truthgraph.platform.release_prune:
    prefix: "10.0.0.1:5000/truthgraph"
    live: ["0f3a5c77d2e1"]
"""

RETURN = r"""
kept:
  description: Ids of the releases that have to stay.
  returned: success
  type: list
  elements: str
images:
  description: References of the images that were removed.
  returned: success
  type: list
  elements: str
bills:
  description: Digests of the images whose bills of materials were removed.
  returned: success
  type: list
  elements: str
records:
  description: Ids of the releases whose records were removed.
  returned: success
  type: list
  elements: str
problems:
  description: What could not be removed and why, as sentences.
  returned: success
  type: list
  elements: str
"""

import json
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli
from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger, checked_id, keep_list

PRUNED = ("core", "ml", "api")
BILL = ".cdx.json"
GONE = ("no such image", "no such object", "no such container")


class CannotTell(Exception):
    """It cannot be seen for certain what is needed."""


def repository(reference: str) -> str:
    """Return a reference without its tag or digest."""
    name = reference.partition("@")[0]
    path, separator, last = name.rpartition("/")
    return path + separator + last.partition(":")[0]


def digest(reference: str) -> str:
    """Return the digest of a reference, or all of it where it has none."""
    return reference.rpartition("@")[2]


def references(image: dict[str, t.Any]) -> list[str]:
    """Return all names of an image, as the engine describes it."""
    names = (image.get("RepoTags") or []) + (image.get("RepoDigests") or [])
    return [name for name in names if not name.startswith("<none>")]


def is_candidate(image: dict[str, t.Any], prefix: str) -> bool:
    """Say whether an image is one of those that are ever removed."""
    names = references(image)
    return bool(names) and {repository(name) for name in names} <= {f"{prefix}/{name}" for name in PRUNED}


def identities(image: dict[str, t.Any]) -> set[str]:
    """Return everything that something could call an image by: its id, its names and the digests in these."""
    names = references(image)
    return {image["Id"], *names, *map(digest, names)}


def images_of(record: dict[str, t.Any]) -> set[str]:
    """Return the digests of the images of a release."""
    images = record.get("images")
    return {digest(value) for value in images.values() if isinstance(value, str)} if isinstance(images, dict) else set()


def inspected(docker: DockerCli, kind: str, *listing: str) -> list[dict[str, t.Any]]:
    """Return what the engine knows of all images or containers that a command lists."""
    code, out, err = docker.try_run(*listing)
    names = sorted(set(out.split()))
    if code == 0 and not names:
        return []
    if code == 0:
        code, out, err = docker.try_run(kind, "inspect", *names)
        # Others may come and go meanwhile. The engine describes the rest and complains of each that is gone.
        complaints = [line for line in err.splitlines() if line.strip()]
        if code == 0 or (complaints and all(any(text in line.lower() for text in GONE) for line in complaints)):
            try:
                found: list[dict[str, t.Any]] = json.loads(out or "[]")
                return found
            except ValueError:
                err = "its answer is no JSON"
    raise CannotTell(f"the engine does not tell which {kind}s there are: {(err or out).strip()}")


def in_use(docker: DockerCli) -> set[str]:
    """Return whatever the containers of the host, running or not, call their images."""
    used: set[str] = set()
    for container in inspected(docker, "container", "ps", "--all", "--quiet", "--no-trunc"):
        name = (container.get("Config") or {}).get("Image") or ""
        # Where the engine keeps images as an index, the container has one manifest of it.
        manifest = (container.get("ImageManifestDescriptor") or {}).get("digest") or ""
        used |= {container.get("Image") or "", name, digest(name), manifest}
    return used - {""}


def remove(docker: DockerCli, image: dict[str, t.Any]) -> tuple[list[str], list[str]]:
    """Remove all names of an image, which removes it. Returns those that went, and why others did not."""
    removed, problems = [], []
    for name in references(image):
        code, out, err = docker.try_run("rmi", name)
        # The last tag takes the digests of its repository with it.
        if code == 0 or "no such image" in err.lower():
            removed.append(name)
        else:
            problems.append(f"The image {name} could not be removed: {(err or out).strip()}")
    return removed, problems


def spare_bills(root: str, needed: set[str]) -> list[str]:
    """Return the digests of the images that are not needed and have a bill of materials."""
    directory = os.path.join(root, "sboms")
    names = os.listdir(directory) if os.path.isdir(directory) else []
    digests = (name.removesuffix(BILL).replace("-", ":", 1) for name in names if name.endswith(BILL))
    return sorted(set(digests) - needed)


def prune(module: AnsibleModule, ledger: Ledger, docker: DockerCli) -> dict[str, list[str]]:
    """Remove what is not needed, or in check mode only see what that is."""
    params = module.params
    records, damaged = ledger.records()
    if damaged:
        raise CannotTell(f"these records are damaged: {', '.join(damaged)}. The next deploy sets them aside")
    lacking = sorted(set(params["live"]) - set(records))
    if lacking:
        raise CannotTell(f"there is no record of the live release {', '.join(lacking)}")
    kept = keep_list(records, params["live"], params["count"])
    needed = {name for reference in params["keep_images"] for name in (reference, digest(reference))}
    needed.update(*(images_of(records[release]) for release in kept))
    result: dict[str, list[str]] = {"kept": kept, "images": [], "bills": [], "records": [], "problems": []}

    staying: set[str] = set()
    if docker.present:
        needed |= in_use(docker)
        for image in inspected(docker, "image", "image", "ls", "--quiet", "--no-trunc"):
            if not is_candidate(image, params["prefix"].rstrip("/")) or identities(image) & needed:
                continue
            removed, problems = (references(image), []) if module.check_mode else remove(docker, image)
            result["images"] += removed
            result["problems"] += problems
            if problems:
                staying |= identities(image)

    for release in sorted(set(records) - set(kept)):
        if images_of(records[release]) & staying:
            continue
        if module.check_mode or ledger.remove(release):
            result["records"].append(release)
    for bill in spare_bills(params["root"], needed | staying):
        if not module.check_mode:
            os.unlink(os.path.join(params["root"], "sboms", bill.replace(":", "-") + BILL))
        result["bills"].append(bill)
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/var/lib/truthgraph"},
            "prefix": {"type": "str", "required": True},
            "keep_images": {"type": "list", "elements": "str", "default": []},
            "live": {"type": "list", "elements": "str", "default": []},
            "count": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    if not params["prefix"].strip("/ "):
        module.fail_json(
            msg="The prefix is empty, so it names no images of ours. Give the one that they are pushed to."
        )
    try:
        for release in params["live"]:
            checked_id(release)
    except ValueError as error:
        module.fail_json(msg=str(error))
    try:
        result = prune(module, Ledger(params["root"]), DockerCli(module))
    except (CannotTell, OSError) as error:
        result = {"kept": [], "images": [], "bills": [], "records": [], "problems": [f"Not pruned: {error}."]}
    for problem in result["problems"]:
        module.warn(problem)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
