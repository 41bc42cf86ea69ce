"""The ledger of a host and the lock of the fleet, on real files and with real processes."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import stat
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import (
    Held,
    Ledger,
    Lock,
    Lost,
    Outdated,
    accept_fence,
    fence_seen,
    guard,
    iso,
    keep_list,
)

FIRST, SECOND, THIRD = "0f3a5c77d2e1", "aaaaaaaaaaaa", "bbbbbbbbbbbb.2"
ALICE, BOB = {"user": "alice", "process": 1}, {"user": "bob", "process": 2}
NOW = 1_700_000_000.0
PROCESSES = 8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "truthgraph"


@pytest.fixture
def ledger(root: Path) -> Ledger:
    return Ledger(str(root))


@pytest.fixture
def lock(root: Path) -> Lock:
    return Lock(str(root))


def seen(lock: Lock) -> dict[str, t.Any]:
    found = lock.read()
    assert found
    return found


def at_once(task: t.Callable[[int], t.Any]) -> list[t.Any]:
    """Run a task in several processes that start together. Returns their answers, or the names of their errors."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(PROCESSES), context.Queue()

    def run(number: int) -> None:
        barrier.wait()
        try:
            answers.put(task(number))
        except Exception as error:
            answers.put(type(error).__name__)

    processes = [context.Process(target=run, args=(number,)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return found


# Records


def test_a_record_is_written_once(ledger: Ledger, root: Path) -> None:
    assert ledger.write({"id": FIRST, "result": "pending"})
    assert not ledger.write({"result": "pending", "id": FIRST})
    assert ledger.write({"id": FIRST, "result": "stable"})
    assert ledger.write({"id": THIRD})
    assert ledger.records() == ({FIRST: {"id": FIRST, "result": "stable"}, THIRD: {"id": THIRD}}, [])


def test_everything_is_for_root_only(ledger: Ledger, lock: Lock, root: Path) -> None:
    root.mkdir(mode=0o755)
    ledger.write({"id": FIRST})
    ledger.append({"event": "start"})
    accept_fence(str(root), lock.acquire(ALICE, "deploy", 60, NOW)[0])
    (root / "releases" / f"{SECOND}.json").write_text("")
    ledger.set_aside_damaged()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")] if path.is_dir()}
    assert set(modes.values()) == {0o700}
    written = [root / name for name in ("journal.jsonl", "lock.json", "fence", "fence-seen", f"releases/{FIRST}.json")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}


def test_a_wider_mode_is_a_difference(ledger: Ledger, root: Path) -> None:
    ledger.write({"id": FIRST})
    path = root / "releases" / f"{FIRST}.json"
    path.chmod(0o644)
    assert ledger.write({"id": FIRST}) and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "release", ["", None, "../journal", "0F3A5C77D2E1", "0f3a5c77d2e", "0f3a5c77d2e1.", "0f3a5c77d2e1\n", 123456789012]
)
def test_an_id_that_cannot_be_one_is_refused(ledger: Ledger, root: Path, release: str) -> None:
    with pytest.raises(ValueError, match="cannot be the id of a release"):
        ledger.write({"id": release})
    with pytest.raises(ValueError, match="cannot be the id of a release"):
        ledger.remove(release)
    assert not root.exists()


def test_nothing_there_is_no_error_and_makes_nothing(ledger: Ledger, lock: Lock, root: Path) -> None:
    assert ledger.records() == ({}, []) and ledger.journal() == [] and ledger.set_aside_damaged() == []
    assert lock.read() is None and fence_seen(str(root)) == 0
    assert not root.exists()


def test_a_record_is_removed_once(ledger: Ledger) -> None:
    ledger.write({"id": FIRST})
    assert ledger.remove(FIRST) and not ledger.remove(FIRST)
    assert ledger.records() == ({}, [])


def test_a_crash_before_the_rename_leaves_the_old_record(ledger: Ledger, root: Path) -> None:
    ledger.write({"id": FIRST, "result": "pending"})

    def crash(*_arguments: object) -> None:
        os._exit(9)

    child = os.fork()
    if child == 0:
        pytest.MonkeyPatch().setattr(os, "rename", crash)
        ledger.write({"id": FIRST, "result": "stable"})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    half = [path for path in (root / "releases").iterdir() if path.name.startswith(".")]
    assert len(half) == 1
    assert ledger.records() == ({FIRST: {"id": FIRST, "result": "pending"}}, [])
    assert ledger.write({"id": FIRST, "result": "stable"})
    assert [path.name for path in (root / "releases").iterdir()] == [f"{FIRST}.json"]


def test_a_write_that_fails_leaves_nothing_behind(ledger: Ledger, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.write({"id": FIRST, "result": "pending"})

    def refuse(*_arguments: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="no space"):
        ledger.write({"id": FIRST, "result": "stable"})
    monkeypatch.undo()
    assert os.listdir(root / "releases") == [f"{FIRST}.json"]
    assert ledger.records()[0][FIRST]["result"] == "pending"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"{SECOND}.json", b'{"id": "aaaa'),
        (f"{SECOND}.json", b""),
        (f"{SECOND}.json", b"\0\0\0\0"),
        (f"{SECOND}.json", b"\xff\xfe{}"),
        (f"{SECOND}.json", b'["aaaaaaaaaaaa"]'),
        (f"{SECOND}.json", b'{"id": "0f3a5c77d2e1"}'),
        (f"{SECOND}.json", b"[" * 100_000),
        ("notes.json", b'{"id": "notes"}'),
    ],
)
def test_damaged_records_are_told_apart_and_set_aside(ledger: Ledger, root: Path, name: str, content: bytes) -> None:
    ledger.write({"id": FIRST})
    path = root / "releases" / name
    path.write_bytes(content)
    assert ledger.records() == ({FIRST: {"id": FIRST}}, [str(path)])
    assert ledger.set_aside_damaged() == [str(root / "damaged" / name)]
    assert (root / "damaged" / name).read_bytes() == content
    assert ledger.records() == ({FIRST: {"id": FIRST}}, [])


