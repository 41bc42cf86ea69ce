"""What benchmarks/scale.py makes of what it has measured."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from ansible_collections.truthgraph.platform.benchmarks import scale
from ansible_collections.truthgraph.platform.benchmarks.scale import Run

# As ansible.posix.profile_tasks prints it.
PROFILE = """
PLAY RECAP *********************************************************************
cpu1                       : ok=34   changed=0    unreachable=0    failed=0

TASKS RECAP ********************************************************************
truthgraph.platform.release : Read the hosts ---------------------------- 2.31s
truthgraph.platform.release : Watch it --------------------------------- 10.05s
truthgraph.platform.release : Read the hosts ---------------------------- 0.50s
Gather what is known - of all ------------------------------------------- 0.04s
"""


def runs(release_each: float = 1.5) -> list[Run]:
    """Three sizes; each further host costs 0.5 s of a rollback, and as much as is said of a release."""
    found = []
    for hosts in (2, 4, 8):
        for late in (0, 0.2, 1):
            tasks = {"release : Watch it": 10.0, "release : Read the hosts": 0.1 * hosts}
            found.append(Run("task", hosts, 1.0, 0.5, 50_000_000, {}))
            found.append(Run("nothing", hosts, 6 + late, 4 + 0.25 * hosts + late, 300_000_000, tasks))
            found.append(Run("rollback", hosts, 20 + 0.5 * hosts + late, 5.0, 100_000_000 * hosts, tasks))
            found.append(Run("release", hosts, 40 + release_each * hosts + late, 9.0, 200_000_000, tasks))
    return found


def test_tasks_of_one_name_are_added_up() -> None:
    assert scale.profile(PROFILE) == {
        "release : Read the hosts": pytest.approx(2.81),
        "release : Watch it": 10.05,
        "Gather what is known - of all": 0.04,
    }


def test_a_further_host_costs_the_slope_of_the_medians() -> None:
    found = runs()
    assert scale.median(found, "rollback", 4) == pytest.approx(22.2)
    assert scale.per_host(found, "rollback") == pytest.approx(0.5)
    assert scale.per_host([run for run in found if run.hosts == 2], "rollback") is None


@pytest.mark.parametrize(("each", "met"), [(1.5, "met"), (2.5, "not met")])
def test_the_table_has_every_size_and_says_what_is_met(each: float, met: str) -> None:
    table = {line.split("|")[1].strip(): line for line in scale.figures(runs(each))}
    assert table["new release, source only"].endswith(f" {each:.2f}, at most 2: {met} |")
    assert table["rollback"] == "| rollback | 21.2 (21.0-22.0) | 22.2 (22.0-23.0) | 24.2 (24.0-25.0) | 0.50, at most 1: met |"
    assert table["deploy of nothing new: processors of the control node"].endswith("| 4.7 | 5.2 | 6.2 | 0.25 |")
    assert "| 300 | 400 | 800 |" in table["peak memory of the control node, MB"]


def test_where_the_time_goes_names_the_longest_task_of_the_largest_fleet_first() -> None:
    lines = scale.where_it_goes(runs())
    first = lines.index("| release : Watch it | 10.0 | 10.0 |")
    assert lines[first + 1] == "| release : Read the hosts | 0.2 | 0.8 |"
    assert lines[first + 2] == "| all other tasks | 0.0 | 0.0 |"


def test_the_picture_is_one_and_names_every_point() -> None:
    root = ET.fromstring(scale.picture(runs()))
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "rollback, 8 API hosts: 24.2 s" in titles and len(titles) == 1 + 4 * 3


def test_memory_is_that_of_a_process_and_of_what_it_has_started() -> None:
    child = [sys.executable, "-c", "block = bytearray(80_000_000); print(flush=True); input()"]
    parent = [sys.executable, "-c", f"import subprocess; subprocess.run({child!r})"]
    with subprocess.Popen(parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout and running.stdin
        running.stdout.readline()
        seen = scale.memory_of(running.pid)
        running.stdin.close()
    assert 80_000_000 < seen < 200_000_000
    # Of one that has ended there is nothing.
    assert scale.memory_of(running.pid) == 0 and os.getpid() != running.pid


def test_processor_time_is_that_of_what_has_ended_and_of_what_it_has_started() -> None:
    child = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"]
    before = scale.of_children()
    subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.run({child!r})"], check=True)
    assert 0.5 < scale.of_children() - before < 5


def test_further_hosts_have_names_and_addresses_of_their_own() -> None:
    bench = scale.Bench(1)
    assert bench.further(2) == {}
    assert bench.further(4) == {"cpu3": "10.203.77.203", "cpu4": "10.203.77.204"}
    taken = {host["address"] for host in bench.defaults["lab_hosts"].values()}
    assert not taken & set(bench.further(40).values())
