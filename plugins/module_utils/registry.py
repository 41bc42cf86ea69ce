# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client for container registries: is it there, does it let us in, which digest has this tag, what may go."""

from __future__ import annotations

import base64
import email.message
import hashlib
import json
import re
import socket
import ssl
import typing as t
import urllib.error
import urllib.request

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
INDEX_TYPES = MANIFEST_TYPES[2:]
# The options of a module that talks to a registry, as the documentation fragment of that name describes them.
CONNECTION = {
    "address": {"type": "str", "required": True},
    "username": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "ca_content": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 10},
}
REFERENCE = re.compile(
    r"^(?P<registry>[^/@\s]+)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)


class RegistryError(Exception):
    """The registry cannot be used. reason is unreachable, untrusted, unauthorized, forbidden or unexpected."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def parse_reference(reference: str) -> dict[str, t.Any]:
    """Split registry/repository[:tag][@digest] into a dictionary; raise ValueError if it is none."""
    match = REFERENCE.match(reference)
    if not match:
        raise ValueError(f"'{reference}' is no image reference of the form host:port/repository:tag[@sha256:…]")
    return match.groupdict()


def platform_manifest(index: dict[str, t.Any], architecture: str, os_name: str = "linux") -> str | None:
    """Digest of the entry of a multi-platform index for the given platform; None if it has none."""
    for entry in index.get("manifests", []):
        platform = entry.get("platform", {})
        if platform.get("os") == os_name and platform.get("architecture") == architecture:
            digest: str = entry["digest"]
            return digest
    return None


def explain(error: OSError) -> RegistryError:
    """Map what urllib raised to a RegistryError."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return RegistryError("untrusted", getattr(reason, "verify_message", "") or str(reason))
    if isinstance(reason, ssl.SSLError):
        return RegistryError("unexpected", f"no TLS: {reason}")
    if isinstance(reason, socket.timeout):
        return RegistryError("unreachable", "no answer in time")
    return RegistryError("unreachable", str(reason))


class Registry:
    """One registry over HTTPS with basic authentication, never through a proxy: it is a machine of the fleet."""

    def __init__(self, address: str, username: str = "", password: str = "", ca_pem: str = "", timeout: float = 10) -> None:
        self.base = f"https://{address}/v2/"
        self.timeout = timeout
        self.authorization = ""
        if username:
            self.authorization = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        try:
            context = ssl.create_default_context(cadata=ca_pem or None)
        except ssl.SSLError as error:
            raise RegistryError("untrusted", f"the CA certificate cannot be read: {error}") from error
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def request(
        self, path: str, method: str = "GET", accept: str = "", body: bytes | None = None, content_type: str = ""
    ) -> tuple[email.message.Message, bytes] | None:
        """Return (headers, body), or None if the registry does not have it; raise RegistryError otherwise."""
        request = urllib.request.Request(self.base + path, data=body, method=method)
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)
        if accept:
            request.add_header("Accept", accept)
        if content_type:
            request.add_header("Content-Type", content_type)
        try:
            with self.opener.open(request, timeout=self.timeout) as answer:
                return answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404 and path:
                return None
            if error.code == 401:
                raise RegistryError("unauthorized", "HTTP status 401") from error
            if error.code == 403:
                raise RegistryError("forbidden", "HTTP status 403") from error
            raise RegistryError("unexpected", f"HTTP status {error.code}") from error
        except (OSError, urllib.error.URLError) as error:
            raise explain(error) from error
        except ValueError as error:
            raise RegistryError("unexpected", str(error)) from error

    def ping(self) -> None:
        """Raise RegistryError unless a registry answers and lets us in."""
        answer = self.request("")
        if answer is None or "registry/2.0" not in answer[0].get("Docker-Distribution-Api-Version", "registry/2.0"):
            raise RegistryError("unexpected", "what answers is no registry")

    def manifest(self, repository: str, reference: str) -> dict[str, t.Any] | None:
        """Return {digest, media_type, body} of a tag or digest, or None if the registry does not have it."""
        answer = self.request(f"{repository}/manifests/{reference}", accept=", ".join(MANIFEST_TYPES))
        if answer is None:
            return None
        headers, body = answer
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        return {"digest": digest, "media_type": headers.get("Content-Type", ""), "body": body}

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository; one that the registry does not have has none."""
        tags: list[str] = []
        path = f"{repository}/tags/list?n=1000"
        while path:
            answer = self.request(path)
            if answer is None:
                return tags
            headers, body = answer
            tags += json.loads(body).get("tags") or []
            following = re.match(r"<(?:[a-z]+://[^/]+)?/v2/([^>]+)>", headers.get("Link", ""))
            path = following.group(1) if following else ""
        return tags

    def digest(self, repository: str, reference: str) -> str:
        """Return the digest of a tag, empty if there is no such image."""
        found = self.manifest(repository, reference)
        return found["digest"] if found else ""

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest with all of its tags; one that is gone already is no error."""
        self.request(f"{repository}/manifests/{digest}", method="DELETE")

    def tag(self, repository: str, manifest: dict[str, t.Any], tag: str) -> None:
        """Give a manifest that the registry has one more tag."""
        self.request(
            f"{repository}/manifests/{tag}", method="PUT", body=manifest["body"], content_type=manifest["media_type"]
        )

    def untag(self, repository: str, tags: t.Sequence[str]) -> None:
        """Take tags of one image away, which stays.

        Registries before version 3 delete manifests only, with all of their tags. So the tags are given to a manifest that
        differs in an annotation, and that one is deleted.
        """
        manifest = self.manifest(repository, tags[0]) if tags else None
        if manifest is None:
            return
        content = json.loads(manifest["body"])
        content["annotations"] = {**content.get("annotations", {}), "truthgraph.untagged": "true"}
        body = json.dumps(content).encode()
        for tag in tags:
            self.tag(repository, {**manifest, "body": body}, tag)
        self.delete(repository, "sha256:" + hashlib.sha256(body).hexdigest())

    def image(self, reference: str, architecture: str = "") -> dict[str, t.Any]:
        """Return what is known about an image: exists, digest, compressed_bytes, labels, created, layers.

        `layers` are the compressed bytes of each layer by its diff id, by which an engine that has it knows it.
        """
        parts = parse_reference(reference)
        found = {"reference": reference, "exists": False, "digest": "", "compressed_bytes": 0, "labels": {}}
        manifest = self.manifest(parts["repository"], parts["digest"] or parts["tag"] or "latest")
        if manifest is None:
            return found
        found.update(exists=True, digest=manifest["digest"])
        content = json.loads(manifest["body"])
        if "manifests" in content:
            wanted = platform_manifest(content, architecture)
            manifest = self.manifest(parts["repository"], wanted) if wanted else None
            if manifest is None:
                return found
            content = json.loads(manifest["body"])
        found["compressed_bytes"] = content["config"]["size"] + sum(layer["size"] for layer in content["layers"])
        config = self.request(f"{parts['repository']}/blobs/{content['config']['digest']}")
        if config is not None:
            details = json.loads(config[1])
            found["labels"] = (details.get("config") or {}).get("Labels") or {}
            found["created"] = details.get("created", "")
            ids = (details.get("rootfs") or {}).get("diff_ids") or []
            found["layers"] = {number: layer["size"] for number, layer in zip(ids, content["layers"], strict=False)}
        return found


def connect(params: dict[str, t.Any]) -> Registry:
    """Return the registry that a module's options name."""
    return Registry(
        params["address"], params["username"], params["password"], params["ca_content"], params["timeout"]
    )
