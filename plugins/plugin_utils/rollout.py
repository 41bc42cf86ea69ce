"""What a rollout decides, as plain functions over what the hosts have answered.

Shapes: `states` is what the module release_state answered, by host; a host that did not answer is missing. `target` is
the release that is wanted (see `plan`).
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.truthgraph.platform.plugins.module_utils import slots, traffic

State = dict[str, t.Any]
RELEASE = re.compile(r"[0-9a-f]{12}(\.[0-9]+)?\Z")
# What a release keeps of each service. The rest of a service's description belongs to the fleet and is always the present one.
KEPT = ("container", "ready", "smoke", "drain")


# Which image each service of a topology runs. What a topology has not, it retires where it runs.
IMAGES = {"split": {"api": "core", "inference": "ml"}, "monolith": {"api": "api"}}


def target(
    descriptions: dict[str, dict[str, t.Any]], images: dict[str, str], topology: str, revision: str = "", version: str = ""
) -> dict[str, t.Any]:
    """Return the release that the inventory and the source tree describe; `descriptions` by host and service."""
    services: dict[str, dict[str, t.Any]] = {}
    runs = IMAGES[topology]
    for host, described in descriptions.items():
        for service, entry in described.items():
            if service in runs:
                container = {**entry["container"], "image": images[runs[service]]}
                if "inference" not in runs:
                    environment = {**entry.get("ml_environment", {}), **container.get("environment", {})}
                    container["environment"] = environment
                services.setdefault(service, {})[host] = {
                    **placed(service, entry, "inference" in runs),
                    "container": container,
                }
    used = {runs[service]: images[runs[service]] for service in services}
    return {"topology": topology, "images": used, "revision": revision, "version": version, "services": services}


def placed(service: str, description: dict[str, t.Any], asks: bool) -> dict[str, t.Any]:
    """Return a service's description with the places of its two slots, as `slots.run_options` wants them.

    A slot has a place for each of its copies: one for each address, and with it one of the host's cards, if it uses any. The
    environment of a slot says where its inference service is, if it `asks` one.
    """
    place = description["place"]
    environments = place["environments"] if asks else {}
    cards = place.get("cards") or []
    places = {
        slot: [
            {
                **{"service": service, "slot": slot, "fleet": place["fleet"], "network": place["network"]},
                **{"address": address, "environment": environments.get(slot, {})},
                "secrets": f"{place['secrets']}/{service}-{slot}" if place["secrets"] else "",
                **({"copy": copy} if copy else {}),
                **({"card": str(cards[copy]), "card_access": place["card_access"]} if cards else {}),
            }
            for copy, address in enumerate(addresses)
        ]
        for slot, addresses in place["addresses"].items()
    }
    return {**description, "places": places}


def target_of(record: dict[str, t.Any], descriptions: dict[str, dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return the release of a record for the hosts of today; a host that came later gets what its neighbours had."""
    services: dict[str, dict[str, t.Any]] = {}
    asks = "inference" in record["services"]
    for host, described in descriptions.items():
        for service, entry in described.items():
            kept = record["services"].get(service, {})
            if kept:
                own = kept.get(host, next(iter(kept.values())))
                services.setdefault(service, {})[host] = {**placed(service, entry, asks), **own}
    return {**{name: record[name] for name in ("id", "topology", "images", "revision", "version")}, "services": services}


def release_base(target: dict[str, t.Any]) -> str:
    """Return what images and configuration make of a release's id; the registry's address is no part of it."""
    configurations = {
        service: sorted({slots.digest({**entry["container"], "image": ""}) for entry in hosts.values()})
        for service, hosts in target["services"].items()
    }
    images = {name: reference.rpartition("@")[2] for name, reference in target["images"].items()}
    return slots.digest([target["topology"], images, configurations])


def release_id(target: dict[str, t.Any], states: dict[str, State]) -> str:
    """Return the id of a release. With other secrets than before, it is numbered: the ledger holds no hash of a secret."""
    base = release_base(target)
    kept: dict[str, list[bool]] = {}
    for state in states.values():
        for service in state["secrets"].values():
            for release, same in service["releases"].items():
                if release.partition(".")[0] == base:
                    kept.setdefault(release, []).append(same)
    if not kept:
        return base
    numbered = sorted(kept, key=_number)
    equal = [release for release in numbered if all(kept[release])]
    return equal[-1] if equal else f"{base}.{_number(numbered[-1]) + 1}"