def test_what_is_no_file_is_damaged_and_does_not_block(ledger: Ledger, root: Path) -> None:
    ledger.write({"id": FIRST})
    os.mkfifo(root / "releases" / f"{SECOND}.json")
    (root / "releases" / f"{THIRD}.json").mkdir()
    (root / "releases" / "cccccccccccc.json").symlink_to("nowhere")
    assert len(ledger.records()[1]) == 3
    assert len(ledger.set_aside_damaged()) == 3
    assert ledger.records() == ({FIRST: {"id": FIRST}}, [])


def test_setting_aside_never_overwrites(ledger: Ledger, root: Path) -> None:
    for number in range(3):
        ledger.write({"id": FIRST})
        (root / "releases" / f"{SECOND}.json").write_text(f"half {number}")
        ledger.set_aside_damaged()
    found = {path.name: path.read_text() for path in (root / "damaged").iterdir()}
    assert found == {f"{SECOND}.json": "half 0", f"{SECOND}.json.1": "half 1", f"{SECOND}.json.2": "half 2"}


# The journal


def test_the_journal_is_in_order_and_can_be_limited(ledger: Ledger) -> None:
    for number in range(5):
        ledger.append({"number": number})
    assert [entry["number"] for entry in ledger.journal()] == [0, 1, 2, 3, 4]
    assert [entry["number"] for entry in ledger.journal(limit=2)] == [3, 4]
    assert ledger.journal(limit=0) == []
    assert len(ledger.journal(limit=9)) == 5


@pytest.mark.parametrize("torn", [b'{"number": 1, "tex', b'{"number": "\xc3', b"\0\0\0", b"17"])
def test_a_torn_line_costs_only_itself(ledger: Ledger, root: Path, torn: bytes) -> None:
    ledger.append({"number": 0})
    with (root / "journal.jsonl").open("ab") as file:
        file.write(torn)
    assert ledger.journal() == [{"number": 0}]
    ledger.append({"number": 2})
    assert ledger.journal() == [{"number": 0}, {"number": 2}]


def test_a_text_with_line_ends_is_one_entry(ledger: Ledger) -> None:
    entry = {"text": "one\ntwo\u2028three\r"}
    ledger.append(entry)
    assert ledger.journal() == [entry]


