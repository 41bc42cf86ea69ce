"""The module container_handover: what becomes of the containers, wherever an earlier run was killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_double import EngineDouble

CURRENT, PREVIOUS, CANDIDATE = "service", "service-previous", "service-candidate"


@pytest.fixture
def engine(tmp_path: Path) -> EngineDouble:
    return EngineDouble(tmp_path)


def hand_over(engine: EngineDouble, state: str, **more) -> dict:
    result = engine.run("container_handover", name=CURRENT, state=state, **more)
    assert not result.get("failed"), result
    return result


def test_aside_and_back(engine: EngineDouble) -> None:
    engine.add(CURRENT, note="v1")
    assert hand_over(engine, "aside")["previous_exists"]
    assert engine.containers == {PREVIOUS: "exited"}
    engine.add(CURRENT, status="restarting", note="v2")
    assert hand_over(engine, "restored")["changed"]
    assert engine.containers == {CURRENT: "running"}
    assert '"v1"' in (engine.home / f"{CURRENT}.json").read_text()


def test_nothing_to_set_aside(engine: EngineDouble) -> None:
    assert not hand_over(engine, "aside")["changed"]


def test_aside_twice_keeps_the_earlier_one(engine: EngineDouble) -> None:
    engine.add(CURRENT)
    hand_over(engine, "aside")
    assert not hand_over(engine, "aside")["changed"]
    assert engine.containers == {PREVIOUS: "exited"}


@pytest.mark.parametrize(
    ("status", "health", "kept"), [("running", "healthy", "new"), ("running", "starting", "old"), ("exited", "", "old")]
)
def test_after_an_interrupted_handover_the_fit_one_is_kept(
    engine: EngineDouble, status: str, health: str, kept: str
) -> None:
    engine.add(CURRENT, status=status, health=health, note="new")
    engine.add(PREVIOUS, status="exited", note="old")
    hand_over(engine, "aside")
    assert engine.containers == {PREVIOUS: "exited"}
    assert f'"{kept}"' in (engine.home / f"{PREVIOUS}.json").read_text()


def test_without_an_earlier_one_nothing_is_removed(engine: EngineDouble) -> None:
    engine.add(CURRENT, status="restarting")
    assert not hand_over(engine, "restored")["changed"]
    assert engine.containers == {CURRENT: "restarting"}


def test_settled_removes_what_is_left_over_once(engine: EngineDouble) -> None:
    for name in (CURRENT, PREVIOUS, CANDIDATE, "somebody-elses"):
        engine.add(name)
    assert hand_over(engine, "settled", leftovers=[CANDIDATE])["changed"]
    assert set(engine.containers) == {CURRENT, "somebody-elses"}
    assert not hand_over(engine, "settled", leftovers=[CANDIDATE])["changed"]


def test_check_mode_touches_nothing(engine: EngineDouble) -> None:
    engine.add(CURRENT)
    result = hand_over(engine, "aside", _ansible_check_mode=True)
    assert result["actions"] == [f"stop {CURRENT}", f"rename {CURRENT} {PREVIOUS}"]
    assert engine.containers == {CURRENT: "running"}