def _number(release: str) -> int:
    return int(release.partition(".")[2] or 1)


def inference_base(target: dict[str, t.Any]) -> str:
    """Return what images and configuration make of the name by which an API asks for its inference service."""
    containers = [entry["container"] for entry in target["services"].get("inference", {}).values()]
    return "inference_" + slots.digest(sorted({slots.digest(container) for container in containers}))


def inference_key(target: dict[str, t.Any], states: dict[str, State]) -> str:
    """Return the name by which an API asks for exactly the inference service of its release.

    Where what has this name must be replaced all the same (other secrets, changed by hand), the successor gets a name of its
    own: a name never leads to another container while somebody asks for it.
    """
    base = inference_base(target)
    hosts = {host: entry for host, entry in target["services"].get("inference", {}).items() if host in states}
    routed: set[str] = {key for state in states.values() for key in state["traffic"] if key.partition(".")[0] == base}
    usable = [
        key
        for key in sorted(routed, key=_number)
        if all(_leads_to_what_is_wanted(key, entry, states[host], target) for host, entry in hosts.items())
    ]
    if usable:
        return usable[-1]
    if routed:
        return f"{base}.{max(map(_number, routed)) + 1}"
    # No inference host knows it, as where a new one takes the place of the only one: the APIs go on asking for what they ask.
    asked = [state["traffic"].get(f"egress_{live_slot(state, 'api')}", "") for state in states.values()]
    return max([key for key in asked if key.partition(".")[0] == base], key=_number, default=base)


def _leads_to_what_is_wanted(key: str, entry: dict[str, t.Any], state: State, target: dict[str, t.Any]) -> bool:
    found = copies_in(state, "inference", state["traffic"].get(key, ""))
    return not found or _runs_as_wanted(target, entry, state, key, found)


def _runs_as_wanted(
    target: dict[str, t.Any], entry: dict[str, t.Any], state: State, identity: str, found: list[dict[str, t.Any]]
) -> bool:
    """Say whether a slot's containers would be run in just the same way again, with the same secrets."""
    service, slot = found[0]["service"], found[0]["slot"]
    wanted = [(identity, slots.run_digest(entry["container"], place)) for place in entry["places"][slot]]
    if [(one["identity"], one["run"]) for one in found] != wanted:
        return False
    secrets = state["secrets"].get(service)
    if not secrets:
        return True
    # A release of the ledger has its own secrets, which the host has kept; another one those of the inventory.
    return target["id"] in secrets["kept"][slot] if target.get("id") else secrets["slots"][slot]


def copies_in(state: State, service: str, slot: str) -> list[dict[str, t.Any]]:
    """Return a slot's containers on a host, in the order of its copies."""
    found = [one for one in state["containers"] if (one["service"], one["slot"]) == (service, slot)]
    return sorted(found, key=lambda one: int(one.get("copy") or 0))


def serves(copies: list[dict[str, t.Any]]) -> bool:
    """Say whether a slot's containers all run and none calls itself unhealthy."""
    return bool(copies) and all(one["state"] == "running" and one["health"] != "unhealthy" for one in copies)


def mending(copies: list[dict[str, t.Any]]) -> str:
    """Return what the right containers still need: nothing (keep), time (await), or a start (repair)."""
    if not serves(copies):
        return "repair"
    return "await" if any(one["health"] == "starting" for one in copies) else "keep"


def live_slot(state: State, service: str) -> str:
    """Return which slot of a service gets the traffic of a host; empty where none does."""
    return traffic.front(state["traffic"].get(service, ""))


def live_release(state: State) -> str:
    """Return which release the API of a host answers; empty where there is none."""
    release: str = state["traffic"].get(f"api_{live_slot(state, 'api')}", "")
    return release


def serving_release(states: dict[str, State]) -> str:
    """Return the release that these hosts answer; where no API is among them, the stable one that served last, if any."""
    records = known_records(states)
    live = [release for release in map(live_release, states.values()) if release in records]
    stable = [record for record in records.values() if record.get("stable_at")]
    last = max(stable, key=lambda one: (one.get("activated_at", one["stable_at"]), one["id"]), default={"id": ""})
    return live[0] if live else last["id"]


