#!/usr/bin/python3
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which slot of a host gets the traffic: a map that HAProxy reads, its switch, and the undo that fires by itself.

The map file is the truth: HAProxy reads it at every start, and while it runs the same contents are put into its memory
over its socket. Its lines are a key and a value:

    api                      the API slot that serves, `blue`; or `green_blue`: green serves, and what fails there is
                             repeated on blue
    api_blue                 the release in the API slot blue
    egress_blue              the inference key that the API slot blue asks, such as `inference_0f3a…`
    inference_0f3a…          the slot of the inference service that has this key
    inference                the slot that answers who asks for no key
    waiting                  there while requests for the inference service wait for a slot that starts

The role proxy also installs this file on every host as a program, since a host has to be able to take a switch back
when nobody can reach it: it needs Python's standard library and nothing else.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import typing as t

MAP = "/etc/truthgraph/proxy/traffic.map"
SOCKET = "/run/haproxy/admin.sock"
ROOT = "/var/lib/truthgraph"
PROGRAM = "/usr/local/lib/truthgraph/traffic.py"
UNIT = "truthgraph-undo"
SLOTS = ("blue", "green")
SOCKET_TIMEOUT = 5.0


def other(slot: str) -> str:
    """Return the slot beside the given one; blue where there is none yet."""
    return "green" if slot == "blue" else "blue"


def front(value: str) -> str:
    """Return the slot that serves, out of a value such as `green_blue`."""
    return value.partition("_")[0]


def read_map(path: str = MAP) -> dict[str, str]:
    """Return what the map file says; nothing where there is no file."""
    try:
        with open(path, encoding="ascii") as file:
            rows = [line.split() for line in file]
    except FileNotFoundError:
        return {}
    return {row[0]: row[1] for row in rows if len(row) == 2 and not row[0].startswith("#")}


