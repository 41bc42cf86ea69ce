# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters: which base images are wanted, under which keys, and what is to be done for each."""

from __future__ import annotations

import hashlib
import json
import os
import typing as t

from ansible.errors import AnsibleFilterError

KEY_LENGTH = 12
# What stands in a build context for the version, where several are built from it.
VERSION_MARK = b"@VERSION@"


def content_key(value: t.Any) -> str:
    """A short hash of anything that can be written as JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def context_files(directory: str, version: str = "") -> dict[str, list[t.Any]]:
    """Names, modes and contents of a build context, as they count for the key: with the version that is built."""
    files = {}
    for folder, _folders, names in sorted(os.walk(directory)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as handle:
                digest = hashlib.sha256(handle.read().replace(VERSION_MARK, version.encode())).hexdigest()
            files[os.path.relpath(path, directory)] = [bool(os.stat(path).st_mode & 0o100), digest]
    if not files:
        raise AnsibleFilterError(f"The build context {directory} is missing or empty")
    return files


def files_with_version(contexts: str, names: list[str]) -> list[str]:
    """Paths below contexts of the files of some build contexts in which the version is to be filled in."""
    found = []
    for context in names:
        for name in context_files(os.path.join(contexts, context)):
            with open(os.path.join(contexts, context, name), "rb") as handle:
                if VERSION_MARK in handle.read():
                    found.append(os.path.join(context, name))
    return found


def mirror_reference(reference: str, mirror_registry: str) -> str:
    """The reference with the registry that is asked instead of the public one, if one is set."""
    if not mirror_registry:
        return reference
    return mirror_registry.rstrip("/") + "/" + reference.split("/", 1)[1]


def base_image_plan(
    names: list[str],
    catalogue: dict[str, dict[str, t.Any]],
    contexts: str,
    prefix: str,
    overrides: dict[str, str] | None = None,
    mirror_registry: str = "",
    mirrors: dict[str, list[t.Any]] | None = None,
    excludes: list[str] | None = None,
) -> list[dict[str, t.Any]]:
    """Return for each wanted base image its names in the registry and the keys of what it may be made from.

    contexts is the directory with the build contexts, mirrors the Debian mirrors by suite, overrides the operator's
    references of official images by name.
    """
    plan, overrides = [], overrides or {}
    for name in names:
        if name not in catalogue:
            known = ", ".join(sorted(catalogue))
            raise AnsibleFilterError(f"base_images_names: there is no base image '{name}'. There are: {known}")
        entry = catalogue[name]
        repository, tag = f"{prefix}/base/{name.split(':')[0]}", name.split(":")[1]
        source = mirror_reference(overrides.get(name) or entry["mirror"], mirror_registry)
        debian = {
            "suite": entry["suite"],
            "packages": sorted(entry["packages"]),
            "context": context_files(os.path.join(contexts, entry["context"]), tag),
            "common": context_files(os.path.join(contexts, "common")),
            "mirrors": (mirrors or {}).get(entry["suite"], []),
            "excludes": excludes or [],
        }
        contexts_used = [entry["context"]]
        extension = entry.get("extension", {})
        if extension:
            contexts_used.append(extension["context"])
            debian["extension"] = [
                extension,
                context_files(os.path.join(contexts, extension["context"]), tag),
                (mirrors or {}).get(extension["suite"], []),
            ]
        keys = {"mirror": content_key({"mirror": source}), "debian": content_key(debian)}
        plan.append(
            {
                "name": name,
                "repository": repository,
                "reference": f"{repository}:{tag}",
                "source": source,
                "suite": entry["suite"],
                "context": entry["context"],
                "version": tag,
                "versioned": files_with_version(contexts, contexts_used),
                "extension": extension,
                "setup": "setup.sh" in debian["context"],
                "packages": entry["packages"],
                "hashes": keys,
                "keyed": {kind: f"{repository}:{tag}-{kind}-{key}" for kind, key in keys.items()},
            }
        )
    return plan


def base_image_decide(
    plan: list[dict[str, t.Any]], present: dict[str, str], source: str, refresh: bool = False, otherwise: str = "ask"
) -> list[dict[str, t.Any]]:
    """Add to each entry of plan what is to be done: keep, retag, mirror, debian, or ask (whether the mirror answers).

    present maps references to digests (or local image IDs), without those that do not exist. An image is kept if its
    name has the digest of one of the keys that source allows; so a mirror that is down for a day does not replace
    mirrored images by built ones. otherwise is what auto does for an image that is not there.
    """
    kinds = ("mirror", "debian") if source == "auto" else (source,)
    decided = []
    for entry in plan:
        current = present.get(entry["reference"], "")
        held = {kind: present[entry["keyed"][kind]] for kind in kinds if entry["keyed"][kind] in present}
        same = [kind for kind, digest in held.items() if digest == current]
        kind = (same or list(held) or [""])[0]
        if not kind:
            action = otherwise if source == "auto" else source
        elif refresh:
            action = kind
        else:
            action = "keep" if same else "retag"
        decided.append(dict(entry, action=action, kind=kind, current=current, held=held.get(kind, "")))
    return decided


def image_ids(images: list[dict[str, t.Any]]) -> dict[str, str]:
    """From the answer of docker_image_info, the image IDs by tag."""
    return {tag: image["Id"] for image in images for tag in image.get("RepoTags") or []}


def base_image_refs(plan: list[dict[str, t.Any]], present: dict[str, str], push: bool = True) -> dict[str, str]:
    """By name, what to use an image by: its digest in the registry, or its name in this host's engine."""
    refs = {}
    for entry in plan:
        digest = present.get(entry["reference"], "")
        refs[entry["name"]] = f"{entry['repository']}@{digest}" if push and digest else entry["reference"]
    return refs


def manifest_digest(raw: str, architecture: str = "amd64") -> str:
    """The digest of a manifest, or if it is an index of several platforms, of the entry for linux and architecture."""
    content = json.loads(raw)
    if "manifests" not in content:
        return "sha256:" + hashlib.sha256(raw.encode()).hexdigest()
    for entry in content["manifests"]:
        platform = entry.get("platform", {})
        if platform.get("os") == "linux" and platform.get("architecture") == architecture:
            digest: str = entry["digest"]
            return digest
    raise AnsibleFilterError(f"The official image has no variant for linux/{architecture} (base_images_architecture)")


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """The filters in this file, by name."""
        return {
            "base_image_plan": base_image_plan,
            "base_image_decide": base_image_decide,
            "base_image_refs": base_image_refs,
            "image_ids": image_ids,
            "manifest_digest": manifest_digest,
        }