def plan(target: dict[str, t.Any], states: dict[str, State]) -> dict[str, t.Any]:
    """Compare what is wanted with what runs.

    `target` holds `topology`, `images` (references by digest by name), `revision`, `version`, and `services`: by service and
    host what the roles api and inference say of it (container, places, ready, smoke, drain, port, public). An `id` is there
    when the release is one of the ledger's.

    The answer holds `release`, `inference` (its key), `changes` (whether anything differs), `record` for the ledger, and
    `hosts`: by host and service what the module slot wants to know.
    """
    key = inference_key(target, states) if "inference" in target["services"] else ""
    release = target.get("id") or release_id(target, states)
    hosts: dict[str, dict[str, t.Any]] = {}
    for service, entries in target["services"].items():
        for host, entry in entries.items():
            if host in states:
                identity = release if service == "api" else key
                hosts.setdefault(host, {})[service] = _service_plan(target, service, entry, states[host], identity, key)
    for host, state in states.items():
        for service in sorted(_spare(state, target)):
            hosts.setdefault(host, {})[service] = retirement(state, service)
    return {
        "release": release,
        "inference": key,
        "changes": any(entry["action"] != "keep" for services in hosts.values() for entry in services.values()),
        "hosts": hosts,
        "record": {
            **{name: target.get(name, "") for name in ("topology", "images", "revision", "version")},
            "id": release,
            "inference": key,
            "services": {
                service: {host: {name: entry[name] for name in KEPT} for host, entry in entries.items()}
                for service, entries in target["services"].items()
            },
        },
    }


def retirement(state: State, service: str) -> dict[str, t.Any]:
    """Return the plan for a service that a release has no more."""
    return {"action": "retire", "live": live_slot(state, service), "slot": "", "identity": ""}


def _spare(state: State, target: dict[str, t.Any]) -> set[str]:
    """Return the services that a host runs and the release has not anywhere, such as inference after a change to monolith."""
    running = {one["service"] for one in state["containers"] if one["state"] == "running"}
    return {
        service
        for service in slots.SERVICES
        if service not in target["services"] and (live_slot(state, service) or service in running)
    }


def _service_plan(
    target: dict[str, t.Any], service: str, entry: dict[str, t.Any], state: State, identity: str, key: str
) -> dict[str, t.Any]:
    live = live_slot(state, service)
    # The API asks for the inference service of its release, and the inference host knows under that name one of its slots.
    named = live if service == "api" else state["traffic"].get(key, "")
    found = copies_in(state, service, named)
    routed = state["traffic"].get(f"egress_{live}", "") == key if service == "api" else True
    fits = bool(found) and routed and _runs_as_wanted(target, entry, state, identity, found)
    if fits and named == live:
        action, slot = mending(found), live
    else:
        action, slot = "replace", named if fits else _free_slot(state, service, identity, live)
    entries = {f"api_{slot}": identity, f"egress_{slot}": key} if service == "api" else {key: slot}
    return {
        **{name: entry[name] for name in (*KEPT, "port", "public")},
        "action": action,
        "slot": slot,
        "live": live,
        "behind": serves(found),
        "identity": identity,
        "copies": entry["places"][slot],
        "map": entries,
    }


def _free_slot(state: State, service: str, identity: str, live: str) -> str:
    """Return a slot without traffic, of two the one that has kept what is wanted."""
    if live:
        return traffic.other(live)
    kept = [slot for slot in traffic.SLOTS if {one["identity"] for one in copies_in(state, service, slot)} == {identity}]
    return kept[0] if kept else traffic.other(live)


