#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module: merge settings into the Docker engine's daemon.json."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_daemon_config
short_description: Merge settings into the Docker engine's daemon.json
description:
  - Parses the file, merges the settings, lets C(dockerd --validate) judge the result, and replaces the file in one
    step. Settings that are not named stay as they are. A file that is not valid is left untouched, with an error.
  - Mappings are merged key by key; every other value, lists included, is replaced.
  - With O(note) the module remembers what it replaced, and O(state=absent) with the same note takes that back.
options:
  settings:
    description: What the file must say. Required with O(state=present), not used with O(state=absent).
    type: dict
  state:
    description:
      - V(present) merges the settings.
      - V(absent) returns what O(note) remembers to what it was. A value that somebody has changed meanwhile stays. A
        mapping that was made for the settings goes when nothing is left in it, and so does the file. Then the note
        is deleted. Without a note nothing is done.
      - A reload leaves some settings in force when the file no longer names them. With V(absent) they are named with
        what they are by default, and only go when O(reloaded) says that the engine has taken that over.
    type: str
    choices: [present, absent]
    default: present
  note:
    description:
      - File in which the module remembers, for each value that it changes, what was there before. Each user of the
        module needs a note of its own. Required with O(state=absent).
      - What the note remembers and O(settings) no longer names stays as it is until O(state=absent).
    type: path
  reloaded:
    description:
      - Whether the engine has reloaded since O(state=absent) has answered RV(unfinished), or will read the file anew
        anyway, since it does not run.
    type: bool
    default: false
  path:
    description: The engine's configuration file.
    type: path
    default: /etc/docker/daemon.json
  dockerd:
    description:
      - The engine's program, asked to validate the file before it is put in place. An engine before Docker 23 cannot be
        asked, and for O(state=absent) there need not be one.
    type: str
    default: dockerd
attributes:
  check_mode:
    description: Answers what would change, changes nothing.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Rotate the containers' logs
  truthgraph.platform.docker_daemon_config:
    settings:
      log-driver: local
      log-opts: {max-size: 10m}

- name: Let containers ask for the cards
  truthgraph.platform.docker_daemon_config:
    settings:
      features: {cdi: true}
    note: /var/lib/example/daemon.json

- name: Take that back
  truthgraph.platform.docker_daemon_config:
    state: absent
    note: /var/lib/example/daemon.json
  register: taken_back

- name: Finish that
  when: taken_back.unfinished
  block:
    - name: Have the engine take over what is named once more
      ansible.builtin.systemd_service:
        name: docker
        state: reloaded

    - name: Name it no more
      truthgraph.platform.docker_daemon_config:
        state: absent
        note: /var/lib/example/daemon.json
        reloaded: true
"""

RETURN = r"""
changed_settings:
  description: Names of the top-level settings whose value differs from before.
  returned: always
  type: list
  elements: str
restart_needed:
  description: Whether a changed setting takes effect only when the engine restarts; a reload is enough for others.
  returned: always
  type: bool
unfinished:
  description: >-
    Whether the engine has to reload before everything can be taken back. After that the module is called again, with
    O(reloaded=true). A reload returns before the engine has read the file.
  returned: always
  type: bool
"""

import copy
import json
import os
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule

# What dockerd takes over on SIGHUP, from its reference documentation ("Configuration reload behavior").
RELOADABLE = frozenset(
    {
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)

# Features are read when they are used, but for those that the engine sets up when it starts.
FEATURES_AT_START = frozenset({"cdi"})

# What a reload leaves as it was where the file no longer names it, and what it is by default.
OUTLASTING: dict[str, t.Any] = {
    "allow-nondistributable-artifacts": [],
    "debug": False,
    "default-runtime": "runc",
    "insecure-registries": [],
    "labels": [],
    "live-restore": False,
    "registry-mirrors": [],
    "runtimes": {},
    "shutdown-timeout": 15,
}

Settings = dict[str, t.Any]
Note = dict[str, t.Any]


class InvalidConfiguration(ValueError):
    """The file as it stands cannot be merged into."""


class InvalidNote(ValueError):
    """The note does not say what was there before."""


def parse(text: str, path: str) -> Settings:
    """Settings in a daemon.json; an absent or empty file has none."""
    if not text.strip():
        return {}
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise InvalidConfiguration(
            f"{path} is not valid JSON ({error}). It was left untouched. Correct it by hand (comments are not "
            "allowed in it), or move it away, and run this again."
        ) from error
    if not isinstance(settings, dict):
        raise InvalidConfiguration(
            f"{path} holds a {type(settings).__name__} where a JSON object is needed. It was left untouched. "
            "Correct it by hand, or move it away, and run this again."
        )
    return settings


def merge(current: Settings, wanted: Settings) -> Settings:
    """Deep merge of two mappings; C(null) in place of a mapping counts as an empty one."""
    merged = dict(current)
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(merged.get(key) or {}, dict):
            merged[key] = merge(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged


def changed_settings(before: Settings, after: Settings) -> list[str]:
    """Names of the top-level settings that differ, sorted."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def restart_needed(before: Settings, after: Settings) -> bool:
    """Whether what differs takes effect only when the engine restarts."""
    names = set(changed_settings(before, after))
    features = [settings.get("features") or {} for settings in (before, after)]
    if "features" in names and all(isinstance(each, dict) for each in features):
        names.update(name for name in FEATURES_AT_START if features[0].get(name) != features[1].get(name))
    return not RELOADABLE.issuperset(names)


