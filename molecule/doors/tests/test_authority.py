# The fleet's own certificates are renewed and their authority is replaced while clients go on.
import pathlib
import ssl
import subprocess
import time

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared import fleet as hosts
from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, UnderLoad, play

EGRESS = "/etc/truthgraph/tls/egress/egress"
SERVED = (("gpu1", "/etc/truthgraph/tls/inference/inference.crt"), ("cpu1", f"{EGRESS}.crt"), ("cpu2", f"{EGRESS}.crt"),
          ("cpu1", "/etc/truthgraph/postgres/mounted/tls/postgres.crt"), ("build1", "/etc/truthgraph/registry/tls/registry.crt"))


@pytest.fixture(scope="module")
def lab() -> hosts.Fleet:
    return hosts.Fleet()


def put(host: str, path: str, content: bytes) -> None:
    subprocess.run(
        ["docker", "exec", "-i", f"truthgraph-lab-{host}", "sh", "-c", f"cat > {path}"], input=content, check=True
    )


def test_a_certificate_that_ends_soon_is_said_and_renewed(
    fleet: Fleet, lab: hosts.Fleet, under_load: UnderLoad, tmp_path: pathlib.Path
) -> None:
    fleet.bring("reference")
    host = Host("cpu2")
    certificate, key = Authority(lab.ca_file.parent).write(tmp_path, "cpu2", days=20, use="client")
    for path, ending in ((certificate, "crt"), (key, "key")):
        put("cpu2", f"{EGRESS}.{ending}", pathlib.Path(path).read_bytes())
    host.run("systemctl", "reload", "haproxy")
    status = play("status")
    assert f"cpu2: {EGRESS}.crt ends at" in status.said and "in 19 days" in status.said, status.said
    with under_load():
        run = play("deploy", fleet.tree("reference"))
    assert run.code == 0, str(run)
    assert "ends at" not in play("status").said
    assert days_left(host, f"{EGRESS}.crt") > 300
    again = play("deploy", fleet.tree("reference"))
    assert (again.code, again.changed) == (0, {}), str(again)


def days_left(host: Host, path: str) -> float:
    ends = host.run("openssl", "x509", "-noout", "-enddate", "-in", path).strip().partition("=")[2]
    now = int(host.run("date", "+%s"))
    return (ssl.cert_time_to_seconds(ends) - now) / 86400


def signed_by(host: str, path: str, authority: str, tmp_path: pathlib.Path) -> bool:
    """Say whether an authority has signed a certificate of a host."""
    (tmp_path / "ca.crt").write_text(authority)
    (tmp_path / "one.crt").write_text(Host(host).run("cat", path))
    command = ["openssl", "verify", "-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "one.crt")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_authority_is_replaced_and_no_request_is_dropped(
    fleet: Fleet, lab: hosts.Fleet, under_load: UnderLoad, tmp_path: pathlib.Path
) -> None:
    fleet.bring("reference")
    directory = lab.ca_file.parent
    before = Authority(directory)
    with under_load():
        run = play("rotate_ca", fleet.tree("reference"), timeout=1500)
    assert run.code == 0, str(run)
    after = Authority(directory)
    assert after.text != before.text
    assert lab.ca_file.read_text(encoding="utf-8") == after.text
    assert sorted(path.name for path in directory.iterdir()) == ["ca.crt", "ca.key"]
    for host, path in SERVED:
        assert signed_by(host, path, after.text, tmp_path), (host, path)
        assert not signed_by(host, path, before.text, tmp_path), (host, path)
    # What the earlier authority signs is worth nothing any more.
    for name, authority, status in (("after", after, 200), ("before", before, 0)):
        certificate, key = authority.write(tmp_path / name, "egress", use="client")
        for path, ending in ((certificate, "crt"), (key, "key")):
            put("cpu1", f"/run/shown.{ending}", pathlib.Path(path).read_bytes())
        shown = {"ca": hosts.EGRESS["ca"], "certificate": "/run/shown.crt", "key": "/run/shown.key"}
        answer = hosts.ask(lab.members["cpu1"].host, "https://10.203.77.31:8001/health", tls=shown)
        assert answer.status == status, (name, answer)
    Host("cpu1").run("rm", "/run/shown.crt", "/run/shown.key")
    again = play("deploy", fleet.tree("reference"))
    assert (again.code, again.changed) == (0, {}), str(again)


def answers(api: testinfra.host.Host, url: str, status: int) -> None:
    """Wait until a URL answers so, at most a minute."""
    for _time in range(120):
        answer = hosts.ask(api, url)
        if answer.status == status:
            return
        time.sleep(0.5)
    pytest.fail(f"{url} never answered {status}, but {answer}")


def test_a_false_inference_service_is_not_believed(fleet: Fleet, lab: hosts.Fleet, tmp_path: pathlib.Path) -> None:
    fleet.bring("reference")
    path = "/etc/truthgraph/tls/inference/inference"
    gpu, api = Host("gpu1"), lab.members["cpu1"].host
    own = {ending: gpu.run("cat", f"{path}.{ending}") for ending in ("crt", "key")}
    ready = "http://10.203.77.21:8000/ready"
    try:
        # Of the fleet's own authority, but of another host.
        for file, ending in zip(Authority(lab.ca_file.parent).write(tmp_path, "cpu2"), ("crt", "key"), strict=True):
            put("gpu1", f"{path}.{ending}", pathlib.Path(file).read_bytes())
        gpu.run("systemctl", "restart", "haproxy")
        answers(api, ready, 503)
    finally:
        for ending, content in own.items():
            put("gpu1", f"{path}.{ending}", content.encode())
        gpu.run("systemctl", "restart", "haproxy")
    answers(api, ready, 200)
    run = play("deploy", fleet.tree("reference"))
    assert run.code == 0, str(run)