def leftovers(states: dict[str, State], lock_host: str) -> dict[str, t.Any]:
    """Say what an interrupted run has left: `what` is to be done (nothing, finish, undo), of which release, and why."""
    why = []
    for host, state in states.items():
        if state["pending"]:
            why.append(f"{host} waits for a confirmation of {state['pending']['release']}")
        if state["undone"]:
            why.append(f"{host} took {state['undone']['release']} back by itself ({state['undone']['reason']})")
        if "_" in state["traffic"].get("api", ""):
            why.append(f"{host} still has the earlier slot behind the new one")
        for service in slots.SERVICES:
            idle = traffic.other(live_slot(state, service))
            for found in copies_in(state, service, idle):
                if live_slot(state, service) and found["state"] == "running" and not found.get("standby"):
                    name = slots.container_name(service, idle, int(found.get("copy") or 0))
                    why.append(f"{host} still runs {name}")
    records = states.get(lock_host, {}).get("records", {})
    unfinished = sorted(
        (record for record in records.values() if record.get("result") in ("pending", "committed")),
        key=lambda record: record.get("started_at", 0),
    )
    why += [f"{record['id']} is {record['result']} in the ledger" for record in unfinished]
    # The lock host's record is the decision: with it the release is finished, without it undone.
    noted = [state[name]["release"] for state in states.values() for name in ("pending", "undone") if state[name]]
    # Where it has finished, another host may not have come to it.
    serving = live_release(states[lock_host]) if lock_host in states else ""
    for host, state in states.items():
        for release, record in state["records"].items():
            result = records.get(release, {}).get("result")
            behind = record.get("result") in ("pending", "committed")
            if behind and (result == "failed" or (result == "stable" and release == serving)):
                why.append(f"{host} does not know that {release} is {result}")
                noted.append(release)
    decided = [record["id"] for record in unfinished if record["result"] == "committed"]
    decided += [release for release in noted if records.get(release, {}).get("result") == "stable"]
    if not decided and not unfinished and not noted:
        # Killed while it settled: what serves has been decided on, and only something idle is left.
        decided = [release for release in map(live_release, states.values()) if release in records][:1]
        stable = sorted((one.get("activated_at", 0), one["id"]) for one in records.values() if one.get("stable_at"))
        decided = decided or [release for _when, release in stable[-1:]]
    release = (decided or [record["id"] for record in unfinished] or noted or ["unknown"])[-1]
    return {"what": "nothing" if not why else "finish" if decided else "undo", "release": release, "why": why}


def unsealed(states: dict[str, State], fingerprints: dict[str, str]) -> dict[str, str]:
    """Say of which hosts it is not known that a deploy would find nothing to prepare, and why not."""
    found = {}
    for host, fingerprint in fingerprints.items():
        state = states.get(host)
        if state is None:
            found[host] = "it did not answer"
        elif not state["engine"]:
            found[host] = "its engine does not answer"
        elif not state["seal"]["fingerprint"]:
            found[host] = "no deploy has come to its end there"
        elif state["seal"]["fingerprint"] != fingerprint:
            found[host] = "the collection or the inventory has changed"
        elif state["seal"]["drift"] or state["other_credentials"]:
            found[host] = f"changed there: {', '.join(state['seal']['drift'] + state['other_credentials'])}"
        elif any(not any(secrets["slots"].values()) for secrets in state["secrets"].values()):
            found[host] = "credentials have changed"
    return found


def owner_gone(lock: dict[str, t.Any], me: dict[str, t.Any]) -> bool:
    """Say whether a lock's owner is known to be dead: a process of this very control node that is there no more."""
    owner = lock.get("owner") or {}
    if not owner or owner.get("machine") != me["machine"]:
        return False
    return owner.get("boot") != me["boot"] or process_started(int(owner.get("pid", 0))) != owner.get("started")


def process_started(pid: int) -> str:
    """Return when a process of this machine was started, in the kernel's ticks; empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    # A killed process that nobody has collected yet does nothing any more.
    return "" if fields[0] in "ZX" else fields[19]


def known_records(states: dict[str, State]) -> dict[str, dict[str, t.Any]]:
    """Return the ledger's records over all hosts; of several, the one that was written last."""
    found: dict[str, dict[str, t.Any]] = {}
    for state in states.values():
        for release, record in state["records"].items():
            if record.get("written_at", 0) >= found.get(release, {}).get("written_at", -1):
                found[release] = record
    return found


def missing_images(target: dict[str, t.Any], states: dict[str, State]) -> dict[str, list[str]]:
    """Return which images of a release are not on the hosts that would run them."""
    missing: dict[str, list[str]] = {}
    for entries in target["services"].values():
        for host, entry in entries.items():
            image = entry["container"]["image"]
            if host in states and image not in states[host]["images"]:
                missing.setdefault(host, []).append(image)
    return missing


