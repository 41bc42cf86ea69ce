"""The module put_aside on real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

MODULE = "ansible_collections.truthgraph.platform.plugins.modules.put_aside"
KIND = "(^|[{,\\s])[\"']?kind[\"']?\\s*:\\s*[\"']?nvidia\\.com/gpu[\"']?\\s*([,}#]|$)"


class Place:
    """A directory with files that may be in the way."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "there"
        self.directory.mkdir()
        self.note = directory / "state" / "note.json"

    def write(self, name: str, text: str = "") -> Path:
        path = self.directory / name
        path.write_text(text or name, encoding="utf-8")
        return path

    def names(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def aside(self, *names: str, **options: t.Any) -> dict[str, t.Any]:
        return self.run(paths=[str(self.directory / name) for name in names], **options)

    def back(self, **options: t.Any) -> dict[str, t.Any]:
        return self.run(state="back", **options)

    def run(self, **options: t.Any) -> dict[str, t.Any]:
        process = subprocess.run(
            [sys.executable, "-m", MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": {"note": str(self.note), **options}}),
            capture_output=True,
            text=True,
            check=False,
        )
        told: dict[str, t.Any] = json.loads(process.stdout)
        return told


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_aside_and_back(place: Place) -> None:
    path = place.write("a.list")
    place.write("b.list")
    result = place.aside("a.list", "missing.list")
    assert result["changed"] and result["moved"] == [{"from": str(path), "to": f"{path}.save"}]
    assert place.names() == ["a.list.save", "b.list"]
    assert place.back()["moved"] == [{"from": f"{path}.save", "to": str(path)}]
    assert place.names() == ["a.list", "b.list"] and not place.note.exists()


def test_a_second_run_changes_nothing(place: Place) -> None:
    place.write("a.list")
    place.aside("a.list")
    assert not place.aside("a.list")["changed"]
    place.back()
    assert not place.back()["changed"]


def test_nothing_is_overwritten(place: Place) -> None:
    path = place.write("a.list")
    place.write("a.list.save", "somebody else's")
    place.aside("a.list")
    assert (place.directory / "a.list.save").read_text(encoding="utf-8") == "somebody else's"
    assert (place.directory / "a.list.1.save").read_text(encoding="utf-8") == "a.list"
    place.back()
    assert path.read_text(encoding="utf-8") == "a.list" and place.names() == ["a.list", "a.list.save"]


def test_what_others_have_put_aside_is_not_brought_back(place: Place) -> None:
    place.write("a.list.save")
    assert not place.aside("a.list")["changed"]
    assert not place.back()["changed"]
    assert place.names() == ["a.list.save"]


def test_a_new_file_of_that_name_stays(place: Place) -> None:
    path = place.write("a.list")
    place.aside("a.list")
    path.write_text("new", encoding="utf-8")
    result = place.back()
    assert result["left"] == [{"from": f"{path}.save", "to": str(path)}] and result["moved"] == []
    assert path.read_text(encoding="utf-8") == "new" and place.names() == ["a.list", "a.list.save"]


def test_what_is_gone_is_passed_over(place: Place) -> None:
    place.write("a.list")
    place.aside("a.list")
    (place.directory / "a.list.save").unlink()
    result = place.back()
    assert not result.get("failed") and result["moved"] == [] and not place.note.exists()


def test_patterns_and_what_is_kept(place: Place) -> None:
    for name in ("a.yaml", "b.yaml", "c.json", "d.txt"):
        place.write(name)
    (place.directory.parent / "link").symlink_to(place.directory)
    # By another path, as /run and /var/run are.
    place.aside("*.yaml", "*.json", keep=[str(place.directory.parent / "link" / "b.yaml")])
    assert place.names() == ["a.yaml.save", "b.yaml", "c.json.save", "d.txt"]


def test_two_paths_to_one_file(place: Place) -> None:
    place.write("a.yaml")
    (place.directory.parent / "link").symlink_to(place.directory)
    result = place.run(paths=[f"{place.directory}/*.yaml", f"{place.directory.parent}/link/*.yaml"])
    assert len(result["moved"]) == 1 and place.names() == ["a.yaml.save"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: []\n", True),
        ('---\n"kind": "nvidia.com/gpu"\n', True),
        ("kind: 'nvidia.com/gpu' # by hand\n", True),
        ('{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[]}', True),
        ('{\n  "kind": "nvidia.com/gpu",\n', True),
        ("kind: nvidia.com/gds\n", False),
        ("kind: nvidia.com/gpu-other\n", False),
        ("kind: k8s.device-plugin.nvidia.com/gpu\n", False),
        ("# not the kind nvidia.com/gpu\nkind: vendor.com/net\n", False),
    ],
)
def test_only_specifications_of_the_kind(place: Place, text: str, meant: bool) -> None:
    place.write("a.yaml", text)
    assert place.aside("*.yaml", containing=KIND)["changed"] is meant


def test_the_kind_is_the_one_that_the_role_names() -> None:
    variables = (Path(__file__).parents[3] / "roles/nvidia_container_toolkit/vars/main.yml").read_text(encoding="utf-8")
    assert f"__nvidia_container_toolkit_spec_kind: {json.dumps(KIND)}\n" in variables


def test_only_what_does_not_carry_a_mark(place: Place) -> None:
    place.write("a", "Explanation: ours\n")
    place.write("b", "Package: *\n")
    place.aside("*", not_containing="ours")
    assert place.names() == ["a", "b.save"]


def test_check_mode_renames_nothing(place: Place) -> None:
    place.write("a.list")
    assert place.aside("a.list", _ansible_check_mode=True)["moved"]
    assert place.names() == ["a.list"] and not place.note.exists()
    place.aside("a.list")
    assert place.back(_ansible_check_mode=True)["moved"]
    assert place.names() == ["a.list.save"] and place.note.exists()


def test_a_damaged_note_is_refused(place: Place) -> None:
    place.write("a.list")
    place.note.parent.mkdir()
    place.note.write_text("{", encoding="utf-8")
    result = place.aside("a.list")
    assert result["failed"] and str(place.note) in result["msg"]
    assert place.names() == ["a.list"]
