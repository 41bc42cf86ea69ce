"""What a rollout decides: its release's id, its plan, what an interrupted run left, and what can be returned to."""

from __future__ import annotations

import copy
import os
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import slots
from ansible_collections.truthgraph.platform.plugins.plugin_utils import rollout

CORE = "registry.example.org:5000/truthgraph/core@sha256:" + "c" * 64
API = "registry.example.org:5000/truthgraph/api@sha256:" + "a" * 64
ML = "registry.example.org:5000/truthgraph/ml@sha256:" + "d" * 64
OTHER_CORE = CORE.replace("c" * 64, "e" * 64)
OTHER_ML = ML.replace("d" * 64, "f" * 64)


def described(service: str, number: int, **container: t.Any) -> dict[str, t.Any]:
    """Return what a role says of a service on one host."""
    return {
        "container": {"environment": {"PYTHON_ENV": "production"}, "memory": "2g", **container},
        "place": {
            **{"fleet": "test", "network": "truthgraph", "environments": {}, "secrets": ""},
            "addresses": {"blue": [f"172.30.{number}.10"], "green": [f"172.30.{number}.11"]},
        },
        "ready": {"path": "/ready", "timeout": 60, "passes": 3},
        "smoke": {},
        "drain": 30,
        "port": 8000,
        "public": {"address": "127.0.0.1", "port": 80, "path": "/health"},
    }


def descriptions() -> dict[str, dict[str, t.Any]]:
    """Return a fleet: two hosts with the API, one with the inference service."""
    hosts = {"a": {"api": described("api", 1)}, "b": {"api": described("api", 2)}}
    return {**hosts, "c": {"inference": described("inference", 3)}}


def wanted(
    fleet: dict[str, t.Any] | None = None, core: str = CORE, ml: str = ML, topology: str = "split"
) -> dict[str, t.Any]:
    images = {"core": core, "ml": ml, "api": API}
    return rollout.target(fleet or descriptions(), images, topology, "0123abcd", "1.2.0")


def empty(**more: t.Any) -> rollout.State:
    """Return what a host answers on which nothing was deployed yet."""
    state: rollout.State = {name: {} for name in ("traffic", "records", "pending", "undone", "secrets")}
    return {**state, "containers": [], "images": [], **more}


def deployed(target: dict[str, t.Any], slot: str = "blue", **more: t.Any) -> dict[str, rollout.State]:
    """Return what the hosts answer after a target was deployed to a slot."""
    plan = rollout.plan(target, {host: empty() for entries in target["services"].values() for host in entries})
    states: dict[str, rollout.State] = {}
    for host, services in plan["hosts"].items():
        state = states[host] = empty(**copy.deepcopy(more))
        for service, entry in services.items():
            for place in target["services"][service][host]["places"][slot]:
                found = {"service": service, "slot": slot, "state": "running", "health": "healthy"}
                found |= {"identity": entry["identity"], "copy": str(place.get("copy", ""))}
                found["run"] = slots.run_digest(entry["container"], place)
                state["containers"].append(found)
            state["images"].append(entry["container"]["image"])
            state["traffic"] |= {service: slot}
            if service == "api":
                state["traffic"] |= {f"api_{slot}": entry["identity"], f"egress_{slot}": plan["inference"]}
            else:
                state["traffic"] |= {plan["inference"]: slot}
    return states


# Where a slot's container runs.


def test_the_places_of_a_service() -> None:
    entry = described("api", 7)
    entry["place"] |= {"environments": {"green": {"SELF": "green"}}, "secrets": "/etc/truthgraph/slots"}
    api = {"a": {"api": entry}}
    places = wanted(api)["services"]["api"]["a"]["places"]
    [blue], [green] = places["blue"], places["green"]
    assert blue == {
        **{"service": "api", "slot": "blue", "fleet": "test", "network": "truthgraph", "address": "172.30.7.10"},
        **{"environment": {}, "secrets": "/etc/truthgraph/slots/api-blue"},
    }
    assert green["environment"] == {"SELF": "green"} and green["address"] == "172.30.7.11"
    # The secrets lie where the module slot writes them; without any, nothing is mounted.
    assert green["secrets"] == slots.secrets_directory("/etc/truthgraph", "api", "green")
    assert wanted()["services"]["api"]["a"]["places"]["blue"][0]["secrets"] == ""
    # They are the fleet's, so no part of a release's id.
    assert rollout.release_base(wanted(api)) == rollout.release_base(wanted({"a": {"api": described("api", 1)}}))


def with_cards(*names: str) -> dict[str, dict[str, t.Any]]:
    """Return a fleet whose inference host uses some cards."""
    fleet = descriptions()
    numbers = range(len(names))
    addresses = {slot: [f"172.30.3.{20 + 2 * copy + odd}" for copy in numbers] for slot, odd in (("blue", 0), ("green", 1))}
    fleet["c"]["inference"]["place"] |= {"cards": list(names), "card_access": "auto", "addresses": addresses}
    return fleet


def test_each_card_has_a_place() -> None:
    first, second = wanted(with_cards("0", "GPU-7"))["services"]["inference"]["c"]["places"]["green"]
    assert (first["card"], first["address"], first.get("copy")) == ("0", "172.30.3.21", None)
    assert (second["card"], second["address"], second["copy"]) == ("GPU-7", "172.30.3.23", 1)
    # Which cards a host has is no part of a release.
    assert rollout.release_base(wanted(with_cards("0", "1"))) == rollout.release_base(wanted())


def test_another_choice_of_cards_replaces_the_copies() -> None:
    states = deployed(wanted(with_cards("0", "1")))
    actions = {
        names: rollout.plan(wanted(with_cards(*names)), states)["hosts"]["c"]["inference"]["action"]
        for names in [("0", "1"), ("0",), ("1", "0"), ("0", "1", "2")]
    }
    assert actions == {("0", "1"): "keep", ("0",): "replace", ("1", "0"): "replace", ("0", "1", "2"): "replace"}


def test_one_copy_that_does_not_serve_is_started_again() -> None:
    states = deployed(wanted(with_cards("0", "1")))
    states["c"]["containers"][1]["health"] = "unhealthy"
    assert rollout.plan(wanted(with_cards("0", "1")), states)["hosts"]["c"]["inference"]["action"] == "repair"
    states["c"]["containers"].pop()
    assert rollout.plan(wanted(with_cards("0", "1")), states)["hosts"]["c"]["inference"]["action"] == "replace"


