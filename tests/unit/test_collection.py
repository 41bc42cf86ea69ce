"""The collection as its users get it: built, installed where nothing else is, and used from a directory without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import typing as t
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import ansible_collections

ROOT = Path(__file__).resolve().parents[2]
NAME = "truthgraph.platform"
TOOLS = Path(sys.executable).parent
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))

# What a user needs. Whatever else is in the checkout is for who works on the collection, and named in build_ignore.
SHIPPED_FILES = {"CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md"}
SHIPPED_DIRECTORIES = {"docs", "files", "inventories", "meta", "playbooks", "plugins", "roles"}
# Programs in these that are for who works on the collection.
NOT_SHIPPED = {"docs/generate.py"}
# What ansible-galaxy adds.
MANIFEST = {"MANIFEST.json", "FILES.json"}

PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))


def run(*command: str | Path, cwd: Path, **variables: str | Path) -> str:
    """What a command says that has to succeed; of Ansible's settings it has only these."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, **{name: str(value) for name, value in variables.items()}},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that `make collection` builds."""
    directory = tmp_path_factory.mktemp("archive")
    run(TOOLS / "ansible-galaxy", "collection", "build", ROOT, "--output-path", directory, cwd=directory, HOME=directory)
    (path,) = directory.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as tar:
        return {member.name: member for member in tar.getmembers()}


class Control(t.NamedTuple):
    """A control node that has Ansible, the collections that this one depends on, and this one from its archive."""

    directory: Path
    installed: Path
    variables: dict[str, t.Any]

    def run(self, tool: str, *arguments: str | Path) -> str:
        return run(TOOLS / tool, *arguments, cwd=self.directory, **self.variables)


