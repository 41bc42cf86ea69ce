# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Send requests to every API host in the background, and say how many were answered. An action: it works on the control
node itself, without what a module costs there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.truthgraph.platform.plugins.plugin_utils import prober

PATIENCE = 2.0
MOST_RATE = 50
DAY = 86400
NOTHING = {"measured": False, "requests": 0, "failures": 0, "longest_gap": 0.0, "targets": {}}

ARGUMENTS = {
    "state": {"type": "str", "choices": ["started", "read", "stopped"], "default": "started"},
    "path": {"type": "path", "required": True},
    "targets": {"type": "dict", "default": {}},
    "tls": {"type": "dict", "default": {}},
    "rate": {"type": "float", "default": 10},
    "timeout": {"type": "float", "default": 5},
    "limit": {"type": "float", "default": 3600},
    "owner": {"type": "int"},
}


def read_json(path: str) -> dict[str, t.Any] | None:
    """Return what a file of ours holds, None if it is missing or broken."""
    try:
        with open(path, encoding="utf-8") as file:
            held: dict[str, t.Any] = json.load(file)
            return held
    except (OSError, ValueError):
        return None


def remove(path: str) -> None:
    """Remove a file that may be missing."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def running(path: str) -> int:
    """Return the number of the process that runs in a run directory, 0 if none does."""
    process = read_json(os.path.join(path, "process.json"))
    alive = process and prober.start_time(process["pid"]) == process["start_time"]
    return process["pid"] if process and alive else 0


def wait_for_end(path: str, seconds: float) -> bool:
    """Wait until the process of a run directory has ended; say whether it has."""
    deadline = time.monotonic() + seconds
    while running(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def end(path: str, patience: float = PATIENCE) -> bool:
    """End the process of a run directory, if there is one; say whether there was."""
    found = False
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = running(path)
        if not pid:
            break
        found = True
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        if wait_for_end(path, patience):
            break
    remove(os.path.join(path, "process.json"))
    return found


def last_line(path: str) -> str:
    """Return the last line of the prober's own log."""
    try:
        with open(os.path.join(path, "log"), encoding="utf-8", errors="replace") as file:
            return (file.read().strip().splitlines() or [""])[-1]
    except OSError:
        return ""


def start(path: str, config: dict[str, t.Any]) -> None:
    """Start the process in its run directory, detached from everything that Ansible waits for."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.stat(path)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        # What lies in it is run.
        raise PermissionError("others can write to it")
    end(path)
    for name in ("result.json", "samples.jsonl", "log"):
        remove(os.path.join(path, name))
    prober.write_whole(os.path.join(path, "config.json"), config)
    with open(os.path.join(path, "log"), "w", encoding="utf-8") as log:
        # Without site and environment: it starts faster, and nothing of the user's can get in its way.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", prober.__file__, path],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=path,
            start_new_session=True,
        )
    known = {"pid": process.pid, "start_time": prober.start_time(process.pid)}
    prober.write_whole(os.path.join(path, "process.json"), known)


def does_this(path: str, config: dict[str, t.Any]) -> bool:
    """Say whether a process runs that does just this for the same owner."""
    return "owner" in config and bool(running(path)) and read_json(os.path.join(path, "config.json")) == config


def counts(path: str) -> dict[str, t.Any]:
    """Return what a run directory holds now."""
    active = bool(running(path))
    result = read_json(os.path.join(path, "result.json"))
    if result is None:
        why = "it has only just started" if active else f"no counts are in {path}"
        error = "" if active else last_line(path)
        return {**NOTHING, "running": active, "reason": f"{why}: {error}" if error else why}
    result["reason"] = "" if result["measured"] else "no target has ever answered this machine"
    return {**result, "running": active}


def checked(options: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return the process's configuration, or fail if an option makes no sense."""
    config = {name: options[name] for name in ("targets", "tls", "rate", "timeout", "limit")}
    if not 0 < config["rate"] <= MOST_RATE:
        raise AnsibleActionFail(f"rate is {config['rate']:g}; choose more than 0 and at most {MOST_RATE} a second.")
    for name in ("timeout", "limit"):
        if not 0 < config[name] <= DAY:
            raise AnsibleActionFail(f"{name} is {config[name]:g}; choose more than 0 seconds and at most a day, {DAY}.")
    for name, url in config["targets"].items():
        try:
            prober.parse_url(str(url))
        except ValueError as error:
            raise AnsibleActionFail(f"The URL {url} of the target {name} cannot be used: {error}.") from error
    owner = options["owner"]
    if owner is not None:
        config["owner"] = {"pid": owner, "start_time": prober.start_time(owner)}
        if not config["owner"]["start_time"]:
            raise AnsibleActionFail(f"The owner, process {owner}, does not run on this machine. Name one that does.")
    return config


class ActionModule(ActionBase):
    """The action."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Start, read or stop."""
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(ARGUMENTS)
        state, path = options["state"], os.path.abspath(os.path.expanduser(options["path"]))
        config = checked(options) if state == "started" else {}
        if self._task.check_mode:
            return {"changed": False, **NOTHING, "running": False, "reason": "nothing is measured in check mode"}
        try:
            return {"changed": False, **act(state, path, config)}
        except OSError as error:
            message = f"The prober cannot use its directory {path}: {error}. Choose a directory of your own with path."
            raise AnsibleActionFail(message) from error


def act(state: str, path: str, config: dict[str, t.Any]) -> dict[str, t.Any]:
    """Do what is wanted in a run directory, and return the counts."""
    if state == "stopped":
        reason = "" if end(path) else f"no prober ran in {path}"
        last = read_json(os.path.join(path, "result.json"))
        if reason and last and last["ended"]:
            reason += f"; the last one ended because {last['ended']}"
        return {**NOTHING, "running": False, "reason": reason} if reason else counts(path)
    if state == "started" and not config["targets"]:
        end(path)
        return {**NOTHING, "running": False, "reason": "there are no targets"}
    if state == "started" and not does_this(path, config):
        start(path, config)
    return counts(path)