def write_atomically(path: str, text: str, mode: int = 0o600) -> None:
    """Replace a file in one step, so that a reader or a crash finds the old or the new one and nothing between."""
    descriptor, beside = tempfile.mkstemp(prefix=".unfinished-", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Proxy:
    """HAProxy's runtime interface."""

    def __init__(self, path: str = SOCKET) -> None:
        self.path = path

    def command(self, text: str) -> str:
        """Send one command and return the whole answer; OSError where nobody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SOCKET_TIMEOUT)
            connection.connect(self.path)
            connection.sendall(text.encode("ascii") + b"\n")
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts).decode("utf-8", "replace").strip()

    @property
    def description(self) -> str:
        """Return which configuration HAProxy runs with, as the configuration calls itself."""
        rows = (line.partition(":") for line in self.command("show info").splitlines())
        return next((value.strip() for name, _colon, value in rows if name == "description"), "")

    @property
    def answers(self) -> bool:
        """Say whether HAProxy is there. One that is there and does not answer is an OSError: its map is not known."""
        try:
            return bool(self.command("show version"))
        except (ConnectionRefusedError, FileNotFoundError):
            return False

    def load(self, path: str, entries: dict[str, str]) -> None:
        """Give HAProxy the whole map in one step; requests see the old or the new one."""
        version = "".join(filter(str.isdigit, self.command(f"prepare map {path}")))
        lines = "\n".join(f"{key} {value}" for key, value in entries.items())
        answers = [self.command(f"add map @{version} {path} <<\n{lines}\n")] if entries else []
        answers.append(self.command(f"commit map @{version} {path}"))
        problem = "; ".join(filter(None, answers))
        if not version or problem:
            raise OSError(f"HAProxy did not take the map {path}: {problem or 'it does not know it'}")

    def servers(self) -> dict[tuple[str, str], dict[str, str]]:
        """Return HAProxy's statistics of every server by (backend, server)."""
        text = self.command("show stat -1 4 -1").lstrip("# ")
        return {(row["pxname"], row["svname"]): row for row in csv.DictReader(text.splitlines())}

    def up(self, slot: str, copies: int = 1) -> bool:
        """Say whether HAProxy's own check has a slot such as `api_blue` up, with its copies, by answers, not assumption."""
        rows = self.servers()
        found = [rows.get((slot, server), {}) for server in (slot, *(f"{slot}_{copy}" for copy in range(1, copies)))]
        # While the next check is under way, HAProxy puts "* " before the result of the last one.
        return all(
            row.get("status", "").startswith("UP") and row.get("check_status", "").lstrip("* ") in ("L7OK", "L7OKC")
            for row in found
        )

    def sessions(self, slot: str) -> int:
        """Return how many requests a slot has in hand, over its copies and all backends in which they stand."""
        rows = self.servers()
        own = re.compile(re.escape(slot) + r"(_\d+)?")
        return sum(int(row["scur"] or 0) for (_backend, name), row in rows.items() if own.fullmatch(name))


def publish(entries: dict[str, str], path: str = MAP, proxy: Proxy | None = None) -> None:
    """Make a map the truth: the file first, then HAProxy's memory. Where HAProxy is stopped, its start reads the file."""
    proxy = proxy or Proxy()
    write_atomically(path, "".join(f"{key} {value}\n" for key, value in sorted(entries.items())))
    if proxy.answers:
        proxy.load(path, entries)


def in_memory(path: str = MAP, proxy: Proxy | None = None) -> dict[str, str]:
    """Return the map as HAProxy has it now."""
    rows = [line.split() for line in (proxy or Proxy()).command(f"show map {path}").splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3}


@contextlib.contextmanager
def only_one(root: str = ROOT) -> t.Iterator[None]:
    """Let one process at a time change which slot serves; the lock goes with the process."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_json(path: str) -> dict[str, t.Any] | None:
    """Return a file's object, or None where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def pending_path(root: str = ROOT) -> str:
    """Return where an armed undo is written down."""
    return os.path.join(root, "pending.json")


def undone_path(root: str = ROOT) -> str:
    """Return where an undo that fired by itself is written down."""
    return os.path.join(root, "undone.json")


def arm(restore: dict[str, str], release: str, fence: int, seconds: float, root: str = ROOT) -> None:
    """Have this host return to `restore` by itself in some seconds, and at its next start, unless it is disarmed.

    The note is written before the timer starts: a note without a timer is what the next start of the host undoes.
    """
    note = {"restore": restore, "release": release, "fence": fence, "armed_at": time.time(), "seconds": seconds}
    forget(root)
    # An earlier timer could take the new note for its own.
    _stop_timer()
    write_atomically(pending_path(root), json.dumps(note) + "\n")
    try:
        subprocess.run(
            ["systemd-run", f"--unit={UNIT}", "--collect", "--quiet", f"--on-active={seconds}s"]
            + ["--timer-property=AccuracySec=100ms", "--property=Restart=on-failure", "--property=RestartSec=2"]
            + ["/usr/bin/python3", PROGRAM, "undo", "no confirmation came in time"],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.unlink(pending_path(root))
        reason = str(getattr(error, "stderr", "") or error).strip()
        raise OSError(f"This host cannot arm its self-undo, so nothing was switched: {reason}") from error


def disarm(root: str = ROOT) -> bool:
    """Confirm a switch. Returns False where it was not armed (any more)."""
    with only_one(root):
        armed = os.path.exists(pending_path(root))
        if armed:
            os.unlink(pending_path(root))
    if armed:
        _stop_timer()
    return armed


def forget(root: str = ROOT) -> None:
    """Drop the note of an undo that fired by itself, once a run has taken it into account."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(undone_path(root))


def undo(reason: str, root: str = ROOT, path: str = MAP, proxy: Proxy | None = None) -> bool:
    """Return to what served before the switch that is armed. Returns False where none is."""
    with only_one(root):
        note = read_json(pending_path(root))
        if note is None:
            return False
        entries = {**read_map(path), **note["restore"]}
        publish({key: value for key, value in entries.items() if value}, path, proxy)
        write_atomically(undone_path(root), json.dumps({**note, "reason": reason, "undone_at": time.time()}) + "\n")
        os.unlink(pending_path(root))
    return True


def _stop_timer() -> None:
    # Most often there is none, which is as good; and one that fires without a note finds nothing to undo.
    with contextlib.suppress(subprocess.SubprocessError):
        subprocess.run(["systemctl", "--quiet", "stop", f"{UNIT}.timer"], check=False, capture_output=True, timeout=30)


def main(arguments: list[str]) -> int:
    """Run as the program of a host: `traffic.py undo REASON`, `traffic.py description`."""
    if arguments == ["description"]:
        sys.stdout.write(f"{Proxy().description}\n")
        return 0
    if arguments[:1] != ["undo"]:
        sys.stderr.write(f"usage: {PROGRAM} undo REASON | description\n")
        return 2
    reason = " ".join(arguments[1:]) or "asked for by hand"
    done = f"returned to what served before: {reason}" if undo(reason) else "nothing to undo"
    sys.stdout.write(f"{done}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
