"""Which slot gets the traffic: the map file, HAProxy's memory, and the undo."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import stat
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import traffic
from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import ProxyDouble

BEFORE = {"api": "blue", "api_blue": "r1"}
AFTER = {"api": "green_blue", "api_blue": "r1", "api_green": "r2"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "traffic.map"


@pytest.fixture
def haproxy(tmp_path: Path, file: Path) -> t.Iterator[ProxyDouble]:
    with ProxyDouble(tmp_path / "sock", file) as double:
        yield double
        double.shutdown()


@pytest.fixture
def nobody(tmp_path: Path) -> traffic.Proxy:
    """Return an HAProxy that is stopped."""
    return traffic.Proxy(str(tmp_path / "no-socket"))


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Double systemd's commands; what they were called with is in the file that is returned."""
    log = tmp_path / "systemd"
    for name in ("systemd-run", "systemctl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return log


def test_the_other_slot_and_the_front_one() -> None:
    assert [traffic.other(slot) for slot in ("blue", "green", "")] == ["green", "blue", "blue"]
    assert [traffic.front(value) for value in ("green_blue", "blue", "")] == ["green", "blue", ""]


# The map file.


def test_a_map_file_is_read(file: Path) -> None:
    assert traffic.read_map(str(file)) == {}
    file.write_text("# a note\n#api red\n\napi   green_blue\nhalf\napi_green r2\nthree of them\n")
    assert traffic.read_map(str(file)) == {"api": "green_blue", "api_green": "r2"}


def test_what_is_published_without_haproxy_is_in_the_file(file: Path, nobody: traffic.Proxy) -> None:
    assert not nobody.answers
    traffic.publish({"b": "2", "a": "1"}, str(file), nobody)
    assert file.read_text() == "a 1\nb 2\n" and traffic.read_map(str(file)) == {"a": "1", "b": "2"}
    traffic.publish({}, str(file), nobody)
    assert file.read_text() == ""


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            traffic.write_atomically(str(file), "new")
    assert file.read_text() == "old" and os.listdir(file.parent) == [file.name]
    traffic.write_atomically(str(file), "new", 0o644)
    assert file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o644
    assert os.listdir(file.parent) == [file.name]


# HAProxy's memory.


def test_what_is_published_is_in_memory_and_in_the_file(file: Path, haproxy: ProxyDouble) -> None:
    proxy = traffic.Proxy(haproxy.path)
    haproxy.maps[str(file)] = {"gone": "x"}
    traffic.publish(AFTER, str(file), proxy)
    assert haproxy.maps[str(file)] == AFTER == traffic.read_map(str(file)) == traffic.in_memory(str(file), proxy)


def test_the_new_map_is_whole_before_it_counts(file: Path, haproxy: ProxyDouble) -> None:
    haproxy.maps[str(file)] = dict(BEFORE)
    seen = []
    haproxy.committed = lambda: seen.append((dict(haproxy.maps[str(file)]), traffic.read_map(str(file))))
    traffic.publish(AFTER, str(file), traffic.Proxy(haproxy.path))
    # It changed once, as a whole, and the file was there first.
    assert seen == [(AFTER, AFTER)]
    assert [command.split()[0] for command in haproxy.commands] == ["show", "prepare", "add", "commit"]
    assert [command.split()[2] for command in haproxy.commands[2:]] == ["@1", "@1"]


def test_an_empty_map_is_committed_without_adding(file: Path, haproxy: ProxyDouble) -> None:
    haproxy.maps[str(file)] = dict(BEFORE)
    traffic.publish({}, str(file), traffic.Proxy(haproxy.path))
    assert haproxy.maps[str(file)] == {} and not any(command.startswith("add") for command in haproxy.commands)


@pytest.mark.parametrize("command", ["prepare map", "add map", "commit map"])
def test_a_problem_is_raised(file: Path, haproxy: ProxyDouble, command: str) -> None:
    haproxy.answers[command] = "Permission denied"
    with pytest.raises(OSError, match=r"did not take the map .*/traffic\.map: "):
        traffic.publish(AFTER, str(file), traffic.Proxy(haproxy.path))
    # The file is the truth all the same, and the next start of HAProxy reads it.
    assert traffic.read_map(str(file)) == AFTER


def test_a_map_that_haproxy_does_not_know(file: Path, haproxy: ProxyDouble) -> None:
    with pytest.raises(OSError, match="Unknown map identifier"):
        traffic.Proxy(haproxy.path).load(f"{file}-other", AFTER)


def test_the_servers_of_haproxy(haproxy: ProxyDouble) -> None:
    proxy = traffic.Proxy(haproxy.path)
    haproxy.server("api_blue", "api_blue", scur=2)
    haproxy.server("api_blue_green", "api_blue", scur=3)
    haproxy.server("api_blue_green", "api_green", scur=7)
    haproxy.server("api_none", "api_blue", scur="")
    assert proxy.sessions("api_blue") == 5 and proxy.sessions("nothing") == 0
    assert proxy.servers()["api_blue", "api_blue"]["status"] == "UP"
    assert haproxy.commands[-1] == "show stat -1 4 -1"


@pytest.mark.parametrize(
    ("fields", "up"),
    [
        ({"status": "UP", "check_status": "L7OK"}, True),
        # While the next check is under way, the result of the last one still counts.
        ({"status": "UP", "check_status": "* L7OK"}, True),
        ({"status": "UP", "check_status": "* L7STS"}, False),
        ({"status": "UP 1/2", "check_status": "L7STS"}, False),
        ({"status": "DOWN", "check_status": "L4CON"}, False),
        # HAProxy takes a server to be up until its first check has ended.
        ({"status": "UP", "check_status": "INI"}, False),
        ({"status": "no check", "check_status": ""}, False),
        ({"status": "MAINT", "check_status": "L7OK"}, False),
    ],
)
def test_a_slot_is_up_by_an_answer(haproxy: ProxyDouble, fields: dict[str, str], up: bool) -> None:
    haproxy.server("api_green", "api_green", **fields)
    haproxy.server("api_green_blue", "api_green", status="UP", check_status="")
    assert traffic.Proxy(haproxy.path).up("api_green") is up
    assert not traffic.Proxy(haproxy.path).up("api_blue")


def test_a_long_answer_is_read_to_its_end(file: Path, haproxy: ProxyDouble) -> None:
    many = {f"inference_{number:012x}": "blue" for number in range(5000)}
    traffic.publish(many, str(file), traffic.Proxy(haproxy.path))
    assert traffic.in_memory(str(file), traffic.Proxy(haproxy.path)) == many


def test_a_haproxy_that_does_not_answer_is_not_taken_for_a_stopped_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "SOCKET_TIMEOUT", 0.3)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen(5)
        with pytest.raises(TimeoutError):
            traffic.publish(AFTER, str(file), traffic.Proxy(mute.getsockname()))
    assert traffic.read_map(str(file)) == AFTER
    # What is left of its socket when it has ended is nobody.
    assert not traffic.Proxy(str(tmp_path / "mute")).answers