def rollback_targets(
    states: dict[str, State],
    descriptions: dict[str, dict[str, t.Any]],
    way: str = "keep",
    backups: list[dict[str, t.Any]] | None = None,
    managed: bool = True,
) -> list[dict[str, t.Any]]:
    """Return the releases that can be returned to, the one that served last first.

    `problem` says why one cannot be in the way that is wanted, `ways` the same for each of the three (see `schema_ways`).
    """
    live = {live_release(state) for state in states.values() if live_slot(state, "api")}
    records = known_records(states)
    rows = []
    for release, record in records.items():
        if live == {release}:
            continue
        schema = schema_ways(record, _newest_first(records, live), backups, managed)
        if record.get("stable_at"):
            problem = hosts_problem(record, descriptions) or secrets_problem(record, states) or schema["lacking"]
        else:
            problem = f"it was never stable ({record.get('result', 'unknown')})"
        rows.append(
            {
                "release": release,
                "result": record.get("result", ""),
                "revision": record.get("revision", ""),
                "stable_at": record.get("stable_at", 0),
                "activated_at": record.get("activated_at", record.get("stable_at", 0)),
                "missing": missing_images(target_of(record, descriptions), states),
                "problem": problem or schema["ways"][way],
                "fit": not problem,
                **schema,
            }
        )
    return sorted(rows, key=lambda row: (row["activated_at"], row["release"]), reverse=True)


def _newest_first(records: dict[str, dict[str, t.Any]], live: set[str]) -> list[dict[str, t.Any]]:
    """Return records in the order in which their images are asked: what serves, then what was written last."""
    return sorted(records.values(), key=lambda one: (one["id"] in live, one.get("written_at", 0)), reverse=True)


def rollback_choice(rows: list[dict[str, t.Any]], wanted: str, way: str = "keep") -> dict[str, str]:
    """Choose from what `rollback_targets` lists: `release`, the wanted one or the one that served last, and `problem`."""
    possible = [row["release"] for row in rows if not row["problem"]]
    # Where the schema alone is in the way of all, it is said what would help.
    release = wanted or next(iter(possible), "") or next((row["release"] for row in rows if row["fit"]), "")
    found = next((row for row in rows if row["release"] == release), None)
    if found and not found["problem"]:
        return {"release": release, "problem": ""}
    if found:
        problem = f"Release {release} cannot be returned to: {found['problem']}."
    elif release:
        problem = f"There is no release {release} in the ledger, or it serves already."
    else:
        problem = "There is no earlier release that was ever stable."
    others = other_ways(found, way) if found and found["fit"] else ""
    if possible:
        way_out = f"What can be returned to: {', '.join(possible)} (-e release=ID)."
    else:
        way_out = "" if others else "There is nothing else to return to; deploy the source that you want."
    return {"release": release, "problem": " ".join(filter(None, [problem, others, way_out]))}


def other_ways(row: dict[str, t.Any], way: str) -> str:
    """Say what the other two ways to treat the data would do for a release, or why they cannot be gone."""
    back, backup = ", ".join(row["back"]), row["backup"]
    # Who only keeps the data has not looked for backups.
    which = f"backup {backup['backup']} of {backup['begun']}" if backup else "the newest backup of its schema, if there is one,"
    costs = {
        "keep": "leaves the schema as it is, and loses nothing",
        "downgrade": f"takes {back} back, and loses what they have added",
        "restore": (
            f"puts {which} in the place of the database; what was stored since is lost to the service, and kept beside it"
        ),
    }
    said = []
    for other, cost in costs.items():
        if other != way:
            problem = row["ways"][other]
            said.append(f"-e rollback_data={other} {f'is not possible: {problem}' if problem else cost}.")
    if way == "keep":
        said.append("Either says first what exactly it would cost, and asks.")
    return " ".join(said)


def hosts_problem(record: dict[str, t.Any], descriptions: dict[str, dict[str, t.Any]]) -> str:
    """Say which services of a release no host of the inventory would run; empty if there is none."""
    described = {service for services in descriptions.values() for service in services}
    lacking = sorted(set(record["services"]) - described)
    groups = ", ".join(f"truthgraph_{service}" for service in lacking)
    return f"the inventory has no host in {groups}, which it needs" if lacking else ""


def applied(records: t.Iterable[dict[str, t.Any]], certainly: bool = False) -> set[str]:
    """Return the revisions that the releases have left in the database, as far as their records say.

    What is known to an image was applied when it was deployed. Where a migration was taken back since, the record says so in
    `taken_back`; where a run was at it and its end is not known, in `taking_back`.
    """
    found: set[str] = set()
    for record in records:
        schema = record.get("schema") or {}
        gone = {*schema.get("taken_back", ()), *(schema.get("taking_back", ()) if certainly else ())}
        found |= set(schema.get("known", ())) - gone
    return found