def test_an_entry_is_one_write(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    flags: list[int] = []
    real_write, real_open = os.write, os.open

    def noted_write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return real_write(descriptor, data)

    def noted_open(path: str, how: int, *mode: int) -> int:
        flags.append(how)
        return real_open(path, how, *mode)

    monkeypatch.setattr(os, "write", noted_write)
    monkeypatch.setattr(os, "open", noted_open)
    ledger.append({"number": 0})
    monkeypatch.undo()
    assert writes == [b'{"number": 0}\n']
    assert any(how & os.O_APPEND for how in flags)


def test_appending_at_once_loses_nothing(ledger: Ledger, root: Path) -> None:
    def append(number: int) -> None:
        for count in range(20):
            Ledger(str(root)).append({"process": number, "count": count, "text": "x" * 5000})

    assert at_once(append) == [None] * PROCESSES
    entries = ledger.journal()
    assert len(entries) == 20 * PROCESSES
    for number in range(PROCESSES):
        assert [entry["count"] for entry in entries if entry["process"] == number] == list(range(20))


# The guard


def test_the_guard_can_be_entered_again_and_keeps_others_out(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    entered, leave = context.Event(), context.Event()

    def hold() -> None:
        with guard(str(root)), guard(str(root)):
            Ledger(str(root)).append({"who": "child"})
            entered.set()
            leave.wait(30)
            Ledger(str(root)).append({"who": "child again"})

    child = context.Process(target=hold)
    child.start()
    assert entered.wait(30)
    other = context.Process(target=lambda: Ledger(str(root)).append({"who": "other"}))
    other.start()
    other.join(0.3)
    assert other.is_alive(), "the guard kept nobody out"
    leave.set()
    child.join(30)
    other.join(30)
    assert [entry["who"] for entry in Ledger(str(root)).journal()] == ["child", "child again", "other"]


def test_who_has_locked_the_root_can_accept_a_number(root: Path) -> None:
    """The switch of traffic does so: it locks the root for itself."""

    def accept(_number: int) -> int:
        accept_fence(str(root), 7)
        return fence_seen(str(root))

    root.mkdir()
    descriptor = os.open(root, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert at_once(accept) == [7] * PROCESSES
    os.close(descriptor)


# The lock


def test_the_lock_is_held_until_it_expires(lock: Lock, ledger: Ledger) -> None:
    fence, replaced = lock.acquire(ALICE, "deploy", 60, NOW)
    assert replaced is None
    with pytest.raises(Held) as held:
        lock.acquire(BOB, "rollback", 60, NOW + 59)
    assert held.value.lock["owner"] == ALICE and held.value.lock["fence"] == fence
    for part in ("process 1, user alice", "'deploy'", "since 2023-11-14T22:13:20Z", "until 2023-11-14T22:14:20Z"):
        assert part in str(held.value)
    assert ledger.journal() == []
    later, replaced = lock.acquire(BOB, "rollback", 60, NOW + 60)
    assert later > fence and replaced and replaced["owner"] == ALICE and replaced["how"] == "expired"
    assert lock.read() == {"fence": later, "owner": BOB, "action": "rollback", "since": NOW + 60, "expires": NOW + 120}


@pytest.mark.parametrize("now", [NOW + 30, NOW + 3600])
def test_the_same_owner_gets_its_own_lock_again(lock: Lock, ledger: Ledger, now: float) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 60, NOW)
    assert lock.acquire(ALICE, "settle", 60, now) == (fence, None)
    assert lock.read() == {"fence": fence, "owner": ALICE, "action": "settle", "since": NOW, "expires": now + 60}
    assert ledger.journal() == []


def test_the_same_owner_is_known_by_value(lock: Lock) -> None:
    fence, _ = lock.acquire({"user": "alice", "hosts": ("a", "b")}, "deploy", 60, NOW)
    assert lock.acquire({"hosts": ["a", "b"], "user": "alice"}, "deploy", 60, NOW)[0] == fence


def test_a_lock_needs_an_owner(lock: Lock, root: Path) -> None:
    with pytest.raises(ValueError, match="needs an owner"):
        lock.acquire({}, "deploy", 60, NOW)
    assert not root.exists()


@pytest.mark.parametrize(
    ("options", "how", "more"),
    [
        ({"take_over": True}, "owner gone", {}),
        ({"broken": "alice is ill"}, "broken", {"reason": "alice is ill"}),
        ({"take_over": True, "broken": "alice is ill"}, "owner gone", {}),
    ],
)
def test_a_lock_that_is_replaced_is_in_the_journal(
    lock: Lock, ledger: Ledger, options: dict[str, t.Any], how: str, more: dict[str, t.Any]
) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 60, NOW)
    before = seen(lock)
    later, replaced = lock.acquire(BOB, "deploy", 60, NOW + 1, **options)
    assert later > fence and replaced == {**before, "how": how}
    assert ledger.journal() == [
        {"time": NOW + 1, "event": "lock replaced", "how": how, "by": BOB, "lock": before, **more}
    ]


@pytest.mark.parametrize("options", [{"take_over": True}, {"broken": "alice is ill"}])
def test_only_the_lock_that_was_looked_at_is_replaced(lock: Lock, options: dict[str, t.Any]) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 60, NOW)
    later, _ = lock.acquire(BOB, "deploy", 60, NOW, replaces=fence, **options)
    with pytest.raises(Held):
        lock.acquire({"user": "carol"}, "deploy", 60, NOW, replaces=fence, **options)
    assert seen(lock)["fence"] == later


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"fence": 3, "owner"',
        b"[]",
        b'{"fence": true, "owner": "alice"}',
        b'{"fence": 3, "owner": {"user": "alice"}, "action": "deploy", "since": 1, "expires": "never"}',
        b'{"fence": 3, "owner": {"user": "alice"}, "action": "deploy", "since": 1, "expires": Infinity}',
        b'{"fence": 3.5, "owner": {"user": "alice"}, "action": "deploy", "since": 1, "expires": 99999999999}',
    ],
)
def test_a_damaged_lock_has_expired(lock: Lock, root: Path, content: bytes) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 60, NOW)
    (root / "lock.json").write_bytes(content)
    assert seen(lock)["damaged"] and seen(lock)["expires"] == 0
    assert not lock.release(0) and not lock.release(fence)
    with pytest.raises(Lost, match="damaged"):
        lock.renew(fence, 60, NOW)
    later, replaced = lock.acquire(BOB, "deploy", 60, NOW)
    assert later > fence and replaced and replaced["how"] == "expired" and replaced["damaged"]


