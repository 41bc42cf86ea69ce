"""What is said beforehand of a release: releases, images, slots, bytes, settings and migrations."""

from __future__ import annotations

import copy
import typing as t

import pytest

from ansible_collections.truthgraph.platform.plugins.plugin_utils import plan, rollout
from ansible_collections.truthgraph.platform.tests.unit.plugins.test_rollout import (
    CORE,
    ML,
    OTHER_CORE,
    OTHER_ML,
    deployed,
    descriptions,
    empty,
    wanted,
)

LAYERS = {"sha256:base": 30_000_000, "sha256:app": 2_500_000}


def running(target: dict[str, t.Any]) -> dict[str, rollout.State]:
    """Return the hosts after a release, with its images and its record, as the ledger has it."""
    states = deployed(target)
    record = rollout.plan(target, states)["record"] | {"schema": {"known": ["0001"]}}
    for state in states.values():
        state["records"] = {record["id"]: record}
        for found in state["containers"]:
            found["image"] = CORE if found["service"] == "api" else ML
    return states


def images(core: str = CORE, ml: str = ML) -> dict[str, dict[str, t.Any]]:
    return {"core": {"reference": core, "layers": LAYERS}, "ml": {"reference": ml, "layers": LAYERS}}


def test_nothing_is_done() -> None:
    states = running(wanted())
    found = rollout.plan(wanted(), states)
    rows = plan.rows(found, states, images(), {})
    assert [row[0:2] for row in rows] == [["a", "api"], ["b", "api"], ["c", "inference"]]
    assert {row[2] for row in rows[:2]} == {found["release"]}
    assert {row[3] for row in rows} == {f"core@{'c' * 12}", f"ml@{'d' * 12}"}
    assert {tuple(row[4:]) for row in rows} == {("blue", "nothing", 0.0)}
    assert plan.configuration(found, states) == []


def test_another_image_is_pulled_but_for_the_layers_that_are_there() -> None:
    states = running(wanted())
    target = wanted(core=OTHER_CORE)
    rows = plan.rows(rollout.plan(target, states), states, images(core=OTHER_CORE), {"a": ["sha256:base"]})
    before = rollout.plan(wanted(), states)["release"]
    assert rows[0][2].startswith(f"{before} -> ")
    assert rows[0][3:] == [f"core@{'c' * 12} -> core@{'e' * 12}", "blue -> green", "replaced", 2.5]
    assert rows[1][6] == 32.5


def test_what_one_service_pulls_the_next_need_not() -> None:
    fleet = descriptions()
    fleet["a"] |= {"inference": fleet.pop("c")["inference"]}
    states = running(wanted(fleet))
    target = wanted(fleet, core=OTHER_CORE, ml=OTHER_ML)
    rows = plan.rows(rollout.plan(target, states), states, images(OTHER_CORE, OTHER_ML), {})
    assert sorted(row[6] for row in rows if row[0] == "a") == [0.0, 32.5]


def test_a_host_that_is_lost_meanwhile_has_its_row() -> None:
    states = running(wanted())
    found = rollout.plan(wanted(core=OTHER_CORE), states)
    del states["b"]
    rows = plan.rows(found, states, images(core=OTHER_CORE), {})
    assert rows[1][:2] == ["b", "api"] and rows[1][5:] == ["replaced", 32.5]


def test_a_blank_fleet_and_an_image_that_is_to_be_built() -> None:
    states = {host: empty() for host in descriptions()}
    target = wanted(core="")
    rows = plan.rows(rollout.plan(target, states), states, {"ml": {"reference": ML, "layers": LAYERS}}, {})
    assert rows[0][3:] == ["to be built", "blue", "replaced", "-"]
    assert rows[2][3:] == [f"ml@{'d' * 12}", "blue", "replaced", 32.5]
    assert plan.configuration(rollout.plan(target, states), states) == []


def test_a_service_that_is_no_more() -> None:
    fleet = descriptions()
    for described in fleet.values():
        if "api" in described:
            described["api"]["ml_environment"] = {}
    states = running(wanted(fleet))
    target = wanted(fleet, topology="monolith")
    rows = plan.rows(rollout.plan(target, states), states, {}, {})
    assert rows[2][1] == "inference" and rows[2][3:] == [f"ml@{'d' * 12}", "blue", "stopped", 0.0]


def test_settings_that_change_are_said_once_for_all_hosts() -> None:
    states = running(wanted())
    fleet = copy.deepcopy(descriptions())
    for host in ("a", "b"):
        fleet[host]["api"]["container"] = {"environment": {"LOG_LEVEL": "debug"}, "memory": "3g"}
    fleet["b"]["api"]["drain"] = 10
    found = plan.configuration(rollout.plan(wanted(fleet), states), states)
    assert found == [
        "a, b: api: environment.LOG_LEVEL: unset -> debug",
        "a, b: api: environment.PYTHON_ENV: production -> unset",
        "a, b: api: memory: 2g -> 3g",
        "b: api: drain: 30 -> 10",
    ]


def test_settings_of_the_inference_service_are_found_by_its_key() -> None:
    states = running(wanted())
    fleet = descriptions()
    fleet["c"]["inference"]["container"]["memory"] = "8g"
    found = plan.configuration(rollout.plan(wanted(fleet), states), states)
    assert found == ["c: inference: memory: 2g -> 8g"]


def test_other_secrets_are_said_but_not_shown() -> None:
    states = running(wanted())
    release = next(iter(states["a"]["records"]))
    states["a"]["secrets"] = {
        "api": {"slots": {"blue": False, "green": False}, "releases": {release: False}, "kept": {"blue": [], "green": []}}
    }
    found = plan.configuration(rollout.plan(wanted(), states), states)
    assert "a: api: other secrets" in found


@pytest.mark.parametrize(("known", "pending"), [(["0001"], ["0002"]), (["0001", "0002"], []), ([], ["0001", "0002"])])
def test_migrations_that_the_release_does_not_know(known: list[str], pending: list[str]) -> None:
    states = running(wanted())
    for state in states.values():
        for record in state["records"].values():
            record["schema"] = {"known": known}
    tree = [{"revision": revision, "file": f"{revision}.py", "contract": False} for revision in ("0001", "0002")]
    found = plan.migrations(states, tree)
    assert [migration["revision"] for migration in found] == pending


def test_a_first_release_runs_them_all() -> None:
    states = {host: empty() for host in descriptions()}
    tree = [{"revision": "0001", "file": "0001.py", "contract": False}]
    assert plan.migrations(states, tree) == tree
