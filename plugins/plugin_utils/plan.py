# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a deploy, a rollback or a replacement says beforehand that it would do. Shapes as in `rollout`."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.truthgraph.platform.plugins.plugin_utils import rollout

DONE = {
    "keep": "nothing",
    "await": "waited for",
    "repair": "started again",
    "replace": "replaced",
    "retire": "stopped",
}
COMPARED = ("container", "ready", "smoke", "drain")


def rows(
    plan: dict[str, t.Any],
    states: dict[str, rollout.State],
    images: dict[str, dict[str, t.Any]],
    present: dict[str, list[str]],
) -> list[list[t.Any]]:
    """Return a row for each host and service: host, service, releases, images, slots, what is done, and MB to pull.

    `images` has of each image of the release, by name, `reference` and `layers`, the compressed bytes of its layers by their
    diff id; `present` by host the diff ids of the layers that it has. What is to be pulled is said with the first service
    of a host that needs it; where an image is still to be built, nobody knows.
    """
    layers = {image["reference"]: image.get("layers") for image in images.values()}
    found = []
    for host, services in plan["hosts"].items():
        # The report of a run that failed comes here, too: a host may be lost by then.
        state = states.get(host) or {"containers": [], "images": []}
        there = set(present.get(host, []))
        for service, entry in services.items():
            copies = rollout.copies_in(state, service, entry["live"])
            serves = {"identity": "", "image": "", **(copies[0] if copies else {})}
            wanted = entry["container"]["image"] if "container" in entry else serves["image"]
            found.append(
                [
                    host,
                    service,
                    change(named(serves["identity"]), named(entry["identity"])),
                    change(short(serves["image"]), short(wanted) or "to be built"),
                    change(entry["live"], entry["slot"]),
                    DONE[entry["action"]],
                    megabytes(state, wanted, layers.get(wanted), there),
                ]
            )
            there |= set(layers.get(wanted) or {})
    return found


def megabytes(state: rollout.State, image: str, layers: dict[str, int] | None, there: set[str]) -> float | str:
    """Return how many megabytes of an image a host has to pull; a dash where that is not known."""
    if image in state["images"]:
        return 0.0
    if not layers:
        return "-"
    return round(sum(size for layer, size in layers.items() if layer not in there) / 1e6, 2)


def named(identity: str) -> str:
    """Return an identity as people compare it."""
    return identity.removeprefix("inference_")


def short(reference: str) -> str:
    """Return an image without its registry, and with as much of its digest as people compare."""
    name, _at, digest = reference.rpartition("@")
    return f"{name.rpartition('/')[2]}@{digest.removeprefix('sha256:')[:12]}" if name else ""


def change(before: str, after: str) -> str:
    """Return two values with an arrow, or the one that stays."""
    return " -> ".join(dict.fromkeys(filter(None, (before, after)))) or "-"


def configuration(plan: dict[str, t.Any], states: dict[str, rollout.State]) -> list[str]:
    """Return a line for each setting of a service that becomes another one. The ledger has no secrets, so none is here."""
    records = rollout.known_records(states)
    found: dict[str, list[str]] = {}
    for host, services in plan["hosts"].items():
        state = states[host]
        for service, entry in services.items():
            if entry["action"] != "replace":
                continue
            secrets = state["secrets"].get(service) or {}
            if entry["live"] and secrets and not secrets["slots"].get(entry["live"], True):
                found.setdefault(f"{service}: other secrets", []).append(host)
            before = _kept(records, service, host, state)
            if before:
                wanted = plan["record"]["services"][service][host]
                for name, (old, new) in sorted(differences(flat(before), flat(wanted)).items()):
                    found.setdefault(f"{service}: {name}: {old} -> {new}", []).append(host)
    return [f"{', '.join(hosts)}: {line}" for line, hosts in found.items()]


def _kept(
    records: dict[str, dict[str, t.Any]], service: str, host: str, state: rollout.State
) -> dict[str, t.Any] | None:
    """Return what the ledger says of how the service that serves on a host was configured."""
    copies = rollout.copies_in(state, service, rollout.live_slot(state, service))
    identity = copies[0]["identity"] if copies else ""
    for record in records.values():
        if identity and identity in (record.get("id"), record.get("inference")) and host in record["services"].get(service, {}):
            return t.cast("dict[str, t.Any]", record["services"][service][host])
    return None


def flat(service: dict[str, t.Any]) -> dict[str, str]:
    """Return the settings of a service by their paths, without its image."""
    found: dict[str, str] = {}

    def walk(path: str, value: t.Any) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                walk(f"{path}.{name}" if path else str(name), inner)
        else:
            found[path] = value if isinstance(value, str) and value else json.dumps(value, sort_keys=True)

    for name in COMPARED:
        part = dict(service.get(name) or {}) if name != "drain" else service.get(name)
        if isinstance(part, dict):
            part.pop("image", None)
        walk("" if name == "container" else name, part)
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return what differs, with both values."""
    return {
        name: (before.get(name, "unset"), after.get(name, "unset"))
        for name in {*before, *after}
        if before.get(name) != after.get(name)
    }


def migrations(states: dict[str, rollout.State], tree: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return the migrations of the source tree that no release has run yet, by what the ledger says of the one that serves."""
    records = rollout.known_records(states)
    live = [rollout.live_release(state) for state in states.values()]
    known = {
        revision
        for release in filter(None, live)
        for revision in (records.get(release, {}).get("schema") or {}).get("known", [])
    }
    return [migration for migration in tree if migration["revision"] not in known]
