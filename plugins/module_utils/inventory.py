# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image consists of: its layers, its packages, and what has grown since another one.

An inventory is a dictionary:
    unpacked_bytes  what the engine says
    layers          oldest first, each with created_by (the instruction), bytes, and group, one of LAYER_GROUPS
    python, system  packages, each with name, version, bytes and licenses (expressions or names); those of the system with
                    architecture, too
    distribution    of the system, such as debian-13
"""

from __future__ import annotations

import json
import re
import typing as t
import urllib.parse
import uuid

# Which part of an image an instruction of truthgraph.Dockerfile makes. What matches none is the base image's.
LAYER_GROUPS = (
    ("weights", re.compile(r"\bCOPY /opt/(models|exported)\b")),
    ("packages", re.compile(r"\bCOPY /opt/venv\b")),
    ("source", re.compile(r"\bCOPY /app\b")),
    ("runtime", re.compile(r"\btruthgraph-entrypoint\b")),
)
BASE = "base"

# Packages that come with torch's CUDA build.
CUDA = re.compile(r"(nvidia|cuda)-|triton$")

SPDX = re.compile(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+() -]+)*")
SHOWN = 8
COMPONENTS = "https://cyclonedx.org/docs/1.6/json/"

# Run by the image's own interpreter. Every file of the environment is counted for the package that installed it, and
# compiled files for those of their source.
LOOK = r"""
import importlib.metadata as metadata, json, os, re, sys

def size(path):
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0

def licenses(about):
    if about.get("License-Expression"):
        return [about["License-Expression"]]
    named = [one.rsplit(" :: ", 1)[-1] for one in about.get_all("Classifier", []) if one.startswith("License ::")]
    free = (about.get("License") or "").strip()
    return named or ([free] if free and "\n" not in free and len(free) < 80 else [])

python, seen = [], set()
for one in metadata.distributions():
    name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
    if name in seen:
        continue
    seen.add(name)
    total = 0
    for file in one.files or []:
        path = str(one.locate_file(file))
        total += size(path)
        if path.endswith(".py"):
            parent, leaf = os.path.split(path)
            total += size(os.path.join(parent, "__pycache__", leaf[:-2] + sys.implementation.cache_tag + ".pyc"))
    python.append({"name": name, "version": one.version, "bytes": total, "licenses": licenses(one.metadata)})

system = []
try:
    with open("/var/lib/dpkg/status", encoding="utf-8") as file:
        entries = file.read().split("\n\n")
except OSError:
    entries = []
for entry in entries:
    about = dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line and not line.startswith(" "))
    if about.get("Status", "").endswith(" installed"):
        system.append({"name": about["Package"], "version": about["Version"], "architecture": about["Architecture"],
                       "bytes": 1024 * int(about.get("Installed-Size", 0)), "licenses": []})

about = {}
try:
    with open("/etc/os-release", encoding="utf-8") as file:
        about = dict(line.strip().split("=", 1) for line in file if "=" in line)
except OSError:
    pass