# The id of a release.


def test_the_same_release_has_the_same_id() -> None:
    first, again = (rollout.release_id(wanted(), {}) for _ in range(2))
    assert first == again and rollout.RELEASE.match(first)


def test_where_the_registry_is_does_not_matter() -> None:
    elsewhere = wanted(core=CORE.replace("registry.example.org:5000", "10.0.0.1:5001"))
    assert rollout.release_id(elsewhere, {}) == rollout.release_id(wanted(), {})


def test_what_the_source_is_called_does_not_matter() -> None:
    assert rollout.release_id({**wanted(), "revision": "ffff", "version": "2"}, {}) == rollout.release_id(wanted(), {})


def test_a_host_more_is_the_same_release() -> None:
    more = {**descriptions(), "d": {"api": described("api", 4)}, "e": {"inference": described("inference", 5)}}
    assert rollout.release_id(wanted(more), {}) == rollout.release_id(wanted(), {})


@pytest.mark.parametrize(
    "changed",
    [
        wanted(core=OTHER_CORE),
        wanted(ml=OTHER_ML),
        wanted(topology="monolith"),
        wanted({**descriptions(), "a": {"api": described("api", 1, memory="4g")}}),
        wanted({**descriptions(), "c": {"inference": described("inference", 3, environment={"OMP_NUM_THREADS": "2"})}}),
    ],
)
def test_what_makes_another_release(changed: dict[str, t.Any]) -> None:
    assert rollout.release_id(changed, {}) != rollout.release_id(wanted(), {})


def kept(**releases: bool) -> rollout.State:
    """Return a host that keeps releases, and whether each has the secrets that are wanted."""
    base = rollout.release_base(wanted())
    found = {base + name.replace("first", "").replace("n", "."): same for name, same in releases.items()}
    return empty(secrets={"api": {"slots": {"blue": True, "green": True}, "releases": found}})


@pytest.mark.parametrize(
    ("states", "number"),
    [
        ([], ""),
        ([kept()], ""),
        ([kept(first=True)], ""),
        ([kept(first=False)], ".2"),
        ([kept(first=False, n2=True)], ".2"),
        ([kept(first=True, n2=False)], ""),
        ([kept(first=False, n2=False)], ".3"),
        # By their numbers, not their letters.
        ([kept(first=False, n9=False, n10=False)], ".11"),
        # A host that came later has kept nothing yet, and does not count.
        ([kept(first=True), kept()], ""),
        ([kept(first=False, n2=True), kept()], ".2"),
        # All that have kept it must have the same secrets.
        ([kept(first=True), kept(first=False)], ".2"),
    ],
)
def test_other_secrets_number_a_release(states: list[rollout.State], number: str) -> None:
    base = rollout.release_base(wanted())
    assert rollout.release_id(wanted(), {f"host{place}": state for place, state in enumerate(states)}) == base + number


def test_what_was_kept_of_another_release_does_not_count() -> None:
    state = empty(secrets={"api": {"slots": {}, "releases": {"ffffffffffff": False}}})
    assert rollout.release_id(wanted(), {"a": state}) == rollout.release_base(wanted())


# The inference key.


def test_the_inference_key_is_that_of_its_containers() -> None:
    key = rollout.inference_base(wanted())
    assert key.startswith("inference_") and key == rollout.inference_base(wanted(core=OTHER_CORE))
    assert key == rollout.inference_base(wanted({**descriptions(), "d": {"inference": described("inference", 9)}}))
    assert key != rollout.inference_base(wanted(ml=OTHER_ML))
    other = wanted({**descriptions(), "d": {"inference": described("inference", 9, memory="9g")}})
    assert key != rollout.inference_base(other)


def test_the_key_without_an_inference_service() -> None:
    target = wanted({"a": {"api": described("api", 1)}})
    assert rollout.inference_key(target, {"a": empty()}).startswith("inference_")


def test_the_first_key_has_no_number() -> None:
    base = rollout.inference_base(wanted())
    assert rollout.inference_key(wanted(), {}) == rollout.inference_key(wanted(), deployed(wanted())) == base
    # Nor has that of another image, which no name leads to yet.
    new = wanted(ml=OTHER_ML)
    assert rollout.inference_key(new, deployed(wanted())) == rollout.inference_base(new) != base


def other_secrets(states: dict[str, rollout.State], slot: str = "blue") -> None:
    """Have the live slot of the inference service run with other secrets than are wanted."""
    states["c"]["secrets"] = {"inference": {"slots": {"blue": True, "green": True, slot: False}, "releases": {}}}


def changed_by_hand(states: dict[str, rollout.State]) -> None:
    states["c"]["containers"][0]["run"] = "ffffffffffff"


@pytest.mark.parametrize("change", [other_secrets, changed_by_hand])
def test_a_successor_with_the_same_description_gets_a_name_of_its_own(
    change: t.Callable[[dict[str, rollout.State]], None],
) -> None:
    """The key led to the new slot before it was ready, and an undo took it away: the live API asks by it."""
    states = deployed(wanted())
    base = rollout.inference_base(wanted())
    change(states)
    plan = rollout.plan(wanted(), states)
    assert plan["inference"] == plan["record"]["inference"] == f"{base}.2"
    inference = plan["hosts"]["c"]["inference"]
    assert (inference["action"], inference["slot"], inference["identity"]) == ("replace", "green", f"{base}.2")
    assert inference["map"] == {f"{base}.2": "green"} and base not in inference["map"]
    # The APIs have to ask for the new one.
    assert actions(plan)["a"] == actions(plan)["b"] == ("replace", "green")
    assert plan["hosts"]["a"]["api"]["map"]["egress_green"] == f"{base}.2"


