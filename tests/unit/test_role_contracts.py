"""What every role and every tracked file has to keep to."""

from __future__ import annotations

import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())

# Hosts of public package registries, in two parts so that this file does not name them either. The package index, the
# archive and the mirror are those of the machine, wherever the collection runs.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("deb", "debian.org"),
        ("pypi", "org"),
        ("files", "pythonhosted.org"),
        ("registry", "npmjs.org"),
    )
]

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)


def document(path: Path) -> dict[str, t.Any]:
    """The one document of a YAML file; none where there is no such file."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def tracked_files() -> list[Path]:
    """Files of the checkout that git does not ignore, committed or not."""
    answer = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def specifications(role: Path) -> dict[str, t.Any]:
    told: dict[str, t.Any] = document(role / "meta" / "argument_specs.yml").get("argument_specs", {})
    return told


@each_role
def test_defaults_and_specification_name_the_same_variables(role: Path) -> None:
    defaults = set(document(role / "defaults" / "main.yml") or {})
    described = {}
    for specification in specifications(role).values():
        described.update(specification.get("options", {}))
    required = {name for name, option in described.items() if option.get("required")}
    assert defaults == set(described) - required
    assert not defaults & required, "a required variable has a default"


@each_role
def test_defaults_of_the_specification_are_those_of_the_role(role: Path) -> None:
    defaults = document(role / "defaults" / "main.yml") or {}
    differing = {
        name: (option["default"], defaults[name])
        for specification in specifications(role).values()
        for name, option in specification.get("options", {}).items()
        if "default" in option
        and option["default"] != defaults[name]
        # A variable that follows another one, such as a port of the fleet, has the other one's default.
        and not (isinstance(defaults[name], str) and "{{" in defaults[name])
    }
    assert not differing


@each_role
def test_every_default_can_be_worked_out_where_it_is_an_option(role: Path) -> None:
    """Ansible works out every option of an entry point before its first task, whether it is used or not."""
    defaults = document(role / "defaults" / "main.yml") or {}
    undefined = []
    for entry_point, specification in specifications(role).items():
        options = specification.get("options", {})
        known = set(defaults) | {name for name, option in options.items() if option.get("required")}
        for name in set(options) & set(defaults):
            used = re.findall(rf"\b{role.name}_\w+", str(defaults[name]))
            undefined += [f"{entry_point}: {name} needs {one}" for one in used if one not in known]
    assert not undefined


@each_role
def test_every_option_and_entry_point_is_described(role: Path) -> None:
    for entry_point, specification in specifications(role).items():
        assert specification.get("short_description"), entry_point
        for name, option in specification.get("options", {}).items():
            assert option.get("description") and option.get("type"), name


@each_role
def test_entry_points_are_there(role: Path) -> None:
    for entry_point in specifications(role):
        # Some roles are used for their variables, and say so by the name of what describes them.
        if entry_point != "variables":
            assert (role / "tasks" / f"{entry_point}.yml").is_file(), entry_point


@each_role
def test_every_default_is_preceded_by_a_sentence(role: Path) -> None:
    path = role / "defaults" / "main.yml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    bare = []
    for number, line in enumerate(lines):
        if not re.match(r"[a-z]\w*:", line):
            continue
        comment: list[str] = []
        while number and lines[number - 1].startswith("#"):
            number -= 1
            comment.insert(0, lines[number].lstrip("# "))
        if not " ".join(comment).endswith((".", ").", '".')):
            bare.append(line)
    assert not bare


@each_role
def test_variables_carry_the_name_of_their_role(role: Path) -> None:
    for name in document(role / "defaults" / "main.yml") or {}:
        assert name.startswith(f"{role.name}_"), name
    for path in (role / "vars").rglob("*.yml"):
        for name in document(path):
            assert name.startswith(f"__{role.name}_"), name
    for specification in specifications(role).values():
        for name in specification.get("options", {}):
            assert name.startswith(f"{role.name}_"), name


@each_role
def test_facts_and_results_carry_the_name_of_their_role(role: Path) -> None:
    wanted = re.compile(rf"(__)?{role.name}_")

    def tasks(node: t.Any) -> t.Iterator[dict[str, t.Any]]:
        for item in node or []:
            yield item
            for part in ("block", "rescue", "always"):
                yield from tasks(item.get(part))

    for path in sorted(role.glob("tasks/*.yml")) + sorted(role.glob("handlers/*.yml")):
        for task in tasks(document(path)):
            names = [task["register"]] if "register" in task else []
            names += [name for name in task.get("ansible.builtin.set_fact", {}) if name != "cacheable"]
            for name in names:
                assert wanted.match(name), f"{path.name}: {name}"


@each_role
def test_readme_names_the_role_and_points_to_its_variables(role: Path) -> None:
    text = (role / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {role.name}\n")
    if document(role / "defaults" / "main.yml"):
        assert "(defaults/main.yml)" in text


@each_role
def test_meta_has_description_and_dependencies(role: Path) -> None:
    meta = document(role / "meta" / "main.yml")
    assert meta["galaxy_info"]["description"]
    assert isinstance(meta["dependencies"], list)


@each_role
def test_a_role_that_uses_the_fleet_depends_on_it(role: Path) -> None:
    if role.name == "fleet":
        return
    used = any(
        re.search(r"\b(__)?fleet_[a-z]", path.read_text(encoding="utf-8"))
        for part in ("defaults", "vars", "tasks", "templates", "handlers")
        for path in role.glob(f"{part}/**/*")
        if path.is_file()
    )
    depends = {"role": "truthgraph.platform.fleet"} in document(role / "meta" / "main.yml")["dependencies"]
    assert depends or not used


def test_no_file_names_a_public_package_registry() -> None:
    found = []
    for path in tracked_files():
        text = path.read_bytes()
        found += [f"{path.relative_to(ROOT)}: {host}" for host in REGISTRY_HOSTS if host.encode() in text]
    assert not found


def test_every_role_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for role in ROLES:
        assert f"roles/{role.name}" in text, role.name
