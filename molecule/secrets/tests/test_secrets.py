# A deploy, one that fails, and a rollback, with all that Ansible can say of them. Then everything that they wrote anywhere is
# searched for the secrets, and so is every command line that there was meanwhile.
import base64
import json
import pathlib
import threading
import time
import urllib.parse

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.fleet import LAB, Fleet
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Host, Playbook

HOSTS = {name: Host(name) for name in ("build1", "cpu1", "cpu2", "gpu1")}
SAMPLE_SECONDS = 0.02
# Where a host keeps what it needs, readable by root only, or by root and the group of the container it is for.
KEPT = [
    "/etc/truthgraph/slots/",
    "/etc/truthgraph/releases/",
    "/etc/truthgraph/postgres/mounted/superuser_password",
    "/root/.docker/config.json",
]
# Every file of a host's own, the layers of all images and containers among them. What it keeps in a database or an archive
# is looked at by other means below.
SEARCH = """
cat >/run/needles
grep -rlIF --binary-files=text -f /run/needles \
  --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude=needles / 2>/dev/null
rm -f /run/needles
"""
SAID = {
    "journal": "journalctl --no-pager --output=cat",
    "docker inspect": "docker container ls -aq | xargs -r docker container inspect; docker image ls -q | sort -u | xargs -r docker image inspect",
    "docker history": "for image in $(docker image ls -q | sort -u); do docker history --no-trunc $image; done",
    "docker logs": "for one in $(docker container ls -aq); do docker logs $one 2>&1; done",
    "docker events": "docker events --since 1h --until 0s --format '{{json .}}'",
    "environment of systemd": "systemctl show '*' --property=Environment --property=ExecStart",
}


class CommandLines(threading.Thread):
    """Every command line that there is on this machine, which is all hosts of the lab too."""

    def __init__(self):
        super().__init__()
        self.seen, self._over = set(), threading.Event()

    def run(self):
        while not self._over.wait(SAMPLE_SECONDS):
            for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    pass  # It has ended.

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_error):
        self._over.set()
        self.join()


@pytest.fixture(scope="module")
def needles():
    variables = Fleet(LAB).variables
    state = pathlib.Path(variables["state_dir"])
    secrets = {
        "database": variables["database_password"],
        "registry": variables["registry_password"],
        "superuser": (state / "passwords" / "postgres_superuser").read_text(encoding="utf-8").strip(),
        # With what an address, a shell and YAML would write in another way.
        "release": "leak-7f3a/9c:b2'd4 e5%f6",
        "key of the CA": next(
            line for line in (state / "ca" / "ca.key").read_text(encoding="utf-8").splitlines() if not line.startswith("-")
        ),
    }
    found = {}
    for name, secret in secrets.items():
        forms = [secret, urllib.parse.quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()]
        for form in {*forms, base64.b64encode(f"truthgraph:{secret}".encode()).decode()}:
            found[form] = name
    return found


@pytest.fixture(scope="module")
def written(fleet, needles, tmp_path_factory):
    """What was printed and what ran meanwhile, after all three runs."""
    fleet.bring("reference")
    secret = next(form for form, name in needles.items() if name == "release" and form.startswith("leak-") and "'" in form and " " in form)
    file = tmp_path_factory.mktemp("secrets") / "variables.json"
    file.write_text(json.dumps({"api_secrets": {"EXTRA_TOKEN": secret}, "release_bake": 2}), encoding="utf-8")
    file.chmod(0o600)
    broken = {**fleet.tree("never-ready", rollout.never_ready), "api_ready_timeout": 8}
    output = {}
    with CommandLines() as lines:
        for name, what, variables, code in (
            ("deploy", "deploy", fleet.tree("reference"), 0),
            ("failed deploy", "deploy", broken, None),
            ("rollback", "rollback", {}, 0),
        ):
            with Playbook(what, variables, "-vvv", "-e", f"@{file}") as running:
                run = running.result()
                output[name] = running.output
            assert (run.code == 0) == (code == 0), str(run)
    file.unlink()
    yield output, lines.seen
    assert fleet.deploy("reference").code == 0


def hits(text, needles):
    data = text if isinstance(text, bytes) else text.encode()
    return sorted({name for form, name in needles.items() if form.encode() in data})


def test_the_search_finds_what_is_there(written, needles):
    # The secrets did reach the hosts: where they are kept.
    found = {name for path in HOSTS["cpu1"].run("sh", "-c", "find /etc/truthgraph/slots -type f").split()
             for name in hits(HOSTS["cpu1"].run("cat", path), needles)}
    assert found >= {"database", "release"}


def test_nothing_is_printed(written, needles):
    assert {name: hits(text, needles) for name, text in written[0].items()} == dict.fromkeys(written[0], [])


def test_no_command_line_has_one(written, needles):
    assert len(written[1]) > 100
    assert [line for line in written[1] if hits(line, needles)] == []


@pytest.mark.parametrize("host", HOSTS)
def test_no_file_of_a_host_has_one(written, needles, host):
    found = rollout.subprocess.run(
        ["docker", "exec", "-i", HOSTS[host].container, "sh", "-c", SEARCH],
        input="\n".join(needles), capture_output=True, text=True, timeout=600, check=False,
    ).stdout.splitlines()
    assert [path for path in found if not any(path.startswith(kept) for kept in KEPT)] == []
    # What is kept is kept from others.
    readable = HOSTS[host].run("sh", "-c", f"find {' '.join(KEPT)} -type f -perm /o=rwx 2>/dev/null; true")
    assert readable == ""


@pytest.mark.parametrize("what", SAID)
@pytest.mark.parametrize("host", HOSTS)
def test_no_host_says_one(written, needles, host, what):
    assert hits(HOSTS[host].run("sh", "-c", SAID[what], timeout=300), needles) == []


def test_nothing_is_left_on_the_control_node(written, needles):
    # What Ansible keeps for itself, and temporary files.
    home = pathlib.Path.home()
    places = [home / ".ansible", pathlib.Path("/tmp"), rollout.CHECKOUT / ".ansible"]
    found = []
    for path in (file for place in places for file in place.rglob("*")):
        try:
            if path.is_file() and path.stat().st_mtime > time.time() - 3600 and hits(path.read_bytes(), needles):
                found.append(str(path))
        except OSError:
            pass  # It is gone, or a socket.
    assert found == []
