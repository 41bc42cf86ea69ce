# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup: which variables of roles have a value that cannot be right."""

from __future__ import annotations

DOCUMENTATION = r"""
name: option_problems
short_description: Find variables of this collection's roles whose value cannot be right
version_added: 0.1.0
description:
  - Compares every variable that somebody has set with what its role says of it in C(meta/argument_specs.yml), so that all of
    them are known before anything is changed, and not when a role comes to its turn. A value that is the role's default is
    not looked at.
  - Besides type and choices, what the name of a variable says is looked at. C(_port) is a port, C(_memory) and C(_shm_size)
    sizes as the engine knows them, C(_subnet) a network, C(_url) a URL, C(_path) the path of a URL, and a path of a file is
    absolute. No number is negative, unless the default is.
  - A value that cannot be worked out yet is left to the role.
positional: _terms
options:
  _terms:
    description: Names of roles of this collection.
    type: list
    elements: str
    required: true
  names:
    description: >-
      Answer names instead that no role has, and that are nearly the name of a variable that one has. What the roles' own
      files name is none of them.
    type: bool
    default: false
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Check the proxy's variables
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: "{{ query('truthgraph.platform.option_problems', 'fleet', 'proxy') }}"
"""

RETURN = r"""
_raw:
  description: A sentence for each problem, which names the variable and what it has to be. Secrets are not shown.
  type: list
  elements: str
"""

import difflib
import functools
import ipaddress
import pathlib
import re
import typing as t

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.lookup import LookupBase

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
# What the specification of a role says besides what the validator takes.
SPOKEN = {"description", "default", "version_added"}
SIZE = re.compile(r"\d+(\.\d+)?([bkmg]b?)?", re.IGNORECASE)
NEAR = 0.9
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a dictionary", "list": "a list"}


@functools.cache
def options_of(role: str) -> dict[str, tuple[dict[str, t.Any], t.Any]]:
    """Return specification and default of each variable of a role, by its name."""
    defaults_file = ROLES / role / "defaults" / "main.yml"
    try:
        specifications = yaml_load((ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AnsibleError(f"option_problems: there is no role {role} with a specification.") from error
    defaults = yaml_load(defaults_file.read_text(encoding="utf-8")) if defaults_file.exists() else None
    found: dict[str, dict[str, t.Any]] = {}
    for entry in specifications["argument_specs"].values():
        found.update(entry.get("options") or {})
    return {name: (found[name], default) for name, default in (defaults or {}).items()}


@functools.cache
def named() -> frozenset[str]:
    """Return every word that the roles' own files have."""
    texts = (path.read_text(encoding="utf-8") for path in ROLES.glob("*/*/**/*") if path.suffix in (".yml", ".j2"))
    return frozenset(word for text in texts for word in re.findall(r"\b[a-z]+_\w+\b", text))


def is_network(value: str) -> bool:
    """Say whether it is a network."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return "/" in value


def wrong_by_name(name: str, value: t.Any, default: t.Any, kind: str) -> str:
    """Return what a value of the right type has to be besides, or nothing if it is that."""
    if kind in ("int", "float"):
        if name.endswith("_port") and not 0 <= float(value) <= 65535:
            return "a port, 1 to 65535"
        negative = isinstance(default, int | float) and default < 0
        return "" if float(value) >= 0 or negative else "a number that is not negative"
    text = str(value)
    if kind == "path":
        return "" if text.startswith(("/", "~")) else "an absolute path"
    if kind != "str" or not text:
        return ""
    if name.endswith(("_memory", "_shm_size")):
        return "" if SIZE.fullmatch(text) else "a size such as 512m or 4g"
    if name.endswith("_subnet"):
        return "" if is_network(text) else "a network such as 172.30.240.0/24"
    if name.endswith("_url"):
        return "" if re.match(r"https?://\S+$", text) else "a URL that begins with https:// or http://"
    if name.endswith("_path"):
        return "" if text.startswith("/") else "a path that begins with /"
    return ""


def problem(name: str, value: t.Any, specification: dict[str, t.Any], default: t.Any) -> str:
    """Return what is wrong with the value of a variable, as a sentence; nothing if it is right."""
    secret = specification.get("no_log", False)
    shown = "(not shown)" if secret else repr(value)
    known = {key: what for key, what in specification.items() if key not in SPOKEN}
    result = ArgumentSpecValidator({name: known}).validate({name: value})
    kind = specification.get("type", "str")
    if kind == "str" and isinstance(value, list | dict):
        return f"{name} is {shown}; it has to be a text."
    if result.error_messages:
        choices = specification.get("choices")
        if choices and kind != "list":
            wanted = f"one of {', '.join(repr(choice) for choice in choices)}"
        elif choices:
            wanted = f"a list, each one of {', '.join(repr(choice) for choice in choices)}"
        else:
            names = {
                "int": "a whole number",
                "float": "a number",
                "bool": "true or false",
                "dict": "a dictionary",
                "list": "a list",
            }
            wanted = names.get(kind, f"a {kind}")
        return f"{name} is {shown}; it has to be {wanted}."
    wanted = wrong_by_name(name, result.validated_parameters[name], default, kind)
    return f"{name} is {shown}; it has to be {wanted}." if wanted else ""


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[str]:
        """Look at the variables of the host, as they were set."""
        self.set_options(var_options=variables, direct=kwargs)
        known = {name: found for role in terms for name, found in options_of(role).items()}
        if self.get_option("names"):
            mine = tuple(f"{role}_" for role in terms)
            unknown = sorted(name for name in variables if name.startswith(mine) and name not in named())
            near = {name: difflib.get_close_matches(name, known, 1, NEAR) for name in unknown}
            return [f"There is no variable {name}. Is {other[0]} meant?" for name, other in near.items() if other]
        assert self._templar is not None
        problems = []
        for name in sorted(name for name in variables if name in known):
            specification, default = known[name]
            if variables[name] == default:
                continue
            try:
                value = self._templar.template(variables[name])
            except AnsibleError:
                continue
            problems.append(problem(name, value, specification, default))
        return [one for one in problems if one]
