"""The program that starts containers whose cards came after the engine, with a stand-in for docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/nvidia_container_toolkit/files/start-cdi-containers"
# As engine 26.1 says it.
ERROR = "could not select device driver \"cdi\" with capabilities: []"
DOCKER = """#!/bin/sh
case $1 in
  ps) echo one ;;
  container) cat "$HOME/info" ;;
  start) echo "$2" >> "$HOME/started"; exit "$(cat "$HOME/code")" ;;
esac
"""


def container(**more: t.Any) -> dict[str, t.Any]:
    state = {"Running": False, "Error": ERROR, **more.pop("state", {})}
    host = {"RestartPolicy": {"Name": "unless-stopped"}, "DeviceRequests": [{"Driver": "cdi"}], **more}
    return {"Id": "one", "Name": "/inference", "HostConfig": host, "State": state}


def run(home: Path, info: dict[str, t.Any], code: int = 0) -> tuple[int, bool]:
    (home / "info").write_text(json.dumps([info]))
    (home / "code").write_text(str(code))
    docker = home / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    environment = {**os.environ, "HOME": str(home), "PATH": f"{home}:/usr/bin:/bin"}
    done = subprocess.run([sys.executable, PROGRAM], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, (home / "started").exists()


def test_a_container_that_was_to_restart_is_started(tmp_path: Path) -> None:
    assert run(tmp_path, container()) == (0, True)


def test_one_that_still_fails_is_a_failure_of_the_unit(tmp_path: Path) -> None:
    assert run(tmp_path, container(), code=1) == (1, True)


@pytest.mark.parametrize(
    "info",
    [
        container(state={"Running": True}),
        # Somebody has stopped it, or it ended by itself.
        container(state={"Error": ""}),
        container(RestartPolicy={"Name": "no"}),
        container(RestartPolicy={"Name": "on-failure"}),
        container(DeviceRequests=None),
        container(DeviceRequests=[{"Driver": "nvidia"}]),
    ],
    ids=["running", "stopped", "not-restarted", "stands-by", "no-devices", "another-driver"],
)
def test_others_are_left_alone(tmp_path: Path, info: dict[str, t.Any]) -> None:
    assert run(tmp_path, info) == (0, False)
