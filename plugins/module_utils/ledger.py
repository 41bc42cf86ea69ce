# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every host remembers of its releases, and the lock that lets one run at a time work on the fleet.

All of it lies in one directory that only root can enter:

    releases/<id>.json   one record per release
    journal.jsonl        what was tried and when, one JSON object per line, only ever appended to
    damaged/             records that could not be read, set aside
    lock.json, fence     on the lock host: the lock, and the last fencing number that was given out
    fence-seen           the highest fencing number that this host has accepted

A file is replaced in one step, so a crash leaves the old or the new one. Times are seconds since the epoch.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import math
import os
import re
import stat
import tempfile
import typing as t

ROOT = "/var/lib/truthgraph"
RELEASE_ID = re.compile(r"[0-9a-f]{12}(\.[0-9]+)?\Z")
# Another prefix than other writers in this directory have, since leftovers with this one are removed.
UNFINISHED = ".ledger-"
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
NOT_DONE = ("pending", "committed")

_guarded: dict[str, int] = {}


class Held(Exception):
    """The lock is somebody else's."""

    def __init__(self, lock: dict[str, t.Any]) -> None:
        super().__init__(f"The fleet is locked: {describe(lock)}")
        self.lock = lock


class Lost(Exception):
    """The lock is not, or no longer, that of the fencing number given."""

    def __init__(self, fence: int, lock: dict[str, t.Any] | None) -> None:
        now = describe(lock) if lock else "nobody holds it now."
        super().__init__(f"The lock with the fencing number {fence} is lost: {now}")
        self.lock = lock


class Outdated(Exception):
    """A fencing number is lower than one that this host has accepted."""

    def __init__(self, seen: int) -> None:
        super().__init__(f"This host has already accepted the fencing number {seen}.")
        self.seen = seen