def replaced(
    current: Settings, wanted: Settings, path: t.Sequence[str] = ()
) -> tuple[list[dict[str, t.Any]], list[dict[str, t.Any]]]:
    """What a merge replaces: entries of a note, mappings apart from the values in them."""
    values, mappings = [], []
    for key, value in wanted.items():
        here = [*path, key]
        there = {"before": current[key]} if key in current else {}
        if isinstance(value, dict) and isinstance(current.get(key) or {}, dict):
            if not isinstance(current.get(key), dict):
                mappings.append({"path": here, **there})
            deeper = replaced(current.get(key) or {}, value, here)
            values += deeper[0]
            mappings += deeper[1]
        elif key not in current or current[key] != value:
            values.append({"path": here, "ours": value, **there})
    return values, mappings


def noted(note: Note | None, text: str | None, current: Settings, wanted: Settings) -> Note:
    """The note after a merge. What it knows of a value that is still ours stays: that is older than the merge."""
    note = note or {"text": text, "values": [], "mappings": []}
    values, mappings = replaced(current, wanted)
    known = {tuple(entry["path"]): entry for entry in note["values"]}
    for entry in values:
        old = known.get(tuple(entry["path"]))
        if old and holds(current, old["path"], old["ours"]):
            entry = {**old, "ours": entry["ours"]}
        known[tuple(entry["path"])] = entry
    made = {tuple(entry["path"]): entry for entry in note["mappings"] + mappings}
    return {"text": note["text"], "values": list(known.values()), "mappings": list(made.values())}


def parent_of(settings: Settings, path: list[str]) -> Settings | None:
    """The mapping in which a path ends; none where there is no such mapping any more."""
    for key in path[:-1]:
        inner = settings.get(key)
        if not isinstance(inner, dict):
            return None
        settings = inner
    return settings


def holds(settings: Settings, path: list[str], value: t.Any) -> bool:
    """Whether a path has this value."""
    parent = parent_of(settings, path)
    return parent is not None and path[-1] in parent and parent[path[-1]] == value


def taken_back(current: Settings, note: Note) -> Settings:
    """The settings without what is ours; the mappings that were made for it go last, the innermost first."""
    settings = copy.deepcopy(current)
    innermost_first = sorted(note["mappings"], key=lambda entry: -len(entry["path"]))
    for entry in note["values"] + [{**mapping, "ours": {}} for mapping in innermost_first]:
        parent = parent_of(settings, entry["path"])
        if parent is not None and holds(settings, entry["path"], entry["ours"]):
            if "before" in entry:
                parent[entry["path"][-1]] = entry["before"]
            else:
                del parent[entry["path"][-1]]
    return settings


def outlasting(before: Settings, after: Settings) -> Settings:
    """What would stay in force though it is gone, with what it is by default."""
    return {name: value for name, value in OUTLASTING.items() if name in before and name not in after}


def parse_note(text: str | None, path: str) -> Note | None:
    """What a note says; nothing where there is none."""
    if text is None:
        return None
    try:
        note: Note = json.loads(text)
        entries = note["values"] + note["mappings"]
        valid = all(isinstance(entry["path"], list) and entry["path"] for entry in entries)
        valid = valid and all("ours" in entry for entry in note["values"]) and "text" in note
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise InvalidNote(
            f"{path}, in which was written what Docker's settings were before, is damaged. Nothing was changed. "
            "Take the settings back by hand, remove this file, and run this again."
        )
    return note


