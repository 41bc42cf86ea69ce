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
  - Roles use a value as it stands, so it has to be what it is to be. A number is no text, a text no list, and nothing at all is
    neither. Numbers, and true and false, may be written as texts, since C(-e name=value) gives texts.
  - Besides type and choices, what the name of a variable says is looked at. C(_port) is a port, C(_memory) and C(_shm_size)
    sizes as the engine knows them, C(_subnet) a network, C(_url) a URL, C(_path) the path of a URL, and a path of a file is
    absolute. No number is negative, unless the default is.
  - A value that refers to a variable that nothing sets is a problem. One that cannot be worked out yet is left to the role.
positional: _terms
options:
  _terms:
    description: Names of roles of this collection. By default all that have variables.
    type: list
    elements: str
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

- name: Check the variables of all roles
  ansible.builtin.assert:
    that: query('truthgraph.platform.option_problems') | length == 0
"""

RETURN = r"""
_raw:
  description: A sentence for each problem, which names the variable and what it has to be. Secrets are not shown.
  type: list
  elements: str
"""

import difflib
import functools
import pathlib
import re
import typing as t

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.lookup import LookupBase

from ansible_collections.truthgraph.platform.plugins.plugin_utils.option_values import wrong

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
NEAR = 0.9


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


def problem(name: str, value: t.Any, specification: dict[str, t.Any], default: t.Any, written: t.Any = None) -> str:
    """Return what is wrong with the value of a variable, as a sentence; nothing if it is right.

    `written` is the value as it stands in a playbook or an inventory, which may name the variable that somebody has given.
    """
    wanted = wrong(name, value, specification, default)
    if not wanted:
        return ""
    source = re.match(r"\{\{ (\w+) (\||\}\})", written) if isinstance(written, str) else None
    name = f"{name} (from {source[1]})" if source else name
    if value is None:
        return f"{name} has no value; it has to be {wanted}. Take the line out to have the default."
    # An address may have a password in it.
    shown = "(not shown)" if specification.get("no_log") else re.sub(r"//[^/@\s]*@", "//...@", repr(value))
    return f"{name} is {shown}; it has to be {wanted}."


def unset(name: str, error: AnsibleError) -> str:
    """Return that a value refers to a variable that nothing sets, as a sentence; nothing if it may be known later."""
    found = re.search(r"'(\w+)' is undefined", str(error)) if isinstance(error, AnsibleUndefinedVariable) else None
    if not found or found[1] in named() or found[1].startswith("ansible_"):
        return ""
    return f"{name} refers to {found[1]}, which nothing sets. Set it in the inventory, a password in a vault there."


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[str]:
        """Look at the variables of the host, as they were set."""
        self.set_options(var_options=variables, direct=kwargs)
        roles = terms or sorted(path.parents[1].name for path in ROLES.glob("*/meta/argument_specs.yml"))
        known = {name: found for role in roles for name, found in options_of(role).items()}
        if self.get_option("names"):
            mine = tuple(f"{role}_" for role in roles)
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
            except AnsibleError as error:
                problems.append(unset(name, error))
                continue
            problems.append(problem(name, value, specification, default, variables[name]))
        return [one for one in problems if one]
