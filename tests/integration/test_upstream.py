# Mirroring official images from a registry that is not the fleet's, and pinning the newest of them.
import json
import pathlib
import typing as t

import pytest
import yaml

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet
from ansible_collections.truthgraph.platform.tests.integration.conftest import play

NAME = "truthgraph-test-upstream"
PORT = 5001
LOGINS = "/root/upstream.json"
OFFICIAL = "library/python:3.13-slim"


class Upstream:
    """A second registry on the build host, with the first one's image, certificate and password."""

    def __init__(self, fleet: Fleet) -> None:
        self.host = fleet.of_group("truthgraph_build")[0].host
        self.own = fleet.registry
        self.address = f"{self.own.partition(':')[0]}:{PORT}"
        self.certificates = f"/etc/docker/certs.d/{self.own}"

    def start(self) -> None:
        self.stop()
        [facts] = json.loads(self.host.check_output("docker inspect truthgraph-registry"))
        user, image = facts["Config"]["User"], facts["Config"]["Image"]
        [config] = [mount["Source"] for mount in facts["Mounts"] if mount["Type"] == "bind"]
        place = self.host.check_output("docker volume inspect --format '{{.Mountpoint}}' $(docker volume create %s)", NAME)
        self.host.check_output("chown %s %s", user, place)
        self.host.check_output(
            "docker run --detach --name %s --user %s --publish %s:5000 --volume %s:/etc/docker/registry:ro "
            "--mount type=volume,source=%s,target=/var/lib/registry,volume-nocopy "
            "--entrypoint registry %s serve /etc/docker/registry/config.yml",
            *(NAME, user, str(PORT), config, NAME, image),
        )
        auths = json.loads(self.host.check_output("cat /root/.docker/config.json"))["auths"]
        logins = {"auths": {**auths, self.address: auths[self.own]}}
        self.host.check_output("umask 077; printf %s %s > %s", "%s", json.dumps(logins), LOGINS)

    def stop(self) -> None:
        self.host.run("docker rm --force --volumes %s; docker volume rm %s; rm -f %s", NAME, NAME, LOGINS)

    def publish(self, name: str) -> str:
        # One of the fleet's base images becomes the official one. Returns its digest.
        self.host.check_output(
            "skopeo copy --quiet --retry-times 3 --authfile %s --src-cert-dir %s --dest-cert-dir %s "
            "--preserve-digests docker://%s docker://%s",
            *(LOGINS, self.certificates, self.certificates),
            *(f"{self.own}/truthgraph/base/{name}", f"{self.address}/{OFFICIAL}"),
        )
        seen = self.host.check_output(
            "skopeo inspect --authfile %s --cert-dir %s --format '{{.Digest}}' docker://%s",
            *(LOGINS, self.certificates, f"{self.address}/{OFFICIAL}"),
        )
        return str(seen.strip())


@pytest.fixture
def upstream(fleet: Fleet) -> t.Iterator[Upstream]:
    registry = Upstream(fleet)
    registry.host.check_output("command -v skopeo || apt-get -q -y install --no-install-recommends skopeo")
    registry.start()
    yield registry
    registry.stop()


def test_official_images_are_mirrored_and_updated_when_asked(upstream: Upstream, tmp_path: pathlib.Path) -> None:
    pins, answer = tmp_path / "pins.yml", tmp_path / "answer.json"
    usual = {
        "base_images_names": ["python:3.13"],
        "base_images_source": "mirror",
        "base_images_mirror_registry": upstream.address,
        "base_images_mirror_auth_file": LOGINS,
        "base_images_mirror_cert_dir": upstream.certificates,
        "base_images_pins_file": str(pins),
        "fleet_image_prefix": f"{upstream.own}/upstream-test",
        "answer": str(answer),
    }

    def pinned() -> dict[str, t.Any]:
        return yaml.safe_load(pins.read_text(encoding="utf-8")) if pins.exists() else {}

    def mirrored() -> str:
        play("tests/integration/base_images.yml", {**usual, **pinned()})
        return str(json.loads(answer.read_text(encoding="utf-8"))["python:3.13"].partition("@")[2])

    def updated(*options: str) -> str:
        return " ".join(play("playbooks/update_base_images.yml", {**usual, **pinned()}, *options).split())

    first = upstream.publish("python:3.13")
    assert mirrored() == first
    assert f"python:3.13 - {first[7:19]} pinned" in updated()
    assert pinned() == {"base_images_mirror_references": {"python:3.13": f"docker.io/{OFFICIAL}@{first}"}}
    assert mirrored() == first
    # A newer one changes nothing until somebody asks for it, and is shown first.
    second = upstream.publish("python:3.11")
    assert second != first and mirrored() == first
    before = pins.read_text(encoding="utf-8")
    said = updated("--check", "--diff")
    assert f"python:3.13 {first[7:19]} {second[7:19]} updated" in said and f"- python:3.13: docker.io/{OFFICIAL}@{first}" in said
    assert pins.read_text(encoding="utf-8") == before
    updated()
    assert mirrored() == second
    assert f"{second[7:19]} {second[7:19]} nothing" in updated()