def test_the_name_of_a_successor_is_kept() -> None:
    states, base = deployed(wanted()), rollout.inference_base(wanted())
    for host in "ab":
        states[host]["traffic"]["egress_blue"] = f"{base}.2"
    states["c"]["traffic"] = {"inference": "blue", f"{base}.2": "blue"}
    states["c"]["containers"][0]["identity"] = f"{base}.2"
    plan = rollout.plan(wanted(), states)
    assert plan["inference"] == f"{base}.2" and not plan["changes"]
    # Also by a host that came later.
    more = {**descriptions(), "d": {"inference": described("inference", 9)}}
    later = rollout.plan(wanted(more), {**states, "d": empty()})
    assert later["inference"] == f"{base}.2" and actions(later)["c"] == ("keep", "blue")
    assert later["hosts"]["d"]["inference"]["map"] == {f"{base}.2": "blue"}
    # And with other secrets once more, it is numbered on, by its number and not its letters.
    other_secrets(states)
    assert rollout.inference_key(wanted(), states) == f"{base}.3"
    states["c"]["traffic"] |= {f"{base}.9": "blue", f"{base}.10": "blue"}
    assert rollout.inference_key(wanted(), states) == f"{base}.11"


def test_hosts_that_disagree_about_the_name_take_the_newest_that_misleads_nobody() -> None:
    more = {**descriptions(), "d": {"inference": described("inference", 9)}}
    states, base = deployed(wanted(more)), rollout.inference_base(wanted(more))
    states["d"]["traffic"] = {"inference": "blue", f"{base}.2": "blue"}
    states["d"]["containers"][0]["identity"] = f"{base}.2"
    plan = rollout.plan(wanted(more), states)
    assert plan["inference"] == f"{base}.2"
    assert actions(plan) == {**dict.fromkeys("abc", ("replace", "green")), "d": ("keep", "blue")}


def test_what_has_stopped_keeps_its_name() -> None:
    states = deployed(wanted())
    states["c"]["containers"][0]["state"] = "exited"
    plan = rollout.plan(wanted(), states)
    assert plan["inference"] == rollout.inference_base(wanted()) and actions(plan)["c"] == ("repair", "blue")
    assert actions(plan)["a"] == ("keep", "blue")


# The plan.


def actions(plan: dict[str, t.Any]) -> dict[str, tuple[str, str]]:
    """Return what is done to which slot, by host; each has one service here."""
    return {
        host: (entry["action"], entry["slot"])
        for host, services in plan["hosts"].items()
        for entry in services.values()
    }


def test_a_first_deploy() -> None:
    plan = rollout.plan(wanted(), {host: empty() for host in "abc"})
    assert plan["changes"] and actions(plan) == dict.fromkeys("abc", ("replace", "blue"))
    api, inference = plan["hosts"]["a"]["api"], plan["hosts"]["c"]["inference"]
    assert api["identity"] == plan["release"] and inference["identity"] == plan["inference"]
    assert api["map"] == {"api_blue": plan["release"], "egress_blue": plan["inference"]}
    assert inference["map"] == {plan["inference"]: "blue"}
    assert api["copies"][0]["address"] == "172.30.1.10" and api["live"] == "" and not api["behind"]
    assert api["container"]["image"] == CORE and inference["container"]["image"] == ML


def test_the_record_has_what_a_rollback_needs() -> None:
    plan = rollout.plan(wanted(), {host: empty() for host in "abc"})
    record = plan["record"]
    assert (record["id"], record["inference"], record["revision"]) == (plan["release"], plan["inference"], "0123abcd")
    assert record["images"] == {"core": CORE, "ml": ML}
    assert set(record["services"]["api"]) == {"a", "b"} and set(record["services"]["api"]["a"]) == set(rollout.KEPT)


def test_nothing_to_do() -> None:
    plan = rollout.plan(wanted(), deployed(wanted(), "green"))
    assert not plan["changes"] and actions(plan) == dict.fromkeys("abc", ("keep", "green"))


def test_during_a_bake_the_front_slot_counts() -> None:
    states = deployed(wanted(), "green")
    states["a"]["traffic"]["api"] = "green_blue"
    assert actions(rollout.plan(wanted(), states))["a"] == ("keep", "green")


def test_another_image_replaces_the_api_and_leaves_inference() -> None:
    plan = rollout.plan(wanted(core=OTHER_CORE), deployed(wanted()))
    assert plan["changes"]
    assert actions(plan) == {"a": ("replace", "green"), "b": ("replace", "green"), "c": ("keep", "blue")}
    api = plan["hosts"]["a"]["api"]
    assert api["live"] == "blue" and api["behind"] and api["copies"][0]["slot"] == "green"
    assert api["map"] == {"api_green": plan["release"], "egress_green": plan["inference"]}


# From one topology to the other.


def settled(plan: dict[str, t.Any], states: dict[str, rollout.State]) -> dict[str, rollout.State]:
    """Return what the hosts answer once a plan for other slots was done: earlier containers are kept, stopped."""
    after = copy.deepcopy(states)
    for host, services in plan["hosts"].items():
        state = after[host]
        for service, entry in services.items():
            for one in state["containers"]:
                if one["service"] == service and entry["action"] != "keep":
                    one["state"] = "exited"
            state["traffic"] = {key: value for key, value in state["traffic"].items() if not key.startswith(service)}
            state["traffic"] = {key: value for key, value in state["traffic"].items() if not key.startswith("egress")}
            if entry["action"] == "retire":
                continue
            state["traffic"] |= {service: entry["slot"], **{key: value for key, value in entry["map"].items() if value}}
            found = {"service": service, "slot": entry["slot"], "state": "running", "health": "healthy"}
            found |= {"identity": entry["identity"], "run": slots.run_digest(entry["container"], entry["copies"][0])}
            others = [one for one in state["containers"] if (one["service"], one["slot"]) != (service, entry["slot"])]
            state["containers"] = [*others, found]
    return after


def asking() -> dict[str, dict[str, t.Any]]:
    """Return the fleet, whose APIs are told where their inference service is, and how they would compute by themselves."""
    fleet = descriptions()
    for host in "ab":
        fleet[host]["api"]["place"]["environments"] = {slot: {"ML_SERVICE_URL": f"http://{slot}"} for slot in ("blue", "green")}
        fleet[host]["api"]["ml_environment"] = {"OMP_NUM_THREADS": "1", "PYTHON_ENV": "none"}
    return fleet


