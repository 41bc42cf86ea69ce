"""The role lab: its hosts are of whichever release of Debian is wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "lab"
BUILDX = {"docker-buildx", "docker-cli"}


@pytest.mark.parametrize(("suite", "left_out"), [("trixie", set()), ("bookworm", BUILDX)])
def test_a_release_gets_the_packages_that_it_has(suite: str, left_out: set[str]) -> None:
    ansible = Path(sys.executable).with_name("ansible")
    variables = [f"-e@{ROLE / part}/main.yml" for part in ("defaults", "vars")]
    said = "msg={{ {'before': lab_packages, 'after': __lab_packages} | to_json }}"
    done = subprocess.run(
        [ansible, "localhost", "-i", "localhost,", "-c", "local", *variables, "-e", f"lab_suite={suite}",
         "-m", "ansible.builtin.debug", "-a", said],
        capture_output=True, text=True, check=True,
    )
    found = json.loads(yaml.safe_load(done.stdout.partition("=>")[2])["msg"])
    # In their order, by which the image has its name.
    assert found["after"] == [name for name in found["before"] if name not in left_out]
    assert {*found["before"]} - {*found["after"]} == left_out
