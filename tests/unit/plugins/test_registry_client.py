"""The registry client against a registry of the test's own, over real TLS."""

import base64
import datetime
import hashlib
import http.server
import ipaddress
import json
import pathlib
import ssl
import threading
import typing as t

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.truthgraph.platform.plugins.module_utils import registry as client
from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble

CONFIG = json.dumps(
    {
        **{"config": {"Labels": {"a": "b"}}, "created": "2026-01-01T00:00:00Z"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:base", "sha256:app"]},
    }
).encode()
MANIFEST = json.dumps(
    {
        "config": {"digest": "sha256:" + hashlib.sha256(CONFIG).hexdigest(), "size": 100},
        "layers": [{"size": 20}, {"size": 3}],
    }
).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
INDEX = json.dumps({"manifests": [{"digest": DIGEST, "platform": {"os": "linux", "architecture": "amd64"}}]}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Two images, one user, and a tag can be put."""

    stored: t.ClassVar[dict[str, bytes]] = {}
    deleted: t.ClassVar[list[str]] = []
    elsewhere: t.ClassVar[str] = ""
    # One more tag of the image old.
    extra: t.ClassVar[str] = ""

    def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
        """Keep quiet."""

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"user:right").decode():
            return self.answer(401, b"")
        path = self.path.removeprefix("/v2/")
        if path == "":
            return self.answer(200, b"{}")
        if path in ("base/python/manifests/3.13", f"base/python/manifests/{DIGEST}"):
            return self.answer(200, MANIFEST, client.MANIFEST_TYPES[0])
        if path == "base/python/manifests/multi":
            return self.answer(200, INDEX, client.INDEX_TYPES[0])
        if path.startswith("base/python/blobs/"):
            return self.answer(200, CONFIG)
        if path == "many/tags/list?n=1000":
            return self.answer(200, b'{"tags": ["1"]}', link='</v2/many/tags/list?n=1000&last=1>; rel="next"')
        if path == "many/tags/list?n=1000&last=1":
            return self.answer(200, b'{"tags": ["2"]}')
        if path == "store/core/tags/list?n=1000":
            return self.answer(200, json.dumps({"tags": ["old", "new", *filter(None, [self.extra])]}).encode())
        if path in ("store/core/manifests/old", "store/core/manifests/new", f"store/core/manifests/{self.extra}"):
            return self.answer(200, INDEX if path.endswith("new") else MANIFEST, client.MANIFEST_TYPES[0])
        if path == "none/tags/list?n=1000":
            return self.answer(200, b'{"tags": null}')
        if path == "moved/blobs/1":
            self.send_response(307)
            self.send_header("Location", self.elsewhere)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if path == "broken/manifests/1":
            return self.answer(500, b"")
        return self.answer(404, b"")

    def do_PUT(self) -> None:  # pylint: disable=invalid-name
        self.stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201, b"")

    def do_DELETE(self) -> None:  # pylint: disable=invalid-name
        self.deleted.append(self.path)
        self.answer(202 if "gone" not in self.path else 404, b"")

    def answer(self, status: int, body: bytes, content_type: str = "application/json", link: str = "") -> None:
        self.send_response(status)
        if link:
            self.send_header("Link", link)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[tuple[str, str]]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_text(pem + private.decode())
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{listener.server_address[1]}", pem
    listener.shutdown()


def connect(server: tuple[str, str], password: str = "right", ca: str | None = None) -> client.Registry:
    return client.Registry(server[0], "user", password, server[1] if ca is None else ca, timeout=3)


def test_ping(server: tuple[str, str]) -> None:
    connect(server).ping()


@pytest.mark.parametrize(("password", "ca", "reason"), [("wrong", None, "unauthorized"), ("right", "", "untrusted")])
def test_refusals_have_their_reason(server: tuple[str, str], password: str, ca: str | None, reason: str) -> None:
    with pytest.raises(client.RegistryError) as caught:
        connect(server, password, ca).ping()
    assert caught.value.reason == reason
    assert password not in str(caught.value)


def test_nobody_there(server: tuple[str, str]) -> None:
    with pytest.raises(client.RegistryError) as caught:
        client.Registry("127.0.0.1:1", "user", "right", server[1]).ping()
    assert caught.value.reason == "unreachable"


def test_plain_http_is_no_registry(server: tuple[str, str]) -> None:
    plain = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    try:
        with pytest.raises(client.RegistryError) as caught:
            client.Registry(f"127.0.0.1:{plain.server_address[1]}", ca_pem=server[1], timeout=3).ping()
        assert caught.value.reason == "unexpected"
    finally:
        plain.shutdown()


def test_unreadable_ca_is_named() -> None:
    with pytest.raises(client.RegistryError, match="CA certificate cannot be read"):
        client.Registry("127.0.0.1:1", ca_pem="nonsense")


@pytest.mark.parametrize("tag", ["3.13", "multi"])
def test_image(server: tuple[str, str], tag: str) -> None:
    found = connect(server).image(f"{server[0]}/base/python:{tag}", "amd64")
    assert found["exists"]
    assert found["compressed_bytes"] == 123
    assert found["labels"] == {"a": "b"}
    assert found["layers"] == {"sha256:base": 20, "sha256:app": 3}
    if tag == "3.13":
        assert found["digest"] == DIGEST


def test_image_that_is_not_there(server: tuple[str, str]) -> None:
    assert connect(server).image(f"{server[0]}/base/python:9")["exists"] is False


def test_the_password_does_not_follow_a_redirection(server: tuple[str, str]) -> None:
    """A registry may send a client to where its layers are stored, which is somebody else's machine."""
    heard: list[dict[str, str]] = []

    class Elsewhere(Handler):
        def do_GET(self) -> None:  # pylint: disable=invalid-name
            heard.append(dict(self.headers))
            self.answer(200, b"{}")

    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    Handler.elsewhere = f"http://127.0.0.1:{other.server_address[1]}/layer"
    try:
        found = connect(server).request("moved/blobs/1")
        assert found and found[1] == b"{}"
    finally:
        other.shutdown()
    assert len(heard) == 1 and "Authorization" not in heard[0]


def test_error_of_the_registry(server: tuple[str, str]) -> None:
    with pytest.raises(client.RegistryError, match="HTTP status 500"):
        connect(server).image(f"{server[0]}/broken:1")


def test_tag(server: tuple[str, str]) -> None:
    registry = connect(server)
    manifest = registry.manifest("base/python", "3.13")
    assert manifest
    registry.tag("base/python", manifest, "new")
    assert Handler.stored["/v2/base/python/manifests/new"] == MANIFEST


def test_references() -> None:
    parts = client.parse_reference("h:5000/a/b:1@sha256:" + "0" * 64)
    assert (parts["registry"], parts["repository"], parts["tag"]) == ("h:5000", "a/b", "1")
    with pytest.raises(ValueError, match="no image reference"):
        client.parse_reference("python")


def test_all_pages_of_tags_are_read(server: tuple[str, str]) -> None:
    assert connect(server).tags("many") == ["1", "2"]
    assert connect(server).tags("none") == []
    assert connect(server).tags("absent") == []


def test_the_digest_of_a_tag(server: tuple[str, str]) -> None:
    assert connect(server).digest("base/python", "3.13") == DIGEST
    assert connect(server).digest("base/python", "absent") == ""


def test_a_manifest_is_deleted_and_one_that_is_gone_is_no_error(server: tuple[str, str]) -> None:
    connect(server).delete("many", DIGEST)
    connect(server).delete("gone", DIGEST)
    assert Handler.deleted == [f"/v2/many/manifests/{DIGEST}", f"/v2/gone/manifests/{DIGEST}"]


def prune(server: tuple[str, str], tmp_path: pathlib.Path, **more: t.Any) -> dict[str, t.Any]:
    options = {"address": server[0], "username": "user", "password": "right", "ca_content": server[1], **more}
    return EngineDouble(tmp_path).run("registry_prune", repositories=["store/core"], **options)


OTHER = "sha256:" + hashlib.sha256(INDEX).hexdigest()


@pytest.mark.parametrize(
    ("keep", "known", "deleted"),
    [
        ([OTHER], [DIGEST, OTHER], [DIGEST]),
        ([DIGEST, OTHER], [DIGEST, OTHER], []),
        # Another fleet's image is in neither list.
        ([OTHER], [OTHER], []),
    ],
)
def test_only_what_is_known_and_not_needed_is_pruned(
    server: tuple[str, str], tmp_path: pathlib.Path, keep: list[str], known: list[str], deleted: list[str]
) -> None:
    Handler.deleted.clear()
    result = prune(server, tmp_path, keep=keep, known=known)
    assert result["deleted"] == [f"store/core@{digest}" for digest in deleted]
    assert Handler.deleted == [f"/v2/store/core/manifests/{digest}" for digest in deleted]


def test_names_of_releases_that_are_gone_go_from_images_that_stay(server: tuple[str, str], tmp_path: pathlib.Path) -> None:
    """A registry of version 2 deletes manifests only: the tag gets another one of the same contents, which is deleted."""
    Handler.deleted.clear()
    Handler.stored.clear()
    names = {"keep": [DIGEST, OTHER], "known": [DIGEST], "tag_prefix": "ol"}
    # The last tag of an image stays, or nobody would find it.
    assert prune(server, tmp_path / "last", **names)["untagged"] == []
    Handler.extra = "older"
    try:
        assert prune(server, tmp_path / "all", keep_tags=["old", "older"], **names)["untagged"] == []
        assert prune(server, tmp_path / "foreign", **{**names, "known": []})["untagged"] == []
        assert prune(server, tmp_path / "check", keep_tags=["old"], _ansible_check_mode=True, **names)["untagged"]
        assert not Handler.stored and not Handler.deleted
        result = prune(server, tmp_path / "one", keep_tags=["old"], **names)
    finally:
        Handler.extra = ""
    assert result["untagged"] == ["store/core:older"] and result["deleted"] == [] and result["kept"] == 2
    [(path, body)] = Handler.stored.items()
    assert path == "/v2/store/core/manifests/older"
    assert json.loads(body) == {**json.loads(MANIFEST), "annotations": {"truthgraph.untagged": "true"}}
    assert Handler.deleted == [f"/v2/store/core/manifests/sha256:{hashlib.sha256(body).hexdigest()}"]


def test_info_answers_the_tags_of_repositories(server: tuple[str, str], tmp_path: pathlib.Path) -> None:
    options = {"address": server[0], "username": "user", "password": "right", "ca_content": server[1]}
    result = EngineDouble(tmp_path).run("registry_info", repositories=["many", "absent"], **options)
    assert (result["state"], result["tags"]) == ("ok", {"many": ["1", "2"], "absent": []})


def test_pruning_everything_is_refused(server: tuple[str, str], tmp_path: pathlib.Path) -> None:
    assert "nothing" in prune(server, tmp_path, keep=[], known=[DIGEST])["msg"]


def test_a_registry_that_cannot_be_pruned_is_a_warning(server: tuple[str, str], tmp_path: pathlib.Path) -> None:
    result = prune(server, tmp_path, keep=[OTHER], known=[DIGEST], password="wrong")
    assert not result.get("failed") and "unauthorized" in str(result["warnings"])
