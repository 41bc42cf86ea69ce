# The registry as shipped: the engine pushes and pulls, and nobody without the password or the authority does anything.
import json
import pathlib

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.engine import image, inspect
from ansible_collections.truthgraph.platform.molecule.shared.role.x509 import certificate, names
from ansible_collections.truthgraph.platform.plugins.module_utils.registry import Registry

ADDRESS = "10.203.77.171:5000"
CURL = "curl --silent --output /dev/null --write-out '%{http_code}'"


def test_the_engine_pushes_and_pulls_by_digest(host: testinfra.host.Host, state: pathlib.Path) -> None:
    name = f"{ADDRESS}/truthgraph/some"
    host.check_output("docker tag %s %s", image(host), f"{name}:1")
    host.check_output("docker push %s", f"{name}:1")
    registry = Registry(ADDRESS, "truthgraph", "of-the-scenario", (state / "ca" / "ca.crt").read_text(encoding="utf-8"))
    digest = registry.digest("truthgraph/some", "1")
    host.check_output("docker image rm %s", f"{name}:1")
    host.check_output("docker pull %s", f"{name}@{digest}")


def test_images_may_be_deleted(host: testinfra.host.Host) -> None:
    name = f"{ADDRESS}/truthgraph/gone"
    host.check_output("docker tag %s %s", image(host), f"{name}:1")
    digest = host.check_output("docker push %s | grep -o 'sha256:[0-9a-f]*'", f"{name}:1").splitlines()[-1]
    ask = f"{CURL} --cacert /etc/docker/certs.d/{ADDRESS}/ca.crt --user truthgraph:of-the-scenario"
    url = f"https://{ADDRESS}/v2/truthgraph/gone/manifests/{digest}"
    assert host.check_output(f"{ask} --request DELETE {url}") == "202"
    assert host.check_output(f"{ask} {url}") == "404"


def test_nobody_without_the_password_is_let_in(host: testinfra.host.Host) -> None:
    trusting = f"{CURL} --cacert /etc/docker/certs.d/{ADDRESS}/ca.crt"
    assert host.check_output(f"{trusting} --user truthgraph:of-the-scenario https://{ADDRESS}/v2/") == "200"
    assert host.check_output(f"{trusting} --user truthgraph:another https://{ADDRESS}/v2/") == "401"
    assert host.check_output(f"{trusting} https://{ADDRESS}/v2/") == "401"


def test_it_is_the_fleets_authority_that_vouches_for_it(host: testinfra.host.Host) -> None:
    assert host.run(f"{CURL} https://{ADDRESS}/v2/").rc == 60
    assert host.check_output(f"{CURL} http://{ADDRESS}/v2/") == "400"
    assert names(certificate(host, "/etc/truthgraph/registry/tls/registry.crt")) == {"10.203.77.171", "role1"}


def test_it_listens_on_the_private_address_only(host: testinfra.host.Host) -> None:
    assert host.check_output("ss -Hltn 'sport = :5000' | awk '{print $4}'") == ADDRESS


def test_its_container_may_do_nothing_else(host: testinfra.host.Host) -> None:
    found = inspect(host, "container", "truthgraph-registry")
    assert found["Config"]["User"] == "10001:10001"
    assert found["HostConfig"]["ReadonlyRootfs"] and found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert found["Config"]["Labels"]["truthgraph.fleet"] == "truthgraph"


def test_images_survive_the_container(host: testinfra.host.Host) -> None:
    [volume] = [one for one in inspect(host, "container", "truthgraph-registry")["Mounts"] if one["Type"] == "volume"]
    assert (volume["Name"], volume["Destination"]) == ("truthgraph-registry", "/var/lib/registry")
    assert host.file(f"{volume['Source']}/docker/registry/v2").is_directory


def test_key_and_passwords_are_for_root_and_the_registry(host: testinfra.host.Host) -> None:
    directory = "/etc/truthgraph/registry"
    modes = host.check_output(f"stat --format '%a %u:%g' {directory} {directory}/htpasswd {directory}/tls/registry.key")
    assert modes.split("\n") == ["750 0:10001", "640 0:10001", "640 0:10001"]
    assert "of-the-scenario" not in host.file(f"{directory}/htpasswd").content_string


def test_root_is_logged_in_and_nobody_else_reads_that(host: testinfra.host.Host) -> None:
    login = host.file("/root/.docker/config.json")
    assert oct(login.mode) == "0o600" and [*json.loads(login.content_string)["auths"]] == [ADDRESS]
