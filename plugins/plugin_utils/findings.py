# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check has found. A deploy ends at the first; a doctor gathers all, and goes on.

A finding is an object with `host`, `role` and `check` (whose check it is, and what that is called), `severity` (`error`:
a deploy would refuse; `warning`: it would not), and `message`: what is wrong, and the way out. While a play has the
variable `release_gathers`, those of a host lie in its fact `release_findings`.
"""

from __future__ import annotations

import typing as t

FACT = "release_findings"
SEVERITIES = ("error", "warning")


def gathers(task_vars: dict[str, t.Any]) -> bool:
    """Say whether the play gathers findings. Its variable is a plain boolean."""
    return task_vars.get("release_gathers") is True


def gathered(
    result: dict[str, t.Any], task_vars: dict[str, t.Any], *, role: str, check: str, severity: str = "error"
) -> dict[str, t.Any]:
    """Return the result of a task that has failed as one that has not, with what it found beside what the host's others did."""
    message = result.get("msg") or "It failed without a word."
    finding = {
        "host": task_vars["inventory_hostname"],
        "role": role,
        "check": check,
        "severity": severity,
        # Messages are written in lines that are not theirs.
        "message": " ".join((" ".join(message) if isinstance(message, list) else str(message)).split()),
    }
    before = task_vars.get("ansible_facts", {}).get(FACT, [])
    facts = {FACT: [*before, *([] if finding in before else [finding])]}
    return {"changed": False, "msg": finding["message"], "finding": finding, "ansible_facts": facts}
