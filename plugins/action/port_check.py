# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Have a host say whether a port is free. A failure fails the task, or is a finding where a play gathers them."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.truthgraph.platform.plugins.plugin_utils import findings


class ActionModule(ActionBase):
    """Runs the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Ask the host."""
        task_vars = task_vars or {}
        super().run(tmp, task_vars)
        result: dict[str, t.Any] = self._execute_module(task_vars=task_vars)
        if not result.get("failed") or not findings.gathers(task_vars):
            return result
        role = self._task._role.get_name().rpartition(".")[2] if self._task._role else ""
        return findings.gathered(result, task_vars, role=role, check=self._task.name)
