# A deploy, one that fails, and a rollback, with known strings as secrets and with all that Ansible can say of them. Then
# everything that they wrote anywhere is searched for the secrets, and so is every command line that there was meanwhile.
from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import subprocess
import threading
import time
import typing as t
import urllib.parse
import uuid

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, Fleet
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Host, Playbook

HOSTS = {name: Host(name) for name in ("build1", "cpu1", "cpu2", "gpu1")}
SAMPLE_SECONDS = 0.03
# New in every session, so whatever has one was written since; and with all that an address, a shell, SQL and YAML would
# write in another way.
SECRETS = {
    name: f"leak-{name}-{uuid.uuid4().hex[:8]}/9c@b:2'd4 e5%f6"
    for name in ("database", "registry", "superuser", "release", "inference", "planted")
}
# The most that an operator can have Postgres write into its log.
POSTGRES_SETTINGS = {"log_statement": "all", "log_min_duration_statement": 0, "log_min_error_statement": "debug5"}
# Where a host keeps what it needs, readable by root only, or by root and the group of the container it is for.
KEPT = [
    "/etc/truthgraph/slots/",
    "/etc/truthgraph/releases/",
    "/etc/truthgraph/postgres/mounted/superuser_password",
    "/root/.docker/config.json",
]
# Every file of a host that was written since: its own, the layers of all images and containers, what the registry and
# Postgres have, the ledger and the backups. What is compressed as layers are is looked into.
SEARCH = r"""
export LC_ALL=C
cat >/run/needles
files() {
  find / '(' -path /proc -o -path /sys -o -path /dev -o -path /run/needles ')' -prune -o \
    -type f -cnewer /run/before -print0 2>/dev/null
}
files | xargs -0 -r grep -laF -f /run/needles
files | tr '\0' '\n' | grep -aF -f /run/needles
files | xargs -0 -r grep -laP '^\x1f\x8b' | while IFS= read -r file; do
  gzip -dc "$file" 2>/dev/null | grep -qaF -f /run/needles && echo "$file"
done
rm -f /run/needles
"""
SAID = {
    "journal": "journalctl --no-pager --output=export --since=-2h",
    "docker inspect": "docker container ls -aq | xargs -r docker container inspect;"
    " docker image ls -q | sort -u | xargs -r docker image inspect; docker volume ls -q | xargs -r docker volume inspect",
    "docker history": "for image in $(docker image ls -q | sort -u); do docker history --no-trunc $image; done",
    "docker logs": "for one in $(docker container ls -aq); do docker logs $one 2>&1; done",
    "docker events": "docker events --since 2h --until 0s --format '{{json .}}'",
    "systemd": "systemctl show '*'; systemctl show-environment",
    "haproxy": "test ! -S /run/haproxy/admin.sock || python3 -c '"
    "import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/run/haproxy/admin.sock\");"
    " s.sendall(b\"show env;show map;show errors;show stat\\n\"); print(s.makefile().read())'",
}
PLANT = """
set -e
printf '%s' "$1" >/tmp/planted
docker run --name planted --label "planted=$2" --entrypoint sh "$0" -c 'echo "$0"; echo "$0" >/tmp/planted' "$3"
docker commit planted planted:latest
logger --tag planted -- "$1"
systemd-run --unit=planted --property=RemainAfterExit=yes --setenv="PLANTED=$3" true
python3 -c 'import time; time.sleep(1)' "$2"
"""
UPROOT = """
docker rm -f planted
docker rmi planted:latest
systemctl stop planted
rm -f /tmp/planted /var/lib/truthgraph/planted*
"""


def forms(secret: str) -> set[str]:
    """Return how a secret may be written: as it is, as addresses, JSON and shells have it, in base64, and hashed.

    Its beginning is the same however it is quoted, and so it is in base64 of something in which it is quoted.
    """
    data, beginning = secret.encode(), secret.partition("/")[0]
    found = {beginning, secret, json.dumps(secret)[1:-1]} | {secret.replace("'", quoted) for quoted in ("''", "\\'", "'\"'\"'")}
    found |= {urllib.parse.quote(secret, safe=safe) for safe in ("", "/", "/:@'")} | {urllib.parse.quote_plus(secret)}
    for kind in ("md5", "sha1", "sha256"):
        found.add(hashlib.new(kind, data).hexdigest())
    # Within something longer it may begin at each of three places; what depends on its neighbours is left out.
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * before + beginning.encode()).decode()
            found.add(text[[0, 2, 3][before] : len(text) - [0, 3, 2][(before + len(beginning)) % 3]])
    return found


def hits(text: t.Any, needles: dict[str, str]) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    return sorted({name for form, name in needles.items() if form.encode() in data})


def search(host: str, needles: dict[str, str]) -> list[str]:
    """Return which files of a host have one."""
    done = subprocess.run(
        ["docker", "exec", "-i", HOSTS[host].container, "sh", "-c", SEARCH],
        input="".join(f"{form}\n" for form in needles), capture_output=True, text=True, errors="replace", timeout=600, check=True,
    )
    return sorted(set(done.stdout.splitlines()))