@contextlib.contextmanager
def guard(root: str = ROOT) -> t.Iterator[None]:
    """Let one process at a time change what is in a ledger; a process that has the guard may enter it again.

    The lock is on the directory of records and not on the root, which the switch of traffic locks for itself: it may
    well accept a fencing number meanwhile, and would wait for itself.
    """
    directory = os.path.realpath(os.path.join(root, "releases"))
    if _guarded.get(directory):
        _guarded[directory] += 1
        try:
            yield
        finally:
            _guarded[directory] -= 1
        return
    _make_directory(root)
    _make_directory(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _guarded[directory] = 1
        yield
    finally:
        _guarded[directory] = 0
        os.close(descriptor)


class Ledger:
    """The records of releases and the journal of one host."""

    def __init__(self, root: str = ROOT) -> None:
        self.root = root
        self._releases = os.path.join(root, "releases")
        self._damaged = os.path.join(root, "damaged")
        self._journal = os.path.join(root, "journal.jsonl")

    def records(self) -> tuple[dict[str, dict[str, t.Any]], list[str]]:
        """Return the records by the ids of their releases, and the paths of damaged ones."""
        records, damaged = {}, []
        for name in _listed(self._releases):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            path = os.path.join(self._releases, name)
            release = name[: -len(".json")]
            record = _read_object(path)
            if record is not None and RELEASE_ID.match(release) and record.get("id") == release:
                records[release] = record
            elif os.path.lexists(path):
                damaged.append(path)
        return records, damaged

    def set_aside_damaged(self) -> list[str]:
        """Move damaged records out of the way, and return where they are now."""
        if not self.records()[1]:
            return []
        moved = []
        with guard(self.root):
            _make_directory(self._damaged)
            for path in self.records()[1]:
                place = wanted = os.path.join(self._damaged, os.path.basename(path))
                number = 0
                while os.path.lexists(place):
                    number += 1
                    place = f"{wanted}.{number}"
                os.rename(path, place)
                moved.append(place)
            _sync(self._damaged)
            _sync(self._releases)
        return moved

    def differs(self, record: dict[str, t.Any]) -> bool:
        """Say whether a record is not in the ledger exactly so. ValueError says what is wrong with a record."""
        path = self._path(record.get("id"))
        try:
            with open(path, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                return file.read() != _as_json(record) or mode != FILE_MODE
        except FileNotFoundError:
            return True

    def write(self, record: dict[str, t.Any]) -> bool:
        """Write the record of a release in place of the one there is. Returns whether anything changed."""
        path = self._path(record.get("id"))
        with guard(self.root):
            changed = self.differs(record)
            if changed:
                _write(path, _as_json(record))
        return changed

    def remove(self, release: str) -> bool:
        """Remove the record of a release. Returns whether there was one."""
        path = self._path(release)
        with guard(self.root):
            if not os.path.lexists(path):
                return False
            os.unlink(path)
            _sync(self._releases)
        return True

    def append(self, entry: dict[str, t.Any]) -> None:
        """Add an entry to the journal."""
        line = json.dumps(entry, sort_keys=True, allow_nan=False).encode() + b"\n"
        with guard(self.root):
            new = not os.path.exists(self._journal)
            descriptor = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
            try:
                os.fchmod(descriptor, FILE_MODE)
                size = os.fstat(descriptor).st_size
                # A crash may have left half a line, which must not become the beginning of this one.
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                if os.write(descriptor, line) != len(line):
                    raise OSError(f"{self._journal} could not be written to its end. Is its disk full?")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                _sync(self.root)

    def merge(self, entries: list[dict[str, t.Any]]) -> bool:
        """Take over the entries of another host's journal, in the order of their times. Returns whether any was new."""
        with guard(self.root):
            mine = self.journal()
            new = [entry for entry in entries if entry not in mine]
            if new:
                merged = sorted([*mine, *new], key=lambda entry: _seconds(entry.get("time")))
                _write(self._journal, b"".join(json.dumps(entry, sort_keys=True).encode() + b"\n" for entry in merged))
        return bool(new)

    def journal(self, limit: int | None = None) -> list[dict[str, t.Any]]:
        """Return the entries of the journal, oldest first; with a limit, only that many of the newest."""
        try:
            with open(self._journal, "rb") as file:
                parsed = [_object(line) for line in file.read().split(b"\n")]
        except FileNotFoundError:
            return []
        entries = [entry for entry in parsed if entry is not None]
        return entries if limit is None else entries[max(0, len(entries) - max(0, limit)) :]

    def _path(self, release: t.Any) -> str:
        return os.path.join(self._releases, f"{checked_id(release)}.json")


class Lock:
    """The lock of the fleet: a lease with an owner, an expiry and a fencing number. It lies on one host."""

    def __init__(self, root: str = ROOT) -> None:
        self.root = root
        self._file = os.path.join(root, "lock.json")
        self._counter = os.path.join(root, "fence")

    def read(self) -> dict[str, t.Any] | None:
        """Return the lock, or None. A damaged one counts as that of an unknown owner, and as expired."""
        if not os.path.lexists(self._file):
            return None
        found = _read_object(self._file) or {}
        sound = (
            isinstance(found.get("owner"), dict)
            and isinstance(found.get("action"), str)
            and isinstance(found.get("fence"), int)
            and all(_is_number(found.get(key)) for key in ("since", "expires"))
        )
        if sound:
            return found
        # It may have been released while it was looked at.
        if not os.path.lexists(self._file):
            return None
        return {"fence": 0, "owner": {}, "action": "unknown", "since": 0, "expires": 0, "damaged": True}

    def replaceable(
        self, owner: dict[str, t.Any], now: float, take_over: bool = False, broken: str = "", replaces: int = 0
    ) -> dict[str, t.Any] | None:
        """Return the lock that `acquire` would replace and how, or None where none is in the way. Changes nothing."""
        lock = self.read()
        if lock is None or lock["owner"] == _plain(owner):
            return None
        meant = replaces in (0, lock["fence"])
        if lock["expires"] <= now:
            how = "expired"
        elif take_over and meant:
            how = "owner gone"
        elif broken and meant:
            how = "broken"
        else:
            raise Held(lock)
        return {**lock, "how": how}

    def acquire(
        self,
        owner: dict[str, t.Any],
        action: str,
        lease: float,
        now: float,
        take_over: bool = False,
        broken: str = "",
        replaces: int = 0,
    ) -> tuple[int, dict[str, t.Any] | None]:
        """Take the lock, or raise Held. Returns its fencing number, and the earlier lock that it replaced.

        An earlier lock is replaced if it has expired, with `take_over` because its owner is known to be gone, and with
        a reason in `broken`. The last two mean one lock that somebody looked at: `replaces`, its fencing number, keeps
        them from hitting the lock of a run that was faster. What was replaced has `how` in it, and is in the journal.
        The same owner gets its own lock again, with the same number.
        """
        owner = _plain(owner)
        if not owner:
            raise ValueError("A lock needs an owner. Say who takes it.")
        with guard(self.root):
            replaced = self.replaceable(owner, now, take_over, broken, replaces)
            lock = self.read()
            if lock is not None and replaced is None:
                fence, since = lock["fence"], lock["since"]
            else:
                fence, since = self._next(now, lock), now
                _write(self._counter, b"%d\n" % fence)
            if replaced is not None:
                entry = {"time": now, "event": "lock replaced", "how": replaced["how"], "by": owner, "lock": lock}
                Ledger(self.root).append({**entry, "reason": broken} if replaced["how"] == "broken" else entry)
            new = {"fence": fence, "owner": owner, "action": action, "since": since, "expires": now + lease}
            _write(self._file, _as_json(new))
        return fence, replaced

    def renew(self, fence: int, lease: float, now: float) -> dict[str, t.Any]:
        """Let the lock expire later and return it; raise Lost if it is not the one of this number."""
        with guard(self.root):
            lock = self.read()
            if lock is None or not _has(lock, fence):
                raise Lost(fence, lock)
            lock["expires"] = now + lease
            _write(self._file, _as_json(lock))
        return lock

    def release(self, fence: int) -> bool:
        """Give the lock back. Returns False, and leaves everything, if it is not the one of this number."""
        with guard(self.root):
            lock = self.read()
            if lock is None or not _has(lock, fence):
                return False
            os.unlink(self._file)
            _sync(self.root)
        return True

    def _next(self, now: float, lock: dict[str, t.Any] | None) -> int:
        # Without a counter, as on a new lock host, numbers start at the time of day, which is above all that earlier
        # counters can have reached: hosts would refuse a 1.
        last = _read_number(self._counter)
        known = (int(now) if last is None else last, _read_number(_seen_path(self.root)) or 0)
        return max(*known, lock["fence"] if lock else 0) + 1


def fence_seen(root: str = ROOT) -> int:
    """Return the highest fencing number that this host has accepted, 0 if none."""
    return _read_number(_seen_path(root)) or 0


def check_fence(root: str, fence: int) -> None:
    """Raise Outdated if this host has accepted a higher fencing number than this one. Changes nothing."""
    if fence < 1:
        raise ValueError(f"{fence} is not a fencing number. Take the lock first, and pass the number that it gives.")
    seen = fence_seen(root)
    if fence < seen:
        raise Outdated(seen)


def accept_fence(root: str, fence: int) -> None:
    """Accept a fencing number, and from then on no lower one; raise Outdated if it is lower itself."""
    with guard(root):
        check_fence(root, fence)
        if fence > fence_seen(root):
            _write(_seen_path(root), b"%d\n" % fence)


def keep_list(records: dict[str, dict[str, t.Any]], live: t.Iterable[str], count: int) -> list[str]:
    """Return the ids of the releases that have to stay, sorted.

    These are the live ones, those that a run has not finished, and the newest `count` of those that were ever stable.
    """
    stable = {
        release: _seconds(record.get("activated_at") or record["stable_at"])
        for release, record in records.items()
        if record.get("stable_at")
    }
    newest = sorted(stable, key=lambda release: (stable[release], release), reverse=True)[: max(0, count)]
    not_done = [release for release, record in records.items() if record.get("result") in NOT_DONE]
    return sorted({*live, *not_done, *newest})


def checked_id(release: t.Any) -> str:
    """Return the id of a release, or raise ValueError if it cannot be one."""
    if not isinstance(release, str) or not RELEASE_ID.match(release):
        raise ValueError(
            f"{release!r} cannot be the id of a release: it takes 12 hexadecimal digits, "
            "and for a repeated one a dot and a number."
        )
    return release


def describe(lock: dict[str, t.Any]) -> str:
    """Return in a sentence whose lock it is, for what, since when and until when."""
    if lock.get("damaged"):
        return "its file is damaged, so its owner is unknown."
    owner = ", ".join(f"{key} {value}" for key, value in lock["owner"].items())
    return f"held by {owner} for '{lock['action']}' since {iso(lock['since'])}, until {iso(lock['expires'])}."


def iso(seconds: float) -> str:
    """Return a time as ISO 8601 has it, in UTC."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} seconds after 1970"


def _plain(owner: dict[str, t.Any]) -> dict[str, t.Any]:
    # As it will be when it is read back, so that the same owner is seen to be the same.
    plain: dict[str, t.Any] = json.loads(json.dumps(owner))
    return plain


def _has(lock: dict[str, t.Any], fence: int) -> bool:
    return lock["fence"] == fence and not lock.get("damaged")


def _is_number(value: t.Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _seconds(value: t.Any) -> float:
    # A time that cannot be read makes a release an old one; that it was stable stands.
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _seen_path(root: str) -> str:
    return os.path.join(root, "fence-seen")


def _read_number(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            text = file.read().strip()
    except FileNotFoundError:
        return None
    return int(text) if re.match(rb"[0-9]{1,18}\Z", text) else None


def _read_object(path: str) -> dict[str, t.Any] | None:
    try:
        # What is not a regular file is not ours, and to open a pipe would be to wait.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with open(path, "rb") as file:
            return _object(file.read())
    except FileNotFoundError:
        return None


def _object(content: bytes) -> dict[str, t.Any] | None:
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _as_json(value: dict[str, t.Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _make_directory(path: str) -> None:
    os.makedirs(path, mode=DIRECTORY_MODE, exist_ok=True)
    # Another role may have made it, as the parent of a directory of its own.
    if stat.S_IMODE(os.stat(path).st_mode) != DIRECTORY_MODE:
        os.chmod(path, DIRECTORY_MODE)


def _write(path: str, content: bytes) -> None:
    # Called with the guard, so whatever is unfinished there belongs to a run that was killed.
    directory = os.path.dirname(path)
    for name in os.listdir(directory):
        if name.startswith(UNFINISHED):
            os.unlink(os.path.join(directory, name))
    descriptor, beside = tempfile.mkstemp(prefix=UNFINISHED, dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), FILE_MODE)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    _sync(directory)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
