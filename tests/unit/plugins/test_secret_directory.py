"""The module secret_directory, run as Ansible runs it, on real directories."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = "ansible_collections.truthgraph.platform.plugins.modules.secret_directory"
SECRET = "s3cr3t-which-must-not-show"


def run(base: Path, secrets: dict, **options) -> dict:
    arguments = {"path": str(base), "secrets": secrets, "gid": os.getgid(), **options}
    process = subprocess.run(
        [sys.executable, "-m", MODULE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert SECRET not in process.stdout + process.stderr
    return json.loads(process.stdout)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "api"


def test_first_generation(base: Path) -> None:
    result = run(base, {"TOKEN": SECRET, "OTHER": "another"})
    assert result["changed"] and result["generation"] == 1 and result["path"] == str(base / "1")
    assert (base / "1" / "TOKEN").read_text() == SECRET
    assert sorted(os.listdir(base / "1")) == ["OTHER", "TOKEN"]
    assert stat.S_IMODE((base / "1").stat().st_mode) == 0o750
    assert stat.S_IMODE((base / "1" / "TOKEN").stat().st_mode) == 0o440
    assert stat.S_IMODE(base.stat().st_mode) == 0o700


def test_same_secrets_change_nothing(base: Path) -> None:
    run(base, {"TOKEN": SECRET})
    result = run(base, {"TOKEN": SECRET})
    assert not result["changed"] and result["generation"] == 1
    assert os.listdir(base) == ["1"]


@pytest.mark.parametrize(
    "secrets", [{"TOKEN": "another value"}, {"TOKEN": SECRET, "MORE": "value"}, {"RENAMED": SECRET}]
)
def test_changed_secrets_get_a_new_directory(base: Path, secrets: dict) -> None:
    run(base, {"TOKEN": SECRET})
    result = run(base, secrets)
    assert result["changed"] and result["generation"] == 2
    assert (base / "1" / "TOKEN").read_text() == SECRET
    assert sorted(os.listdir(base / "2")) == sorted(secrets)


def test_wider_permissions_get_a_new_directory(base: Path) -> None:
    run(base, {"TOKEN": SECRET})
    (base / "1" / "TOKEN").chmod(0o444)
    assert run(base, {"TOKEN": SECRET})["generation"] == 2


def test_check_mode_says_and_writes_nothing(base: Path) -> None:
    result = run(base, {"TOKEN": SECRET}, _ansible_check_mode=True)
    assert result["changed"] and result["path"] == str(base / "1")
    assert not base.exists()


def test_the_diff_has_names_only(base: Path) -> None:
    run(base, {"TOKEN": SECRET})
    result = run(base, {"TOKEN": "another value", "MORE": "value"}, _ansible_diff=True)
    assert result["diff"] == {"before": "TOKEN\n", "after": "MORE\nTOKEN\n"}


def test_an_interrupted_run_leaves_nothing_half(base: Path) -> None:
    run(base, {"TOKEN": SECRET})
    half = base / ".unfinished-x"
    half.mkdir()
    (half / "TOKEN").write_text("half")
    assert run(base, {"TOKEN": "another value"})["generation"] == 2
    assert sorted(os.listdir(base)) == ["1", "2"]


def test_old_generations_go_except_those_in_use(base: Path) -> None:
    for number in range(1, 6):
        run(base, {"TOKEN": f"value {number}"})
    result = run(base, {"TOKEN": "value 5"}, generations=2, keep=[1])
    assert result["removed"] == [2, 3] and result["changed"]
    assert sorted(os.listdir(base)) == ["1", "4", "5"]
    assert not run(base, {"TOKEN": "value 5"}, generations=2, keep=[1])["changed"]


def test_numbers_are_compared_as_numbers(base: Path) -> None:
    for number in range(1, 12):
        run(base, {"TOKEN": f"value {number}"})
    assert not run(base, {"TOKEN": "value 11"})["changed"]


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"../TOKEN": SECRET}, "cannot be the name"),
        ({"TOKEN": ""}, "TOKEN is empty"),
        ({"TOKEN": "secrets"}, "Choose a longer one"),
        ({"TOKEN": "changed"}, "Choose a longer one"),
        ({"TOKEN": "12"}, "Choose a longer one"),
    ],
)
def test_what_cannot_be_used_is_named(base: Path, secrets: dict, message: str) -> None:
    result = run(base, secrets)
    assert result["failed"] and message in result["msg"]
    assert not base.exists()
