"""Variables of roles whose value cannot be right are found beforehand, all of them, by a real run of Ansible."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.truthgraph.platform.plugins.lookup import option_problems
from ansible_collections.truthgraph.platform.plugins.lookup.option_problems import problem

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))

# What somebody has set, and what is said of it; nothing where it is right.
SET: dict[str, tuple[t.Any, str]] = {
    "api_environment": ({"COLOUR": None}, "it has to be a dictionary of texts and numbers"),
    "api_memory": ("much", "it has to be a size such as 512m or 4g"),
    "api_ready_path": ("ready", "it has to be a path that begins with /"),
    "api_secrets": ("correct horse", "api_secrets is (not shown); it has to be a dictionary"),
    "api_smoke": ({"body": {}}, "it has to be a dictionary with path, or {}"),
    "backup_copy_command": ("rsync --archive", "it has to be a list"),
    "backup_keep_daily": (-1, "it has to be a whole number, 0 or more"),
    "base_images_mirror_registry": ("https://mirror.example.org", "it has to be a registry, such as"),
    "fleet_database_user": ("o'neill", "it has to be a name without spaces and quotes"),
    "fleet_image_prefix": ("registry.example.org/TruthGraph", "it has to be a registry and a path"),
    "fleet_registry_username": ("me:too", "it has to be a name without spaces and colons"),
    "api_database_driver": ("postgresql://", "it has to be a driver as SQLAlchemy knows it"),
    "image_build_promote_password": ("correct horse\n", "is (not shown); it has to be a text of one line"),
    "proxy_send_timeout": (10**9, "it has to be a whole number from 1 to 604800"),
    "release_earlier_sizes": ([{"name": "a", "bytes": "many"}], "each one a dictionary in which bytes is a whole number"),
    "backup_keep_last": (0, "it has to be a whole number, 1 or more"),
    "docker_engine_allow_restart": ("perhaps", "it has to be true or false"),
    "firewall_further_sources": ({"metrik": ["10.0.0.9"]}, "with nothing but postgres, inference, registry, metrics, and"),
    "fleet_api_ca_file": ("certificates/ca.crt", "it has to be an absolute path"),
    "fleet_api_name": ("https://claims.example.org", "it has to be a host name"),
    "fleet_api_port": (99999, "it has to be a port from 1 to 65535"),
    "fleet_api_tls_port": (True, "it has to be a whole number"),
    "fleet_config_dir": ("etc/truthgraph", "it has to be an absolute path"),
    "fleet_database_name": (None, "fleet_database_name has no value; it has to be a text. Take the line out"),
    "fleet_database_password": (["correct", "horse"], "fleet_database_password is (not shown); it has to be a text"),
    "fleet_database_sslmode": ("always", "it has to be one of 'verify-full', 'verify-ca', 'require', 'prefer', 'disable'"),
    "fleet_inference_port": (0, "it has to be a port from 1 to 65535"),
    "fleet_name": ("", "it has to be a text that is not empty"),
    "fleet_network_name": ("the fleet", "it has to be a name of letters"),
    "fleet_network_subnet": ("172.30", "it has to be an IPv4 network of 64 addresses or more"),
    "fleet_registry_address": ("https://registry.example.org", "it has to be host and port of a registry"),
    "fleet_registry_password": ("{{ vault_of_nobody }}", "fleet_registry_password refers to vault_of_nobody, which nothing sets"),
    "image_build_budgets": ({"ml": {"unpacked": "much"}}, "in which ml is a dictionary in which unpacked is a whole number"),
    "image_build_core_python": (3.13, "it has to be a text: put it in quotes"),
    "image_build_pythons": ([3.13, 3.11], "it has to be a list of texts: put each in quotes"),
    "image_build_targets": (["core", "all"], "it has to be a list, each one of 'core', 'ml', 'api'"),
    "image_build_torch_index_url": ("ftp://me:horse@wheels", "is 'ftp://...@wheels'; it has to be a URL that begins"),
    "inference_cards": (0, "it has to be how many, 1 or more, or a list of indexes or UUIDs"),
    "inference_memory": ("4", "it has to be a size such as 512m or 4g, and 6m or more"),
    "inference_model_sha256": ("12ab", "it has to be a SHA-256"),
    "postgres_clients": (["db.example.org"], "it has to be a list of addresses and networks"),
    "postgres_shared_buffers": ("much", "it has to be a size as Postgres knows it"),
    "proxy_api_bind_address": ("all", "it has to be an IP address of the host"),
    "proxy_max_body": ("lots", "it has to be a whole number"),
    "proxy_rate_limit": ("none", "it has to be a number"),
    "proxy_request_timeout": (0, "it has to be a whole number from 1 to 604800"),
    "proxy_trusted_proxies": ({"a": 1}, "it has to be a list"),
    "release_bake": ("nan", "it has to be a number"),
    "release_bake_error_percent": (400, "it has to be a number from 0 to 100"),
    "release_embedding_probe": ({"path": "/embed"}, "it has to be a dictionary with body, or {}"),
    "release_probe_rate": (1000, "it has to be a number from 0 to 50"),
    # These are right.
    "api_drain_timeout": (0, ""),
    "api_migrate_statement_timeout": ("0", ""),
    "backup_schedule": ("", ""),
    "docker_engine_rotate_logs": ("false", ""),
    "fleet_database_ca_file": ("", ""),
    "fleet_database_version": ("15", ""),
    "fleet_metrics_port": (0, ""),
    "inference_environment": ({"TRUTHGRAPH_MAX_PENDING": 2100}, ""),
    "postgres_shm_size": ("1.5g", ""),
    "proxy_inference_wait": ("{{ 30 + 30 }}", ""),
    "release_max_failed": (-1, ""),
    # What a playbook was given is named.
    "release_standby": ("{{ given | default(false) }}", "release_standby (from given) is 'perhaps'; it has to be true or false"),
    # These are known later only, and left to their roles.
    "fleet_uid": ("{{ ansible_facts.of_that_kind }}", ""),
    # Nobody's variable, misspelt variables, and what a role's own task notes.
    "api_of_mine": (1, ""),
    "proxy_max_boddy": (1, "There is no variable proxy_max_boddy. Is proxy_max_body meant?"),
    "release_kept": (1, ""),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the lookup answers of all of that, as one run."""
    directory = tmp_path_factory.mktemp("play")
    lookups = ", ".join(repr(role) for role in ROLES)
    query = f"query('truthgraph.platform.option_problems', {lookups}, names=%s)"
    copy = {"content": f"{{{{ {query % 'false'} + {query % 'true'} }}}}", "dest": f"{directory}/found.json", "mode": "0600"}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            **{"ansible_python_interpreter": sys.executable, "given": "perhaps"},
            **{name: value for name, (value, _said) in SET.items()},
        },
        "tasks": [{"ansible.builtin.copy": copy}],
    }
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    command = [PLAYBOOK, "-i", "localhost,", "play.yml"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said: list[str] = json.loads((directory / "found.json").read_text())
    return said


@pytest.mark.parametrize("name", SET)
def test_a_value_is_right_or_said_to_be_wrong(found: list[str], name: str) -> None:
    said = [sentence for sentence in found if re.search(rf"\b{name}\b", sentence)]
    wanted = SET[name][1]
    assert wanted in said[0] if wanted else not said, said


@pytest.mark.parametrize("role", ROLES)
def test_whatever_is_called_a_secret_is_not_shown(role: str) -> None:
    for name, (specification, _) in option_problems.options_of(role).items():
        assert specification.get("no_log") or not re.search(r"(password|secrets|command)$", name), name


def test_secrets_are_not_shown(found: list[str]) -> None:
    assert not any("horse" in sentence for sentence in found)


# What no variable of a type can be, as people write it.
NEVER: dict[str, list[t.Any]] = {
    "bool": [None, "perhaps", 2, [True], {"a": 1}],
    "dict": [None, "a=1", 1, True, ["a"]],
    "float": [None, "many", True, "nan", [1], {"a": 1}],
    "int": [None, "many", True, 1.5, "1.5", [1], {"a": 1}],
    "list": [None, "a, b", 1, True, {"a": 1}, [None]],
    "path": [None, "relative", "~/at/home", 1, True, ["/a"]],
    "raw": [],
    "str": [None, 1, 1.5, True, ["a"], {"a": 1}],
}


@pytest.mark.parametrize("role", ROLES)
def test_what_no_variable_of_a_type_can_be_is_refused(role: str) -> None:
    for name, (specification, default) in option_problems.options_of(role).items():
        for value in NEVER[specification["type"]]:
            said = problem(name, value, specification, default)
            assert re.match(rf"{name} (is|has) .*; it has to be .*\.$", said), f"{name}: {value!r}: {said}"


@pytest.mark.parametrize("role", ROLES)
def test_no_default_is_wrong(role: str) -> None:
    """Those that are written as they are: the others are worked out by Ansible."""
    options = option_problems.options_of(role)
    plain = {name: default for name, (_, default) in options.items() if "{{" not in json.dumps(default)}
    assert not [said for name, default in plain.items() if (said := problem(name, default, options[name][0], default))]


def test_nothing_that_the_roles_note_is_taken_for_a_variable_that_is_misspelt() -> None:
    texts = [path.read_text(encoding="utf-8") for path in ROOT.glob("roles/*/tasks/*.yml")]
    noted = {name for text in texts for name in re.findall(r"register: ([a-z]\w+)", text)}
    assert len(noted) > 10 and noted <= option_problems.named()


def test_a_run_is_refused_before_any_host_is_reached(tmp_path: Path) -> None:
    """inventories/staging has hosts that nobody reaches."""
    (tmp_path / "password").write_text("example\n")
    values = json.dumps({"proxy_max_body": "lots", "release_bakes": 3})
    vault = ["--vault-password-file", str(tmp_path / "password")]
    command = [PLAYBOOK, "-i", "inventories/staging", *vault, "playbooks/deploy.yml", "-e", values]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert "proxy_max_body is 'lots'; it has to be a whole number." in said
    assert "unreachable=0" in said and "unreachable=1" not in said
