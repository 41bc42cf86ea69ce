# What the doctor says of the deployed lab.
import json
import pathlib
import subprocess
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, Fleet, tool, toolchain_environment

Doctor = t.Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, t.Any]]]


@pytest.fixture
def doctor(tmp_path: pathlib.Path) -> Doctor:
    def run(**variables: t.Any) -> tuple[subprocess.CompletedProcess[str], dict[str, t.Any]]:
        answer = tmp_path / "found.json"
        command = [tool("ansible-playbook"), "-i", str(LAB), str(CHECKOUT / "playbooks" / "doctor.yml")]
        done = subprocess.run(
            [*command, "-e", json.dumps({"doctor_json": str(answer), **variables})],
            cwd=CHECKOUT,
            env=toolchain_environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert answer.exists(), done.stdout + done.stderr
        return done, json.loads(answer.read_text())

    return run


def test_nothing_stands_in_the_way_of_another_deploy(fleet: Fleet, doctor: Doctor) -> None:
    done, found = doctor()
    assert (done.returncode, found["findings"]) == (0, []), done.stdout
    assert found["hosts"] == sorted(fleet.members)


def test_what_is_wrong_on_several_hosts_is_found_at_once(fleet: Fleet, doctor: Doctor, tmp_path: pathlib.Path) -> None:
    done, found = doctor(
        release_min_memory_mb=10**9, fleet_database_user="postgres", image_build_source=str(tmp_path / "nowhere")
    )
    assert done.returncode == 2
    by_role = {role: {one["host"] for one in found["findings"] if one["role"] == role} for role in ("release", "postgres")}
    assert by_role == {"release": set(fleet.members), "postgres": {"cpu1"}}
    assert {one["host"] for one in found["findings"] if "nowhere" in one["message"]} == {"build1"}
    assert not [line for line in done.stdout.splitlines() if " changed=" in line and " changed=0 " not in line]