def test_a_monolith_needs_no_inference_service_and_retires_it() -> None:
    states = deployed(wanted(asking()))
    plan = rollout.plan(wanted(asking(), topology="monolith"), states)
    assert plan["changes"] and actions(plan) == {**dict.fromkeys("ab", ("replace", "green")), "c": ("retire", "")}
    assert plan["inference"] == "" and plan["record"]["images"] == {"api": API}
    assert set(plan["record"]["services"]) == {"api"}
    api = plan["hosts"]["a"]["api"]
    assert api["map"] == {"api_green": plan["release"], "egress_green": ""}
    # It computes by itself, as the inference service would, and is told of none.
    assert api["container"]["environment"] == {"OMP_NUM_THREADS": "1", "PYTHON_ENV": "production"}
    assert api["copies"][0]["environment"] == {}
    after = settled(plan, states)
    again = rollout.plan(wanted(asking(), topology="monolith"), after)
    assert not again["changes"] and actions(again) == dict.fromkeys("ab", ("keep", "green"))
    # A container that runs without traffic is as much too much.
    after["c"]["containers"][0]["state"] = "running"
    assert actions(rollout.plan(wanted(asking(), topology="monolith"), after))["c"] == ("retire", "")


@pytest.mark.parametrize("slot", ["blue", "green"])
def test_a_return_to_split_starts_the_inference_container_that_was_kept(slot: str) -> None:
    states = deployed(wanted(asking()), slot)
    monolith = rollout.plan(wanted(asking(), topology="monolith"), states)
    record = rollout.plan(wanted(asking()), states)["record"]
    # Whatever the inventory says of the topology now: the record knows.
    plan = rollout.plan(rollout.target_of(record, asking()), settled(monolith, states))
    assert actions(plan)["c"] == ("replace", slot)
    api = plan["hosts"]["a"]["api"]
    assert api["map"][f"egress_{api['slot']}"] == plan["inference"] != ""
    assert api["copies"][0]["environment"] == {"ML_SERVICE_URL": f"http://{api['slot']}"}
    assert api["container"]["environment"] == {"PYTHON_ENV": "production"}


def test_a_release_is_refused_whose_hosts_are_gone() -> None:
    target = wanted(asking())
    record = {**rollout.plan(target, deployed(target))["record"], "result": "stable", "stable_at": 1.0}
    states = deployed(wanted(asking(), topology="monolith"))
    states["a"]["records"] = {record["id"]: record}
    apis = {host: asking()[host] for host in "ab"}
    [row] = rollout.rollback_targets(states, apis)
    assert row["problem"] == "the inventory has no host in truthgraph_inference, which it needs"
    assert rollout.rollback_targets(states, asking())[0]["problem"] == ""


def test_another_inference_image_replaces_both() -> None:
    plan = rollout.plan(wanted(ml=OTHER_ML), deployed(wanted()))
    assert actions(plan) == dict.fromkeys("abc", ("replace", "green"))


@pytest.mark.parametrize(
    ("changed", "action"),
    [
        ({"state": "exited"}, ("repair", "blue")),
        ({"health": "unhealthy"}, ("repair", "blue")),
        ({"health": "starting"}, ("await", "blue")),
        # The run label says that it was not this collection, or not in this way, that started it.
        ({"run": "ffffffffffff"}, ("replace", "green")),
        ({"identity": "ffffffffffff"}, ("replace", "green")),
    ],
)
def test_what_is_wrong_with_the_live_container(changed: dict[str, str], action: tuple[str, str]) -> None:
    states = deployed(wanted())
    states["a"]["containers"][0] |= changed
    plan = rollout.plan(wanted(), states)
    assert actions(plan) == {"a": action, "b": ("keep", "blue"), "c": ("keep", "blue")}
    assert plan["changes"] == (action[0] != "keep")


def test_a_container_that_is_gone_is_replaced_with_nothing_behind() -> None:
    states = deployed(wanted())
    states["a"]["containers"].clear()
    entry = rollout.plan(wanted(), states)["hosts"]["a"]["api"]
    assert (entry["action"], entry["slot"], entry["behind"]) == ("replace", "green", False)


def test_an_unhealthy_container_is_not_put_behind() -> None:
    states = deployed(wanted())
    states["a"]["containers"][0]["health"] = "unhealthy"
    assert not rollout.plan(wanted(core=OTHER_CORE), states)["hosts"]["a"]["api"]["behind"]


def test_other_secrets_replace() -> None:
    states = deployed(wanted())
    states["a"]["secrets"] = {"api": {"slots": {"blue": False, "green": True}, "releases": {}}}
    states["b"]["secrets"] = {"api": {"slots": {"blue": True, "green": False}, "releases": {}}}
    plan = rollout.plan(wanted(), states)
    assert actions(plan)["a"] == ("replace", "green") and actions(plan)["b"] == ("keep", "blue")


def test_an_inference_service_that_its_key_does_not_lead_to_is_replaced() -> None:
    states = deployed(wanted())
    del states["c"]["traffic"][rollout.inference_base(wanted())]
    assert actions(rollout.plan(wanted(), states))["c"] == ("replace", "green")


@pytest.mark.parametrize("asked", ["", "inference_ffffffffffff"])
def test_an_api_that_asks_for_another_inference_service_is_replaced(asked: str) -> None:
    states = deployed(wanted())
    states["a"]["traffic"]["egress_blue"] = asked
    plan = rollout.plan(wanted(), states)
    assert actions(plan) == {"a": ("replace", "green"), "b": ("keep", "blue"), "c": ("keep", "blue")}
    assert plan["hosts"]["a"]["api"]["map"]["egress_green"] == plan["inference"]


def test_a_host_that_does_not_answer_is_left_out() -> None:
    states = deployed(wanted())
    del states["b"]
    plan = rollout.plan(wanted(), states)
    assert set(plan["hosts"]) == {"a", "c"}
    assert set(plan["record"]["services"]["api"]) == {"a", "b"}


def test_a_release_of_the_ledger_keeps_its_id() -> None:
    plan = rollout.plan({**wanted(), "id": "0123456789ab.3"}, {host: empty() for host in "abc"})
    assert plan["release"] == plan["record"]["id"] == plan["hosts"]["a"]["api"]["identity"] == "0123456789ab.3"


# The release of a record.