@pytest.fixture(scope="module")
def control(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Control:
    """No Galaxy is asked: what the collection depends on is the toolchain's."""
    home = tmp_path_factory.mktemp("home")
    needed = home / "needed" / "ansible_collections"
    for namespace in {name.partition(".")[0] for name in GALAXY["dependencies"]}:
        (needed / namespace).mkdir(parents=True)
    for name in GALAXY["dependencies"]:
        part = name.replace(".", "/")
        (source,) = [Path(path, part) for path in ansible_collections.__path__ if Path(path, part).is_dir()]
        (needed / part).symlink_to(source)
    variables: dict[str, str | Path] = {
        "HOME": home,
        "ANSIBLE_HOME": home / "ansible",
        "ANSIBLE_COLLECTIONS_PATH": f"{home}/collections:{home}/needed",
        # The checkout is among the toolchain's collections, so that these are left out.
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
    }
    arguments: list[str | Path] = ["collection", "install", "--no-deps", "--collections-path", home / "collections", archive]
    run(TOOLS / "ansible-galaxy", *arguments, cwd=home, **variables)
    empty = home / "elsewhere"
    empty.mkdir()
    return Control(empty, home / "collections" / "ansible_collections" / NAME.replace(".", "/"), variables)


def tracked() -> dict[str, bool]:
    """Files of the checkout that git does not ignore, committed or not, and whether each may be executed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name: os.access(ROOT / name, os.X_OK) for name in names if name and (ROOT / name).is_file()}


def test_at_its_top_is_what_users_need_and_nothing_else(members: dict[str, tarfile.TarInfo]) -> None:
    assert {name.partition("/")[0] for name in members} == SHIPPED_FILES | SHIPPED_DIRECTORIES | MANIFEST


def test_it_has_every_file_of_these_and_none_that_git_does_not_know(members: dict[str, tarfile.TarInfo]) -> None:
    shipped = {name: may for name, may in tracked().items() if name.partition("/")[0] in SHIPPED_FILES | SHIPPED_DIRECTORIES}
    wanted = {name: may for name, may in shipped.items() if name not in NOT_SHIPPED}
    found = {name: bool(member.mode & 0o100) for name, member in members.items() if member.isfile()}
    assert {name: may for name, may in found.items() if name not in MANIFEST} == wanted
    # Directories, too: caches leave theirs everywhere.
    parents = {str(parent) for name in wanted for parent in Path(name).parents} - {"."}
    assert {name for name, member in members.items() if member.isdir()} == parents


def test_nothing_in_it_is_a_link(members: dict[str, tarfile.TarInfo]) -> None:
    assert not [name for name, member in members.items() if not member.isfile() and not member.isdir()]


@pytest.mark.parametrize(
    "name",
    [
        "files/dockerfiles/truthgraph.Dockerfile",
        "files/dockerfiles/base/python/Dockerfile",
        "files/app/pyproject.toml",
        "files/app/alembic/versions/0001_evidence.py",
        "files/app/truthgraph/ml/service.py",
        "inventories/README.md",
        "inventories/prod/eu.yml",
        "inventories/prod/group_vars/eu/vault.yml",
        "inventories/prod/group_vars/truthgraph/vault.yml",
        "inventories/staging/hosts.yml",
        "meta/runtime.yml",
        "playbooks/deploy.yml",
        "plugins/plugin_utils/report.html.j2",
        "roles/lab_gpu/files/repository/packages/nvidia-container-toolkit/DEBIAN/control",
    ],
)
def test_it_has_what_a_deploy_needs(members: dict[str, tarfile.TarInfo], name: str) -> None:
    assert name in members


def test_every_playbook_is_found_by_its_name(control: Control) -> None:
    names = [f"{NAME}.{name}" for name in PLAYBOOKS]
    said = control.run("ansible-playbook", "--syntax-check", "-i", control.installed / "inventories/staging", *names)
    found = {line.removeprefix("playbook: ") for line in said.splitlines() if line.startswith("playbook: ")}
    # Ansible repeats the name, or says where it was found; another place would be another copy of the collection.
    assert found in (set(names), {f"{control.installed}/playbooks/{name}.yml" for name in PLAYBOOKS})


def test_a_deploy_has_its_steps_in_their_order(control: Control) -> None:
    said = control.run("ansible-playbook", "--list-tasks", "-i", control.installed / "inventories/staging", f"{NAME}.deploy")
    steps = ["Check the inventory", "Step 2, preflight", "Step 4, hosts", "Plan the release", "Steps 8 to 10, for what differs"]
    places = [said.find(f": {step}\t") for step in steps]
    assert -1 not in places and places == sorted(places), said


# Kinds of what can be looked up, and the directories of their files.
KINDS = {
    "role": "roles",
    "module": "plugins/modules",
    "filter": "plugins/filter",
    "lookup": "plugins/lookup",
    "callback": "plugins/callback",
}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_can_be_looked_up(control: Control, kind: str) -> None:
    listed = set(json.loads(control.run("ansible-doc", "--type", kind, "--list", "--json", NAME)))
    described = json.loads(control.run("ansible-doc", "--type", kind, "--json", *sorted(listed)))
    assert set(described) == listed
    files = [path for path in (ROOT / KINDS[kind]).iterdir() if path.suffix in ("", ".py") and path.name != "__pycache__"]
    if kind == "filter":
        # A file has several.
        modules = [import_module(f"ansible_collections.{NAME}.plugins.filter.{path.stem}") for path in files]
        wanted = {name for module in modules for name in module.FilterModule().filters()}
    else:
        wanted = {path.stem for path in files}
    assert listed == {f"{NAME}.{name}" for name in wanted}
    for name, found in described.items():
        text = found.get("doc", found)
        assert text.get("description") or text.get("short_description") or text.get("entry_points"), name


def test_a_playbook_that_needs_no_host_runs(control: Control) -> None:
    """From a directory that has an inventory and nothing else; and what the sites of one share is found in the archive, too."""
    (control.directory / "password").write_text("example")
    for inventory, address in {"staging": "192.0.2.21", "prod/us.yml": "10.30.0.31"}.items():
        options = (f"{NAME}.metrics", "--vault-password-file", "password", "-e", f"metrics_directory={control.directory}/written")
        control.run("ansible-playbook", "-i", control.installed / "inventories" / inventory, *options)
        targets = yaml.safe_load((control.directory / "written/targets.yml").read_text())
        assert any(address in target for group in targets for target in group["targets"]), inventory


BUILD_NOTHING = f"""
- name: Look at what would be built
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Look at the reference application, and choose its Python by the Dockerfile
      ansible.builtin.include_role:
        name: {NAME}.image_build
        tasks_from: source
    - name: Say what was found
      ansible.builtin.copy:
        content: "{{{{ image_build_tree | combine({{'python': image_build_python}}) | to_json }}}}"
        dest: found.json
        mode: "0600"
"""


def test_a_role_of_it_is_usable_in_ones_own_playbook(control: Control) -> None:
    """The one that needs most of what is neither a role nor a plugin: the Dockerfiles and the reference application."""
    (control.directory / "own.yml").write_text(BUILD_NOTHING)
    variables = f"fleet_name=own inference_device=cpu ansible_python_interpreter={sys.executable}"
    control.run("ansible-playbook", "-i", "localhost,", "-c", "local", "own.yml", "-e", variables)
    found = json.loads((control.directory / "found.json").read_text())
    assert Path(found["path"]) == control.installed / "files/app"
    assert found["version"] and found["python"]


def test_the_licence_is_the_one_that_is_named() -> None:
    """The full text of version 3; what makes it "or later" is said where the licence is named."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert " ".join(text.split()).startswith("GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007")
    assert "END OF TERMS AND CONDITIONS" in text and "17. Interpretation of Sections 15 and 16." in text
    assert GALAXY["license"] == ["GPL-3.0-or-later"]
    assert "GPL-3.0-or-later" in (ROOT / "README.md").read_text(encoding="utf-8")
    for role in sorted((ROOT / "roles").iterdir()):
        named = yaml.safe_load((role / "meta/main.yml").read_text(encoding="utf-8"))["galaxy_info"]["license"]
        assert named == "GPL-3.0-or-later", role.name
