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
    "api_memory": ("much", "it has to be a size such as 512m or 4g"),
    "api_ready_path": ("ready", "it has to be a path that begins with /"),
    "api_secrets": ("correct horse", "api_secrets is (not shown); it has to be a dictionary"),
    "api_smoke": ("text", "it has to be a dictionary"),
    "backup_keep_last": (-1, "it has to be a number that is not negative"),
    "docker_engine_allow_restart": ("perhaps", "it has to be true or false"),
    "fleet_api_port": (99999, "it has to be a port, 1 to 65535"),
    "fleet_config_dir": ("etc/truthgraph", "it has to be an absolute path"),
    "fleet_database_password": (["correct", "horse"], "fleet_database_password is (not shown); it has to be a text"),
    "fleet_database_sslmode": ("always", "it has to be one of 'verify-full', 'verify-ca', 'require', 'prefer', 'disable'"),
    "fleet_network_subnet": ("172.30", "it has to be a network such as 172.30.240.0/24"),
    "image_build_targets": (["core", "all"], "it has to be a list, each one of 'core', 'ml', 'api'"),
    "image_build_torch_index_url": ("wheels", "it has to be a URL that begins with https:// or http://"),
    "proxy_max_body": ("lots", "it has to be a whole number"),
    "proxy_rate_limit": ("none", "it has to be a number"),
    "proxy_trusted_proxies": ({"a": 1}, "it has to be a list"),
    # These are right.
    "fleet_database_version": ("15", ""),
    "inference_memory": ("4g", ""),
    "postgres_shm_size": ("1.5g", ""),
    "proxy_inference_wait": ("{{ 30 + 30 }}", ""),
    "release_max_failed": (-1, ""),
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
        "vars": {"ansible_python_interpreter": sys.executable, **{name: value for name, (value, _said) in SET.items()}},
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


def test_secrets_are_not_shown(found: list[str]) -> None:
    assert not any("horse" in sentence for sentence in found)


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