def test_the_release_of_a_record_is_the_one_that_was_deployed() -> None:
    record = rollout.plan(wanted(), {host: empty() for host in "abc"})["record"]
    today = {host: copy.deepcopy(entry) for host, entry in descriptions().items()}
    today["a"]["api"] |= {"container": {"image": OTHER_CORE}, "ready": {"path": "/new"}, "drain": 5, "port": 9000}
    target = rollout.target_of(record, today)
    entry = target["services"]["api"]["a"]
    assert entry["container"]["image"] == CORE and entry["ready"]["path"] == "/ready" and entry["drain"] == 30
    # Where it runs is the fleet's, and always the present one.
    assert entry["port"] == 9000 and entry["places"]["blue"][0]["address"] == "172.30.1.10"
    assert rollout.release_id(target, {}) == target["id"] == record["id"]
    assert not rollout.plan(target, deployed(wanted()) | {"a": deployed(wanted())["a"]})["changes"]


def test_a_host_that_came_later_gets_what_its_neighbours_had() -> None:
    record = rollout.plan(wanted(), {host: empty() for host in "abc"})["record"]
    today = {**descriptions(), "d": {"api": described("api", 4, memory="64g")}}
    target = rollout.target_of(record, today)
    assert target["services"]["api"]["d"]["container"] == record["services"]["api"]["a"]["container"]
    assert target["services"]["api"]["d"]["places"]["blue"][0]["address"] == "172.30.4.10"
    assert rollout.release_id(target, {}) == record["id"]


def test_a_host_or_service_that_is_no_more_is_left_out() -> None:
    record = rollout.plan(wanted(), {host: empty() for host in "abc"})["record"]
    today = {"a": {"api": described("api", 1)}, "z": {"search": described("search", 7)}}
    assert {name: set(hosts) for name, hosts in rollout.target_of(record, today)["services"].items()} == {"api": {"a"}}


# What an interrupted run has left.


def record(release: str, result: str, **more: t.Any) -> dict[str, dict[str, t.Any]]:
    """Return a record as the ledger holds it, by its release."""
    described = dict.fromkeys(("topology", "revision", "version", "inference"), "")
    return {release: {"id": release, "result": result, "images": {}, "services": {}, **described, **more}}


def idle_container(state: str) -> dict[str, str]:
    return {"service": "api", "slot": "green", "identity": "r2", "state": state, "health": ""}


def test_nothing_is_left() -> None:
    states = deployed(wanted(), records=record("r1", "stable"))
    states["a"]["containers"].append(idle_container("exited"))
    states["b"]["containers"].append({**idle_container("running"), "standby": True})
    found = rollout.leftovers(states, "a")
    assert (found["what"], found["why"]) == ("nothing", [])
    assert rollout.leftovers({}, "a")["what"] == "nothing"


@pytest.mark.parametrize(
    ("change", "why", "release"),
    [
        ({"pending": {"release": "r2"}}, "a waits for a confirmation of r2", "r2"),
        ({"undone": {"release": "r2", "reason": "no answer"}}, "a took r2 back by itself (no answer)", "r2"),
        ({"traffic": {"api": "blue_green"}}, "a still has the earlier slot behind the new one", "unknown"),
        ({"containers": [idle_container("running")]}, "a still runs truthgraph-api-green", "unknown"),
        ({"records": record("r2", "pending")}, "r2 is pending in the ledger", "r2"),
    ],
)
def test_what_is_left_is_undone(change: dict[str, t.Any], why: str, release: str) -> None:
    states = deployed(wanted())
    states["a"] |= change
    assert rollout.leftovers(states, "a") == {"what": "undo", "release": release, "why": [why]}


def test_what_was_committed_is_finished() -> None:
    states = deployed(wanted())
    states["a"]["records"] = record("r2", "committed", started_at=2) | record("r3", "pending", started_at=3)
    states["b"]["pending"] = {"release": "r2"}
    found = rollout.leftovers(states, "a")
    assert (found["what"], found["release"]) == ("finish", "r2") and len(found["why"]) == 3


@pytest.mark.parametrize("name", ["pending", "undone"])
def test_what_the_lock_host_has_settled_is_finished(name: str) -> None:
    """It was killed after the lock host had settled and before another one was confirmed."""
    states = deployed(wanted())
    states["a"]["records"] = record("r2", "stable", stable_at=5, activated_at=5)
    states["b"][name] = {"release": "r2", "reason": "no answer"}
    found = rollout.leftovers(states, "a")
    assert (found["what"], found["release"]) == ("finish", "r2") and len(found["why"]) == 1


@pytest.mark.parametrize("change", [{"traffic": {"api": "blue_green"}}, {"containers": [idle_container("running")]}])
def test_where_only_something_idle_is_left_the_newest_stable_release_is_finished(change: dict[str, t.Any]) -> None:
    states = deployed(wanted())
    states["a"]["records"] = {
        **record("r1", "stable", stable_at=1, activated_at=30),
        **record("r2", "stable", stable_at=20, activated_at=20),
        **record("r3", "failed", started_at=40),
    }
    states["b"] |= change
    found = rollout.leftovers(states, "a")
    assert (found["what"], found["release"]) == ("finish", "r1") and len(found["why"]) == 1


@pytest.mark.parametrize("name", ["pending", "undone"])
@pytest.mark.parametrize("result", ["failed", "rolled back", "pending"])
def test_what_was_not_decided_on_is_undone_beside_an_earlier_stable_release(name: str, result: str) -> None:
    states = deployed(wanted())
    states["a"]["records"] = record("r1", "stable", stable_at=1, activated_at=1) | record("r2", result, started_at=2)
    states["b"][name] = {"release": "r2", "reason": "no answer"}
    found = rollout.leftovers(states, "a")
    assert (found["what"], found["release"]) == ("undo", "r2")


@pytest.mark.parametrize(
    ("result", "serves", "what"), [("stable", "r2", "finish"), ("stable", "r1", "nothing"), ("failed", "r1", "undo")]
)
def test_a_host_that_did_not_come_to_the_end_is_brought_there(result: str, serves: str, what: str) -> None:
    """It was killed after the lock host's record had said how it ends, and before another host's did."""
    states = deployed(wanted())
    states["a"]["records"] = record("r2", result, started_at=2)
    states["a"]["traffic"] = {"api": "blue", "api_blue": serves}
    states["b"]["records"] = record("r2", "pending", started_at=2)
    found = rollout.leftovers(states, "a")
    assert found["what"] == what
    assert found["why"] == ([] if what == "nothing" else [f"b does not know that r2 is {result}"])
    assert what == "nothing" or found["release"] == "r2"