def test_renewing_and_releasing_need_the_right_number(lock: Lock) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 60, NOW)
    assert lock.renew(fence, 60, NOW + 50)["expires"] == NOW + 110
    assert lock.read() == {"fence": fence, "owner": ALICE, "action": "deploy", "since": NOW, "expires": NOW + 110}
    later, _ = lock.acquire(BOB, "deploy", 60, NOW + 110)
    with pytest.raises(Lost, match="user bob") as lost:
        lock.renew(fence, 60, NOW + 111)
    assert lost.value.lock and lost.value.lock["fence"] == later
    assert not lock.release(fence)
    assert seen(lock)["owner"] == BOB
    assert lock.release(later) and lock.read() is None and not lock.release(later)
    with pytest.raises(Lost, match="nobody holds it"):
        lock.renew(later, 60, NOW)


def test_a_lock_that_expired_can_be_renewed_while_nobody_took_it(lock: Lock) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 60, NOW)
    assert lock.renew(fence, 60, NOW + 500)["expires"] == NOW + 560


@pytest.mark.parametrize(
    ("lost", "later"),
    [
        ({"lock.json"}, 0),
        ({"fence"}, 0),
        ({"lock.json", "fence"}, 0),
        ({"fence", "fence-seen"}, 0),
        # All at once, as on a host that is set up anew: the time of day is what is left.
        ({"lock.json", "fence", "fence-seen"}, 60),
    ],
)
def test_numbers_only_grow_whatever_is_lost(lock: Lock, root: Path, lost: set[str], later: float) -> None:
    last = 0
    for count in range(4):
        fence, _ = lock.acquire({"count": count}, "deploy", 60, NOW + later * count, broken="test")
        accept_fence(str(root), fence)
        assert fence > last
        last = fence
        for name in lost:
            (root / name).unlink()


def test_numbers_grow_after_a_damaged_counter(lock: Lock, root: Path) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 60, NOW)
    lock.release(fence)
    (root / "fence").write_bytes(b"\0\0")
    assert lock.acquire(BOB, "deploy", 60, NOW + 60)[0] > fence


def test_one_of_many_gets_the_lock(lock: Lock, root: Path) -> None:
    def acquire(number: int) -> int:
        return Lock(str(root)).acquire({"process": number}, "deploy", 60, time.time())[0]

    answers = at_once(acquire)
    numbers = [answer for answer in answers if isinstance(answer, int)]
    assert len(numbers) == 1 and answers.count("Held") == PROCESSES - 1
    assert seen(lock)["fence"] == numbers[0]


