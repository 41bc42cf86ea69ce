# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write the report of a deploy or rollback. An action: it works on the control node itself, without what a module costs
there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import traceback
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.truthgraph.platform.plugins.plugin_utils import report

ARGUMENTS = {
    "directory": {"type": "path", "required": True},
    "run": {"type": "dict", "required": True},
    "notes": {"type": "path", "required": True},
    "probe": {"type": "path"},
    "probe_started": {"type": "str", "default": ""},
    "secrets": {"type": "raw", "default": []},
    "kept": {"type": "int", "default": 50},
}
# What this action has named, and nothing else that may lie there.
NAME = re.compile(r"(\d{8}T\d{6}Z-[a-z]+-[0-9a-z.]+)\.(?:html|json)\Z")
NOTES = re.compile(r"\.steps-\d+\.jsonl\Z")
DAY = 86400


def write(path: str, text: str) -> None:
    """Write a file that a reader sees whole or not at all."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def prune(directory: str, kept: int) -> list[str]:
    """Remove all reports but the newest, and the notes of runs that were killed; return the names that went. 0 keeps all."""
    names = sorted({found[1] for name in os.listdir(directory) if (found := NAME.match(name))})
    gone = names[:-kept] if kept else []
    files = [f"{name}.{kind}" for name in gone for kind in ("html", "json")]
    files += [
        name
        for name in filter(NOTES.match, os.listdir(directory))
        if time.time() - os.path.getmtime(os.path.join(directory, name)) > DAY
    ]
    for name in files:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(directory, name))
    return gone


def probed(path: str | None, started: str) -> tuple[dict[str, t.Any], list[report.Sample]]:
    """Return what lies in the prober's directory, if it is of the run of the prober that is meant."""
    if not path or not started:
        return {}, []
    try:
        with open(os.path.join(path, "result.json"), encoding="utf-8") as file:
            result = json.load(file)
    except (OSError, ValueError):
        return {}, []
    if result.get("started") != started:
        return {}, []
    samples, left_out = report.read_lines(os.path.join(path, "samples.jsonl"))
    return {**result, "left_out": left_out}, [tuple(sample) for sample in samples]


class ActionModule(ActionBase):
    """The action."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Write the report, or say why there is none: a run that has gone well is not to fail by it."""
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(ARGUMENTS)
        if self._task.check_mode:
            return {
                "changed": False,
                "path": "",
                "data_path": "",
                "removed": [],
                "problem": "nothing is written in check mode",
            }
        secrets = report.texts(options["secrets"])
        try:
            return {"changed": True, "problem": "", **written(options, secrets)}
        except Exception as error:  # Whatever it is, the run is worth more than its report.
            problem = report.hidden(f"{type(error).__name__}: {error}", secrets)
            self._display.vv(report.hidden(traceback.format_exc(), secrets))
            return {"changed": False, "path": "", "data_path": "", "removed": [], "problem": problem}


def written(options: dict[str, t.Any], secrets: list[str]) -> dict[str, t.Any]:
    """Write the report, and say where it is."""
    directory, ended = options["directory"], time.time()
    os.makedirs(directory, mode=0o700, exist_ok=True)
    # Through JSON, since what Ansible hands over is more than plain data.
    run = json.loads(json.dumps(options["run"], default=str))
    notes = report.read_lines(options["notes"])[0]
    facts = report.document(run, notes, *probed(options["probe"], options["probe_started"]), ended)
    facts = report.hidden(facts, secrets)
    release = re.sub(r"[^0-9a-z.]", "", facts["release"]) or "none"
    action = re.sub(r"[^a-z]", "", facts["action"]) or "run"
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(ended))}-{action}-{release}"
    paths = [os.path.join(directory, f"{name}.{kind}") for kind in ("html", "json")]
    write(paths[0], report.page(facts))
    write(paths[1], json.dumps(facts, indent=1, sort_keys=True) + "\n")
    with contextlib.suppress(FileNotFoundError):
        os.remove(options["notes"])
    return {"path": paths[0], "data_path": paths[1], "removed": prune(directory, options["kept"])}
