"""What a host's backups are said to be, by real files."""

from __future__ import annotations

import json
from pathlib import Path

from ansible_collections.truthgraph.platform.plugins.module_utils import backups


def backup(directory: Path, name: str, begun: str, proven: bool | None = None) -> None:
    place = directory / name
    place.mkdir()
    manifest = {"begun": begun, "rows": {"a": 3, "b": 4}, "files": {"data": {"bytes": 10}, "roles": {"bytes": 5}}}
    (place / "manifest.json").write_text(json.dumps(manifest))
    if proven is not None:
        (place / "proof.json").write_text(json.dumps({"proven": proven}))


def test_no_directory_has_no_backup(tmp_path: Path) -> None:
    assert backups.summary(str(tmp_path / "none")) == {"count": 0, "since": 0.0, "newest": {}, "proven": {}}


def test_a_new_directory_has_none_since_it_was_made(tmp_path: Path) -> None:
    assert backups.summary(str(tmp_path)) == {"count": 0, "since": tmp_path.stat().st_mtime, "newest": {}, "proven": {}}


def test_the_newest_need_not_be_proven(tmp_path: Path) -> None:
    backup(tmp_path, "20260101T000000Z-0a1b2c", "2026-01-01T00:00:00+00:00", True)
    backup(tmp_path, "20260102T000000Z-0a1b2c", "2026-01-02T00:00:00+00:00", True)
    backup(tmp_path, "20260103T000000Z-0a1b2c", "2026-01-03T00:00:00+00:00", False)
    backup(tmp_path, "20260104T000000Z-0a1b2c", "2026-01-04T00:00:00+00:00")
    backup(tmp_path, "20260105T000000Z-0a1b2c.part", "2026-01-05T00:00:00+00:00", True)
    found = backups.summary(str(tmp_path))
    assert (found["count"], found["since"]) == (4, 1767225600.0)
    assert found["newest"] == {"backup": "20260104T000000Z-0a1b2c", "begun": 1767484800.0, "rows": 7, "bytes": 15}
    assert found["proven"]["backup"] == "20260102T000000Z-0a1b2c"


def test_notes_that_cannot_be_read_prove_nothing(tmp_path: Path) -> None:
    backup(tmp_path, "20260101T000000Z-0a1b2c", "2026-01-01T00:00:00+00:00", True)
    backup(tmp_path, "20260102T000000Z-0a1b2c", "2026-01-02T00:00:00+00:00")
    (tmp_path / "20260102T000000Z-0a1b2c" / "proof.json").write_text("{")
    backup(tmp_path, "20260103T000000Z-0a1b2c", "2026-01-03T00:00:00+00:00", True)
    (tmp_path / "20260103T000000Z-0a1b2c" / "manifest.json").write_text("[]")
    found = backups.summary(str(tmp_path))
    assert found["count"] == 3
    assert found["newest"]["backup"] == "20260102T000000Z-0a1b2c"
    assert found["proven"]["backup"] == "20260101T000000Z-0a1b2c"
