# Fixtures for tests that run the deploy itself against the lab, which has to be deployed.
import json
import os
import pathlib
import re
import shutil
import subprocess
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, Fleet, tool, toolchain_environment

LAST_TASK = "Say what failed, and what serves"

# Everything on a host that a deploy could touch: its containers with their start times, images, networks, volumes, and the
# files of ours and of the engine with modes, times and sizes.
LOOK = """
docker ps --all --quiet --no-trunc | sort | xargs -r docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}}'
docker images --no-trunc --quiet | sort -u
docker network ls --no-trunc --quiet | sort
docker volume ls --quiet | sort
find /etc/truthgraph /etc/docker /root/.docker /var/lib/truthgraph-build -printf '%p %m %U %G %T@ %s\\n' 2>/dev/null | sort
"""

# Builds images of a tree; returns what was built, and what was said.
Build = t.Callable[..., tuple[dict[str, t.Any], str]]


def message_of(result: dict[str, t.Any]) -> str:
    # A loop says only that something failed; what it was is with its items.
    items = [item for item in result.get("results", []) if item.get("failed")]
    return " ".join(message_of(item) for item in items) if items else result.get("msg", str(result))


class Run:
    """One run of a playbook, read from the answers of Ansible's JSON callback."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.errors = done.stderr
        start = done.stdout.find("{")
        assert start >= 0, f"The playbook answered nothing.\n{done.stdout}\n{done.stderr}"
        answer = json.loads(done.stdout[start:])
        self.stats = answer["stats"]
        found = [
            (task["task"]["name"], host, message_of(result))
            for play in answer["plays"]
            for task in play["tasks"]
            for host, result in task["hosts"].items()
            if result.get("failed") or result.get("unreachable")
        ]
        # What failed is said once more by the task that ends the run.
        self.failures = [failure for failure in found if not failure[0].endswith(LAST_TASK)]
        self.last_words = " ".join(message for task, _, message in found if task.endswith(LAST_TASK))

    @property
    def changed(self) -> dict[str, int]:
        return {host: counts["changed"] for host, counts in self.stats.items() if counts["changed"]}

    def __str__(self) -> str:
        lines = [f"{host}: {task}: {message}" for task, host, message in self.failures]
        return "\n".join([f"exit code {self.code}, recap {self.stats}", *lines, self.last_words, self.errors])


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return Fleet(LAB)


@pytest.fixture(scope="session")
def snapshot(fleet: Fleet) -> t.Callable[[], dict[str, list[str]]]:
    def take() -> dict[str, list[str]]:
        return {name: member.host.check_output("sh -c %s", LOOK).splitlines() for name, member in fleet.members.items()}

    return take


@pytest.fixture(scope="session")
def deploy() -> t.Callable[..., Run]:
    def run(variables: t.Any, *options: str, inventory: pathlib.Path = LAB, timeout: int = 180) -> Run:
        command = [tool("ansible-playbook"), "-i", str(inventory), str(CHECKOUT / "playbooks" / "deploy.yml")]
        command += ["-e", json.dumps(variables), *options]
        environment = toolchain_environment(ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Run(done)

    return run


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    # A copy of the reference application, to be spoilt.
    copy = tmp_path / "app"
    shutil.copytree(CHECKOUT / "files" / "app", copy, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    return copy


@pytest.fixture
def inventory_with(tmp_path: pathlib.Path) -> t.Callable[[str, str], pathlib.Path]:
    # A copy of the lab's inventory with some of its lines replaced.
    def make(pattern: str, replacement: str) -> pathlib.Path:
        copy = tmp_path / "inventory"
        shutil.copytree(LAB, copy)
        hosts = copy / "hosts.yml"
        text, count = re.subn(pattern, replacement, hosts.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1
        hosts.write_text(text, encoding="utf-8")
        return copy

    return make


@pytest.fixture(scope="session")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    # A CA that has signed nothing here.
    path = pathlib.Path(tmp_path_factory.mktemp("ca")) / "other.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=another CA", "-keyout", os.devnull, "-out", str(path)],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return path


def play(playbook: str, variables: t.Any, *options: str, code: int = 0, timeout: int = 900) -> str:
    command = [tool("ansible-playbook"), "-i", str(LAB), str(CHECKOUT / playbook)]
    done = subprocess.run(
        [*command, "-e", json.dumps(variables), *options],
        cwd=CHECKOUT,
        env=toolchain_environment(ANSIBLE_STDOUT_CALLBACK="ansible.builtin.default"),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def timeout() -> int:
    # Seconds that a build may take.
    return 900


@pytest.fixture
def build(tmp_path: pathlib.Path, timeout: int) -> Build:
    def run(tree: pathlib.Path, *targets: str, **more: t.Any) -> tuple[dict[str, t.Any], str]:
        answer = tmp_path / "images.json"
        variables = {"image_build_source": str(tree), "image_build_targets": targets, "answer": str(answer), **more}
        said = play("tests/integration/build.yml", variables, timeout=timeout)
        return json.loads(answer.read_text(encoding="utf-8")), said

    return run
