#!/usr/bin/env python3
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run takes with 2, 4, 8 and 12 API hosts, where its time goes, and how much memory the control node needs.

    make bench-scale
    .venv/bin/python benchmarks/scale.py --sizes 2,4 --rounds 1 --json figures.json

On the deployed lab, which gets further API hosts for it, all on this machine. At each size it measures, as an operator
starts them, without open SSH connections:

    task      one plain task on all hosts, without the collection: what Ansible and SSH cost here
    nothing   deploy.yml with nothing new
    release   deploy.yml with a new release of the source alone, whose image the hosts have already
    rollback  rollback.yml

The releases are two variants of the reference application that differ in a comment. The control node's processor time is
what the command and its processes took here, without what they asked the hosts to do: of a fleet of machines of its own
it is what a further host costs for certain, since those work at the same time. The control node's memory is the
proportional set size of the command and its processes together, looked at twice a second. Where the time goes is what
ansible.posix.profile_tasks says of the largest and the smallest fleet.

It writes tables into docs/benchmarks.md, between two markers, and docs/scale.svg. The further hosts are removed at the end,
after a failure or Ctrl-C too, and the lab is deployed anew as it was. After a kill -9 the next run begins with that;
`--clean` does nothing else. Nobody else may work on the lab meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import html
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t

import yaml

from ansible_collections.truthgraph.platform.benchmarks.document import (
    BenchError,
    between_markers,
    interrupt,
    machine,
    say,
    table,
    today,
    write,
)
from ansible_collections.truthgraph.platform.benchmarks.rollout import MARK, ask
from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, tool, toolchain_environment
from ansible_collections.truthgraph.platform.molecule.shared.rollout import descendants

