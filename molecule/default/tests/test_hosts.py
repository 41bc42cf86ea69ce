# What a deploy leaves on the hosts themselves.
import json
import re

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet, Member
from ansible_collections.truthgraph.platform.molecule.shared.image_checks import Secrets


def test_engine_runs_and_starts_at_boot(member: Member) -> None:
    engine = member.host.service("docker")
    assert engine.is_running
    assert engine.is_enabled


def test_engine_keeps_containers_over_its_own_restart(member: Member) -> None:
    assert member.host.check_output("docker info --format '{{.LiveRestoreEnabled}}'") == "true"


def test_engine_rotates_logs(member: Member) -> None:
    settings = json.loads(member.host.file("/etc/docker/daemon.json").content_string)
    assert settings["log-driver"] in ("local", "json-file")
    assert (settings["log-opts"]["max-size"], settings["log-opts"]["max-file"]) == ("10m", "3")
    assert member.host.check_output("docker info --format '{{.LoggingDriver}}'") == settings["log-driver"]


def test_builder_has_buildx(builder: Member) -> None:
    assert re.search(r"\bv?0\.\d+|\bv[1-9]", builder.host.check_output("docker buildx version"))


def test_engine_trusts_the_registrys_ca(fleet: Fleet, member: Member, ca: str) -> None:
    installed = member.host.file(f"/etc/docker/certs.d/{fleet.registry}/ca.crt")
    assert installed.content_string.strip() == ca.strip()
    assert (installed.user, installed.group, installed.mode) == ("root", "root", 0o644)


def test_engine_is_not_told_to_trust_registries_without_tls(fleet: Fleet, member: Member) -> None:
    settings = json.loads(member.host.check_output("docker info --format '{{json .RegistryConfig.IndexConfigs}}'"))
    assert fleet.registry not in settings


def test_login_to_the_registry_is_readable_by_root_only(fleet: Fleet, member: Member) -> None:
    login = member.host.file("/root/.docker/config.json")
    assert (login.user, login.mode) == ("root", 0o600)
    assert fleet.registry in json.loads(login.content_string)["auths"]


def test_configuration_is_readable_by_root_only(member: Member) -> None:
    # The inference service has neither secrets nor configuration of ours.
    found = member.host.file("/etc/truthgraph")
    if "truthgraph_inference" not in member.variables["groups"] or found.exists:
        assert (found.user, oct(found.mode)) == ("root", "0o700")


def test_secrets_are_readable_by_root_and_the_services_user_only(api: Member) -> None:
    top, *below = api.host.check_output("find /etc/truthgraph/slots -printf '%y %U %G %m\\n'").splitlines()
    assert top == "d 0 0 700"
    assert set(below) == {"d 0 10001 750", "f 0 10001 440"}


def test_configuration_has_no_file_that_others_may_write(member: Member) -> None:
    found = "find /etc/truthgraph /etc/docker /root/.docker -perm /022 -not -type l"
    assert member.host.run(found).stdout == ""


def test_key_of_the_registry_is_not_readable_by_others(registry: Member) -> None:
    key = registry.host.file("/etc/truthgraph/registry/tls/registry.key")
    assert (key.user, key.gid, oct(key.mode)) == ("root", 10001, "0o640")


def test_passwords_of_the_registry_are_hashed(registry: Member, secrets: Secrets) -> None:
    content = registry.host.file("/etc/truthgraph/registry/htpasswd").content_string
    assert re.match(r"truthgraph:\$2[aby]\$", content)
    assert secrets["registry"] not in content


def test_build_leaves_no_index_setting_behind(builder: Member) -> None:
    assert not builder.host.file("/run/truthgraph-build").exists


def test_key_of_the_ca_stays_on_the_control_node(fleet: Fleet, member: Member, control: testinfra.host.Host) -> None:
    key = control.file(str(fleet.ca_file.with_name("ca.key")))
    assert oct(key.mode) == "0o600"
    body = key.content_string.splitlines()[1]
    assert member.host.run("grep -rlF %s /etc/truthgraph /etc/docker /etc/ssl", body).stdout == ""


def test_keys_and_passwords_on_the_control_node_are_readable_by_their_owner_only(
    fleet: Fleet, control: testinfra.host.Host
) -> None:
    state = fleet.variables["state_dir"]
    assert oct(control.file(state).mode) == "0o700"
    found = "find %s -type f -perm /077 ( -path '*/passwords/*' -o -name '*.key' -o -name id_ed25519 )"
    assert control.check_output(found.replace("(", "\\(").replace(")", "\\)"), state) == ""