# Arming and confirming.


def test_arming_writes_the_note_and_starts_the_timer(root: Path, systemd: Path) -> None:
    (root / "undone.json").write_text("{}")
    traffic.arm({"api": "blue"}, "r2", 7, 90.0, str(root))
    assert os.listdir(root) == ["pending.json"]
    note = json.loads((root / "pending.json").read_text())
    assert (note["restore"], note["release"], note["fence"], note["seconds"]) == ({"api": "blue"}, "r2", 7, 90.0)
    stop, start = systemd.read_text().splitlines()
    assert stop == "systemctl --quiet stop truthgraph-undo.timer"
    assert start.startswith("systemd-run --unit=truthgraph-undo --collect --quiet --on-active=90.0s ")
    assert start.endswith(f"/usr/bin/python3 {traffic.PROGRAM} undo no confirmation came in time")


def test_an_earlier_timer_is_stopped_before_there_is_a_note_for_it(root: Path, systemd: Path) -> None:
    stop = systemd.parent / "bin" / "systemctl"
    stop.write_text(f"#!/bin/sh\nls {root} > {systemd}-notes\n")
    traffic.arm({"api": "blue"}, "r2", 7, 90.0, str(root))
    assert Path(f"{systemd}-notes").read_text() == "" and os.listdir(root) == ["pending.json"]


