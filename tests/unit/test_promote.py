"""A release goes from one fleet's registry to another's: the tasks of the role image_build, against two registries of the
test's own over real TLS, and a program in place of skopeo that copies between them."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority

RELEASE, LATER, MONOLITH = "1a2b3c4d5e6f", "9f8e7d6c5b4a.2", "0c0c0c0c0c0c"
PASSWORDS = {"source": "correct-horse", "own": "battery-staple"}
TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class Store:
    """What a registry has: manifests and blobs by digest, and tags, all by repository."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.manifests: dict[str, dict[str, bytes]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    def put(self, repository: str, body: bytes, tag: str = "") -> str:
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.manifests.setdefault(repository, {})[digest] = body
        if tag:
            self.tags.setdefault(repository, {})[tag] = digest
        return digest

    def build(self, repository: str, key: str, *tags: str) -> str:
        """Have an image, as a build of the collection leaves it."""
        labels = {
            "truthgraph.key": key,
            "org.opencontainers.image.version": "0.3.0",
            "org.opencontainers.image.revision": "abcdef",
            "org.opencontainers.image.created": "2026-11-01T00:00:00Z",
        }
        config = json.dumps({"config": {"Labels": labels}, "rootfs": {"diff_ids": [f"sha256:{key}"]}}).encode()
        number = "sha256:" + hashlib.sha256(config).hexdigest()
        self.blobs[number] = config
        manifest = {"config": {"digest": number, "size": 100}, "layers": [{"digest": "sha256:1", "size": 900}]}
        body = json.dumps(manifest).encode()
        for tag in tags:
            self.put(repository, body, tag)
        return self.put(repository, body, key)


