"""Which version has written the data, and what the notes about volumes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.modules import postgres_data_info as module
from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble


def test_versions(tmp_path: Path) -> None:
    assert module.version_of(str(tmp_path)) == 0
    for text, version in (("15\n", 15), ("9.6\n", 9)):
        (tmp_path / "PG_VERSION").write_text(text)
        assert module.version_of(str(tmp_path)) == version
    (tmp_path / "PG_VERSION").write_text("")
    with pytest.raises(module.Damaged, match="says '' and no version"):
        module.version_of(str(tmp_path))


def test_notes_that_are_no_notes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "volumes.json"
    assert module.read_object(str(path)) == {}
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(module.Damaged, match=r"volumes.json is damaged"):
            module.read_object(str(path))


def test_the_note_says_which_volume_is_in_use(tmp_path: Path) -> None:
    engine = EngineDouble(tmp_path)
    # An engine that is down says nothing of volumes; the notes can be read all the same.
    (engine.home / "down").touch()
    record, journal = tmp_path / "volumes.json", tmp_path / "upgrade.json"
    asked = {"record": str(record), "journal": str(journal)}
    found = engine.run("postgres_data_info", volume="data", **asked)
    assert (found["volume"], found["version"], found["before"], found["journal"]) == ("data", 0, {}, {})
    record.write_text('{"data": {"volume": "data-17", "before": {"volume": "data", "version": 15}}}')
    journal.write_text('{"from": {"version": 15}}')
    found = engine.run("postgres_data_info", volume="data", **asked)
    assert (found["volume"], found["before"]["version"], found["journal"]["from"]) == ("data-17", 15, {"version": 15})
    # What is noted of another volume is not about this one.
    assert engine.run("postgres_data_info", volume="other", **asked)["volume"] == "other"
