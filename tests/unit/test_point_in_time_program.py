# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that recovers a moment: which moment is meant, and what it is recovered from."""

from __future__ import annotations

import datetime
import importlib.machinery
import importlib.util
import json
import types
import typing as t
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/backup/files/truthgraph-point-in-time"
NOON = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.UTC)


def at(hour: float) -> datetime.datetime:
    return NOON + datetime.timedelta(hours=hour)


@pytest.fixture(scope="module")
def program() -> types.ModuleType:
    loader = importlib.machinery.SourceFileLoader("truthgraph_point_in_time", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def chain(program: types.ModuleType, path: str, current: bool, ended: list[float], last: float) -> t.Any:
    bases = [{"base": f"{path}{hour:g}", "ended": at(hour)} for hour in ended]
    return program.Chain(path, current, bases, at(last))


@pytest.mark.parametrize(
    "text", ["2026-11-27 10:15:00+00", "2026-11-27T10:15:00Z", "2026-11-27 11:15+01:00", " 2026-11-27 10:15:00.000+00 "]
)
def test_a_moment_is_read_in_any_time_zone(program: types.ModuleType, text: str) -> None:
    assert program.moment_meant(text, NOON) == at(-1.75)
    assert program.moment_meant("latest", NOON) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yesterday", "is no time"),
        ("", "is no time"),
        ("2026-11-27 10:15:00", "in which time zone"),
        ("2026-11-27 12:00:01+00", "is in the future"),
    ],
)
def test_what_is_no_moment_of_the_past_is_refused(program: types.ModuleType, text: str, words: str) -> None:
    with pytest.raises(program.Problem, match=words):
        program.moment_meant(text, NOON)


def test_what_is_shown_can_be_given_again(program: types.ModuleType) -> None:
    moment = at(-1) + datetime.timedelta(microseconds=4711)
    assert program.moment_meant(program.shown(moment), NOON) == moment


@pytest.mark.parametrize(
    ("hour", "base"), [(-6, "a-6"), (-5.5, "a-6"), (-5, "a-5"), (-3, "a-5"), (-2, "b-2"), (-0.1, "b-1"), (None, "b-1")]
)
def test_the_last_base_backup_before_the_moment_is_chosen(program: types.ModuleType, hour: float | None, base: str) -> None:
    chains = [chain(program, "a", False, [-6, -5], -3), chain(program, "b", True, [-2, -1], -0.25)]
    # Postgres can be asked for what it has written until now.
    assert program.chosen(chains, None if hour is None else at(hour), "")[1]["base"] == base


@pytest.mark.parametrize("hour", [-7, -2.5, -0.1])
def test_a_moment_that_nobody_kept_is_refused_with_what_was(program: types.ModuleType, hour: float) -> None:
    chains = [chain(program, "a", False, [-6, -5], -3), chain(program, "b", True, [-2, -1], -0.25)]
    with pytest.raises(program.Problem) as refused:
        program.chosen(chains, at(hour), "it is gone")
    said = str(refused.value)
    assert f"from {program.shown(at(-6))} to {program.shown(at(-3))}" in said, said
    assert f"from {program.shown(at(-2))} to {program.shown(at(-0.25))}" in said and "it is gone" in said, said


def test_without_a_base_backup_nothing_can_be_recovered(program: types.ModuleType) -> None:
    with pytest.raises(program.Problem, match="no base backup yet"):
        program.chosen([chain(program, "b", True, [], -1)], None, "")


@pytest.mark.parametrize("given", [{"uid": "999"}, {"unknown": 1}])
def test_a_configuration_that_cannot_be_meant_is_refused(
    program: types.ModuleType, tmp_path: Path, given: dict[str, t.Any]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    with pytest.raises(program.Problem, match=next(iter(given))):
        program.load_config(str(path))
    with pytest.raises(program.Problem, match="backup_point_in_time"):
        program.load_config(str(tmp_path / "missing.json"))