def handler(store: Store) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
            """Keep quiet."""

        def answer(self, status: int, body: bytes = b"", kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def found(self) -> tuple[str, str]:
            store.asked.append(f"{self.command} {self.path}")
            repository, _kind, name = self.path.removeprefix("/v2/").rsplit("/", 2)
            return repository, store.tags.get(repository, {}).get(name, name)

        def do_GET(self) -> None:  # pylint: disable=invalid-name
            login = base64.b64encode(f"truthgraph:{store.password}".encode()).decode()
            if self.headers.get("Authorization") != f"Basic {login}":
                return self.answer(401)
            if self.path == "/v2/":
                return self.answer(200, b"{}")
            repository, name = self.found()
            if "/tags/list" in self.path:
                if repository not in store.tags:
                    return self.answer(404)
                return self.answer(200, json.dumps({"tags": list(store.tags[repository])}).encode())
            if "/blobs/" in self.path:
                return self.answer(200, store.blobs[name])
            body = store.manifests.get(repository, {}).get(name)
            return self.answer(200, body, TYPE) if body else self.answer(404)

        def do_PUT(self) -> None:  # pylint: disable=invalid-name
            repository = self.path.removeprefix("/v2/").rsplit("/", 2)[0]
            store.asked.append(f"PUT {self.path}")
            store.put(repository, self.rfile.read(int(self.headers["Content-Length"])), self.path.rsplit("/", 1)[1])
            self.answer(201)

        def do_DELETE(self) -> None:  # pylint: disable=invalid-name
            repository, digest = self.found()
            store.manifests[repository].pop(digest)
            store.tags[repository] = {tag: one for tag, one in store.tags[repository].items() if one != digest}
            self.answer(202)

    return Handler


# Writes down what it was told and what it could read; the registry of the test puts the image where it was told to.
SKOPEO = """#!{python}
import json, os, ssl, stat, sys, urllib.request
arguments = sys.argv[1:]
if arguments == ["--version"]:
    sys.exit(print("skopeo version 1.18.0"))
value = lambda option: arguments[arguments.index(option) + 1]
files = {{name: value(f"--{{name}}-authfile") for name in ("src", "dest")}}
seen = {{
    "arguments": arguments,
    "logins": {{name: json.load(open(path))["auths"] for name, path in files.items()}},
    "modes": [oct(stat.S_IMODE(os.stat(path).st_mode)) for path in (*files.values(), os.path.dirname(files["src"]))],
    "certificate": open(os.path.join(value("--src-cert-dir"), "ca.crt")).read(),
    "proxy": os.environ.get("NO_PROXY"),
}}
with open({home!r} + "/copies", "a") as file:
    file.write(json.dumps(seen) + "\\n")
if os.path.exists({home!r} + "/broken"):
    sys.exit("connection reset by peer")
urllib.request.urlopen("http://{copier}/" + "%20".join(arguments[-2:]).replace("docker://", ""))
"""


def promotion(release: str, **variables: t.Any) -> dict[str, t.Any]:
    role = {"name": "truthgraph.platform.image_build", "tasks_from": "promote"}
    given = {"image_build_promote_release": release, **variables}
    return {"name": "Promote", "ansible.builtin.include_role": role, "vars": given}


class Fleets:
    """Two registries, and a host that copies from one to the other."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.authority = Authority()
        self.stores = {name: Store(password) for name, password in PASSWORDS.items()}
        certificate, key = self.authority.write(home / "tls", "127.0.0.1")
        (home / "ca.crt").write_text(self.authority.text)
        self.servers: list[http.server.ThreadingHTTPServer] = []
        self.addresses = {}
        for name, store in self.stores.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self.addresses[name] = self.serve(handler(store), context)
        fleets = self

        class Copier(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
                """Keep quiet."""

            def do_GET(self) -> None:  # pylint: disable=invalid-name
                source, _, wanted = self.path.lstrip("/").partition("%20")
                repository, digest = source.partition("/")[2].split("@")
                target, tag = wanted.partition("/")[2].split(":")
                body = fleets.stores["source"].manifests[repository][digest]
                fleets.stores["own"].put(target, body, tag)
                fleets.stores["own"].blobs.update(fleets.stores["source"].blobs)
                self.send_response(200)
                self.end_headers()

        copier = self.serve(Copier)
        (home / "bin").mkdir()
        (home / "bin/skopeo").write_text(SKOPEO.format(python=sys.executable, home=str(home), copier=copier))
        (home / "bin/skopeo").chmod(0o755)
        source = self.stores["source"]
        self.core = source.build("truthgraph/core", "c1c1", f"release-{RELEASE}")
        self.ml = source.build("truthgraph/ml", "d1d1", f"release-{RELEASE}", f"release-{LATER}")
        self.later = source.build("truthgraph/core", "c2c2", f"release-{LATER}")
        self.api = source.build("truthgraph/api", "a1a1", f"release-{MONOLITH}")
        # Looked into already, so that no engine is asked.
        (home / "build/inventories").mkdir(parents=True)
        for digest in (self.core, self.ml, self.later, self.api):
            found = {"unpacked_bytes": 5000, "layers": [], "python": [], "system": [], "distribution": ""}
            (home / f"build/inventories/{digest.replace(':', '-')}.json").write_text(json.dumps(found))

    def serve(self, requests: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), requests)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.servers.append(server)
        return f"127.0.0.1:{server.server_address[1]}"

    def play(self, *tasks: dict[str, t.Any], options: t.Sequence[str] = (), **variables: t.Any) -> Said:
        """Run tasks on the build host, and return what was said, what changed and what was answered."""
        own = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "fleet_name": "test",
            "fleet_state_dir": str(self.home / "state"),
            "fleet_registry_address": self.addresses["own"],
            "fleet_registry_password": PASSWORDS["own"],
            "fleet_registry_ca_file": str(self.home / "ca.crt"),
            "fleet_database_password": "Ohn7eiph",
            "inference_device": "cpu",
            "image_build_directory": str(self.home / "build"),
            "image_build_promote_address": self.addresses["source"],
            "image_build_promote_password": PASSWORDS["source"],
            "image_build_promote_ca_file": str(self.home / "ca.crt"),
            **variables,
        }
        groups = ("truthgraph_build", "truthgraph_registry", "truthgraph_api", "truthgraph_inference")
        children: dict[str, t.Any] = {group: {"hosts": {"here": {}}} for group in groups}
        (self.home / "hosts.yml").write_text(yaml.safe_dump({"truthgraph": {"vars": own, "children": children}}))
        answer = {
            "name": "Answer",
            "ansible.builtin.copy": {
                "content": "{{ image_build_images | default({}) | to_json }}",
                "dest": f"{self.home}/answer.json",
                "mode": "0600",
            },
            "check_mode": False,
            "changed_when": False,
        }
        whole = {"hosts": "truthgraph", "gather_facts": False, "tasks": [*tasks, answer]}
        (self.home / "play.yml").write_text(yaml.safe_dump([whole], sort_keys=False))
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        # Where memory would hold what must not stay.
        memory = ["-e", f"__image_build_promote_secrets={self.home}/memory"]
        done = subprocess.run(
            [program, "-i", f"{self.home}/hosts.yml", "play.yml", *memory, *options],
            cwd=self.home,
            env={
                **os.environ,
                "PATH": f"{self.home}/bin:{os.environ['PATH']}",
                "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
                "ANSIBLE_HOME": f"{self.home}/ansible",
                "ANSIBLE_ASYNC_DIR": f"{self.home}/async",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        text = done.stdout + done.stderr
        assert not [name for name, password in PASSWORDS.items() if password in text], text
        assert not (self.home / "memory").exists(), "logins were left"
        return Said(done.returncode, text, json.loads((self.home / "answer.json").read_text()) if done.returncode == 0 else {})

    def promote(self, release: str, *options: str, **variables: t.Any) -> Said:
        return self.play(promotion(release), options=options, **variables)

    def have(self) -> None:
        """Let the own registry have the images of the release, as a promotion leaves them."""
        source, own = self.stores["source"], self.stores["own"]
        own.blobs.update(source.blobs)
        for name, digest, key in (("core", self.core, "c1c1"), ("ml", self.ml, "d1d1")):
            own.put(f"truthgraph/{name}", source.manifests[f"truthgraph/{name}"][digest], key)

    @property
    def copies(self) -> list[dict[str, t.Any]]:
        """What was asked of the program that copies."""
        path = self.home / "copies"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Said(t.NamedTuple):
    code: int
    text: str
    images: t.Any

    @property
    def changed(self) -> int:
        return sum(map(int, re.findall(r"changed=(\d+)", self.text)))

    @property
    def words(self) -> str:
        return " ".join(self.text.replace("\\n", " ").split())


@pytest.fixture
def fleets(tmp_path: Path) -> t.Iterator[Fleets]:
    made = Fleets(tmp_path)
    yield made
    for server in made.servers:
        server.shutdown()


REFUSED: list[tuple[str, dict[str, t.Any], list[str]]] = [
    ("ffffffffffff", {}, [f"has no release ffffffffffff. What can be promoted: {RELEASE}, {LATER} (-e promote_release=ID)"]),
    ("", {}, [f"was asked for no release. What can be promoted: {RELEASE}, {LATER} (-e"]),
    ("not an id", {}, ["has no release not an id.", f"{RELEASE}, {LATER}"]),
    (MONOLITH, {}, [f"has api of release {MONOLITH}, and fleet_topology split needs core and ml.", RELEASE]),
    (RELEASE, {"fleet_topology": "monolith"}, ["fleet_topology monolith needs api.", f"promoted: {MONOLITH} (-e"]),
    (RELEASE, {"image_build_promote_password": "wrong"}, ["refuses user name or password", "image_build_promote_password"]),
    (RELEASE, {"image_build_promote_password": "example-1"}, ["image_build_promote_password is the published one"]),
    (RELEASE, {"image_build_promote_password": ""}, ["image_build_promote_password is empty"]),
    (RELEASE, {"image_build_promote_address": ""}, ["image_build_promote_address is empty"]),
    (RELEASE, {"image_build_promote_address": "127.0.0.1:1"}, ["cannot be reached", "firewall_further_sources"]),
    (RELEASE, {"image_build_promote_ca_file": "/nowhere/ca.crt"}, ["/nowhere/ca.crt", "does not exist on the control node"]),
    (RELEASE, {"image_build_promote_ca_file": ""}, ["is not trusted", "image_build_promote_ca_file"]),
    (RELEASE, {"image_build_promote_prefix": "h/other"}, ["It has no release that could be promoted"]),
]


def test_what_cannot_be_promoted_is_refused(fleets: Fleets) -> None:
    heard = "{{ heard | default([]) + [ansible_failed_result.msg] }}"
    cases = [
        {
            "name": "Case",
            "block": [promotion(release, **variables)],
            "rescue": [{"name": "Hear", "ansible.builtin.set_fact": {"heard": heard}}],
        }
        for release, variables, _wanted in REFUSED
    ]
    whole = {"name": "Answer", "ansible.builtin.set_fact": {"image_build_images": "{{ heard }}"}}
    said = fleets.play(*cases, whole)
    assert (said.code, said.changed) == (0, 0) and len(said.images) == len(REFUSED), said.text
    for message, (_release, _variables, wanted) in zip(said.images, REFUSED, strict=True):
        for text in wanted:
            assert text in " ".join(message.split()), message
    assert not fleets.stores["own"].asked and not fleets.copies


def test_check_mode_knows_the_digests_and_copies_nothing(fleets: Fleets) -> None:
    said = fleets.promote(RELEASE, "--check")
    assert (said.code, said.changed) == (0, 0), said.text
    assert {name: image["digest"] for name, image in said.images.items()} == {"core": fleets.core, "ml": fleets.ml}
    assert said.images["core"]["layers"] == {"sha256:c1c1": 900}
    assert re.search(rf"truthgraph/core@{fleets.core} is to be copied from .*: 0.0 MB, of revision abcdef", said.words)
    assert not fleets.copies and not fleets.stores["own"].tags


def test_a_copy_that_fails_says_so_and_leaves_no_login(fleets: Fleets) -> None:
    (fleets.home / "broken").touch()
    said = fleets.promote(RELEASE)
    (fleets.home / "broken").unlink()
    assert said.code == 2 and "could not be copied" in said.words and "connection reset by peer" in said.words, said.text
    assert not fleets.stores["own"].tags


def test_the_same_digests_come_and_nothing_is_built(fleets: Fleets) -> None:
    said = fleets.promote(RELEASE)
    assert said.code == 0 and said.changed > 0, said.text
    own, source = fleets.addresses["own"], fleets.addresses["source"]
    assert [one["arguments"][-2:] for one in fleets.copies] == [
        [f"docker://{source}/truthgraph/core@{fleets.core}", f"docker://{own}/truthgraph/core:c1c1"],
        [f"docker://{source}/truthgraph/ml@{fleets.ml}", f"docker://{own}/truthgraph/ml:d1d1"],
    ]
    for one in fleets.copies:
        assert "--preserve-digests" in one["arguments"] and one["proxy"] == "*"
        # Each registry hears its own password only; both are readable by root alone, in a directory that is, too.
        for name, which in (("src", "source"), ("dest", "own")):
            login = base64.b64encode(f"truthgraph:{PASSWORDS[which]}".encode()).decode()
            assert one["logins"][name] == {fleets.addresses[which]: {"auth": login}}
        assert one["modes"] == ["0o600", "0o600", "0o700"]
        assert one["certificate"].strip() == fleets.authority.text.strip()
    assert fleets.stores["own"].tags == {"truthgraph/core": {"c1c1": fleets.core}, "truthgraph/ml": {"d1d1": fleets.ml}}
    core = said.images["core"]
    assert core["reference"] == f"{own}/truthgraph/core@{fleets.core}"
    assert (core["key"], core["version"], core["revision"], core["built"]) == ("c1c1", "0.3.0", "abcdef", False)
    assert (core["unpacked_bytes"], core["compressed_bytes"]) == (5000, 1000)
    assert core["sbom"].startswith(f"{fleets.home}/build/inventories/sha256-")


def test_what_is_there_is_not_copied_again(fleets: Fleets) -> None:
    fleets.have()
    said = fleets.promote(RELEASE)
    assert (said.code, said.changed) == (0, 0), said.text
    assert not fleets.copies
    # Of the next release it is the core alone; and an image that lost its key gets it back, by which a deploy finds it.
    del fleets.stores["own"].tags["truthgraph/ml"]["d1d1"]
    said = fleets.promote(LATER)
    assert said.code == 0, said.text
    assert [one["arguments"][-1].rpartition("/")[2] for one in fleets.copies] == ["core:c2c2"]
    assert fleets.stores["own"].tags["truthgraph/ml"] == {"d1d1": fleets.ml}
    assert said.images["core"]["digest"] == fleets.later and said.images["ml"]["digest"] == fleets.ml


def test_one_registry_for_both_fleets_copies_nothing(fleets: Fleets) -> None:
    shared = {"fleet_registry_address": fleets.addresses["source"], "fleet_registry_password": PASSWORDS["source"]}
    said = fleets.promote(RELEASE, **shared)
    assert (said.code, said.changed) == (0, 0), said.text
    assert said.images["core"]["reference"] == f"{fleets.addresses['source']}/truthgraph/core@{fleets.core}"
    assert not fleets.copies


def test_a_monolith_is_one_image(fleets: Fleets) -> None:
    said = fleets.promote(MONOLITH, fleet_topology="monolith")
    assert said.code == 0 and list(said.images) == ["api"], said.text
    assert said.images["api"]["digest"] == fleets.api and said.images["api"]["version"] == "0.3.0"


# The name that a stable release gets, by which all this is found.


def settle(fleets: Fleets, **variables: t.Any) -> Said:
    images = {name: f"{fleets.addresses['own']}/truthgraph/{name}@{getattr(fleets, name)}" for name in ("core", "ml")}
    state = {"containers": [], "records": {}, "traffic": {}, "seal": {"images": {}}, "fence": 0, "images": []}
    facts = {"release_plan": {"release": RELEASE, "record": {"images": images}}, "release_state": state}
    role = {"name": "truthgraph.platform.release", "tasks_from": "named"}
    return fleets.play(
        {"name": "Facts", "ansible.builtin.set_fact": facts},
        {"name": "Name", "ansible.builtin.include_role": role},
        **variables,
    )


def test_the_images_of_a_stable_release_get_its_name(fleets: Fleets) -> None:
    fleets.have()
    for _ in range(2):
        said = settle(fleets)
        assert (said.code, said.changed) == (0, 0), said.text
    tags = fleets.stores["own"].tags
    assert tags["truthgraph/core"][f"release-{RELEASE}"] == fleets.core
    assert tags["truthgraph/ml"] == {"d1d1": fleets.ml, f"release-{RELEASE}": fleets.ml}
    puts = [line for line in fleets.stores["own"].asked if line.startswith("PUT") and "release-" in line]
    assert len(puts) == 2


def test_a_release_without_a_name_is_stable_all_the_same(fleets: Fleets) -> None:
    said = settle(fleets, fleet_registry_address="127.0.0.1:1")
    assert said.code == 0 and f"release {RELEASE} is stable, but" in said.words.lower(), said.text
    assert "could not be named release-" in said.words and "unreachable" in said.words


# What the role release makes of it.


def test_a_release_is_known_again_whatever_the_tree_is(fleets: Fleets) -> None:
    """By its fingerprint the build host remembers the images: a second promotion asks no registry, a deploy looks for itself."""
    (fleets.home / "tree").mkdir()
    promotions: list[dict[str, t.Any]] = [
        {"release_action": "promote", "release_promoted": RELEASE},
        {"release_action": "promote", "release_promoted": RELEASE, "image_build_source": f"{fleets.home}/tree"},
        {"release_action": "promote", "release_promoted": LATER},
        {"release_action": "deploy"},
        {"release_action": "deploy", "image_build_source": f"{fleets.home}/tree"},
    ]
    asked: list[tuple[str, dict[str, t.Any]]] = [("__release_image_fingerprint", variables) for variables in promotions]
    asked += [("__release_image_check", variables) for variables in promotions[:1] + promotions[3:4]]
    asked += [("__release_image_check", {"release_action": "status", "release_promoted": RELEASE})]
    asked += [("__release_origin_words", {}), ("__release_needed_tags", {}), ("__release_origin", promotions[0])]
    record = {"id": LATER, "stable_at": 1, "promoted": {"release": RELEASE, "registry": "r:5000"}}
    state = {"containers": [], "records": {LATER: record}, "traffic": {}, "seal": {"images": {}}, "fence": 0, "images": []}
    facts = {"release_state": state, "release_plan": {"release": MONOLITH}}
    role = {"name": "truthgraph.platform.release", "tasks_from": "step"}
    heard = "{{ heard | default([]) + release_steps }}"
    tasks: list[dict[str, t.Any]] = [{"name": "Facts", "ansible.builtin.set_fact": facts}]
    for expression, variables in asked:
        given = {"__release_step": "ask", "__release_steps": f"{{{{ [{expression}] }}}}", **variables}
        tasks += [
            {"name": "Ask", "ansible.builtin.include_role": role, "vars": given},
            {"name": "Hear", "ansible.builtin.set_fact": {"heard": heard}},
        ]
    said = fleets.play(*tasks, {"name": "Answer", "ansible.builtin.set_fact": {"image_build_images": "{{ heard }}"}})
    assert said.code == 0, said.text
    promoted, again, other, deployed, changed = said.images[:5]
    assert promoted == again and len({promoted, other, deployed, changed}) == 4, said.images[:5]
    assert said.images[5:8] == ["promote_check", "source", "promote_check"]
    assert said.images[8] == [f"Release {LATER} is release {RELEASE} of r:5000."]
    assert said.images[9] == [f"release-{LATER}", f"release-{MONOLITH}"]
    assert said.images[10] == {"promoted": {"release": RELEASE, "registry": fleets.addresses["source"]}}
