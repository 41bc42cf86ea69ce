"""What the collection needs: said once in each of the files that Galaxy, pip and ansible-builder read, and the same in all."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import ansible_collections

ROOT = Path(__file__).resolve().parents[2]
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
RUNTIME = SpecifierSet(yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))["requires_ansible"])
TOOLCHAINS = ["requirements.txt", "requirements-newest.txt"]
# A module or plugin by its full name. What Python imports of Ansible itself looks the same.
USED = re.compile(
    r"^(?!.*\bimport(?:_module)?\b).*?\b((?:ansible\.(?!builtin|legacy)|community\.)[a-z]+)\.[a-z]", flags=re.MULTILINE
)


def requirements(path: str) -> dict[str, Requirement]:
    """The requirements of a file, by name; options and comments are left out."""
    lines = [line.split(" #")[0].rstrip(" \\") for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if re.match(r"[A-Za-z]", line)]
    return {requirement.name.lower(): requirement for requirement in found}


def lowest(specifiers: SpecifierSet) -> Version:
    (found,) = [Version(one.version) for one in specifiers if one.operator == ">="]
    return found


def installed(collection: str) -> Version:
    """The version that the toolchain has of a collection."""
    places = (Path(entry, collection.replace(".", "/")) for entry in ansible_collections.__path__)
    (directory,) = [place for place in places if place.is_dir()]
    return Version(json.loads((directory / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]["version"])


def test_ansible_core_of_the_toolchain_is_the_oldest_that_is_supported() -> None:
    """What is said to work is what the tests run with, and nothing older."""
    pinned = Version(next(iter(requirements("requirements.txt")["ansible-core"].specifier)).version)
    assert pinned in RUNTIME
    assert pinned.release[:2] == lowest(RUNTIME).release[:2]


@pytest.mark.parametrize("package", ["ansible", "ansible-core"])
def test_what_is_installed_is_what_was_asked_for(package: str) -> None:
    """By `make setup`, or in its newest versions by `make test-newest`."""
    pinned = [Version(next(iter(requirements(path)[package].specifier)).version) for path in TOOLCHAINS]
    assert Version(version(package)) in pinned and pinned[0] < pinned[1]


@pytest.mark.parametrize(
    ("asked", "pinned"), [("requirements.in", "requirements.txt"), ("requirements-newest.in", "requirements-newest.txt")]
)
def test_the_package_ansible_is_the_one_that_was_asked_for(asked: str, pinned: str) -> None:
    (found,) = requirements(pinned)["ansible"].specifier
    assert Version(found.version) in requirements(asked)["ansible"].specifier


def test_requirements_name_what_was_asked_for() -> None:
    assert set(requirements("requirements.in")) <= set(requirements("requirements.txt"))


@pytest.mark.parametrize("collection", GALAXY["dependencies"])
def test_the_toolchain_has_every_collection_in_a_version_that_galaxy_would_take(collection: str) -> None:
    wanted = SpecifierSet(GALAXY["dependencies"][collection])
    assert lowest(wanted) and installed(collection) in wanted


def test_collections_that_are_used_are_those_that_are_depended_on() -> None:
    used = {
        name
        for part in ("inventories", "playbooks", "plugins", "roles")
        for path in (ROOT / part).rglob("*")
        if path.suffix in (".yml", ".j2", ".py")
        for name in USED.findall(path.read_text(encoding="utf-8"))
    }
    assert used == set(GALAXY["dependencies"])


def test_the_readme_says_the_same() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"^\| ansible-core \| (\d+\.\d+)", text, flags=re.MULTILINE)
    assert Version(said) == Version(f"{lowest(RUNTIME).major}.{lowest(RUNTIME).minor}")


def test_the_readme_installs_the_archive_that_is_built() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"collection install truthgraph-platform-{GALAXY['version']}.tar.gz\n" in text


def test_the_changelog_knows_the_version() -> None:
    assert f"\n## {GALAXY['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_an_execution_environment_has_what_plugins_ask_for() -> None:
    """Of what the toolchain has for itself, plugins on the control node use these."""
    needed = requirements("meta/ee-requirements.txt")
    assert set(needed) <= set(requirements("requirements.in"))
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "plugins").rglob("*.py"))
    asked = set(re.findall(r"^  - ([a-z-]+) \(on the control node\)$", text, flags=re.MULTILINE))
    assert asked and asked <= set(needed)


def test_an_execution_environment_is_built_of_the_same_versions() -> None:
    document = yaml.safe_load((ROOT / "execution-environment.yml").read_text(encoding="utf-8"))
    image = document["dependencies"]
    assert Requirement(image["ansible_core"]["package_pip"]).specifier == RUNTIME
    named = {entry["name"]: entry for entry in image["galaxy"]["collections"]}
    (archive,) = [entry for entry in named.values() if entry.get("type") == "file"]
    name = f"truthgraph-platform-{GALAXY['version']}.tar.gz"
    assert archive["name"] == f"galaxy/{name}"
    # Where ansible-builder puts it in its context.
    assert document["additional_build_files"] == [{"src": name, "dest": "galaxy"}]