def schema_ways(
    record: dict[str, t.Any],
    records: list[dict[str, t.Any]],
    backups: list[dict[str, t.Any]] | None,
    managed: bool,
) -> dict[str, t.Any]:
    """Say what the database, as all releases have left it, means for a release: how it could be returned to.

    `ways` says for keep, downgrade and restore why not, with nothing for one that is possible. `back` are the revisions that
    the release does not know, and `order` when they would have to go: after the switch to the release, which lives with what
    only adds, or before it, if one of them has taken away what the release uses (`contract = True`). `image` knows how to
    take them back, `backup` is from before them. `lacking` says what is wrong with the schema whatever is done.
    """
    schema = record.get("schema") or {}
    known = set(schema.get("known", ()))
    there = applied(records)
    contracts = {one for other in records for one in (other.get("schema") or {}).get("contracts", ())} & there - known
    back = sorted(there - known) if known else sorted(contracts)
    irreversible = {one for other in records for one in (other.get("schema") or {}).get("irreversible", ())} & {*back}
    image = next(
        (
            other["images"][IMAGES[other["topology"]]["api"]]
            for other in records
            if {*back} <= set((other.get("schema") or {}).get("known", ())) and other.get("topology") in IMAGES
        ),
        "",
    )
    backup = _backup_of(schema, backups or [])
    ways = dict.fromkeys(("keep", "downgrade", "restore"), "")
    if contracts:
        ways["keep"] = f"the schema has moved past it: {', '.join(sorted(contracts))} took away what it uses"
    foreign = "" if managed else "the database is not this fleet's own, so there is no backup of it here"
    if back:
        unknown = "" if known else "the ledger does not say which schema it needs"
        stays = f"{', '.join(sorted(irreversible))} cannot be taken back" if irreversible else ""
        ways["downgrade"] = foreign or unknown or stays or ("" if image else f"no image is known that has {', '.join(back)}")
        lost = "" if backup or backups is None else f"no backup has its schema ({', '.join(_heads(schema)) or 'unknown'})"
        ways["restore"] = foreign or unknown or lost
    else:
        ways["restore"] = "the database has no migration that it does not know; playbooks/restore.yml brings any backup back"
    doubtful = {*schema.get("taken_back", ()), *schema.get("taking_back", ())} - applied(records, certainly=True)
    return {
        "ways": ways,
        "back": back,
        "order": "before" if contracts else "after",
        "image": image,
        "backup": backup,
        "lacking": f"{', '.join(sorted(doubtful))}, which it needs, was taken back; deploy it again" if doubtful else "",
    }


def _heads(schema: dict[str, t.Any]) -> list[str]:
    """Return the revisions that a database has when a release's image alone has migrated it; nothing if that is not known."""
    left = schema.get("after", [])
    return sorted(schema.get("heads") or (left if set(left) <= set(schema.get("known", ())) else []))


def _backup_of(schema: dict[str, t.Any], backups: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return the newest backup of just that schema; nothing if there is none."""
    heads = _heads(schema)
    fit = [one for one in backups if heads and not one.get("problem") and sorted(one.get("revision") or ()) == heads]
    return max(fit, key=lambda one: str(one["backup"]), default={})


def schema_marked(
    records: dict[str, dict[str, t.Any]], revisions: list[str], mark: str, when: float
) -> list[dict[str, t.Any]]:
    """Return the records that know some revisions, with what becomes of those in the database.

    The mark is taking_back before, and taken_back after; or applied, if they are there after all.
    """
    found = []
    for record in records.values():
        schema = record.get("schema") or {}
        meant = set(schema.get("known", ())) & set(revisions)
        if meant:
            marks = {name: set(schema.get(name, ())) - meant for name in ("taking_back", "taken_back")}
            if mark in marks:
                marks[mark] |= meant
            noted = {name: sorted(ones) for name, ones in marks.items()}
            found.append({**record, "schema": {**schema, **noted}, "written_at": when})
    return found


def secrets_problem(record: dict[str, t.Any], states: dict[str, State]) -> str:
    """Say which hosts have not kept the secrets of a release; empty if all have."""
    lacking = sorted(
        host
        for host, state in states.items()
        for service, secrets in state["secrets"].items()
        if service in record["services"] and record["id"] not in secrets["releases"]
    )
    return f"its secrets are not kept on {', '.join(dict.fromkeys(lacking))}" if lacking else ""
