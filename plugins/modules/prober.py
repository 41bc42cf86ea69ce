#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Send requests to every API host in the background, and say how many were answered."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prober
short_description: Measure from outside what a deploy does to the clients of the API
version_added: 0.1.0
description:
  - Runs on the control node. A process in the background asks every target at a constant rate, over a connection that
    is kept alive, as long as the deploy works; it notes failures, gaps, latencies and the releases that answered.
  - No answer and a status of 500 or more are failures. A connection that the server closes between two requests is
    none, the request is sent once more on a new one.
  - A target that has never answered is not measured, since the control node may not reach the hosts at all. It counts
    neither as requests nor as failures.
  - The process ends when it is stopped, after its limit, or when its owner is gone, whichever is first.
options:
  state:
    description:
      - V(started) starts it. One that still runs in the same directory is ended first.
      - V(read) returns the counts so far, of the last run if none runs now.
      - V(stopped) ends it and returns the final counts.
    type: str
    choices: [started, read, stopped]
    default: started
  path:
    description: Run directory on the control node. It is created with mode 0700.
    type: path
    required: true
  targets:
    description: Names of the targets with their URLs. Only http is spoken. For O(state=started).
    type: dict
    default: {}
  rate:
    description: Requests per second for each target, at most 50.
    type: float
    default: 10
  timeout:
    description: Seconds that one answer may take.
    type: float
    default: 5
  limit:
    description: Seconds after which it ends by itself.
    type: float
    default: 3600
  owner:
    description: Process without which it ends within a second. Without an owner, only the limit ends it.
    type: int
attributes:
  check_mode:
    support: full
    description: Nothing is started, read or stopped, and nothing is measured.
  diff_mode:
    support: none
    description: Nothing on any host is changed.
  idempotent:
    support: full
    description: Nothing on any host is changed. Started again, it begins to count anew.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Start the prober
  truthgraph.platform.prober:
    path: "{{ state_dir }}/probe"
    targets:
      cpu1: http://10.0.0.1:8000/health
      cpu2: http://10.0.0.2:8000/health
    owner: "{{ deploy_pid }}"
  delegate_to: localhost

- name: Stop the prober
  truthgraph.platform.prober:
    state: stopped
    path: "{{ state_dir }}/probe"
  delegate_to: localhost
  register: probed
"""

RETURN = r"""
measured:
  description: That at least one target has answered at least once.
  returned: always
  type: bool
reason:
  description: Why nothing was measured; empty if something was.
  returned: always
  type: str
running:
  description: That the process runs now.
  returned: always
  type: bool
requests:
  description: Requests sent to those targets that have ever answered.
  returned: always
  type: int
failures:
  description: How many of them had no answer, or one of 500 or more.
  returned: always
  type: int
longest_gap:
  description: Longest time in seconds between the ends of two successive good answers of one target.
  returned: always
  type: float
started:
  description: When it began, in UTC.
  returned: when there are counts
  type: str
  sample: "2026-01-31T12:00:00.000Z"
written:
  description: When these counts were written, in UTC.
  returned: when there are counts
  type: str
ended:
  description: Why it ended; empty if it runs, or was killed before it could say so.
  returned: when there are counts
  type: str
  sample: it was stopped
targets:
  description: The counts of each target.
  returned: always
  type: dict
  contains:
    requests:
      description: Requests sent.
      type: int
    failures:
      description: How many had no answer, or one of 500 or more.
      type: int
    failures_before_first:
      description: How many of the failures were before the first good answer.
      type: int
    first_failures:
      description: The first 20 failures, each with its time and what it was.
      type: list
      elements: dict
    never_answered:
      description: That there was no good answer at all, so that nothing was measured.
      type: bool
    reconnects:
      description: How often the server had closed the connection between two requests.
      type: int
    longest_gap:
      description: Longest time in seconds between the ends of two successive good answers.
      type: float
    since_last:
      description: >-
        Seconds from the last good answer to the time of these counts, null if there was none. A target that does not
        come back has a long one, and no gap.
      type: float
    latency:
      description: C(p50), C(p95) and C(p99) of the good answers in milliseconds.
      type: dict
    releases:
      description: >-
        Each release that answered, in order of appearance, with the time of its first and last answer and the number
        of answers (C(release), C(first), C(last), C(requests)).
      type: list
      elements: dict