def read(path: str) -> str | None:
    """Text of a file; none where there is no such file."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as handle:
        return handle.read()


def write(module: AnsibleModule, path: str, text: str, mode: int) -> None:
    """Replace a file in one step."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    os.chmod(temporary, mode)
    module.atomic_move(temporary, path)
    # A file that is new gets the mode of new files.
    os.chmod(path, mode)


def judge(module: AnsibleModule, path: str, rendered: str, result: dict[str, t.Any]) -> None:
    """End the module if dockerd does not accept the settings."""
    program = module.get_bin_path(module.params["dockerd"], opt_dirs=["/usr/sbin"])
    if program:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as handle:
            handle.write(rendered)
            handle.flush()
            code, _out, err = module.run_command([program, "--validate", f"--config-file={handle.name}"])
        # Engines before Docker 23, such as Debian 12's own, cannot be asked.
        if code != 0 and "unknown flag: --validate" not in err:
            module.fail_json(
                msg=f"dockerd does not accept the settings for {path}, which was left untouched: {err.strip()}",
                **result,
            )
    # Where the engine is gone, nobody reads what is taken back.
    elif not module.check_mode and module.params["state"] == "present":
        module.fail_json(msg=f"{module.params['dockerd']} is not installed on this host, so {path} was not written.")


def main() -> None:
    """Read, merge or take back, validate, replace."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "note": {"type": "path"},
            "reloaded": {"type": "bool", "default": False},
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "dockerd": {"type": "str", "default": "dockerd"},
        },
        required_if=[("state", "present", ["settings"]), ("state", "absent", ["note"])],
        supports_check_mode=True,
    )
    path, note_path = module.params["path"], module.params["note"]
    text = read(path)
    try:
        note_text = read(note_path) if note_path else None
        note = parse_note(note_text, note_path)
        # Nothing of ours is in the file then, so that it need not even be valid.
        if module.params["state"] == "absent" and note is None:
            module.exit_json(changed=False, changed_settings=[], restart_needed=False, unfinished=False)
        before = parse(text or "", path)
    except (InvalidConfiguration, InvalidNote) as error:
        module.fail_json(msg=str(error))

    taken = note if module.params["state"] == "absent" else None
    after = taken_back(before, taken) if taken else merge(before, module.params["settings"])
    # Named once more, so that a reload takes it back.
    named = outlasting(before, after) if taken and not module.params["reloaded"] else {}
    after.update(named)
    names = changed_settings(before, after)
    rendered: str | None = json.dumps(after, indent=2, sort_keys=True) + "\n"
    if taken:
        if not after and taken["text"] is None:
            rendered = None
        elif (taken["text"] or "").strip() and parse(taken["text"], path) == after:
            # Nobody has changed anything else: the file becomes what it was to the letter.
            rendered = taken["text"]
    rewritten = bool(names) or (rendered is None and text is not None)
    result = {
        "changed": rewritten or module.params["state"] == "absent",
        "changed_settings": names,
        "restart_needed": restart_needed(before, after),
        "unfinished": bool(named),
        "diff": {
            "before": text or "",
            "after": (rendered or "") if rewritten else text or "",
            "before_header": path,
            "after_header": path,
        },
    }
    if rewritten and rendered is not None:
        judge(module, path, rendered, result)
    if module.check_mode:
        module.exit_json(**result)

    # The note is there before the settings are: killed in between, it knows of values that are not ours, which stay.
    if module.params["state"] == "present" and note_path and names:
        wanted = json.dumps(noted(note, text, before, module.params["settings"]), indent=2, sort_keys=True) + "\n"
        if wanted != note_text:
            write(module, note_path, wanted, 0o600)
    if rewritten and rendered is None:
        os.unlink(path)
    elif rewritten and rendered is not None:
        write(module, path, rendered, os.stat(path).st_mode & 0o777 if text is not None else 0o644)
    if taken and named:
        left = [{"path": [name], "ours": value} for name, value in named.items()]
        rest = {"text": taken["text"], "values": left, "mappings": []}
        write(module, note_path, json.dumps(rest, indent=2, sort_keys=True) + "\n", 0o600)
    elif taken:
        os.unlink(note_path)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
