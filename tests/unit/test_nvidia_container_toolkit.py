"""What the role nvidia_container_toolkit concludes from a host, and what it refuses; nothing of the host is changed."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "nvidia_container_toolkit"
PREFIX = "nvidia_container_toolkit_"

CARD = {"index": 0, "uuid": "GPU-a", "mig": False, "mig_devices": []}
DIVIDED = {"index": 1, "uuid": "GPU-b", "mig": True, "mig_devices": [{"uuid": "MIG-a"}, {"uuid": "MIG-b"}]}

ALL = ["libnvidia-container-tools", "libnvidia-container1", "nvidia-container-toolkit", "nvidia-container-toolkit-base"]


def play(directory: Path, document: dict[str, t.Any], *options: str) -> subprocess.CompletedProcess[str]:
    """Run one play on this machine, without becoming anybody."""
    path = directory / "play.yml"
    path.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, **document}]), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", str(path), *options]
        + ["-e", json.dumps({"ansible_become": False, "ansible_python_interpreter": sys.executable})],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def dpkg(*lines: str) -> dict[str, t.Any]:
    return {"__nvidia_container_toolkit_dpkg": {"stdout_lines": list(lines)}}


def engine(answer: str | None) -> dict[str, t.Any]:
    # As the module command answers where there is no such program.
    return {"__nvidia_container_toolkit_dockerd": {"rc": 2, "stdout": ""} if answer is None else {"stdout": answer}}


def before(**packages: str) -> dict[str, t.Any]:
    content = json.dumps({name.replace("_", "-"): version for name, version in packages.items()})
    return {"__nvidia_container_toolkit_before_read": {"content": f"{{{{ {content!r} | b64encode }}}}"}}


def listed(*devices: str, cards: list[dict[str, t.Any]] | None = None) -> dict[str, t.Any]:
    return {
        "__nvidia_container_toolkit_listed": {"stdout": "\n".join(f"nvidia.com/gpu={device}" for device in devices)},
        "__nvidia_container_toolkit_driver": {"cards": cards or [CARD]},
    }


def knows(uses: str, version: str, **info: t.Any) -> dict[str, t.Any]:
    return {
        "nvidia_container_toolkit_uses": uses,
        "__nvidia_container_toolkit_engine": {"host_info": info},
        **engine(f"Docker version {version}, build 1"),
    }


INSTALLED = [f"{name} install installed 1.20.0-1" for name in ALL]

# What is known, the variable that follows from it, and its value.
CASES = [
    (dpkg("bash install installed 5.2"), "to_install", ALL),
    (dpkg(*INSTALLED), "to_install", []),
    (dpkg(*INSTALLED[1:], "libnvidia-container-tools install installed 1.20.0-10"), "to_install", ALL[:1]),
    (dpkg(*INSTALLED[1:], "libnvidia-container-tools deinstall config-files 1.20.0-1"), "to_install", ALL[:1]),
    (dpkg(*INSTALLED, "python3-debian install installed 0.1"), "reads_sources", True),
    (dpkg(*INSTALLED, "python3-debian-x install installed 0.1"), "reads_sources", False),
    (dpkg("libnvidia-container1 hold installed 1.17.4-1", "bash hold installed 5.2"), "held", ["libnvidia-container1"]),
    (dpkg(*INSTALLED), "held", []),
    ({**dpkg(*INSTALLED), **before()}, "to_remove", ALL),
    ({**dpkg(*INSTALLED[:2]), **before()}, "to_remove", ALL[:2]),
    ({**dpkg(*INSTALLED), **before(libnvidia_container1="1.2-1")}, "to_remove", [ALL[0], *ALL[2:]]),
    # Without its base the toolkit would go too.
    ({**dpkg(*INSTALLED), **before(nvidia_container_toolkit="1.10.0-1")}, "to_remove", []),
    (engine(None), "engine_there", False),
    (engine(None), "engine_has_cdi", True),
    (engine("Docker version 20.10.24+dfsg1, build 297e128"), "engine_version", "20.10.24"),
    (engine("Docker version 24.0.7, build 24.0.7-0ubuntu4"), "engine_has_cdi", False),
    (engine("Docker version 25.0.0, build 1"), "engine_has_cdi", True),
    (engine("Docker version 26.1.5+dfsg1, build a72d7cd"), "engine_has_cdi", True),
    (knows("cdi", "26.1.5+dfsg1", CDISpecDirs=[]), "pending", True),
    (knows("cdi", "26.1.5+dfsg1", CDISpecDirs=None), "pending", True),
    (knows("cdi", "26.1.5+dfsg1", CDISpecDirs=["/etc/cdi"]), "pending", False),
    (knows("cdi", "26.1.5+dfsg1"), "pending", False),
    # Switched off by somebody: a restart would not help, and in the end it is refused.
    (knows("cdi", "28.2.0", CDISpecDirs=[]), "pending", False),
    (knows("cdi", "28.2.0", CDISpecDirs=[]), "in_force", False),
    (knows("runtime", "28.2.0", Runtimes={"runc": {}}), "pending", True),
    (knows("runtime", "28.2.0", Runtimes={"runc": {}, "nvidia": {}}), "pending", False),
    (listed("0", "all"), "undescribed", []),
    (listed("GPU-a", "all"), "undescribed", []),
    (listed(), "undescribed", ["nvidia.com/gpu=all", "nvidia.com/gpu=0"]),
    (listed("all", "10"), "undescribed", ["nvidia.com/gpu=0"]),
    (listed("all", "0", "1:0", "MIG-b", cards=[CARD, DIVIDED]), "undescribed", []),
    (listed("all", "0", "1", cards=[CARD, DIVIDED]), "undescribed", ["nvidia.com/gpu=1:0", "nvidia.com/gpu=1:1"]),
    ({f"{PREFIX}version": "1.17.8", f"{PREFIX}uses": "cdi"}, "own_unit_wanted", True),
    ({f"{PREFIX}version": "1.17.8", f"{PREFIX}uses": "runtime"}, "described", False),
    ({f"{PREFIX}version": "1.18.0", f"{PREFIX}uses": "runtime"}, "described", True),
    ({f"{PREFIX}version": "1.18.0", f"{PREFIX}uses": "cdi"}, "own_unit_wanted", False),
    ({f"{PREFIX}repository_url": "http://mirror.example/nvidia//"}, "url", "http://mirror.example/nvidia"),
]


@pytest.fixture(scope="module")
def concluded(tmp_path_factory: pytest.TempPathFactory) -> list[t.Any]:
    """The value in each of the cases, from one play."""
    directory = tmp_path_factory.mktemp("conclusions")
    answers = directory / "answers.json"
    document = {
        "vars_files": [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")],
        "tasks": [
            {
                "ansible.builtin.set_fact": {"values": f"{{{{ values | default([]) + [__{PREFIX}{name}] }}}}"},
                "vars": known,
            }
            for known, name, _value in CASES
        ]
        + [{"ansible.builtin.copy": {"content": "{{ values | to_json }}", "dest": str(answers), "mode": "0600"}}],
    }
    process = play(directory, document)
    assert process.returncode == 0, process.stdout + process.stderr
    told: list[t.Any] = json.loads(answers.read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{number}-{CASES[number][1]}")
def test_what_follows(concluded: list[t.Any], number: int) -> None:
    assert concluded[number] == CASES[number][2]


# A host's answers and the role's variables on it, and the fact that is set or words of the refusal.
PROGRAMS = {
    "nvidia-smi": "echo '0, GPU-a, A card, 580.95.05, 1, 0, 1, 9.0, Disabled'",
    "dpkg-query": "echo 'bash install installed 5.2'",
    "dockerd": "echo 'Docker version 26.1.5+dfsg1, build a72d7cd'",
}
OLD = "echo 'Docker version 20.10.24+dfsg1, build 297e128'"
ON_HOLD = "\n".join(f"echo '{name} hold installed 1.20.0-1'" for name in ALL)
HOSTS = {
    "new-engine": ({}, {}, "cdi"),
    "new-engine-runtime": ({}, {"mode": "runtime"}, "runtime"),
    "old-engine": ({"dockerd": OLD}, {}, "runtime"),
    "old-engine-cdi": ({"dockerd": OLD}, {"mode": "cdi"}, ["20.10.24", "no CDI", "docker_engine_source"]),
    "no-engine-yet": ({"dockerd": "exit 127"}, {"mode": "cdi"}, "cdi"),
    "floor": ({}, {"version": "1.17.8"}, "cdi"),
    "below": ({}, {"version": "1.17.7"}, ["CVE-2025-23266", "1.17.8 or newer"]),
    "far-below": ({}, {"version": "1.9.0"}, ["CVE-2025-23266"]),
    "revision": ({}, {"version": "1.20.0-1"}, ["three numbers"]),
    "no-card": ({"nvidia-smi": "echo No devices found; exit 6"}, {}, ["No devices found", "inference_device: cpu"]),
    "on-hold": ({"dpkg-query": ON_HOLD}, {"version": "1.20.1"}, ["apt-mark unhold libnvidia-container-tools"]),
    "on-hold-at-the-version": ({"dpkg-query": ON_HOLD}, {}, "cdi"),
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a file for each host: what the role's entry point check made of it."""
    directory = tmp_path_factory.mktemp("hosts")
    for host, (programs, _variables, _answer) in HOSTS.items():
        for name, script in {**PROGRAMS, **programs}.items():
            path = directory / host / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            path.chmod(0o755)
    role = {"name": "truthgraph.platform.nvidia_container_toolkit", "tasks_from": "check"}
    write = {"dest": f"{directory}/{{{{ inventory_hostname }}}}.txt", "mode": "0600"}
    document = {
        "hosts": ",".join(HOSTS),
        # The programs of the machine itself are found after these.
        "environment": {"PATH": f"{directory}/{{{{ inventory_hostname }}}}:{{{{ lookup('env', 'PATH') }}}}"},
        "tasks": [
            {
                "block": [
                    {"ansible.builtin.include_role": role},
                    {"ansible.builtin.copy": {**write, "content": f"{{{{ {PREFIX}uses }}}}"}},
                ],
                "rescue": [{"ansible.builtin.copy": {**write, "content": "{{ ansible_failed_result.msg }}"}}],
            }
        ],
    }
    inventory = {
        host: {f"{PREFIX}{name}": value for name, value in variables.items()}
        for host, (_programs, variables, _answer) in HOSTS.items()
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": inventory}}), encoding="utf-8")
    process = play(directory, document, "-i", "hosts.yml")
    assert process.returncode == 0, process.stdout + process.stderr
    return directory


@pytest.mark.parametrize("host", HOSTS)
def test_what_the_checks_answer(checked: Path, host: str) -> None:
    answer = (checked / f"{host}.txt").read_text(encoding="utf-8")
    wanted = HOSTS[host][2]
    if isinstance(wanted, str):
        assert answer == wanted
    else:
        for word in [host, *wanted]:
            assert word in answer
