"""Each role has scenarios of Molecule: as shipped, and with most of its variables changed."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "molecule/shared/role/molecule.yml"
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())

# Roles that make sense only within a deploy, and the scenarios that see what they do.
WITHIN_A_DEPLOY = {
    "adopt": ["adopt"],
    "api": ["default", "rollout", "data"],
    "base_images": ["default"],
    "fleet": ["default", "promote"],
    "image_build": ["default", "monolith"],
    "inference": ["default", "nvidia"],
    "lab": ["default"],
    "lab_gpu": ["default", "nvidia"],
    "release": ["default", "rollout", "failures", "crash"],
}
# Others that have no scenarios of their own so far, and those that see what they do in the fleet.
NOT_YET = {
    "backup": ["data"],
    "postgres": ["default", "data", "secrets"],
}
ALONE = [name for name in ROLES if name not in {**WITHIN_A_DEPLOY, **NOT_YET}]

# What an alternative scenario leaves as shipped, by the reason.
LEFT_OUT = {
    "certificates": {"said in a refusal only": ["brought_by"]},
    "docker_engine": {"said in a refusal only": ["allow_restart_variable"]},
    "postgres": {
        "names in a certificate that is issued, and one is brought": ["subjects"],
        "for playbooks/upgrade_postgres.yml, which the scenario data tries": [
            "upgrade_api_retries",
            "upgrade_back",
            "upgrade_break_lock",
            "upgrade_confirmed",
            "upgrade_drain",
            "upgrade_lock_lease",
            "upgrade_socket_dir",
        ],
    },
    "registry": {
        "names in a certificate that is issued, and one is brought": ["subjects"],
        "for a registry that is yet to come, as in a deploy in check mode": ["check_strict"],
        "an engine looks nowhere else": ["client_certs_dir"],
        "for the entry point prune, which tests/integration tries": [
            "prune_keep",
            "prune_keep_tags",
            "prune_known",
            "prune_repositories",
            "prune_tag_prefix",
        ],
    },
}
# What has no default that would do, so that it has to be said even as shipped.
HAS_TO_BE_SAID = {
    "nvidia_container_toolkit_repository_url": "NVIDIA's own is not reachable everywhere",
    "postgres_image": "it is required",
}


def defaults(role: str) -> set[str]:
    """Return the variables of a role; of one that has none itself, those of the fleet that it uses."""
    path = ROOT / "roles" / role / "defaults/main.yml"
    if path.exists():
        return {*yaml.safe_load(path.read_text(encoding="utf-8"))}
    used = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "roles" / role / "tasks").glob("*.yml"))
    return {*re.findall(r"\bfleet_\w+", used)}


def names(node: t.Any) -> set[str]:
    """Return all keys in a document."""
    if isinstance(node, list):
        return set().union(*map(names, node))
    return {*node}.union(*map(names, node.values())) if isinstance(node, dict) else set()


def document(scenario: str, name: str) -> t.Any:
    return yaml.safe_load((ROOT / "molecule" / scenario / name).read_text(encoding="utf-8"))


def said(scenario: str) -> set[str]:
    """Return the variables that a scenario sets."""
    return names(document(scenario, "converge.yml")) | names(document(scenario, "hosts.yml"))


def values(node: t.Any, wanted: str) -> list[t.Any]:
    """Return what stands in a document by a key."""
    if not isinstance(node, dict):
        return []
    own = [node[wanted]] if wanted in node else []
    return own + [value for below in node.values() for value in values(below, wanted)]


each_role = pytest.mark.parametrize("role", ALONE)
each_scenario = pytest.mark.parametrize("scenario", [name for role in ALONE for name in (role, f"{role}-alternative")])


def test_a_role_without_scenarios_is_said_to_have_others() -> None:
    assert {*WITHIN_A_DEPLOY, *NOT_YET} <= {*ROLES}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for role, scenarios in {**WITHIN_A_DEPLOY, **NOT_YET}.items():
        assert not (ROOT / "molecule" / role / "converge.yml").exists() or role in scenarios, role
        assert re.search(rf"^\| .*`{role}`.* \| {', '.join(f'`{name}`' for name in scenarios)} \|$", text, re.MULTILINE), role
        assert all((ROOT / "molecule" / name / "tests").is_dir() for name in scenarios), role


@each_scenario
def test_a_scenario_is_what_all_are_and_has_its_own(scenario: str) -> None:
    directory = ROOT / "molecule" / scenario
    assert (directory / "molecule.yml").is_symlink() and (directory / "molecule.yml").resolve() == SHARED
    assert [*(directory / "tests").glob("test_*.py")]
    role = f"truthgraph.platform.{scenario.removesuffix('-alternative')}"
    assert role in (directory / "converge.yml").read_text(encoding="utf-8")


@each_role
def test_both_releases_of_debian_are_used(role: str) -> None:
    assert values(document(role, "hosts.yml"), "scenario_suite") == []
    assert "bookworm" in values(document(f"{role}-alternative", "hosts.yml"), "scenario_suite")


@each_scenario
def test_hosts_are_not_those_of_the_lab(scenario: str) -> None:
    found = values(document(scenario, "hosts.yml"), "ansible_host")
    assert found and {*found} <= {f"10.203.77.{number}" for number in range(171, 180)}


@each_role
def test_as_shipped_nothing_is_set_that_need_not_be(role: str) -> None:
    if (ROOT / "roles" / role / "defaults/main.yml").exists():
        assert said(role) & defaults(role) <= {*HAS_TO_BE_SAID}


@each_role
def test_the_alternative_sets_all_but_what_is_left_out_with_a_reason(role: str) -> None:
    left = {f"{role}_{name}" for found in LEFT_OUT.get(role, {}).values() for name in found}
    assert defaults(role) - said(f"{role}-alternative") == left
    assert len(left) < len(defaults(role)) / 2