def test_only_the_lock_host_says_what_was_committed() -> None:
    states = deployed(wanted())
    states["b"]["records"] = record("r2", "committed")
    assert rollout.leftovers(states, "a")["what"] == "nothing"


def test_of_several_open_releases_the_last_one_counts() -> None:
    states = deployed(wanted())
    states["a"]["records"] = record("r3", "pending", started_at=3) | record("r2", "pending", started_at=2)
    assert rollout.leftovers(states, "a")["release"] == "r3"


# What can be returned to.


def stable(
    release: str, when: float, after: str = "s1", known: tuple[str, ...] = ("s1",), **more: t.Any
) -> dict[str, t.Any]:
    """Return a record of a release that was stable, with the schema that it left and the revisions that it knows."""
    schema = {"after": [after], "known": list(known), "contracts": list(more.pop("contracts", ()))}
    schema.update({name: more.pop(name) for name in ("irreversible", "heads", "taken_back", "taking_back") if name in more})
    entry = {"result": "stable", "stable_at": when, "revision": "0123", "schema": schema, "written_at": when}
    return record(release, **{**entry, **more})


def ledger(live: str, *records: dict[str, t.Any]) -> dict[str, rollout.State]:
    states = deployed(wanted())
    for host in "ab":
        states[host]["traffic"]["api_blue"] = live
        states[host]["records"] = {release: entry for one in records for release, entry in one.items()}
    return states