distribution = "-".join(about[part].strip('"') for part in ("ID", "VERSION_ID") if part in about)
print(json.dumps({"python": python, "system": system, "distribution": distribution}))
"""


def layers_of(history: str) -> list[dict[str, t.Any]]:
    """Return the layers of an image, oldest first, from what `docker history` says of it, a JSON object in each line."""
    rows = [json.loads(line) for line in history.splitlines() if line.strip()]
    layers = []
    for row in reversed(rows):
        instruction, size = row["CreatedBy"], int(row["Size"])
        group = next((name for name, pattern in LAYER_GROUPS if pattern.search(instruction)), BASE)
        if size or group != BASE:
            layers.append({"created_by": instruction, "bytes": size, "group": group})
    return layers


def groups_of(inventory: dict[str, t.Any]) -> dict[str, int]:
    """Return how many bytes each part of an image has: base, python, torch, cuda, weights and app."""
    by_layer = dict.fromkeys((BASE, *(name for name, _pattern in LAYER_GROUPS)), 0)
    for layer in inventory["layers"]:
        by_layer[layer["group"]] += layer["bytes"]
    torch = sum(one["bytes"] for one in inventory["python"] if one["name"] == "torch")
    cuda = sum(one["bytes"] for one in inventory["python"] if CUDA.match(one["name"]))
    return {
        "base": by_layer[BASE],
        "python": max(0, by_layer["packages"] - torch - cuda),
        "torch": torch,
        "cuda": cuda,
        "weights": by_layer["weights"],
        "app": by_layer["source"] + by_layer["runtime"],
    }


def growth(now: dict[str, t.Any], before: dict[str, t.Any]) -> list[str]:
    """Return what has grown in an image, by layer group and by package, as sentences, the largest first.

    Without an image to compare with, it is what is largest.
    """
    parts, earlier = groups_of(now), groups_of(before) if before else {}
    grown = {f"layer group {name}": (earlier.get(name, 0), size) for name, size in parts.items()}
    for kind in ("python", "system"):
        was = {one["name"]: one for one in (before or {}).get(kind, [])}
        for one in now[kind]:
            old = was.get(one["name"], {"version": "", "bytes": 0})
            what = f"{kind} package {one['name']} {one['version']}"
            if old["version"] not in ("", one["version"]):
                what += f" (was {old['version']})"
            grown[what] = (old["bytes"], one["bytes"])
    changed = [(new - old, what, old, new) for what, (old, new) in grown.items() if new > old]
    changed.sort(key=lambda one: (-one[0], one[1]))
    return [
        f"{what}: {new / 1e6:.1f} MB" + (f", {more / 1e6:+.1f} MB" if before else "")
        for more, what, _old, new in changed[:SHOWN]
    ]


def over_budget(sizes: dict[str, int], budget: dict[str, int]) -> list[str]:
    """Return in which way an image exceeds its budget; both are in bytes, `unpacked` and `compressed`."""
    return [
        f"{sizes[kind] / 1e6:.1f} MB {kind}, and {int(budget[kind]) / 1e6:.1f} MB are allowed"
        for kind in ("unpacked", "compressed")
        if budget.get(kind) and sizes[kind] > int(budget[kind])
    ]


def _licenses(names: list[str]) -> list[dict[str, t.Any]]:
    if len(names) == 1 and re.search(r" (AND|OR|WITH) ", names[0]) and SPDX.fullmatch(names[0]):
        return [{"expression": names[0]}]
    return [{"license": {"name": name}} for name in names]


def _component(one: dict[str, t.Any], purl: str) -> dict[str, t.Any]:
    component: dict[str, t.Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": one["name"],
        "version": one["version"],
        "purl": purl,
    }
    if one["licenses"]:
        component["licenses"] = _licenses(one["licenses"])
    return component


def _quoted(text: str) -> str:
    """Return a text as it stands in a package URL."""
    return urllib.parse.quote(text, safe="")


def cyclonedx(inventory: dict[str, t.Any], name: str, digest: str, version: str, created: str) -> dict[str, t.Any]:
    """Return the bill of materials of an image in CycloneDX 1.6. The same image has the same one, whenever it is made.

    `created` is a time in ISO 8601, or empty.
    """
    purl = f"pkg:oci/{name}@{_quoted(digest)}"
    distribution = inventory["distribution"]
    vendor = distribution.partition("-")[0] or "debian"
    components = [_component(one, f"pkg:pypi/{one['name']}@{_quoted(one['version'])}") for one in inventory["python"]]
    for one in inventory["system"]:
        where = f"?arch={one['architecture']}" + (f"&distro={distribution}" if distribution else "")
        components.append(
            _component(one, f"pkg:deb/{vendor}/{_quoted(one['name'])}@{_quoted(one['version'])}{where}")
        )
    metadata: dict[str, t.Any] = {
        "component": {"type": "container", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    }
    if created:
        metadata["timestamp"] = created
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, COMPONENTS + digest)}",
        "version": 1,
        "metadata": metadata,
        "components": sorted(components, key=lambda one: one["purl"]),
    }
