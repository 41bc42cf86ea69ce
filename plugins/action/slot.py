# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take one phase of a rollout on one host, and note on the control node when it began and ended. An action: the module does the
work, and only the control node has one clock for all hosts.
"""

from __future__ import annotations

import json
import os
import time
import typing as t

from ansible.plugins.action import ActionBase

# What the module answers that a report may show: names and numbers, never what a program has written.
SHOWN = ("actions", "watched", "serves")


def append(path: str, entry: dict[str, t.Any]) -> None:
    """Add a line to the notes, in one write, since other hosts' phases do the same at the same time."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, json.dumps(entry).encode() + b"\n")
    finally:
        os.close(descriptor)


class ActionModule(ActionBase):
    """The action."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the module, and note it; a host that cannot be reached is noted, too."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        began = time.time()
        answer: dict[str, t.Any] = {"failed": True}
        try:
            answer = self._execute_module(task_vars=task_vars)
        finally:
            path = os.path.expanduser(self._task.args.get("notes") or "")
            if path and not self._task.check_mode:
                entry = {
                    "host": task_vars["inventory_hostname"],
                    "phase": self._task.args["state"],
                    "services": sorted(self._task.args["services"]),
                    "began": began,
                    "ended": time.time(),
                    "failed": bool(answer.get("failed") or answer.get("unreachable")),
                    **{name: answer[name] for name in SHOWN if name in answer},
                }
                try:
                    append(path, entry)
                except OSError as error:
                    # The phase is what counts, and was taken.
                    self._display.warning(f"What was done is missing in the report: {error}")
        return {**result, **answer}
