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
options:
  settings:
    description: What the file must say.
    type: dict
    required: true
  path:
    description: The engine's configuration file.
    type: path
    default: /etc/docker/daemon.json
  dockerd:
    description: The engine's program, asked to validate the file before it is put in place.
    type: str
    default: dockerd
attributes:
  check_mode:
    description: Answers what would change, changes nothing.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
author: The truthgraph.platform developers
"""

EXAMPLES = r"""
- name: Rotate the containers' logs
  truthgraph.platform.docker_daemon_config:
    settings:
      log-driver: local
      log-opts: {max-size: 10m}
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
"""

import json
import os
import tempfile

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


class InvalidConfiguration(ValueError):
    """The file as it stands cannot be merged into."""


def parse(text, path):
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


def merge(current, wanted):
    """Deep merge of two mappings; C(null) in place of a mapping counts as an empty one."""
    merged = dict(current)
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(merged.get(key) or {}, dict):
            merged[key] = merge(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged


def changed_settings(before, after):
    """Names of the top-level settings that differ, sorted."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def main():
    """Read, merge, validate, replace."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "required": True},
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "dockerd": {"type": "str", "default": "dockerd"},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    text = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as handle:
            text = handle.read()
    try:
        before = parse(text, path)
    except InvalidConfiguration as error:
        module.fail_json(msg=str(error))
    after = merge(before, module.params["settings"])
    names = changed_settings(before, after)
    rendered = json.dumps(after, indent=2, sort_keys=True) + "\n"
    result = {
        "changed": bool(names),
        "changed_settings": names,
        "restart_needed": not RELOADABLE.issuperset(names),
        "diff": {"before": text, "after": rendered if names else text, "before_header": path, "after_header": path},
    }
    if not names:
        module.exit_json(**result)

    program = module.get_bin_path(module.params["dockerd"], opt_dirs=["/usr/sbin"])
    if program:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as handle:
            handle.write(rendered)
            handle.flush()
            code, _out, err = module.run_command([program, "--validate", f"--config-file={handle.name}"])
        if code != 0:
            module.fail_json(
                msg=f"dockerd does not accept the settings for {path}, which was left untouched: {err.strip()}",
                **result,
            )
    elif not module.check_mode:
        module.fail_json(msg=f"{module.params['dockerd']} is not installed on this host, so {path} was not written.")

    if not module.check_mode:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(rendered)
        os.chmod(temporary, mode)
        module.atomic_move(temporary, path)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