def rows(states: dict[str, rollout.State], **more: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    return rollout.rollback_targets(states, {**descriptions(), **more})


def targets(states: dict[str, rollout.State]) -> dict[str, str]:
    return {row["release"]: row["problem"] for row in rows(states)}


def test_the_one_that_served_last_is_first_and_the_live_one_is_left_out() -> None:
    states = ledger("r3", stable("r1", 10), stable("r2", 20), stable("r3", 30))
    assert list(targets(states)) == ["r2", "r1"]
    assert set(targets(states).values()) == {""}


@pytest.mark.parametrize(
    ("wanted_release", "release", "problem"),
    [
        ("", "r2", ""),
        ("r1", "r1", ""),
        ("r0", "r0", "Release r0 cannot be returned to: it was never stable (failed). What can be returned to: r2, r1 "),
        ("r3", "r3", "There is no release r3 in the ledger, or it serves already. What can be returned to: r2, r1 "),
    ],
)
def test_a_choice(wanted_release: str, release: str, problem: str) -> None:
    states = ledger("r3", record("r0", "failed"), stable("r1", 10), stable("r2", 20), stable("r3", 30))
    found = rollout.rollback_choice(rows(states), wanted_release)
    assert found["release"] == release
    assert found["problem"].startswith(problem) and bool(found["problem"]) == bool(problem)


def test_no_choice() -> None:
    found = rollout.rollback_choice([], "")
    assert found["problem"].startswith("There is no earlier release that was ever stable. There is nothing else")


def test_a_rollback_can_be_rolled_back() -> None:
    states = ledger("r1", stable("r1", 10, activated_at=40), stable("r2", 20), stable("r3", 30, result="rolled back"))
    assert list(targets(states)) == ["r3", "r2"] and targets(states)["r3"] == ""
    # And what was returned to counts from its return.
    states = ledger("r4", stable("r1", 10, activated_at=40), stable("r3", 30), stable("r4", 50))
    assert list(targets(states)) == ["r1", "r3"]


def test_what_was_never_stable_is_refused() -> None:
    states = ledger("r2", record("r1", "failed"), stable("r2", 20), record("r3", "pending"))
    assert targets(states) == {"r3": "it was never stable (pending)", "r1": "it was never stable (failed)"}


def test_while_hosts_serve_different_releases_each_can_be_returned_to() -> None:
    states = ledger("r2", stable("r1", 10), stable("r2", 20))
    states["b"]["traffic"]["api_blue"] = "r1"
    assert set(targets(states)) == {"r1", "r2"}


def test_a_schema_that_took_something_away_is_refused() -> None:
    new = stable("r2", 20, "s3", ("s1", "s2", "s3"), contracts=("s2",))
    assert targets(ledger("r2", stable("r1", 10), new)) == {
        "r1": "the schema has moved past it: s2 took away what it uses"
    }
    # What only added is read by an earlier release, and a contraction that it knows does not matter.
    assert targets(ledger("r2", stable("r1", 10), stable("r2", 20, "s2", ("s1", "s2")))) == {"r1": ""}
    assert targets(ledger("r2", stable("r1", 10, "s2", ("s1", "s2")), new)) == {"r1": ""}


def test_a_rollback_over_a_migration_can_be_rolled_back() -> None:
    """r2 added s2; after the return to r1 the database still has s2, so r2 can serve."""
    r1, r2 = stable("r1", 10, activated_at=40), stable("r2", 20, "s2", ("s1", "s2"))
    assert targets(ledger("r1", r1, r2)) == {"r2": ""}


def test_what_any_release_has_taken_away_stays_away() -> None:
    # r2 was returned from, and what it took away is gone all the same; r3 knows of it.
    r2 = stable("r2", 20, "s2", ("s1", "s2"), contracts=("s2",), result="rolled back")
    r3 = stable("r3", 30, "s2", ("s1", "s2"))
    found = targets(ledger("r3", stable("r1", 10), r2, r3))
    assert found == {"r1": "the schema has moved past it: s2 took away what it uses", "r2": ""}


@pytest.mark.parametrize("schema", [{}, {"after": ["s9"]}])
def test_records_without_a_schema_are_no_problem(schema: dict[str, t.Any]) -> None:
    first, second = stable("r1", 10), stable("r2", 20)
    first["r1"]["schema"], second["r2"]["schema"] = schema, {}
    assert targets(ledger("r2", first, second)) == {"r1": ""}


# What a return means for the data.


def backup(name: str, *revision: str, **more: t.Any) -> dict[str, t.Any]:
    return {"backup": name, "begun": f"begun {name}", "revision": list(revision), "rows": 7, "problem": "", **more}


def way(states: dict[str, rollout.State], release: str, **more: t.Any) -> dict[str, t.Any]:
    found = rollout.rollback_targets(states, descriptions(), **more)
    return next(row for row in found if row["release"] == release)


def image_of(release: str) -> dict[str, t.Any]:
    return {"topology": "split", "images": {"core": f"core@{release}", "ml": "ml"}}


R1 = stable("r1", 10, **image_of("r1"))
R2 = stable("r2", 20, "s2", ("s1", "s2"), **image_of("r2"))
R3 = stable("r3", 30, "s3", ("s1", "s2", "s3"), contracts=("s3",), **image_of("r3"))
BACKUPS = [backup("b4", "s3"), backup("b3", "s1", problem="damaged"), backup("b2", "s1"), backup("b1", "s1"), backup("b0")]


def test_what_only_adds_can_stay_or_go_after_the_switch() -> None:
    row = way(ledger("r2", R1, R2), "r1", backups=BACKUPS)
    assert (row["problem"], row["ways"]) == ("", {"keep": "", "downgrade": "", "restore": ""})
    assert (row["back"], row["order"], row["image"], row["backup"]["backup"]) == (["s2"], "after", "core@r2", "b2")


def test_what_takes_away_has_to_go_before() -> None:
    row = way(ledger("r3", R1, R2, R3), "r2", way="downgrade", backups=[])
    assert (row["problem"], row["back"], row["order"], row["image"]) == ("", ["s3"], "before", "core@r3")
    assert row["ways"] == {
        "keep": "the schema has moved past it: s3 took away what it uses",
        "downgrade": "",
        "restore": "no backup has its schema (s2)",
    }


def test_a_refusal_names_the_other_ways() -> None:
    states = ledger("r3", R1, R2, R3)
    found = rollout.rollback_choice(rollout.rollback_targets(states, descriptions(), "keep", BACKUPS), "r1")
    assert found["problem"].startswith("Release r1 cannot be returned to: the schema has moved past it: s3 took away")
    assert "-e rollback_data=downgrade takes s2, s3 back" in found["problem"]
    assert "-e rollback_data=restore puts backup b2 of begun b2 in the place" in found["problem"]
    # Without a name it is the one that served last, although nothing can be returned to.
    found = rollout.rollback_choice(rollout.rollback_targets(states, descriptions(), "keep", None), "")
    assert found["release"] == "r2" and found["problem"].startswith("Release r2 cannot be returned to: the schema")
    # Nobody has looked for backups.
    assert "-e rollback_data=restore puts the newest backup of its schema, if there is one," in found["problem"]
    # What was never stable is not helped by any way.
    states = ledger("r2", record("r0", "failed"), R2)
    found = rollout.rollback_choice(rollout.rollback_targets(states, descriptions()), "r0")
    assert "rollback_data" not in found["problem"]


def test_what_cannot_be_taken_back_is_known_beforehand() -> None:
    new = stable("r2", 20, "s2", ("s1", "s2"), irreversible=["s2"], **image_of("r2"))
    row = way(ledger("r2", R1, new), "r1", way="downgrade", backups=BACKUPS)
    assert row["problem"] == "s2 cannot be taken back" and row["fit"]
    found = rollout.rollback_choice([row], "r1", "downgrade")
    assert "-e rollback_data=keep leaves the schema as it is" in found["problem"]
    assert "-e rollback_data=restore puts backup b2" in found["problem"]
    assert way(ledger("r2", R1, new), "r1")["problem"] == ""


def test_a_database_of_the_users_own_is_left_alone() -> None:
    ways = way(ledger("r2", R1, R2), "r1", managed=False)["ways"]
    assert ways["keep"] == "" and ways["downgrade"] == ways["restore"] != ""


def test_where_there_is_nothing_to_take_back() -> None:
    row = way(ledger("r2", R1, stable("r2", 20, **image_of("r2"))), "r1", way="downgrade", backups=BACKUPS)
    assert (row["problem"], row["back"], row["ways"]["keep"]) == ("", [], "")
    assert row["ways"]["restore"].startswith("the database has no migration")


def test_a_release_that_was_deployed_on_a_later_schema_has_no_backup_unless_its_heads_are_known() -> None:
    ahead = stable("r1", 10, "s2", ("s1",), **image_of("r1"))
    assert way(ledger("r2", ahead, R2), "r1", backups=BACKUPS)["backup"] == {}
    ahead = stable("r1", 10, "s2", ("s1",), heads=["s1"], **image_of("r1"))
    assert way(ledger("r2", ahead, R2), "r1", backups=BACKUPS)["backup"]["backup"] == "b2"


@pytest.mark.parametrize("mark", ["taken_back", "taking_back"])
def test_a_release_whose_migrations_are_gone_is_deployed_and_not_returned_to(mark: str) -> None:
    gone = stable("r2", 20, "s2", ("s1", "s2"), **{mark: ["s2"]}, **image_of("r2"))
    row = way(ledger("r1", R1, gone), "r2")
    assert row["problem"] == "s2, which it needs, was taken back; deploy it again" and not row["fit"]
    # Another release has brought it since.
    again = stable("r3", 30, "s2", ("s1", "s2"), **image_of("r3"))
    assert way(ledger("r3", R1, gone, again), "r2")["problem"] == ""


def test_what_was_taken_back_takes_nothing_away_any_more() -> None:
    gone = stable("r2", 20, "s2", ("s1", "s2"), contracts=("s2",), taken_back=["s2"], **image_of("r2"))
    assert way(ledger("r3", R1, gone, stable("r3", 30, **image_of("r3"))), "r1")["problem"] == ""
    # As long as it is not known whether it was, it may have.
    begun = stable("r2", 20, "s2", ("s1", "s2"), contracts=("s2",), taking_back=["s2"], **image_of("r2"))
    assert "took away what it uses" in way(ledger("r3", R1, begun, stable("r3", 30, **image_of("r3"))), "r1")["problem"]


def test_what_becomes_of_revisions_is_noted_where_they_are_known() -> None:
    records = {**R1, **R2, **R3}
    marked = {one["id"]: one["schema"] for one in rollout.schema_marked(records, ["s2", "s3"], "taking_back", 50)}
    assert {name: schema["taking_back"] for name, schema in marked.items()} == {"r2": ["s2"], "r3": ["s2", "s3"]}
    once = {one["id"]: one for one in rollout.schema_marked(records, ["s2", "s3"], "taking_back", 50)}
    after = {one["id"]: one for one in rollout.schema_marked(once, ["s2", "s3"], "taken_back", 60)}
    assert (after["r3"]["schema"]["taking_back"], after["r3"]["schema"]["taken_back"]) == ([], ["s2", "s3"])
    assert after["r3"]["written_at"] == 60 and after["r3"]["schema"]["known"] == ["s1", "s2", "s3"]
    back = {one["id"]: one["schema"] for one in rollout.schema_marked(after, ["s1", "s2"], "applied", 70)}
    assert back["r3"]["taken_back"] == ["s3"] and back["r2"]["taken_back"] == []


def with_other_core() -> dict[str, dict[str, t.Any]]:
    """Return the services of a release with another core image, as its record holds them."""
    told: dict[str, dict[str, t.Any]] = rollout.plan(wanted(core=OTHER_CORE), {host: empty() for host in "abc"})[
        "record"
    ]["services"]
    return told


def test_missing_images_are_listed() -> None:
    states = ledger("r2", stable("r1", 10, services=with_other_core()), stable("r2", 20))
    states["b"]["images"].append(OTHER_CORE)
    (row,) = rows(states)
    assert row["missing"] == {"a": [OTHER_CORE]} and row["problem"] == ""


def test_missing_images_of_a_host_that_came_later_are_listed() -> None:
    states = ledger("r2", stable("r1", 10, services=with_other_core()), stable("r2", 20))
    for host in "ab":
        states[host]["images"].append(OTHER_CORE)
    states["d"] = empty(traffic={"api": "blue", "api_blue": "r2"})
    (row,) = rows(states, d={"api": described("api", 4)})
    assert row["missing"] == {"d": [OTHER_CORE]}
    # What the host would run is what counts, not what the record says of a host that is no more.
    del states["d"]
    assert rows(states)[0]["missing"] == {}


def test_images_of_a_host_that_does_not_answer_are_not_missed() -> None:
    states = ledger("r2", stable("r1", 10, services=with_other_core()), stable("r2", 20))
    del states["b"]
    assert set(rows(states)[0]["missing"]) == {"a"}


def test_of_several_records_the_one_written_last_counts() -> None:
    states = ledger("r2", stable("r1", 10))
    states["b"]["records"] = record("r1", "rolled back", written_at=11) | record("r0", "failed")
    found = rollout.known_records(states)
    assert found["r1"]["result"] == "rolled back" and set(found) == {"r0", "r1"}


# A host that takes another's place.


def test_the_new_host_gets_what_the_others_serve_and_they_keep_it() -> None:
    states = deployed(wanted())
    states["b"] = empty()
    plan = rollout.plan(wanted(), states)
    actions = {
        (host, service): entry["action"]
        for host, services in plan["hosts"].items()
        for service, entry in services.items()
    }
    assert actions == {("a", "api"): "keep", ("b", "api"): "replace", ("c", "inference"): "keep"}


@pytest.mark.parametrize("number", ["", ".3"])
def test_a_new_inference_host_is_what_the_apis_ask_for(number: str) -> None:
    states = deployed(wanted())
    key = rollout.inference_base(wanted()) + number
    for host in "ab":
        states[host]["traffic"]["egress_blue"] = key
    states["c"] = empty()
    plan = rollout.plan(wanted(), states)
    assert plan["inference"] == key
    assert [plan["hosts"][host]["api"]["action"] for host in "ab"] == ["keep", "keep"]
    assert plan["hosts"]["c"]["inference"]["map"] == {key: "blue"}


def activated(release: str, activated_at: float) -> dict[str, t.Any]:
    return {"id": release, "result": "stable", "stable_at": activated_at, "activated_at": activated_at, "services": {}}


def test_what_serves_is_what_the_apis_answer() -> None:
    states = deployed(wanted())
    serving = states["a"]["traffic"]["api_blue"]
    records = {serving: activated(serving, 5), "f" * 12: activated("f" * 12, 9)}
    for state in states.values():
        state["records"] = records
    assert rollout.serving_release(states) == serving
    # Where no API has stayed, the ledger says what served last.
    assert rollout.serving_release({"c": states["c"]}) == "f" * 12
    assert rollout.serving_release({"c": empty(records={"e" * 12: {"id": "e" * 12, "result": "failed"}})}) == ""
    assert rollout.serving_release({}) == ""


def test_the_live_release() -> None:
    assert rollout.live_release(ledger("r7")["a"]) == "r7"
    assert rollout.live_release(empty(traffic={"api": "green_blue", "api_green": "r8", "api_blue": "r7"})) == "r8"
    assert rollout.live_release(empty()) == ""


# Whether the owner of a lock is gone, with real processes.

ME = {"machine": "m1", "boot": "b1"}


def lock_of(pid: int, started: str, **more: str) -> dict[str, t.Any]:
    return {"owner": {"pid": pid, "started": started, **ME, **more}}


@pytest.fixture
def process() -> t.Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as running:
        yield running
        running.kill()


def test_an_owner_that_lives_is_not_gone(process: subprocess.Popen[bytes]) -> None:
    started = rollout.process_started(process.pid)
    assert started.isdecimal() and not rollout.owner_gone(lock_of(process.pid, started), ME)


def test_a_dead_owner_and_one_that_nobody_has_collected_are_gone(process: subprocess.Popen[bytes]) -> None:
    lock = lock_of(process.pid, rollout.process_started(process.pid))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").exists() and rollout.owner_gone(lock, ME)
    process.wait()
    assert rollout.process_started(process.pid) == "" and rollout.owner_gone(lock, ME)


def test_another_process_of_the_same_number_is_not_the_owner() -> None:
    assert rollout.owner_gone(lock_of(os.getpid(), "1"), ME)


def test_an_owner_of_before_the_last_start_is_gone() -> None:
    assert rollout.owner_gone(lock_of(os.getpid(), rollout.process_started(os.getpid()), boot="b0"), ME)


def test_of_another_machine_nothing_is_known() -> None:
    assert not rollout.owner_gone(lock_of(os.getpid(), "1", machine="m2", boot="b0"), ME)
    assert not rollout.owner_gone({}, ME) and not rollout.owner_gone({"owner": {}}, ME)


def test_a_name_with_brackets_and_spaces_is_read_well(tmp_path: t.Any) -> None:
    program = tmp_path / "a ) S 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as running:
        try:
            assert rollout.process_started(running.pid).isdecimal()
            assert int(rollout.process_started(running.pid)) >= int(rollout.process_started(os.getpid()))
        finally:
            running.kill()
