"""Base images: keys, what is decided, and the pieces around them."""

import hashlib
import json
import pathlib
import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.truthgraph.platform.plugins.filter import base_images
from ansible_collections.truthgraph.platform.plugins.modules import debian_rootfs

CATALOGUE = {
    "python:3.13": {
        "mirror": "public.example/library/python:3.13-slim",
        "suite": "trixie",
        "context": "python",
        "packages": ["python3", "tzdata"],
    }
}


@pytest.fixture
def contexts(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("python", "common"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "finish.sh").write_text("true\n")
    return tmp_path


def plan(contexts: pathlib.Path, **options: t.Any) -> list[dict[str, t.Any]]:
    return base_images.base_image_plan(["python:3.13"], CATALOGUE, str(contexts), "r:5000/truthgraph", **options)


def test_names_in_the_registry(contexts: pathlib.Path) -> None:
    entry = plan(contexts)[0]
    assert entry["reference"] == "r:5000/truthgraph/base/python:3.13"
    assert entry["keyed"]["debian"] == f"r:5000/truthgraph/base/python:3.13-debian-{entry['hashes']['debian']}"
    assert entry["setup"] is False


def test_key_changes_with_each_part_and_only_with_them(contexts: pathlib.Path) -> None:
    first = plan(contexts, mirrors={"trixie": ["http://a"]})[0]["hashes"]
    assert plan(contexts, mirrors={"trixie": ["http://a"], "bookworm": ["x"]})[0]["hashes"] == first
    assert plan(contexts, mirrors={"trixie": ["http://b"]})[0]["hashes"]["debian"] != first["debian"]
    (contexts / "common" / "finish.sh").write_text("false\n")
    changed = plan(contexts, mirrors={"trixie": ["http://a"]})[0]["hashes"]
    assert changed["debian"] != first["debian"]
    assert changed["mirror"] == first["mirror"]


def test_versions_that_share_a_context_have_keys_of_their_own(contexts: pathlib.Path) -> None:
    (contexts / "python" / "finish.sh").write_text("version=3.13\n")
    fixed = plan(contexts)[0]
    (contexts / "python" / "finish.sh").write_text("version=@VERSION@\n")
    filled = plan(contexts)[0]
    # It is what is built that counts, not how it came to be.
    assert filled["hashes"] == fixed["hashes"]
    assert (fixed["versioned"], filled["versioned"]) == ([], ["python/finish.sh"])
    older = dict(CATALOGUE["python:3.13"], mirror="public.example/library/python:3.11-slim")
    [other] = base_images.base_image_plan(["python:3.11"], {"python:3.11": older}, str(contexts), "r:5000/truthgraph")
    assert other["hashes"]["debian"] != filled["hashes"]["debian"]


def test_an_extension_that_is_compiled_counts_with_its_mirror(contexts: pathlib.Path) -> None:
    (contexts / "vector").mkdir()
    (contexts / "vector" / "Dockerfile").write_text("RUN make @VERSION@\n")
    extension = {"context": "vector", "suite": "trixie", "tools": ["gcc"]}
    catalogue = {"python:3.13": dict(CATALOGUE["python:3.13"], suite="bookworm", extension=extension)}

    def key(mirrors: dict[str, list[str]]) -> str:
        [entry] = base_images.base_image_plan(["python:3.13"], catalogue, str(contexts), "p", mirrors=mirrors)
        assert entry["extension"] == extension and entry["versioned"] == ["vector/Dockerfile"]
        return str(entry["hashes"]["debian"])

    first = key({"trixie": ["http://a"]})
    assert key({"trixie": ["http://b"]}) != first
    (contexts / "vector" / "Dockerfile").write_text("RUN make OPTFLAGS= @VERSION@\n")
    assert key({"trixie": ["http://a"]}) != first


def test_missing_context_and_unknown_name_are_named(contexts: pathlib.Path) -> None:
    (contexts / "python" / "finish.sh").unlink()
    with pytest.raises(AnsibleFilterError, match="missing or empty"):
        plan(contexts)
    with pytest.raises(AnsibleFilterError, match="no base image 'perl:5'"):
        base_images.base_image_plan(["perl:5"], CATALOGUE, str(contexts), "p")


def test_mirror_registry_replaces_the_public_one(contexts: pathlib.Path) -> None:
    assert plan(contexts, mirror_registry="corp:5000/hub/")[0]["source"] == "corp:5000/hub/library/python:3.13-slim"
    overridden = plan(contexts, overrides={"python:3.13": "x.example/py@sha256:00"})[0]
    assert overridden["source"] == "x.example/py@sha256:00"


def decide(contexts: pathlib.Path, present: dict[str, str], source: str = "auto", **options: t.Any) -> tuple[str, str]:
    entry = base_images.base_image_decide(plan(contexts), present, source, **options)[0]
    return entry["action"], entry["kind"]


def test_decisions(contexts: pathlib.Path) -> None:
    entry = plan(contexts)[0]
    name, mirror, debian = entry["reference"], entry["keyed"]["mirror"], entry["keyed"]["debian"]
    assert decide(contexts, {}) == ("ask", "")
    assert decide(contexts, {}, otherwise="debian") == ("debian", "")
    assert decide(contexts, {}, source="mirror") == ("mirror", "")
    # What was mirrored once is kept by auto without asking the mirror again.
    assert decide(contexts, {name: "d1", mirror: "d1"}) == ("keep", "mirror")
    assert decide(contexts, {name: "d1", debian: "d1"}) == ("keep", "debian")
    assert decide(contexts, {name: "d2", mirror: "d1", debian: "d2"}) == ("keep", "debian")
    # A source that was chosen is a wish.
    assert decide(contexts, {name: "d1", mirror: "d1"}, source="debian") == ("debian", "")
    # Another key's image holds the name: only the name moves.
    assert decide(contexts, {name: "d2", debian: "d1"}) == ("retag", "debian")
    # An image whose inputs have changed is made anew.
    assert decide(contexts, {name: "d9"}) == ("ask", "")
    assert decide(contexts, {name: "d1", debian: "d1"}, refresh=True) == ("debian", "debian")


def test_references(contexts: pathlib.Path) -> None:
    entries = plan(contexts)
    present = {"r:5000/truthgraph/base/python:3.13": "sha256:aa"}
    assert base_images.base_image_refs(entries, present) == {"python:3.13": "r:5000/truthgraph/base/python@sha256:aa"}
    assert base_images.base_image_refs(entries, {}) == {"python:3.13": "r:5000/truthgraph/base/python:3.13"}
    assert base_images.base_image_refs(entries, present, False) == {"python:3.13": "r:5000/truthgraph/base/python:3.13"}


def test_digest_of_a_manifest_and_of_an_index() -> None:
    manifest = '{"schemaVersion": 2, "layers": []}\n'
    assert base_images.manifest_digest(manifest) == "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()
    index = json.dumps(
        {
            "manifests": [
                {"digest": "sha256:at", "platform": {"os": "unknown", "architecture": "unknown"}},
                {"digest": "sha256:arm", "platform": {"os": "linux", "architecture": "arm64"}},
                {"digest": "sha256:amd", "platform": {"os": "linux", "architecture": "amd64"}},
            ]
        }
    )
    assert base_images.manifest_digest(index) == "sha256:amd"
    with pytest.raises(AnsibleFilterError, match="linux/riscv64"):
        base_images.manifest_digest(index, "riscv64")


def test_image_ids_by_tag() -> None:
    assert base_images.image_ids([{"Id": "i1", "RepoTags": ["a:1", "a:2"]}, {"Id": "i2", "RepoTags": None}]) == {
        "a:1": "i1",
        "a:2": "i1",
    }


PARAMS = {
    "suite": "trixie",
    "packages": ["tzdata", "python3"],
    "apt_options": ['Acquire::http::Proxy "http://p";'],
    "path_exclude": ["/usr/share/man/*"],
    "path_include": [],
    "setup_scripts": ["/w/setup.sh"],
}


def test_mmdebstrap_arguments() -> None:
    command = debian_rootfs.mmdebstrap_command(PARAMS, "/w/rootfs", "/w/dates")
    assert "--include=python3,tzdata" in command
    assert '--aptopt=Acquire::http::Proxy "http://p";' in command
    assert '--essential-hook=sh /w/setup.sh "$1"' in command
    assert command[-3:] == ["trixie", "/w/rootfs", "-"]
    assert not [argument for argument in command if argument.startswith("--hook-dir")]
    assert f"--hook-dir={debian_rootfs.MERGE_HOOKS}" in debian_rootfs.mmdebstrap_command(
        dict(PARAMS, suite="bookworm"), "/w/rootfs", "/w/dates"
    )


def test_newest_release_date_counts() -> None:
    text = "Date: Sat, 06 Sep 2025 08:11:24 UTC\nDate: Sat, 15 Nov 2025 09:53:11 UTC\nnonsense\n"
    assert debian_rootfs.release_epoch(text) == 1763200391
    assert debian_rootfs.release_epoch("") is None


def test_log_is_cut_to_its_last_lines() -> None:
    assert debian_rootfs.tail("\n".join(str(n) for n in range(100))).splitlines()[0] == "75"
