"""Seals of hosts on real files: what breaks them, and what they never hold."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import seal
from ansible_collections.truthgraph.platform.plugins.plugin_utils import rollout

RUNNING = {"truthgraph-postgres": "0f3a"}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with two files of ours, which has been sealed."""
    monkeypatch.setattr(seal, "WATCHED", (f"{tmp_path}/etc/docker/daemon.json", "{config}/postgres/**"))
    for path in ("etc/docker/daemon.json", "config/postgres/password"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("s3cr3t")
    seal.write(str(tmp_path / "root"), str(tmp_path / "config"), "f1", RUNNING, {"tree1": {"images": {}}})
    return tmp_path


def drift(host: Path, containers: dict[str, str] = RUNNING) -> list[str]:
    kept = json.loads((host / "root" / "seal.json").read_text())
    return seal.drift(kept, str(host / "config"), containers)


def test_nothing_has_changed(host: Path) -> None:
    assert drift(host) == []


def test_contents_are_not_kept(host: Path) -> None:
    assert "s3cr3t" not in (host / "root" / "seal.json").read_text()
    assert (host / "root" / "seal.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["edited", "mode", "removed", "replaced", "added"])
def test_a_changed_file_is_named(host: Path, change: str) -> None:
    path = host / "config" / "postgres" / "password"
    if change == "edited":
        path.write_text("s3cr3u")
    elif change == "mode":
        path.chmod(0o644 if path.stat().st_mode & 0o777 != 0o644 else 0o600)
    elif change == "removed":
        path.unlink()
    elif change == "replaced":
        (host / "other").write_text("s3cr3t")
        (host / "other").rename(path)
    else:
        path = path.with_name("added")
        path.write_text("")
    assert drift(host) == [str(path)]


@pytest.mark.parametrize("containers", [{}, {"truthgraph-postgres": "other"}])
def test_a_container_that_is_gone_or_another_is_named(host: Path, containers: dict[str, str]) -> None:
    assert drift(host, containers) == ["truthgraph-postgres"]


@pytest.mark.parametrize("kernel", ["as loaded", "changed", "flushed", "without nft"])
def test_rules_that_the_kernel_has_lost_are_named(tmp_path: Path, kernel: str) -> None:
    loaded = tmp_path / "loaded"
    loaded.write_text("table inet truthgraph {}\n")
    command = {
        "as loaded": ["echo", "table inet truthgraph {}"],
        "changed": ["echo", "table inet truthgraph { chain doors {} }"],
        "flushed": ["false"],
        "without nft": [str(tmp_path / "nft")],
    }[kernel]
    # A host without the role's file is not meant.
    assert seal.rules_drift(str(tmp_path), str(loaded), command) == []
    (tmp_path / "firewall.nft").touch()
    assert bool(seal.rules_drift(str(tmp_path), str(loaded), command)) == (kernel != "as loaded")


def test_images_are_remembered_up_to_a_number(host: Path) -> None:
    root, config = str(host / "root"), str(host / "config")
    for number in range(seal.REMEMBERED):
        seal.write(root, config, "f1", RUNNING, {f"later{number}": {}})
    images = json.loads((host / "root" / "seal.json").read_text())["images"]
    assert len(images) == seal.REMEMBERED and "tree1" not in images and f"later{seal.REMEMBERED - 1}" in images


def state(**more: object) -> dict[str, t.Any]:
    """An answer of the module release_state of a host on which nothing has changed."""
    kept = {"fingerprint": "f1", "drift": [], "images": {}}
    return {"engine": True, "seal": kept, "other_credentials": [], "secrets": {}, **more}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (state(engine=False), "engine"),
        (state(seal={"fingerprint": "", "drift": []}), "no deploy"),
        (state(seal={"fingerprint": "f0", "drift": []}), "has changed"),
        (state(seal={"fingerprint": "f1", "drift": ["/etc/docker/daemon.json"]}), "/etc/docker/daemon.json"),
        (state(other_credentials=["login to registry"]), "login to registry"),
        (state(secrets={"api": {"slots": {"blue": False, "green": False}}}), "credentials"),
    ],
)
def test_a_host_that_has_to_be_prepared_anew_is_named_with_the_reason(found: dict[str, t.Any], why: str) -> None:
    unsealed = rollout.unsealed({"a": found, "b": state()}, {"a": "f1", "b": "f1"})
    assert set(unsealed) == {"a"} and why in unsealed["a"]


def test_a_host_that_did_not_answer_has_to_be_prepared_anew() -> None:
    assert set(rollout.unsealed({}, {"a": "f1"})) == {"a"}
