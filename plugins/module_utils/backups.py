# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backups of the database a host has, by the notes that truthgraph-backup has put beside them."""

from __future__ import annotations

import datetime
import json
import os
import re
import typing as t

ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")


def summary(directory: str) -> dict[str, t.Any]:
    """Return the number of backups, and of the newest and of the newest that was proven: backup, begun, rows and bytes.

    `begun` is in seconds since the epoch. Either is empty where there is none. Notes that cannot be read count as a backup
    that nobody has proven. `since` says from when on there ought to be some: from the oldest, or where there is none, from
    when the directory was made or last had one.
    """
    there = os.path.isdir(directory)
    names = sorted(filter(ID.fullmatch, os.listdir(directory)), reverse=True) if there else []
    since = _time_of(names[-1]) if names else os.stat(directory).st_mtime if there else 0.0
    found: dict[str, t.Any] = {"count": len(names), "since": since, "newest": {}, "proven": {}}
    for name in names:
        try:
            manifest = _read(directory, name, "manifest.json")
            one = {
                "backup": name,
                "begun": datetime.datetime.fromisoformat(manifest["begun"]).timestamp(),
                "rows": sum(manifest["rows"].values()),
                "bytes": sum(file["bytes"] for file in manifest["files"].values()),
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        found["newest"] = found["newest"] or one
        try:
            proven = bool(_read(directory, name, "proof.json")["proven"])
        except (OSError, ValueError, KeyError, TypeError):
            proven = False
        if proven:
            found["proven"] = one
            break
    return found


def _time_of(name: str) -> float:
    return datetime.datetime.fromisoformat(name.partition("-")[0]).timestamp()


def _read(directory: str, name: str, file: str) -> t.Any:
    with open(os.path.join(directory, name, file), encoding="utf-8") as opened:
        return json.load(opened)
