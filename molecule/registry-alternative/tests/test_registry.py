# A registry with every variable other than as shipped, by a certificate that an operator brings.
import json
import os
import pathlib

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.engine import image, inspect

ADDRESS = "10.203.77.171:5443"
BROUGHT = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "brought"
CURL = "curl --silent --output /dev/null --write-out '%{http_code}'"


def test_it_listens_where_it_is_told_to(host: testinfra.host.Host) -> None:
    assert host.check_output("ss -Hltn 'sport = :5443' | awk '{print $4}'") == "0.0.0.0:5443"
    assert host.run("ss -Hltn 'sport = :5000'").stdout == ""


def test_it_shows_the_certificate_that_was_brought(host: testinfra.host.Host, control: testinfra.host.Host) -> None:
    trusting = f"{CURL} --cacert {BROUGHT}/signer.crt --user claims:of-the-scenario"
    assert control.check_output(f"{trusting} --noproxy '*' https://{ADDRESS}/v2/") == "200"
    installed = host.file("/srv/registry/tls/registry.crt").content
    assert installed == control.file(str(BROUGHT / "images.crt")).content


def test_the_engine_pushes_by_the_login_that_lies_elsewhere(host: testinfra.host.Host) -> None:
    login = host.file("/root/.claims/config.json")
    assert oct(login.mode) == "0o600" and [*json.loads(login.content_string)["auths"]] == [ADDRESS]
    assert not host.file("/root/.docker/config.json").exists
    name = f"{ADDRESS}/claims/some:1"
    host.check_output("docker tag %s %s", image(host), name)
    assert host.run("docker push %s", name).rc
    host.check_output("docker --config /root/.claims push %s", name)


def test_its_container_is_called_and_runs_as_it_should(host: testinfra.host.Host) -> None:
    found = inspect(host, "container", "images")
    assert found["Config"]["Image"] == "scenario/registry:1"
    assert found["Config"]["User"] == "20001:20002"
    assert host.check_output("ps -o uid=,gid= -p %s", str(found["State"]["Pid"])).split() == ["20001", "20002"]
    assert host.run("docker container inspect truthgraph-registry").rc


def test_its_volume_is_called_as_it_should_and_is_its_users(host: testinfra.host.Host) -> None:
    [volume] = [one for one in inspect(host, "container", "images")["Mounts"] if one["Type"] == "volume"]
    assert volume["Name"] == "images-of-claims"
    assert host.check_output("stat --format '%%a %%u:%%g' %s", volume["Source"]) == "750 20001:20002"


def test_its_configuration_lies_elsewhere(host: testinfra.host.Host) -> None:
    modes = host.check_output("stat --format '%a %u:%g' /srv/registry /srv/registry/htpasswd /srv/registry/tls/registry.key")
    assert modes.split("\n") == ["750 0:20002", "640 0:20002", "640 0:20002"]
    assert host.file("/srv/registry/htpasswd").content_string.startswith("claims:")
    assert not host.file("/etc/truthgraph/registry").exists
