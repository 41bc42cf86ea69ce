"""The module docker_daemon_config, run as Ansible runs it, on real files and with a stand-in for dockerd."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

MODULE = "ansible_collections.truthgraph.platform.plugins.modules.docker_daemon_config"

# Answers as dockerd --validate does, and keeps what it was asked to judge.
DOCKERD = """\
#!/bin/sh
test "$1" = --validate || exit 64
cp "${{2#--config-file=}}" {seen}
if grep -q not-a-setting {seen}; then
  echo "the following directives don't match any configuration option: not-a-setting" >&2
  exit 1
fi
"""


class Engine:
    """A host's engine configuration, in a directory of the test."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "docker" / "daemon.json"
        self.seen = directory / "seen.json"
        self.note = directory / "state" / "note.json"
        self.dockerd = directory / "dockerd"
        self.dockerd.write_text(DOCKERD.format(seen=self.seen), encoding="utf-8")
        self.dockerd.chmod(0o755)

    def write(self, text: str) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(text, encoding="utf-8")

    def read(self) -> dict[str, t.Any]:
        told: dict[str, t.Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return told

    def merge(self, settings: dict[str, t.Any], **options: t.Any) -> dict[str, t.Any]:
        return self.run(settings=settings, **options)

    def merge_and_note(self, settings: dict[str, t.Any], **options: t.Any) -> dict[str, t.Any]:
        return self.run(settings=settings, note=str(self.note), **options)

    def take_back(self, **options: t.Any) -> dict[str, t.Any]:
        # As after a reload, which most settings do not need.
        return self.run(**{"state": "absent", "note": str(self.note), "reloaded": True, **options})

    def run(self, **options: t.Any) -> dict[str, t.Any]:
        arguments = {"path": str(self.path), "dockerd": str(self.dockerd), **options}
        process = subprocess.run(
            [sys.executable, "-m", MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            check=False,
        )
        told: dict[str, t.Any] = json.loads(process.stdout)
        return told


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.mark.parametrize("before", [None, "", "  \n", "{}"])
def test_nothing_there_yet(engine: Engine, before: str | None) -> None:
    if before is not None:
        engine.write(before)
    result = engine.merge({"live-restore": True})
    assert result["changed"] and result["changed_settings"] == ["live-restore"]
    assert engine.read() == {"live-restore": True}


def test_a_new_file_is_readable_by_all(engine: Engine) -> None:
    engine.merge({"live-restore": True})
    assert stat.S_IMODE(engine.path.stat().st_mode) == 0o644


def test_the_mode_of_a_file_stays(engine: Engine) -> None:
    engine.write("{}")
    engine.path.chmod(0o600)
    engine.merge({"live-restore": True})
    assert stat.S_IMODE(engine.path.stat().st_mode) == 0o600


def test_settings_of_others_stay(engine: Engine) -> None:
    engine.write('{"data-root": "/srv/docker", "log-driver": "json-file"}')
    result = engine.merge({"log-driver": "local"})
    assert result["changed_settings"] == ["log-driver"]
    assert engine.read() == {"data-root": "/srv/docker", "log-driver": "local"}


def test_mappings_are_merged_at_every_depth(engine: Engine) -> None:
    engine.write('{"runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "old", "args": ["-v"]}}}')
    result = engine.merge({"runtimes": {"nvidia": {"path": "new"}}})
    assert result["changed_settings"] == ["runtimes"]
    assert engine.read() == {"runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "new", "args": ["-v"]}}}


def test_lists_are_replaced(engine: Engine) -> None:
    engine.write('{"dns": ["10.0.0.1", "10.0.0.2"]}')
    engine.merge({"dns": ["10.0.0.3"]})
    assert engine.read() == {"dns": ["10.0.0.3"]}


def test_null_counts_as_an_empty_mapping(engine: Engine) -> None:
    engine.write('{"runtimes": null}')
    engine.merge({"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}})
    assert engine.read() == {"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"live-restore": true,}', "not valid JSON"),
        ('{"log-driver": "local"', "not valid JSON"),
        ('// written by hand\n{"live-restore": true}\n', "comments"),
        ("log-driver: local\n", "not valid JSON"),
        ('["live-restore"]', "holds a list"),
        ("null", "holds a NoneType"),
    ],
)
def test_a_file_that_is_not_valid_is_refused_untouched(engine: Engine, text: str, word: str) -> None:
    engine.write(text)
    before = engine.path.stat()
    result = engine.merge({"live-restore": True})
    assert result["failed"]
    assert str(engine.path) in result["msg"] and word in result["msg"] and "left untouched" in result["msg"]
    assert engine.path.read_text(encoding="utf-8") == text
    assert engine.path.stat().st_mtime_ns == before.st_mtime_ns and engine.path.stat().st_ino == before.st_ino
    assert not engine.seen.exists()


def test_what_dockerd_does_not_accept_is_refused_untouched(engine: Engine) -> None:
    engine.write('{"debug": false}')
    result = engine.merge({"not-a-setting": 1})
    assert result["failed"]
    assert "not-a-setting" in result["msg"] and str(engine.path) in result["msg"]
    assert engine.read() == {"debug": False}


def test_dockerd_judges_the_merged_file_before_it_is_in_place(engine: Engine) -> None:
    engine.write('{"debug": false}')
    engine.merge({"live-restore": True})
    assert json.loads(engine.seen.read_text(encoding="utf-8")) == {"debug": False, "live-restore": True}


def test_without_dockerd_nothing_is_written(engine: Engine) -> None:
    result = engine.merge({"live-restore": True}, dockerd="/nonexistent/dockerd")
    assert result["failed"] and "not installed" in result["msg"]
    assert not engine.path.exists()


def test_a_second_run_changes_nothing(engine: Engine) -> None:
    settings = {"live-restore": True, "log-opts": {"max-size": "10m"}}
    engine.merge(settings)
    before = engine.path.stat()
    result = engine.merge(settings)
    assert not result["changed"] and result["changed_settings"] == [] and not result["restart_needed"]
    assert engine.path.stat().st_mtime_ns == before.st_mtime_ns and engine.path.stat().st_ino == before.st_ino


def test_another_layout_of_the_same_settings_is_left_alone(engine: Engine) -> None:
    text = '{ "log-opts":{"max-size":"10m"},  "live-restore":true }'
    engine.write(text)
    result = engine.merge({"live-restore": True, "log-opts": {"max-size": "10m"}})
    assert not result["changed"]
    assert engine.path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("settings", "restart"),
    [
        ({"live-restore": True}, False),
        ({"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}, "default-runtime": "nvidia"}, False),
        ({"log-driver": "local"}, True),
        ({"live-restore": True, "data-root": "/srv/docker"}, True),
        ({"features": {"buildkit": True}}, False),
        ({"features": {"cdi": True}}, True),
    ],
)
def test_restart_only_for_what_a_reload_does_not_take_over(engine: Engine, settings: dict[str, t.Any], restart: bool) -> None:
    assert engine.merge(settings)["restart_needed"] is restart


def test_check_mode_writes_nothing_and_tells_the_truth(engine: Engine) -> None:
    engine.write('{"debug": false}')
    result = engine.merge({"log-driver": "local"}, _ansible_check_mode=True, _ansible_diff=True)
    assert result["changed"] and result["changed_settings"] == ["log-driver"] and result["restart_needed"]
    assert json.loads(result["diff"]["after"]) == {"debug": False, "log-driver": "local"}
    assert engine.read() == {"debug": False}


def test_check_mode_on_a_host_without_an_engine(engine: Engine) -> None:
    result = engine.merge({"live-restore": True}, dockerd="/nonexistent/dockerd", _ansible_check_mode=True)
    assert result["changed"] and not result.get("failed")
    assert not engine.path.parent.exists()


def test_check_mode_refuses_what_a_run_would_refuse(engine: Engine) -> None:
    engine.write("{")
    assert engine.merge({"live-restore": True}, _ansible_check_mode=True)["failed"]


def test_no_file_of_its_own_stays_behind(engine: Engine) -> None:
    engine.merge({"live-restore": True})
    engine.merge({"not-a-setting": 1})
    assert os.listdir(engine.path.parent) == ["daemon.json"]


def test_cdi_that_is_on_already_needs_no_restart(engine: Engine) -> None:
    engine.write('{"features": {"cdi": true}}')
    assert not engine.merge({"features": {"buildkit": True}})["restart_needed"]
    engine.write('{"features": null}')
    assert engine.merge({"features": {"cdi": True}})["restart_needed"]


def test_an_engine_that_cannot_validate_is_not_asked(engine: Engine) -> None:
    engine.dockerd.write_text("#!/bin/sh\necho 'unknown flag: --validate' >&2\nexit 125\n", encoding="utf-8")
    assert engine.merge({"debug": True})["changed"]
    assert engine.read() == {"debug": True}


CARDS = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
WRITTEN = """{ "log-opts": {"max-size": "10m"},
  "runtimes": {"runc": {"path": "runc"}} }"""


def test_taking_back_a_file_that_was_not_there(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    result = engine.take_back()
    assert result["changed"] and result["changed_settings"] == ["runtimes"] and not result["restart_needed"]
    assert not engine.path.exists() and not engine.note.exists()


def test_what_a_reload_leaves_in_force_is_named_first(engine: Engine) -> None:
    engine.write('{"debug": false, "log-opts": {"max-size": "10m"}}')
    engine.merge_and_note({**CARDS, "debug": True, "labels": ["site=here"], "max-concurrent-downloads": 5})
    first = engine.take_back(reloaded=False)
    assert first["unfinished"] and first["changed"] and not first["restart_needed"]
    assert first["changed_settings"] == ["debug", "labels", "max-concurrent-downloads", "runtimes"]
    assert engine.read() == {"debug": False, "log-opts": {"max-size": "10m"}, "labels": [], "runtimes": {}}
    # A run that was killed before the reload goes on here.
    again = engine.take_back(reloaded=False)
    assert again["unfinished"] and again["changed_settings"] == []
    last = engine.take_back()
    assert not last["unfinished"] and last["changed_settings"] == ["labels", "runtimes"] and not last["restart_needed"]
    assert engine.path.read_text(encoding="utf-8") == '{"debug": false, "log-opts": {"max-size": "10m"}}'
    assert not engine.note.exists()


def test_what_is_named_until_the_reload_has_no_file_of_its_own_in_the_end(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    engine.take_back(reloaded=False)
    assert engine.read() == {"runtimes": {}} and stat.S_IMODE(engine.note.stat().st_mode) == 0o600
    engine.take_back()
    assert not engine.path.exists() and not engine.note.exists()


def test_killed_before_the_note_says_what_is_left(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    engine.write('{"runtimes": {}}')
    assert engine.take_back(reloaded=False)["unfinished"]
    assert not engine.take_back()["unfinished"] and not engine.path.exists()


@pytest.mark.parametrize("rest", [{"runtimes": {"other": {"path": "other"}}}, {"features": {"cdi": True}}])
def test_what_a_reload_takes_over_is_finished_at_once(engine: Engine, rest: dict[str, t.Any]) -> None:
    # Another value, or none where the engine forgets it by itself.
    engine.write(json.dumps({"runtimes": rest.get("runtimes", {})}))
    engine.merge_and_note(CARDS if "runtimes" in rest else rest)
    result = engine.take_back(reloaded=False)
    assert not result["unfinished"] and not engine.note.exists()
    assert engine.read() == {"runtimes": rest.get("runtimes", {})}


def test_what_is_named_until_the_reload_and_set_by_somebody_stays(engine: Engine) -> None:
    engine.merge_and_note({"debug": True})
    engine.take_back(reloaded=False)
    engine.write('{"debug": true}')
    engine.take_back()
    assert engine.read() == {"debug": True} and not engine.note.exists()


def test_check_mode_leaves_what_would_be_named_alone(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    before, note = engine.path.read_text(encoding="utf-8"), engine.note.read_text(encoding="utf-8")
    assert engine.take_back(reloaded=False, _ansible_check_mode=True)["unfinished"]
    assert engine.path.read_text(encoding="utf-8") == before and engine.note.read_text(encoding="utf-8") == note


def test_taking_back_to_the_letter(engine: Engine) -> None:
    engine.write(WRITTEN)
    engine.merge_and_note({**CARDS, "log-opts": {"max-size": "20m"}, "debug": True})
    assert engine.read()["runtimes"] == {"runc": {"path": "runc"}, **CARDS["runtimes"]}
    engine.take_back()
    assert engine.path.read_text(encoding="utf-8") == WRITTEN
    assert not engine.note.exists()


def test_taking_back_beside_settings_that_came_later(engine: Engine) -> None:
    engine.write(WRITTEN)
    engine.merge_and_note(CARDS)
    engine.write(json.dumps({**engine.read(), "debug": True}))
    engine.take_back()
    assert engine.read() == {"log-opts": {"max-size": "10m"}, "runtimes": {"runc": {"path": "runc"}}, "debug": True}


def test_a_file_that_somebody_else_uses_meanwhile_stays(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    engine.write(json.dumps({**engine.read(), "debug": True}))
    engine.take_back()
    assert engine.read() == {"debug": True}


def test_a_mapping_that_was_there_stays_though_empty(engine: Engine) -> None:
    engine.write('{"runtimes": {}, "debug": true}')
    engine.merge_and_note(CARDS)
    engine.write(json.dumps({**engine.read(), "debug": False}))
    engine.take_back()
    assert engine.read() == {"runtimes": {}, "debug": False}


def test_a_mapping_that_somebody_else_uses_meanwhile_stays(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    settings = engine.read()
    settings["runtimes"]["other"] = {"path": "other"}
    engine.write(json.dumps(settings))
    engine.take_back()
    assert engine.read() == {"runtimes": {"other": {"path": "other"}}}


def test_null_is_null_again(engine: Engine) -> None:
    engine.write('{"runtimes": null, "debug": true}')
    engine.merge_and_note(CARDS)
    engine.write(json.dumps({**engine.read(), "debug": False}))
    engine.take_back()
    assert engine.read() == {"runtimes": None, "debug": False}


def test_a_value_that_somebody_changed_meanwhile_stays(engine: Engine) -> None:
    engine.write('{"debug": false}')
    engine.merge_and_note({**CARDS, "debug": True})
    settings = engine.read()
    settings["runtimes"]["nvidia"]["path"] = "/opt/other-runtime"
    engine.write(json.dumps(settings))
    engine.take_back()
    assert engine.read() == {"runtimes": {"nvidia": {"path": "/opt/other-runtime"}}, "debug": False}


def test_a_value_that_was_as_wanted_before_is_not_ours(engine: Engine) -> None:
    engine.write('{"features": {"cdi": true}}')
    assert not engine.merge_and_note({"features": {"cdi": True}})["changed"]
    assert not engine.note.exists()
    assert not engine.take_back()["changed"]
    assert engine.read() == {"features": {"cdi": True}}


def test_a_second_run_leaves_the_note_alone(engine: Engine) -> None:
    engine.write('{"debug": false}')
    engine.merge_and_note(CARDS)
    before = engine.note.stat()
    assert not engine.merge_and_note(CARDS)["changed"]
    assert engine.note.stat().st_mtime_ns == before.st_mtime_ns and engine.note.stat().st_ino == before.st_ino
    engine.take_back()
    assert engine.read() == {"debug": False}


def test_a_later_run_with_another_value_remembers_the_first_one_before(engine: Engine) -> None:
    engine.write('{"log-level": "warn"}')
    engine.merge_and_note({"log-level": "info"})
    engine.merge_and_note({"log-level": "debug"})
    engine.take_back()
    assert engine.read() == {"log-level": "warn"}


def test_a_value_of_somebody_else_that_is_replaced_again_is_the_one_before(engine: Engine) -> None:
    engine.write('{"log-level": "warn"}')
    engine.merge_and_note({"log-level": "info"})
    engine.write('{"log-level": "error"}')
    engine.merge_and_note({"log-level": "info"})
    engine.take_back()
    assert engine.read() == {"log-level": "error"}


def test_killed_between_note_and_settings(engine: Engine) -> None:
    engine.write('{"log-level": "warn"}')
    engine.merge_and_note({"log-level": "info"})
    # The note is there, and the file is as it was.
    engine.write('{"log-level": "warn"}')
    engine.take_back()
    assert engine.read() == {"log-level": "warn"} and not engine.note.exists()


def test_taking_back_twice_changes_nothing(engine: Engine) -> None:
    engine.write('{"debug": false}')
    engine.merge_and_note(CARDS)
    engine.take_back()
    before = engine.path.stat()
    result = engine.take_back()
    assert not result["changed"] and result["changed_settings"] == [] and not result["restart_needed"]
    assert engine.path.stat().st_mtime_ns == before.st_mtime_ns


def test_taking_cdi_back_needs_a_restart(engine: Engine) -> None:
    engine.merge_and_note({"features": {"cdi": True}})
    assert engine.take_back()["restart_needed"]


def test_taking_back_what_somebody_has_removed(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    engine.path.unlink()
    assert engine.take_back()["changed_settings"] == []
    assert not engine.path.exists() and not engine.note.exists()


def test_taking_back_in_check_mode_writes_nothing(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    before = engine.path.read_text(encoding="utf-8")
    assert engine.take_back(_ansible_check_mode=True)["changed_settings"] == ["runtimes"]
    assert engine.path.read_text(encoding="utf-8") == before and engine.note.exists()


def test_check_mode_writes_no_note(engine: Engine) -> None:
    assert engine.merge_and_note(CARDS, _ansible_check_mode=True)["changed"]
    assert not engine.note.exists() and not engine.note.parent.exists()


def test_taking_back_where_the_engine_is_gone(engine: Engine) -> None:
    engine.write('{"debug": false}')
    engine.merge_and_note(CARDS)
    assert engine.take_back(dockerd="/nonexistent/dockerd")["changed"]
    assert engine.read() == {"debug": False}


@pytest.mark.parametrize("text", ['{"debug": true,}', '// by hand\n{"debug": true}\n'])
def test_taking_back_from_a_file_that_is_not_valid_is_refused(engine: Engine, text: str) -> None:
    engine.merge_and_note(CARDS)
    engine.write(text)
    result = engine.take_back()
    assert result["failed"] and "not valid JSON" in result["msg"] and str(engine.path) in result["msg"]
    assert engine.path.read_text(encoding="utf-8") == text and engine.note.exists()


def test_what_dockerd_does_not_accept_leaves_no_note(engine: Engine) -> None:
    assert engine.merge_and_note({"not-a-setting": 1})["failed"]
    assert not engine.note.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"values": [], "mappings": []}', '{"text": "", "values": [1]}'])
def test_a_damaged_note_is_refused(engine: Engine, text: str) -> None:
    engine.merge_and_note(CARDS)
    before = engine.read()
    engine.note.write_text(text, encoding="utf-8")
    for result in (engine.take_back(), engine.merge_and_note({"debug": True})):
        assert result["failed"] and str(engine.note) in result["msg"] and "damaged" in result["msg"]
    assert engine.read() == before


def test_a_note_is_read_by_nobody_else(engine: Engine) -> None:
    engine.merge_and_note(CARDS)
    assert stat.S_IMODE(engine.note.stat().st_mode) == 0o600
    assert os.listdir(engine.note.parent) == ["note.json"]


def test_taking_back_needs_a_note(engine: Engine) -> None:
    assert "note" in engine.run(state="absent")["msg"]
    assert "settings" in engine.run()["msg"]