def said(host: str, what: str) -> bytes:
    return subprocess.run(
        ["docker", "exec", HOSTS[host].container, "sh", "-c", SAID[what]], capture_output=True, timeout=300, check=True
    ).stdout


def search_here(places: t.Iterable[pathlib.Path | str], needles: dict[str, str], since: float) -> list[str]:
    """Return which files of the control node that were written since have one."""
    found = []
    for place in places:
        for directory, names, files in os.walk(place):
            names[:] = [name for name in names if name not in (".venv", ".git")]
            for path in (pathlib.Path(directory) / file for file in files):
                with contextlib.suppress(OSError):  # It is gone, or a socket.
                    if path.is_file() and path.stat().st_ctime >= since and hits(path.read_bytes(), needles):
                        found.append(str(path))
    return found


class CommandLines(threading.Thread):
    """Every command line that there is on this machine, which is all hosts of the lab and the control node too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[bytes] = set()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            for name in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):  # It has ended.
                    self.seen.add(pathlib.Path(f"/proc/{name}/cmdline").read_bytes())

    def __enter__(self) -> CommandLines:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.join()


@pytest.fixture(scope="module")
def since() -> float:
    """From now on what is written is looked at."""
    for host in HOSTS.values():
        host.run("touch", "/run/before")
    return time.time()


@pytest.fixture(scope="module")
def state() -> pathlib.Path:
    return pathlib.Path(Fleet(LAB).variables["state_dir"])


@pytest.fixture(scope="module")
def needles(state: pathlib.Path) -> dict[str, str]:
    found = {form: name for name, secret in SECRETS.items() if name != "planted" for form in forms(secret)}
    key = (state / "ca" / "ca.key").read_text(encoding="ascii").splitlines()
    return {**found, **dict.fromkeys((line for line in key if not line.startswith("-") and len(line) == 64), "key of the CA")}


# What was printed by each run, and the command lines that there were meanwhile.
Written = tuple[dict[str, str], set[bytes]]


@pytest.fixture(scope="module")
def written(fleet: rollout.Fleet, since: float, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Written]:
    """What was printed and what ran meanwhile, after all three runs."""
    fleet.bring("reference")
    spoiled = fleet.tree("never-ready", rollout.never_ready)
    file = tmp_path_factory.mktemp("secrets") / "vault.json"
    file.write_text(
        json.dumps({
            "fleet_database_password": SECRETS["database"],
            "fleet_registry_password": SECRETS["registry"],
            "postgres_superuser_password": SECRETS["superuser"],
            "api_secrets": {"EXTRA_TOKEN": SECRETS["release"]},
            "inference_secrets": {"EXTRA_TOKEN": SECRETS["inference"]},
        }),
        encoding="utf-8",
    )
    file.chmod(0o600)
    settings = {"postgres_settings": POSTGRES_SETTINGS}
    output: dict[str, str] = {}
    try:
        with CommandLines() as lines:
            for name, what, variables, callback, good in (
                # Its image is built in this run, with all secrets there.
                ("deploy", "deploy", fleet.tree(f"leak-{uuid.uuid4().hex[:8]}", build=False), "default", True),
                ("failed deploy", "deploy", {**spoiled, "api_ready_timeout": 8}, "ansible.posix.jsonl", False),
                ("rollback", "rollback", {}, "default", True),
            ):
                options = ["-vvv", "--diff", "-e", f"@{file}"]
                with Playbook(what, {**settings, **variables}, *options, callback=callback) as running:
                    run = running.result()
                    output[name] = running.output
                assert (run.code == 0) == good, f"{name}: {run}"
        file.unlink()
        yield output, lines.seen
    finally:
        run = fleet.deploy("reference")
    assert run.code == 0, str(run)


def test_the_secrets_were_in_use(written: Written, needles: dict[str, str]) -> None:
    # They are where they are kept.
    for host, wanted in {
        "cpu1": {"database", "release", "registry", "superuser"},
        "cpu2": {"database", "release", "registry"},
        "gpu1": {"inference", "registry"},
        "build1": {"registry"},
    }.items():
        kept = [path for path in search(host, needles) if any(path.startswith(place) for place in KEPT)]
        found = {name for path in kept for name in hits(HOSTS[host].run("cat", path), needles)}
        assert found == wanted, host
    # What was sampled was there to be sampled.
    assert len(written[1]) > 500
    for text in (b"ansible-playbook", b"docker\0", b"postgres", b"haproxy"):
        assert any(text in line for line in written[1]), text
    assert all(len(text) > 100_000 for text in written[0].values())


def test_nothing_is_printed(written: Written, needles: dict[str, str]) -> None:
    found = {
        (name, number, hit)
        for name, text in written[0].items()
        for number, line in enumerate(text.splitlines())
        for hit in hits(line, needles)
    }
    assert found == set()


def test_no_command_line_has_one(written: Written, needles: dict[str, str]) -> None:
    assert [line for line in written[1] if hits(line, needles)] == []


@pytest.mark.parametrize("host", HOSTS)
def test_no_file_of_a_host_has_one(written: Written, needles: dict[str, str], host: str) -> None:
    assert [path for path in search(host, needles) if not any(path.startswith(kept) for kept in KEPT)] == []
    # What is kept is kept from others.
    readable = HOSTS[host].run("sh", "-c", f"find {' '.join(KEPT)} -type f -perm /o=rwx 2>/dev/null; true")
    assert readable == ""


@pytest.mark.parametrize("what", SAID)
@pytest.mark.parametrize("host", HOSTS)
def test_no_host_says_one(written: Written, needles: dict[str, str], host: str, what: str) -> None:
    assert hits(said(host, what), needles) == []


def places_here(state: pathlib.Path) -> list[pathlib.Path | str]:
    """Return where the control node may have written something, but for where it keeps secrets."""
    return [pathlib.Path.home() / ".ansible", "/tmp", "/var/tmp", "/var/log", "/run", CHECKOUT,
            *(path for path in state.iterdir() if path.name not in ("ca", "passwords", "ssh"))]


def test_nothing_is_left_on_the_control_node(
    written: Written, needles: dict[str, str], state: pathlib.Path, since: float
) -> None:
    assert search_here(places_here(state), needles, since) == []
    kept = [path for name in ("passwords", "ca", "ssh") for path in (state / name).iterdir()]
    kept = [path for path in kept if path.suffix not in (".crt", ".pub") and path.name != "known_hosts"]
    assert [path for path in kept if path.stat().st_mode & 0o077] == []


def test_what_is_planted_on_a_host_is_found_everywhere(fleet: Fleet, since: float) -> None:
    host, secret = HOSTS["cpu2"], SECRETS["planted"]
    needles = dict.fromkeys(forms(secret), "planted")
    address, coded = urllib.parse.quote(secret, safe=""), base64.b64encode(f"truthgraph:{secret}".encode()).decode()
    image = host.look().live["image"]
    try:
        packed = base64.b64encode(gzip.compress(json.dumps({"planted": secret}).encode())).decode()
        host.run("sh", "-c", f"echo {packed} | base64 -d >/var/lib/truthgraph/planted.gz")
        with CommandLines() as lines:
            host.run("sh", "-c", PLANT, image, secret, address, coded)
        found = search("cpu2", needles)
        assert {"/tmp/planted", "/var/lib/truthgraph/planted.gz"} <= set(found)
        assert [path for path in found if path.startswith("/var/lib/docker/overlay2/") and path.endswith("/tmp/planted")]
        for what in set(SAID) - {"haproxy"}:
            assert hits(said("cpu2", what), needles) == ["planted"], what
        assert [line for line in lines.seen if hits(line, needles) and b"time.sleep" in line]
    finally:
        host.run("sh", "-c", UPROOT, check=False)
    # What it has said it has said, and the engine's store keeps the pages that it has freed; the rest is gone.
    kept = ("/var/log/journal/", "/var/lib/containerd/io.containerd.metadata")
    assert [path for path in search("cpu2", needles) if not path.startswith(kept)] == []
    assert hits(said("cpu2", "docker inspect"), needles) == hits(said("cpu2", "docker history"), needles) == []


def test_what_is_planted_on_the_control_node_is_found(state: pathlib.Path, since: float, tmp_path: pathlib.Path) -> None:
    secret = SECRETS["planted"]
    needles = dict.fromkeys(forms(secret), "planted")
    planted = [pathlib.Path.home() / ".ansible" / "planted", state / "probe" / "planted", tmp_path / "planted"]
    try:
        for path in planted:
            path.write_text(f"password: {secret}\n", encoding="utf-8")
        assert set(map(str, planted)) == set(search_here(places_here(state), needles, since))
        # And what a run prints.
        smoke = {"path": "/api/v1/verify", "body": {"claim": secret}}
        with Playbook("verify", {"api_smoke": smoke}, "-vvv", callback="default") as running:
            running.result()
            assert hits(running.output, needles) == ["planted"]
    finally:
        for path in planted:
            path.unlink(missing_ok=True)


def test_every_form_of_a_secret_is_a_hit() -> None:
    secret = SECRETS["planted"]
    needles = dict.fromkeys(forms(secret), "planted")
    for form in needles:
        assert hits(f"before{form}after", needles) == ["planted"]
    for before in ("", "u:", "me:", "truthgraph:"):
        for written in (secret, urllib.parse.quote(secret, safe=""), json.dumps(secret)):
            coded = base64.b64encode(f"{before}{written}@host".encode()).decode()
            assert hits(coded, needles) == ["planted"], before
    # YAML may break it where it has a space.
    assert hits(secret.replace(" ", "\n    "), needles) == ["planted"]