def test_one_of_many_replaces_the_lock_of_a_dead_run(lock: Lock, ledger: Ledger, root: Path) -> None:
    fence, _ = lock.acquire(ALICE, "deploy", 3600, time.time())

    def take_over(number: int) -> int:
        return Lock(str(root)).acquire({"process": number}, "deploy", 60, time.time(), take_over=True, replaces=fence)[
            0
        ]

    answers = at_once(take_over)
    assert answers.count("Held") == PROCESSES - 1 and sum(isinstance(answer, int) for answer in answers) == 1
    assert [entry["lock"]["fence"] for entry in ledger.journal()] == [fence]


def test_no_number_is_given_out_twice(root: Path) -> None:
    def acquire(number: int) -> list[int]:
        return [
            Lock(str(root)).acquire({"process": number, "count": count}, "deploy", 60, NOW, broken="test")[0]
            for count in range(10)
        ]

    numbers = [number for answer in at_once(acquire) for number in answer]
    assert len(set(numbers)) == 10 * PROCESSES


# Fencing


def test_a_lower_number_is_outdated(root: Path) -> None:
    accept_fence(str(root), 7)
    accept_fence(str(root), 7)
    accept_fence(str(root), 9)
    with pytest.raises(Outdated) as outdated:
        accept_fence(str(root), 8)
    assert outdated.value.seen == 9 and fence_seen(str(root)) == 9


@pytest.mark.parametrize("fence", [0, -1])
def test_what_is_no_number_of_a_lock_is_refused(root: Path, fence: int) -> None:
    with pytest.raises(ValueError, match="Take the lock first"):
        accept_fence(str(root), fence)


# What stays


def stable(at: t.Any, **more: t.Any) -> dict[str, t.Any]:
    return {"result": "stable", "stable_at": at, **more}


def test_the_newest_that_were_stable_stay() -> None:
    records = {f"{number:012x}": stable(100 + number) for number in range(1, 8)}
    assert keep_list(records, set(), 3) == ["000000000005", "000000000006", "000000000007"]
    assert keep_list(records, set(), 0) == []
    assert keep_list(records, set(), 99) == sorted(records)


def test_an_old_release_that_was_activated_again_is_a_new_one() -> None:
    records = {"a": stable(1, activated_at=9.0), "b": stable(5), "c": stable(7), "d": stable(2, activated_at=3)}
    assert keep_list(records, set(), 2) == ["a", "c"]


def test_rolled_back_releases_were_stable_and_failed_ones_were_not() -> None:
    records = {"a": stable(1, result="rolled back"), "b": {"result": "failed", "activated_at": 99}}
    assert keep_list(records, set(), 5) == ["a"]


@pytest.mark.parametrize("result", ["pending", "committed"])
def test_what_is_not_finished_and_what_is_live_stays(result: str) -> None:
    records = {"a": {"result": result}, "b": {"result": "failed"}, "c": stable(1), "d": stable(2), "e": stable(3)}
    assert keep_list(records, {"b", "c"}, 1) == ["a", "b", "c", "e"]


def test_ties_are_broken_by_id() -> None:
    records = {release: stable(5) for release in ("b", "d", "a", "c")}
    assert keep_list(records, set(), 2) == ["c", "d"]
    assert keep_list(dict(reversed(records.items())), set(), 2) == ["c", "d"]


def test_a_time_that_cannot_be_read_makes_a_release_old() -> None:
    records = {"a": stable("yesterday"), "b": stable(5), "c": stable("7"), "d": stable("inf")}
    assert keep_list(records, set(), 2) == ["b", "c"]
    assert keep_list(records, set(), 4) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("seconds", [1e300, -1e300])
def test_a_time_out_of_range_is_still_a_text(seconds: float) -> None:
    assert "after 1970" in iso(seconds)


def test_a_record_is_read_as_json_has_it(ledger: Ledger, root: Path) -> None:
    ledger.write({"id": FIRST, "images": {"api": "repo@sha256:1"}})
    assert json.loads((root / "releases" / f"{FIRST}.json").read_text())["images"] == {"api": "repo@sha256:1"}
