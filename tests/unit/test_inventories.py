"""The inventories that one copies: what is in them, that they can be read as they are, and that nobody can deploy them so."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.truthgraph.platform.molecule.shared import sites

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = ROOT / "inventories"
SITES = {"eu": "prod/eu.yml", "us": "prod/us.yml"}
FLEETS = {"staging": "staging", **SITES}
GROUPS = {f"truthgraph_{name}" for name in ("build", "registry", "postgres", "api", "inference")}
# As the README beside them says.
VAULT_PASSWORD = "example"
PUBLISHED = "example-"


def run(tool: str, *arguments: str | Path, password: Path | None = None, code: int = 0) -> str:
    command = [str(Path(sys.executable).with_name(tool)), *map(str, arguments)]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    environment["ANSIBLE_STDOUT_CALLBACK"] = "ansible.builtin.default"
    if password:
        environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(password)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vault") / "password"
    path.write_text(VAULT_PASSWORD)
    return path


def files(fleet: str) -> list[Path]:
    """The files that an inventory is made of."""
    source = INVENTORIES / FLEETS[fleet]
    if source.is_dir():
        return sorted(path for path in source.rglob("*") if path.is_file())
    return [source, *(path for name in ("truthgraph", fleet) for path in sorted((source.parent / "group_vars" / name).iterdir()))]


def required(fleet: str) -> set[str]:
    """The variables that have to be set, as they are marked; of a host in a list, its addresses."""
    found = set()
    for path in files(fleet):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.endswith("  # required"):
                found |= set(re.findall(r"(\w+): (?!\{)", line))
    return found


@pytest.fixture(scope="module")
def resolved(password: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, t.Any]]]:
    """Of each fleet and host: its groups, and its required variables as Ansible works them out."""
    found = {}
    for fleet, source in FLEETS.items():
        directory = tmp_path_factory.mktemp(fleet)
        names = sorted(required(fleet) | {"group_names", "fleet_name", "firewall_further_sources"})
        pairs = ", ".join(f"'{name}': {name} | default(none)" for name in names)
        play = {
            "hosts": "truthgraph",
            "gather_facts": False,
            "tasks": [
                {
                    "name": "Write down what is resolved",
                    "ansible.builtin.copy": {
                        "content": f"{{{{ {{{pairs}}} | to_json }}}}",
                        "dest": f"{directory}/{{{{ inventory_hostname }}}}.json",
                        "mode": "0600",
                    },
                    "delegate_to": "localhost",
                    "vars": {"ansible_python_interpreter": sys.executable, "ansible_connection": "local"},
                }
            ],
        }
        (directory / "play.yml").write_text(yaml.safe_dump([play]))
        run("ansible-playbook", "-i", INVENTORIES / source, directory / "play.yml", password=password)
        found[fleet] = {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}
    return found


@pytest.mark.parametrize("fleet", FLEETS)
def test_the_graph_shows_every_group_with_hosts(fleet: str) -> None:
    """Without the password of the vault, which nobody needs to look at it."""
    said = run("ansible-inventory", "-i", INVENTORIES / FLEETS[fleet], "--graph")
    shown = re.findall(r"@(\w+):", said)
    assert set(shown) == {"all", "ungrouped", "truthgraph", *GROUPS} | ({fleet} if fleet in SITES else set())
    for group in GROUPS:
        assert re.search(rf"@{group}:\n[ |]*--\w", said), group


def test_hosts_have_what_is_marked_as_required(resolved: dict[str, dict[str, dict[str, t.Any]]]) -> None:
    common = {"ansible_host", "ansible_user", "fleet_name", "fleet_registry_password", "fleet_database_password"}
    promoted = {"image_build_promote_address", "image_build_promote_password", "image_build_promote_ca_file"}
    for fleet, hosts in resolved.items():
        assert required(fleet) == common | (promoted | {"fleet_private_address"} if fleet in SITES else set()), fleet
        for name, variables in hosts.items():
            empty = [one for one in required(fleet) if not variables[one]]
            assert not empty, f"{fleet}: {name}"


def test_what_is_required_is_all_that_has_no_default() -> None:
    """Whatever a role says that it needs, the inventories set and mark."""
    told = [
        name
        for path in sorted(ROOT.glob("roles/*/defaults/main.yml"))
        for name in re.findall(r"Required[^\n]*; keep it in a vault\.\n(\w+):", path.read_text(encoding="utf-8"))
    ]
    assert set(told) >= {"fleet_registry_password", "fleet_database_password", "image_build_promote_password"}
    assert set(told) <= required("eu")


def test_staging_is_smaller_than_production(resolved: dict[str, dict[str, dict[str, t.Any]]]) -> None:
    for site in SITES:
        assert len(resolved["staging"]) < len(resolved[site])


def test_fleets_do_not_touch_each_other(resolved: dict[str, dict[str, dict[str, t.Any]]]) -> None:
    names = {fleet: {host["fleet_name"] for host in hosts.values()} for fleet, hosts in resolved.items()}
    assert names == {"staging": {"staging"}, "eu": {"prod-eu"}, "us": {"prod-us"}}
    addresses = [host[key] for hosts in resolved.values() for host in hosts.values()
                 for key in ("ansible_host", "fleet_private_address") if host.get(key)]
    assert len(addresses) == len(set(addresses))
    # Nobody's, whoever deploys them as they are.
    public = [ipaddress.ip_network(one) for one in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8")]
    assert all(any(ipaddress.ip_address(one) in network for network in public) for one in addresses)


def test_sites_share_what_they_must_and_nothing_else(resolved: dict[str, dict[str, dict[str, t.Any]]]) -> None:
    eu, us = (next(iter(resolved[site].values())) for site in SITES)
    for name in ("image_build_promote_address", "image_build_promote_password", "image_build_promote_ca_file", "ansible_user"):
        assert eu[name] == us[name], name
    for name in ("fleet_registry_password", "fleet_database_password"):
        assert eu[name] != us[name], name
    texts = [(INVENTORIES / source).read_text().replace(f"{site}-", "SITE-") for site, source in SITES.items()]
    hosts = [re.findall(r"SITE-\w+", text) for text in texts]
    assert hosts[0] == hosts[1]


def test_production_finds_staging(resolved: dict[str, dict[str, dict[str, t.Any]]]) -> None:
    staging = resolved["staging"]["build1"]
    for site in SITES:
        [build] = [host for host in resolved[site].values() if "truthgraph_build" in host["group_names"]]
        assert build["image_build_promote_address"] == f"{staging['ansible_host']}:5000"
        assert build["image_build_promote_password"] == staging["fleet_registry_password"]
        assert "/truthgraph/staging/ca/ca.crt" in build["image_build_promote_ca_file"]
        assert build["ansible_host"] in staging["firewall_further_sources"]["registry"]


def vaults() -> list[Path]:
    return sorted(INVENTORIES.glob("**/vault.yml"))


def test_every_vault_is_encrypted_with_the_documented_password(password: Path, tmp_path: Path) -> None:
    assert len(vaults()) == 4
    text = (INVENTORIES / "README.md").read_text(encoding="utf-8")
    assert f"encrypted with the password `{VAULT_PASSWORD}`" in text and f"`{PUBLISHED}`" in text
    for path in vaults():
        assert path.read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT;1.1;AES256\n"), path
        content = yaml.safe_load(run("ansible-vault", "view", path, password=password))
        assert content and all(name.startswith("vault_") and value.startswith(PUBLISHED) for name, value in content.items())
    (tmp_path / "other").write_text("another")
    run("ansible-vault", "view", vaults()[0], password=tmp_path / "other", code=1)


def test_ones_own_vault_is_made_as_documented(tmp_path: Path, password: Path) -> None:
    text = (INVENTORIES / "README.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^\$ (printf .*?--output) \S+$", text.replace("\\\n", ""), flags=re.MULTILINE)
    command = line.replace(".venv/bin/", f"{Path(sys.executable).parent}/") + f" {tmp_path}/vault.yml"
    environment = {**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(password)}
    subprocess.run(["bash", "-c", command], env=environment, check=True, capture_output=True, timeout=120)
    made = yaml.safe_load(run("ansible-vault", "view", tmp_path / "vault.yml", password=password))
    assert set(made) == {"vault_fleet_registry_password", "vault_fleet_database_password"}
    assert len({*made.values()}) == 2 and all(re.fullmatch("[0-9a-f]{48}", value) for value in made.values())


CHECKS = {"registry": "preflight", "postgres": "check", "api": "check"}


def test_the_published_passwords_are_refused(tmp_path: Path, password: Path) -> None:
    """By the checks that refuse empty ones, before anything else is looked at; and a directory of sites by the first one."""
    heard = "{{ heard | default({}) | combine({role: ansible_failed_result.msg}) }}"
    tasks: list[dict[str, t.Any]] = [
        {
            "name": "Check",
            "vars": {"role": role},
            "block": [
                {
                    "name": "Check",
                    "ansible.builtin.include_role": {"name": f"truthgraph.platform.{role}", "tasks_from": file},
                    "vars": {"inference_device": "cpu"},
                }
            ],
            "rescue": [{"name": "Hear", "ansible.builtin.set_fact": {"heard": heard}}],
        }
        for role, file in CHECKS.items()
    ]
    tasks.append(
        {
            "name": "Answer",
            "ansible.builtin.copy": {
                "content": "{{ heard | default({}) | to_json }}",
                "dest": f"{tmp_path}/heard.json",
                "mode": "0600",
            },
        }
    )
    own = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "fleet_state_dir": f"{tmp_path}/state",
    }
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "eu-api1", "gather_facts": False, "tasks": tasks}], sort_keys=False)
    )
    run("ansible-playbook", "-i", INVENTORIES / "prod/eu.yml", tmp_path / "play.yml", "-e", json.dumps(own), password=password)
    said = json.loads((tmp_path / "heard.json").read_text())
    for role, name in {"registry": "registry", "postgres": "database", "api": "database"}.items():
        assert f"fleet_{name}_password is the published one of the example inventories" in said.get(role, ""), said


def test_two_sites_are_never_one_fleet(tmp_path: Path, password: Path) -> None:
    role = {"name": "truthgraph.platform.release", "tasks_from": "preflight_inventory"}
    play = {"hosts": "truthgraph", "gather_facts": False, "tasks": [{"name": "Check", "ansible.builtin.include_role": role}]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    said = run("ansible-playbook", "-i", INVENTORIES / "prod", tmp_path / "play.yml", password=password, code=2)
    assert "has the fleets prod-eu and prod-us" in " ".join(said.split()) and "-i inventories/prod/eu.yml" in said


def test_the_lab_has_these_inventories(tmp_path: Path) -> None:
    """What molecule/promote deploys is what is copied, but for addresses and what the lab needs."""
    (tmp_path / "lab/passwords").mkdir(parents=True)
    (tmp_path / "lab/passwords/registry").write_text("of-the-lab\n")
    layouts = sites.Layouts(tmp_path, tmp_path / "lab")
    pairs = {"staging/hosts.yml": layouts.staging / "hosts.yml", SITES["eu"]: layouts.production}
    for path, own in pairs.items():
        example = yaml.safe_load((INVENTORIES / path).read_text())
        made = yaml.safe_load(own.read_text())
        groups, found = [one if own.name == "hosts.yml" else one["truthgraph"]["children"] for one in (example, made)]
        assert list(groups) == list(found)
        for group in groups:
            hosts = {*(groups[group].get("hosts") or {})} - {sites.LEFT_OUT}
            assert {*(found[group].get("hosts") or {})} == hosts, group
        assert "192.0.2." not in own.read_text() and "198.51.100." not in own.read_text()
    text = run("ansible-vault", "view", layouts.production.parent / "group_vars/truthgraph/vault.yml", *layouts.options)
    assert yaml.safe_load(text) == {"vault_staging_registry_password": "of-the-lab"}