DOCUMENT, MARKERS = CHECKOUT / "docs" / "benchmarks.md", "scale"
PICTURE = CHECKOUT / "docs" / "scale.svg"
SIZES = (2, 4, 8, 12)
# What is measured, with its colour in the picture, and what a further host may cost at most, in seconds.
KINDS: dict[str, tuple[str, str, float | None]] = {
    "task": ("one plain task", "#9aa5b1", None),
    "nothing": ("deploy of nothing new", "#3e7cb1", None),
    "rollback": ("rollback", "#76b900", 1.0),
    "release": ("new release, source only", "#e07a3f", 2.0),
}
# How many hosts of the lab are no API hosts.
OTHERS = 2
FIRST_FURTHER = 3
MOST = 40
TIMEOUT = 1800
TOP = 5
PROFILED = re.compile(r"^(?:truthgraph\.platform\.)?(.+?) -{2,} ([0-9.]+)s$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a command: seconds, those of processors, bytes of memory at most, and seconds of its tasks by their names."""

    kind: str
    hosts: int
    wall: float
    cpu: float
    memory: int
    tasks: dict[str, float]


def memory_of(pid: int) -> int:
    """Return the proportional set size of a process and of those that it has started, in bytes."""
    whole = 0
    for one in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii")
            found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
            whole += 1024 * int(found[1]) if found else 0
    return whole


def of_children() -> float:
    """Return the processor time of the processes that this one has started and seen end, and of theirs, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def profile(text: str) -> dict[str, float]:
    """Return the seconds of each task that ansible.posix.profile_tasks names; those of the same name are added up."""
    tasks: dict[str, float] = {}
    for name, seconds in PROFILED.findall(text):
        tasks[name] = tasks.get(name, 0) + float(seconds)
    return tasks


def median(runs: t.Iterable[Run], kind: str, hosts: int, measure: str = "wall") -> float:
    """Return the median of the seconds of one kind at one size."""
    return statistics.median(float(getattr(run, measure)) for run in runs if (run.kind, run.hosts) == (kind, hosts))


def per_host(runs: t.Sequence[Run], kind: str, measure: str = "wall") -> float | None:
    """Return what a further host costs: the slope of the line through the medians. None with one size."""
    sizes = sorted({run.hosts for run in runs if run.kind == kind})
    if len(sizes) < 2:
        return None
    return statistics.linear_regression(sizes, [median(runs, kind, size, measure) for size in sizes]).slope


def figures(runs: t.Sequence[Run]) -> list[str]:
    """Return the table of seconds and memory by size."""
    sizes = sorted({run.hosts for run in runs})
    rows = []
    for kind, (what, _colour, bar) in KINDS.items():
        cost = per_host(runs, kind)
        cells = []
        for size in sizes:
            walls = [run.wall for run in runs if (run.kind, run.hosts) == (kind, size)]
            several = f" ({min(walls):.1f}-{max(walls):.1f})" if len(walls) > 1 else ""
            cells.append(f"{statistics.median(walls):.1f}{several}")
        met = "" if bar is None or cost is None else f", at most {bar:g}: {'met' if cost <= bar else 'not met'}"
        rows.append([what, *cells, "-" if cost is None else f"{cost:.2f}{met}"])
    for kind, (what, _colour, _bar) in KINDS.items():
        cost = per_host(runs, kind, "cpu")
        cells = [f"{median(runs, kind, size, 'cpu'):.1f}" for size in sizes]
        rows.append([f"{what}: processors of the control node", *cells, "-" if cost is None else f"{cost:.2f}"])
    memory = [f"{max(run.memory for run in runs if run.hosts == size) / 1e6:.0f}" for size in sizes]
    rows.append(["peak memory of the control node, MB", *memory, "-"])
    return table(["seconds", *(f"{size} API hosts" for size in sizes), "each further host"], rows)


def where_it_goes(runs: t.Sequence[Run]) -> list[str]:
    """Return the tables of the tasks that took longest, for the smallest and the largest fleet."""
    sizes = sorted({run.hosts for run in runs})
    lines = []
    for kind in ("nothing", "release", "rollback"):
        seconds: dict[int, dict[str, float]] = {}
        for size in {sizes[0], sizes[-1]}:
            same = [run.tasks for run in runs if (run.kind, run.hosts) == (kind, size)]
            names = {name for tasks in same for name in tasks}
            seconds[size] = {name: statistics.median(tasks.get(name, 0) for tasks in same) for name in names}
        largest = seconds[sizes[-1]]
        first = sorted(largest, key=lambda name: -largest[name])[:TOP]
        rows = [[name, f"{seconds[sizes[0]].get(name, 0):.1f}", f"{largest[name]:.1f}"] for name in first]
        rest = [sum(seconds[size].values()) - sum(seconds[size].get(name, 0) for name in first) for size in (sizes[0], sizes[-1])]
        rows.append(["all other tasks", *(f"{one:.1f}" for one in rest)])
        head = [f"{KINDS[kind][0]}: task", f"{sizes[0]} API hosts, s", f"{sizes[-1]} API hosts, s"]
        lines += ["", *table(head, rows)]
    return lines


def picture(runs: t.Sequence[Run]) -> str:
    """Return the seconds over the hosts as a drawing in SVG."""
    sizes = sorted({run.hosts for run in runs})
    left, top, width, height, right = 56, 44, 560, 300, 210
    step = 10
    most = step * (int(max(run.wall for run in runs)) // step + 1)

    def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#616e7c") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" fill="{colour}" text-anchor="{anchor}">{html.escape(words)}</text>'

    def place(hosts: float, seconds: float) -> tuple[float, float]:
        return left + width * hosts / sizes[-1], top + height * (1 - seconds / most)

    drawn = [text(16, 24, "Seconds that a run takes, by the number of API hosts, all of them on one machine", colour="#1f2933")]
    for tick in range(0, most + 1, step * max(1, most // step // 6)):
        _, y = place(0, tick)
        drawn.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#d8dee4"/>')
        drawn.append(text(left - 8, y + 4, str(tick), "end"))
    drawn += [text(place(size, 0)[0], top + height + 20, str(size), "middle") for size in sizes]
    below = top + height + 44
    for kind, (what, colour, _bar) in KINDS.items():
        points = [place(size, median(runs, kind, size)) for size in sizes]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for (x, y), size in zip(points, sizes, strict=True):
            label = html.escape(f"{what}, {size} API hosts: {median(runs, kind, size):.1f} s")
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{label}</title></circle>')
        cost = per_host(runs, kind)
        each = "" if cost is None else f", {cost:.2f} s a host"
        drawn.append(text(points[-1][0] + 10, points[-1][1] + 4, f"{what}{each}", colour=colour))
    whole = f"{left + width + right + 90} {below}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole}" font-family="system-ui, sans-serif" role="img">\n'
        f"<title>Seconds of a run by API hosts</title>\n"
        f'<rect width="{left + width + right + 90}" height="{below}" fill="#ffffff"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


class Bench:
    """One run on the lab, with as many API hosts as there are at the moment."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.runs: list[Run] = []
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="tg-scale-"))
        self.inventory = self.scratch / "further.yml"
        self.inventory.write_text("{}\n", encoding="utf-8")
        self.defaults = yaml.safe_load((CHECKOUT / "roles/lab/defaults/main.yml").read_text(encoding="utf-8"))
        hosts = yaml.safe_load((LAB / "hosts.yml").read_text(encoding="utf-8"))
        self.standing = list(hosts["truthgraph_api"]["hosts"])
        self.addresses = {name: self.defaults["lab_hosts"][name]["address"] for name in self.standing}
        self.trees = {name: self.scratch / name for name in ("a", "b")}
        self.hosts = len(self.standing)
        self._connections = 0

    def further(self, hosts: int) -> dict[str, str]:
        """Return the API hosts by their addresses that a fleet of that many has besides the lab's own."""
        network = self.defaults["lab_subnet"].rpartition(".")[0]
        numbers = range(FIRST_FURTHER, hosts - len(self.standing) + FIRST_FURTHER)
        return {f"cpu{number}": f"{network}.{200 + number}" for number in numbers}

    def command(self, *arguments: str, cold: bool = False) -> tuple[float, float, int, str]:
        """Run a command to its end; return its seconds, those of processors, its memory and what it has printed."""
        more = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all"}
        if cold:
            # Who presses enter at night has no SSH connection open.
            self._connections += 1
            more["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(self.scratch / f"ssh{self._connections}")
        log = self.scratch / "command.log"
        most, cpu = 0, -of_children()
        with log.open("wb") as out:
            start = time.monotonic()
            process = subprocess.Popen(
                [tool(arguments[0]), *arguments[1:]],
                cwd=CHECKOUT,
                env=toolchain_environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    if time.monotonic() - start > TIMEOUT:
                        raise BenchError(f"{' '.join(arguments)} did not end in {TIMEOUT} s.")
                    most = max(most, memory_of(process.pid))
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.5)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait(300)
        wall = time.monotonic() - start
        cpu += of_children()
        text = log.read_text(encoding="utf-8", errors="replace")
        if process.returncode:
            raise BenchError(f"{' '.join(arguments)} ended with {process.returncode}:\n{text[-3000:]}")
        return wall, cpu, most, text

    def playbook(self, name: str, tree: str = "", *, cold: bool = False) -> tuple[float, float, int, str]:
        """Run a playbook of the collection on the fleet as it is now."""
        variables: dict[str, t.Any] = {"release_keep": 100}
        if tree:
            variables["image_build_source"] = str(self.trees[tree])
        inventories = ["-i", str(LAB), "-i", str(self.inventory)]
        return self.command("ansible-playbook", *inventories, f"playbooks/{name}.yml", "-e", json.dumps(variables), cold=cold)

    def serves(self, mark: str) -> str:
        """Return the release that every API host answers as; it has to be the same one."""
        answers = {ask(f"http://{address}:8000/health")[1] for address in self.addresses.values()}
        if len(answers) != 1 or "" in answers:
            raise BenchError(f"{mark}: the API hosts answer as {sorted(answers)}, not all as one release.")
        return answers.pop()

    def grow(self, hosts: int) -> None:
        """Give the lab further API hosts, and deploy both variants to them, so that there is nothing to be built or pulled."""
        further = self.further(hosts)
        lab = {name: {"address": address, "published_ports": []} for name, address in further.items()}
        if further:
            say(f"The lab gets {', '.join(further)} ...")
            variables = {"lab_hosts": {**self.defaults["lab_hosts"], **lab}}
            self.command("ansible-playbook", "playbooks/lab.yml", "-e", json.dumps(variables))
            groups = {"truthgraph_api": {"hosts": {name: {"ansible_host": address} for name, address in further.items()}}}
            self.inventory.write_text(yaml.safe_dump(groups), encoding="utf-8")
        self.hosts = hosts
        self.addresses.update(further)
        for name in self.trees:
            say(f"{hosts} API hosts: variant {name}, to have it at hand ...")
            say(f"... {self.playbook('deploy', name)[0]:.0f} s")

    def measure(self) -> None:
        """Measure the fleet as it is now, on which variant b serves and a was before it."""
        served = self.serves("before")
        for _round in range(self.rounds):
            plain = ["-i", str(LAB), "-i", str(self.inventory), "truthgraph", "-m", "ansible.builtin.ping", "--one-line"]
            self.take("task", self.command("ansible", *plain, cold=True))
            found = self.playbook("deploy", "b", cold=True)
            if changed := re.findall(r"changed=[1-9]\d*", found[-1]):
                raise BenchError(f"A deploy of nothing new has {changed[0]}.")
            self.take("nothing", found)
            # Else it would find the container of the earlier round, which a new release never does.
            for name in self.addresses:
                container = f"truthgraph-lab-{name}"
                stopped = ["docker", "exec", container, "docker", "ps", "-aq", "--filter", "status=exited"]
                found_ids = subprocess.run(stopped, capture_output=True, text=True, check=True).stdout.split()
                if found_ids:
                    subprocess.run(["docker", "exec", container, "docker", "rm", *found_ids], capture_output=True, check=True)
            self.take("release", self.playbook("deploy", "a", cold=True))
            if self.serves("after the release") == served:
                raise BenchError("The new release does not serve.")
            self.take("rollback", self.playbook("rollback", cold=True))
            if self.serves("after the rollback") != served:
                raise BenchError("The earlier release does not serve.")

    def take(self, kind: str, found: tuple[float, float, int, str]) -> None:
        """Note a measured run."""
        wall, cpu, memory, text = found
        self.runs.append(Run(kind, self.hosts, wall, cpu, memory, profile(text)))
        say(f"{self.hosts} API hosts: {KINDS[kind][0]}: {wall:.1f} s, {cpu:.1f} s of processors, {memory / 1e6:.0f} MB")

    def make_trees(self) -> None:
        """Write the two variants."""
        for name, tree in self.trees.items():
            shutil.copytree(CHECKOUT / "files" / "app", tree, ignore=shutil.ignore_patterns("__pycache__", ".git"))
            with (tree / "truthgraph" / "main.py").open("a", encoding="utf-8") as file:
                file.write(f"\n# Variant {name} of {MARK}.\n")

    def clean(self) -> list[str]:
        """Remove the further hosts, and leave the lab deployed as it was; return what could not be done."""
        self.inventory.write_text("{}\n", encoding="utf-8")
        problems = []
        listed = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", "name=^truthgraph-lab-cpu"]
        names = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()
        gone = {name.removeprefix("truthgraph-lab-") for name in names} - set(self.standing)
        known = {name: {"address": address, "published_ports": []} for name, address in self.further(MOST).items()}
        for name in sorted(gone & set(known)):
            variables = json.dumps({"host": name, "lab_hosts": {name: known[name]}})
            try:
                self.command("ansible-playbook", "molecule/shared/remove_host.yml", "-e", variables)
            except BenchError as error:
                problems.append(str(error))
        if gone or self.runs:
            say("The lab is deployed as it was ...")
            try:
                self.playbook("deploy")
            except BenchError as error:
                problems.append(str(error))
        shutil.rmtree(self.scratch, ignore_errors=True)
        return problems


def report(bench: Bench) -> str:
    """Return what goes between the markers."""
    ansible = subprocess.run([tool("ansible"), "--version"], capture_output=True, text=True, check=True).stdout
    about = [
        f"{today()} Command: `make bench-scale`.",
        f"Machine: {machine()}, for the control node and all hosts together, so each further one takes from the others.",
        f"Control node: {re.sub(r'[^ a-z0-9.-]', '', ansible.splitlines()[0])}, Python {sys.version.split()[0]}, no SSH "
        f"connection open at the start. Besides the API hosts there are {OTHERS} others.",
        f"Rounds: {bench.rounds}; median, and the least and the most in brackets. A release and a rollback watch what serves for "
        "`release_bake`, 10 s of the time. Each further host is the slope of the line through the medians.",
    ]
    lines = [*(f"- {line}" for line in about), "", *figures(bench.runs), "", "![Seconds by API hosts](scale.svg)"]
    return "\n".join(
        [*lines, "", "Where the time goes, by the tasks that take longest in the largest fleet:", *where_it_goes(bench.runs)]
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure runs with 2 to 12 API hosts, and write docs/benchmarks.md.")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of API hosts; with others nothing is written")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--json", metavar="FILE", help="write every single figure there")
    parser.add_argument("--clean", action="store_true", help="only remove what a killed run has left")
    options = parser.parse_args()
    try:
        sizes = sorted({int(size) for size in options.sizes.split(",")})
    except ValueError:
        parser.error(f"--sizes {options.sizes} is no list of numbers")
    bench = Bench(options.rounds)
    if not len(bench.standing) <= sizes[0] <= sizes[-1] <= MOST:
        parser.error(f"--sizes has to be from {len(bench.standing)}, the lab's own, to {MOST}")
    # Found out before an hour is spent, not after it.
    between_markers(DOCUMENT.read_text(encoding="utf-8"), MARKERS, "")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    failed = ""
    try:
        if not options.clean:
            bench.serves("at the start; run `make deploy` first")
            bench.make_trees()
            for size in sizes:
                bench.grow(size)
                bench.measure()
    except BenchError as error:
        failed = str(error)
    except KeyboardInterrupt:
        failed = "Interrupted."
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        say("Removing what was made ...")
        problems = bench.clean()
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps([dataclasses.asdict(run) for run in bench.runs]), encoding="utf-8")
    if bench.runs and not failed:
        text = report(bench)
        print(text)
        if tuple(sizes) == SIZES:
            write(DOCUMENT, MARKERS, text)
            PICTURE.write_text(picture(bench.runs), encoding="utf-8")
    for problem in filter(None, [failed, *(f"Not removed: {problem}" for problem in problems)]):
        print(problem, file=sys.stderr)
    return 1 if failed or problems else 0


if __name__ == "__main__":
    sys.exit(main())
