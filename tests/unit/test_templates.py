"""What the roles' templates make of a fleet's inventory: who is let in, by what, and what is refused. Nothing is started."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
# No two of them are together a network.
ADDRESSES = {"build1": "10.0.0.11", "db1": "10.0.0.21", "api1": "10.0.0.31", "api2": "10.0.0.41", "gpu1": "10.0.0.51"}
GROUPS = {
    "truthgraph_build": ["build1"],
    "truthgraph_registry": ["build1"],
    "truthgraph_postgres": ["db1"],
    "truthgraph_api": ["api1", "api2"],
    "truthgraph_inference": ["gpu1"],
}
# By name, the host on which each is rendered, its role and its template.
TEMPLATES = {
    "api.cfg": ("api1", "proxy", "haproxy.cfg.j2"),
    "inference.cfg": ("gpu1", "proxy", "haproxy.cfg.j2"),
    "postgres.nft": ("db1", "firewall", "firewall.nft.j2"),
    "registry.nft": ("build1", "firewall", "firewall.nft.j2"),
    "inference.nft": ("gpu1", "firewall", "firewall.nft.j2"),
    "pg_hba.conf": ("db1", "postgres", "pg_hba.conf.j2"),
    "postgresql.conf": ("db1", "postgres", "postgresql.conf.j2"),
    "registry.yml": ("build1", "registry", "config.yml.j2"),
}


def render(directory: Path, **variables: t.Any) -> dict[str, str]:
    """Each template by its name, with the variables of its role as the role would find them."""
    groups: dict[str, t.Any] = {name: {"hosts": {host: {} for host in hosts}} for name, hosts in GROUPS.items()}
    hosts = {host: {"fleet_private_address": address} for host, address in ADDRESSES.items()}
    whole = {"hosts": hosts, "children": {name: {} for name in GROUPS}, "vars": {"ansible_connection": "local"}}
    (directory / "hosts.yml").write_text(yaml.safe_dump({**groups, "truthgraph": whole}))
    plays: list[dict[str, t.Any]] = []
    for host, role, source in TEMPLATES.values():
        used = [ROLES / one / part / "main.yml" for one in ("fleet", role) for part in ("defaults", "vars")]
        text = f"{{{{ lookup('ansible.builtin.template', role_path ~ '/templates/{source}') }}}}"
        play = {
            "hosts": host,
            "vars_files": [str(path) for path in used if path.exists()],
            "vars": {"role_path": str(ROLES / role)},
            "tasks": [{"ansible.builtin.set_fact": {f"rendered_{len(plays)}": text}}],
        }
        plays.append(play)
    found = {name: f"{{{{ hostvars.{TEMPLATES[name][0]}.rendered_{number} }}}}" for number, name in enumerate(TEMPLATES)}
    copy = {"content": "{{ found | to_json }}", "dest": f"{directory}/found.json", "mode": "0600"}
    plays.append({"hosts": "api1", "vars": {"found": found}, "tasks": [{"ansible.builtin.copy": copy}]})
    plays = [{"gather_facts": False, **play} for play in plays]
    (directory / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    given = {
        "fleet_name": "test",
        "fleet_state_dir": f"{directory}/state",
        # Files of variables come before what the inventory says of a host.
        "fleet_private_address": f"{{{{ {ADDRESSES}[inventory_hostname] }}}}",
        "ansible_python_interpreter": sys.executable,
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml"]
    done = subprocess.run(
        [*command, "-e", json.dumps({**given, **variables})],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return t.cast("dict[str, str]", json.loads((directory / "found.json").read_text()))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As shipped."""
    return render(tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With TLS alone for clients, limits for them, and Barman."""
    variables = {
        "fleet_api_tls": "only",
        "fleet_api_name": "api.example",
        "proxy_max_body": 1000,
        "proxy_rate_limit": 2,
        "postgres_settings": {"application_name": "it's"},
        "backup_point_in_time": True,
        "backup_point_in_time_host": "build1",
        "firewall_further_sources": {"postgres": ["192.0.2.7", "2001:db8::7"]},
    }
    return render(tmp_path_factory.mktemp("strict"), **variables)


def section(text: str, name: str) -> list[str]:
    """The lines of one section of a HAProxy configuration."""
    [found] = re.findall(rf"^{name}\n((?: .*\n|#.*\n)*)", text, flags=re.MULTILINE)
    return [line.strip() for line in found.splitlines() if line.strip()]


def door(text: str, name: str) -> tuple[set[str], str]:
    """The addresses that a chain of the firewall lets in beside the host's own containers, and what it does with others."""
    [chain] = re.findall(rf"chain {name} \{{\n(.*?)\n    \}}", text, flags=re.DOTALL)
    sources = re.findall(r"^\s+ip6? saddr \{ (.*) \} accept", chain, flags=re.MULTILINE)
    return {source for line in sources for source in line.split(", ")}, chain.splitlines()[-1].strip()


# The proxy.


def test_the_inference_service_hears_only_who_has_a_certificate(files: dict[str, str]) -> None:
    [bind] = [line for line in section(files["inference.cfg"], "frontend inference") if line.startswith("bind ")]
    assert "10.0.0.51:8001 ssl" in bind and " verify required" in bind and "ca-file" in bind


@pytest.mark.parametrize("slot", ["blue", "green"])
def test_the_api_makes_sure_that_it_asks_the_right_host(files: dict[str, str], slot: str) -> None:
    servers = [line for line in section(files["api.cfg"], f"backend egress_{slot}") if line.startswith("server ")]
    assert [line.split()[1:3] for line in servers] == [["gpu1", "10.0.0.51:8001"]]
    assert " verify required verifyhost gpu1" in servers[0] and " crt " in servers[0] and " check " in servers[0]


def test_what_serves_is_what_the_map_says(files: dict[str, str]) -> None:
    lines = section(files["api.cfg"], "frontend api")
    [path] = set(re.findall(r"map[(]([^,)]+)", files["api.cfg"]))
    assert [line for line in lines if line.startswith("use_backend")] == [
        f"use_backend api_%[str(api),map({path},none)]"
    ]
    assert lines[-1] == "default_backend api_none"
    assert "status 503" in section(files["api.cfg"], "backend api_none")[0]


@pytest.mark.parametrize(("slot", "other"), [("blue", "green"), ("green", "blue")])
def test_only_what_changes_nothing_is_sent_to_the_earlier_slot_again(files: dict[str, str], slot: str, other: str) -> None:
    lines = section(files["api.cfg"], f"backend api_{slot}_{other}")
    assert "http-request disable-l7-retry unless { method GET HEAD OPTIONS }" in lines
    assert f"use-server api_{slot} if TRUE" in lines
    assert [line.split()[1] for line in lines if line.startswith("server ")] == [f"api_{slot}", f"api_{other}"]
    # The slot that serves alone has nothing behind it.
    assert not any("retry-on" in line for line in section(files["api.cfg"], f"backend api_{slot}"))


def test_clients_do_not_get_the_metrics_and_cannot_say_who_they_are(files: dict[str, str]) -> None:
    lines = section(files["api.cfg"], "frontend api")
    assert any("status 404" in line and "path,url_dec" in line and "metrics" in line for line in lines)
    assert "http-request del-header X-Forwarded-For" in lines
    assert "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]" in lines


def test_with_tls_alone_plain_text_is_sent_there(strict: dict[str, str], files: dict[str, str]) -> None:
    lines = section(strict["api.cfg"], "frontend api")
    assert any("redirect code 308 location https://" in line and "unless { ssl_fc }" in line for line in lines)
    assert any("Strict-Transport-Security" in line and line.endswith("if { ssl_fc }") for line in lines)
    assert not any("ssl crt" in line or "308" in line for line in section(files["api.cfg"], "frontend api"))


def test_limits_for_clients_are_those_that_are_set(strict: dict[str, str], files: dict[str, str]) -> None:
    lines = section(strict["api.cfg"], "frontend api")
    assert any("status 429" in line and "gt 20 }" in line for line in lines), "2 in a second are 20 in the ten that are counted"
    assert any("status 413" in line and "req.body_size gt 1000 }" in line for line in lines)
    assert not any("status 429" in line for line in section(files["api.cfg"], "frontend api"))


# The firewall.


def test_a_door_is_open_to_those_who_need_it(files: dict[str, str]) -> None:
    apis = {ADDRESSES["api1"], ADDRESSES["api2"]}
    assert door(files["postgres.nft"], "postgres") == (apis, "counter drop")
    assert door(files["inference.nft"], "inference") == (apis, "counter drop")
    assert door(files["registry.nft"], "registry") == (set(ADDRESSES.values()), "counter drop")


def test_a_door_is_open_to_whom_else_it_is_opened(strict: dict[str, str]) -> None:
    found, _ = door(strict["postgres.nft"], "postgres")
    assert {"192.0.2.7", "2001:db8::7", ADDRESSES["build1"]} <= found
    assert re.search(r"^\s+ip6 saddr \{ 2001:db8::7 \} accept", strict["postgres.nft"], flags=re.MULTILINE)


def test_a_port_leads_to_its_door_and_nobody_reaches_a_container_beside_it(files: dict[str, str]) -> None:
    [rules] = re.findall(r"chain doors \{\n(.*?)\n    \}", files["postgres.nft"], flags=re.DOTALL)
    assert "fib daddr type local tcp dport 5432 goto postgres" in rules
    assert re.search(r'^\s+iifname != "br-\*" ip daddr 172\.[\d./]+ counter drop$', rules, flags=re.MULTILINE)
    # Replaced as one, so that there is no moment without rules.
    assert "table inet truthgraph\ndelete table inet truthgraph\ntable inet truthgraph {" in files["postgres.nft"]


# The database.


def allowed(text: str) -> list[list[str]]:
    """The lines of pg_hba.conf, by their words."""
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_database_lets_the_application_in_by_tls_from_where_it_runs(files: dict[str, str]) -> None:
    lines = allowed(files["pg_hba.conf"])
    assert [line[0] for line in lines[:2]] == ["local", "host"] and lines[1][3] == "127.0.0.1/32"
    # A host's own containers are the API's where it has both.
    clients = {*(f"{ADDRESSES[host]}/32" for host in GROUPS["truthgraph_api"]), "172.30.240.0/24"}
    assert {(line[0], line[3], line[4]) for line in lines[2:]} == {("hostssl", client, "scram-sha-256") for client in clients}
    assert all(line[2] == '+"truthgraph"' for line in lines[2:])
    assert not any("postgres" in line[2] for line in lines[2:]), "the superuser comes from the host alone"


def test_barman_reads_what_is_written_and_nothing_else(strict: dict[str, str], files: dict[str, str]) -> None:
    lines = [line for line in allowed(strict["pg_hba.conf"]) if "truthgraph_barman" in line[2]]
    assert {(line[0], line[1], line[4]) for line in lines} == {
        ("hostssl", '"postgres"', "scram-sha-256"),
        ("hostssl", "replication", "scram-sha-256"),
    }
    assert "barman" not in files["pg_hba.conf"]


def test_settings_of_the_database(strict: dict[str, str]) -> None:
    settings = dict(line.split(" = ", 1) for line in strict["postgresql.conf"].splitlines() if " = " in line)
    assert settings["ssl"] == "'on'" and settings["password_encryption"] == "'scram-sha-256'"
    assert settings["application_name"] == "'it''s'"


# The registry.


def test_the_registry_asks_for_a_password_by_tls_and_lets_images_be_deleted(files: dict[str, str]) -> None:
    found = yaml.safe_load(files["registry.yml"])
    assert found["auth"] == {"htpasswd": {"realm": "truthgraph", "path": "/etc/docker/registry/htpasswd"}}
    assert found["http"]["tls"].keys() >= {"certificate", "key"} and found["http"]["addr"] == ":5000"
    assert found["storage"]["delete"] == {"enabled": True}