def test_what_cannot_be_armed_leaves_no_note(
    root: Path, systemd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = systemd.parent / "bin" / "systemd-run"
    start.write_text("#!/bin/sh\necho 'Unit truthgraph-undo.timer already exists' >&2; exit 1\n")
    with pytest.raises(OSError, match=r"nothing was switched: Unit truthgraph-undo.timer already exists$"):
        traffic.arm({"api": "blue"}, "r2", 7, 90.0, str(root))
    assert os.listdir(root) == []
    start.unlink()
    monkeypatch.setenv("PATH", str(start.parent))
    with pytest.raises(OSError, match=r"nothing was switched: .*systemd-run"):
        traffic.arm({"api": "blue"}, "r2", 7, 90.0, str(root))
    assert os.listdir(root) == []


def test_confirming_stops_the_timer(root: Path, systemd: Path) -> None:
    traffic.arm({"api": "blue"}, "r2", 7, 90.0, str(root))
    systemd.unlink()
    assert traffic.disarm(str(root)) and not (root / "pending.json").exists()
    assert systemd.read_text() == "systemctl --quiet stop truthgraph-undo.timer\n"
    assert not traffic.disarm(str(root))


@pytest.mark.parametrize("text", ["", "half {", "[]", "7"])
def test_a_note_that_cannot_be_read_is_none(root: Path, text: str) -> None:
    (root / "pending.json").write_text(text)
    assert traffic.read_json(traffic.pending_path(str(root))) is None
    assert traffic.read_json(str(root / "none")) is None


# The undo.


def pending(root: Path, **restore: str) -> None:
    (root / "pending.json").write_text(json.dumps({"restore": restore, "release": "r2", "fence": 7}))


def test_nothing_to_undo(root: Path, file: Path, haproxy: ProxyDouble) -> None:
    file.write_text("api green\n")
    assert not traffic.undo("test", str(root), str(file), traffic.Proxy(haproxy.path))
    assert file.read_text() == "api green\n" and os.listdir(root) == [] and haproxy.commands == []


def test_an_undo_returns_to_what_served_before(root: Path, file: Path, haproxy: ProxyDouble) -> None:
    proxy = traffic.Proxy(haproxy.path)
    traffic.publish({**AFTER, "inference": "green"}, str(file), proxy)
    pending(root, api="blue")
    assert traffic.undo("no answer", str(root), str(file), proxy)
    # Only what was switched; the rest stays.
    assert traffic.read_map(str(file)) == {**AFTER, "api": "blue", "inference": "green"} == haproxy.maps[str(file)]
    undone = json.loads((root / "undone.json").read_text())
    assert undone["reason"] == "no answer" and undone["release"] == "r2" and undone["undone_at"] > 0
    assert os.listdir(root) == ["undone.json"]
    assert not traffic.undo("again", str(root), str(file), proxy)
    traffic.forget(str(root))
    traffic.forget(str(root))
    assert os.listdir(root) == []


def test_where_nothing_served_before_nothing_serves_again(root: Path, file: Path, nobody: traffic.Proxy) -> None:
    traffic.publish(AFTER, str(file), nobody)
    pending(root, api="")
    assert traffic.undo("test", str(root), str(file), nobody)
    # Without a line for it, which HAProxy would not load.
    assert file.read_text() == "api_blue r1\napi_green r2\n"


def test_an_undo_that_haproxy_does_not_take_stays_pending(root: Path, file: Path, haproxy: ProxyDouble) -> None:
    pending(root, api="blue")
    haproxy.answers["commit map"] = "Permission denied"
    with pytest.raises(OSError, match="Permission denied"):
        traffic.undo("test", str(root), str(file), traffic.Proxy(haproxy.path))
    assert (root / "pending.json").exists() and not (root / "undone.json").exists()


def undo_beside(barrier: t.Any, answers: t.Any, root: str, file: str, path: str) -> None:
    barrier.wait()
    answers.put(traffic.undo("at once", root, file, traffic.Proxy(path)))


def test_of_two_undos_at_once_one_acts(root: Path, file: Path, haproxy: ProxyDouble) -> None:
    traffic.publish(AFTER, str(file), traffic.Proxy(haproxy.path))
    pending(root, api="blue")
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    arguments = (barrier, answers, str(root), str(file), haproxy.path)
    processes = [context.Process(target=undo_beside, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=30) for _ in processes)
    for process in processes:
        process.join()
    assert found == [False, True] and traffic.read_map(str(file))["api"] == "blue"
    # One of the test itself, and one of the undo.
    assert len([command for command in haproxy.commands if command.startswith("commit")]) == 2


def test_an_undo_waits_for_whoever_is_switching(root: Path, file: Path, nobody: traffic.Proxy) -> None:
    pending(root, api="blue")
    program = f"import sys; sys.path[:0] = {sys.path!r}; from {traffic.__name__} import undo, Proxy; "
    program += f"undo('beside', {str(root)!r}, {str(file)!r}, Proxy({nobody.path!r}))"
    with traffic.only_one(str(root)):
        process = subprocess.Popen([sys.executable, "-c", program])
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert (root / "pending.json").exists() and not file.exists()
    assert process.wait(30) == 0 and traffic.read_map(str(file)) == {"api": "blue"}


def test_the_program_of_a_host_needs_the_standard_library_alone(tmp_path: Path) -> None:
    program = tmp_path / "traffic.py"
    program.write_text(Path(traffic.__file__).read_text().replace("/var/lib/truthgraph", str(tmp_path)))
    run = [sys.executable, "-I", "-S", str(program)]
    done = subprocess.run([*run, "undo"], capture_output=True, text=True, check=True)
    assert done.stdout == "nothing to undo\n"
    done = subprocess.run([*run, "redo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage: " in done.stderr
