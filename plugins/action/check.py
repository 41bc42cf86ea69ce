# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check something of a host before it is changed: as ansible.builtin.assert does, or for a doctor, who goes on."""

from __future__ import annotations

import importlib
import typing as t

from ansible.utils.display import Display

from ansible_collections.truthgraph.platform.plugins.plugin_utils import findings

if t.TYPE_CHECKING:
    from ansible.plugins.action import ActionBase as Assert
else:
    # Its name is a keyword of Python.
    Assert = importlib.import_module("ansible.plugins.action.assert").ActionModule


class ActionModule(Assert):
    """An assertion that may be a finding."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Check it. A failure fails the task, unless findings are gathered, or it is a warning."""
        task_vars = task_vars or {}
        role = self._task._role.get_name().rpartition(".")[2] if self._task._role else ""
        own = {"severity": "error", "role": role, "check": self._task.name}
        arguments = self._task.args
        options = {name: arguments.get(name, default) for name, default in own.items()}
        if options["severity"] not in findings.SEVERITIES:
            wanted = " or ".join(findings.SEVERITIES)
            return {"failed": True, "msg": f"severity is {options['severity']}; it must be {wanted}."}
        # What is left is the assertion's.
        self._task.args = {name: value for name, value in arguments.items() if name not in own}
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if not result.get("failed") or "assertion" not in result:
            return result
        if findings.gathers(task_vars):
            return findings.gathered(result, task_vars, **options)
        if options["severity"] == "warning":
            Display().warning(str(result["msg"]))
            return {"changed": False, "msg": result["msg"]}
        return result