"""

import json
import os
import signal
import subprocess
import sys
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import prober

PATIENCE = 2.0
MOST_RATE = 50
DAY = 86400
NOTHING = {"measured": False, "requests": 0, "failures": 0, "longest_gap": 0.0, "targets": {}}


def read_json(path: str) -> dict[str, t.Any] | None:
    """Return what a file of ours holds, None if it is missing or broken."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def remove(path: str) -> None:
    """Remove a file that may be missing."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass


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
    program = os.path.join(path, "prober.py")
    with open(program, "w", encoding="utf-8") as file:
        # The module may run from an archive, which the process cannot use: it is removed when the module ends.
        file.write(prober.__loader__.get_source(prober.__name__))
    prober.write_whole(os.path.join(path, "config.json"), config)
    with open(os.path.join(path, "log"), "w", encoding="utf-8") as log:
        # Without site and environment: it starts faster, and nothing of the user's can get in its way.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, path],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=path,
            start_new_session=True,
        )
    known = {"pid": process.pid, "start_time": prober.start_time(process.pid)}
    prober.write_whole(os.path.join(path, "process.json"), known)


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


def checked(module: AnsibleModule) -> dict[str, t.Any]:
    """Return the process's configuration; end the module if an option makes no sense."""
    config = {name: module.params[name] for name in ("targets", "rate", "timeout", "limit")}
    if not 0 < config["rate"] <= MOST_RATE:
        module.fail_json(msg=f"rate is {config['rate']:g}; choose more than 0 and at most {MOST_RATE} a second.")
    for name in ("timeout", "limit"):
        if not 0 < config[name] <= DAY:
            module.fail_json(msg=f"{name} is {config[name]:g}; choose more than 0 seconds and at most a day, {DAY}.")
    for name, url in config["targets"].items():
        try:
            prober.parse_url(str(url))
        except ValueError as error:
            module.fail_json(msg=f"The URL {url} of the target {name} cannot be used: {error}.")
    owner = module.params["owner"]
    if owner is not None:
        config["owner"] = {"pid": owner, "start_time": prober.start_time(owner)}
        if not config["owner"]["start_time"]:
            module.fail_json(msg=f"The owner, process {owner}, does not run on this machine. Name one that does.")
    return config


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "read", "stopped"], "default": "started"},
            "path": {"type": "path", "required": True},
            "targets": {"type": "dict", "default": {}},
            "rate": {"type": "float", "default": 10},
            "timeout": {"type": "float", "default": 5},
            "limit": {"type": "float", "default": 3600},
            "owner": {"type": "int"},
        },
        supports_check_mode=True,
    )
    state, path = module.params["state"], os.path.abspath(module.params["path"])
    config = checked(module) if state == "started" else {}
    if module.check_mode:
        module.exit_json(changed=False, running=False, reason="nothing is measured in check mode", **NOTHING)
    try:
        if state == "read":
            module.exit_json(changed=False, **counts(path))
        if state == "stopped":
            reason = "" if end(path) else f"no prober ran in {path}"
            last = read_json(os.path.join(path, "result.json"))
            if reason and last and last["ended"]:
                reason += f"; the last one ended because {last['ended']}"
            result = {**NOTHING, "running": False, "reason": reason} if reason else counts(path)
            module.exit_json(changed=False, **result)
        if not config["targets"]:
            end(path)
            module.exit_json(changed=False, running=False, reason="there are no targets", **NOTHING)
        start(path, config)
    except OSError as error:
        msg = f"The prober cannot use its directory {path}: {error}. Choose a directory of your own with path."
        module.fail_json(msg=msg)
    module.exit_json(changed=False, **counts(path))


if __name__ == "__main__":
    main()
