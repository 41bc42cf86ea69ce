#!/usr/bin/env python3
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change of the release costs, beside `docker compose up` and Docker Swarm, on the deployed lab.

    make bench
    .venv/bin/python benchmarks/rollout.py --only floor,rollout --rounds 3 --json figures.json

In one run, with one client at one rate (tests/load/client.py, 200 requests per second to each target), it measures

    floor     a static server behind nothing: what this machine and this client make of a service that nobody touches
    compose   `docker compose up` with another image, and with the earlier one again
    swarm     `docker service update` of two replicas, start-first, and `docker service rollback`
    rollout   deploy.yml, rollback.yml with and without release_standby, and deploy.yml with nothing new, of this
              collection, on the whole lab; and deploy.yml with a release that ends when it starts, and with one that
              answers every client 500

and writes a table into docs/benchmarks.md, between two markers. What the columns mean is said there.

Compose and Swarm run on one API host, with the images that the rollout changes between, the environment, secrets and
limits of the container that serves there, and a port of their own. They reach Postgres and the inference service.
The images are two variants of the reference application that differ in a comment of truthgraph/main.py, and two that do
not work. The variants are deployed once before they are measured, and the others built, so it is the change that is
measured, and not a build or a pull.

Everything that it makes is removed at the end, after a failure or Ctrl-C too, and the release that served at the
start serves again. After a kill -9 the next run begins with that; `--clean` does nothing else. The registry keeps the
two variants, one small layer each, so that the next run builds nothing. Nobody else may work on the lab meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import http.client
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing as t
import urllib.parse

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
from ansible_collections.truthgraph.platform.molecule.shared.fleet import (
    CHECKOUT,
    Fleet,
    Member,
    inspect,
    serving,
    tool,
    toolchain_environment,
)
from ansible_collections.truthgraph.platform.molecule.shared.rollout import ends_at_once, fails_for_every_client
from ansible_collections.truthgraph.platform.tests.load.client import WEIGHTS, Load

DOCUMENT, MARKERS = CHECKOUT / "docs" / "benchmarks.md", "bench"
STAGES = ("floor", "compose", "swarm", "rollout")

# Kamal 2.12 on one host of the lab machine, in seconds: measured before, not by this program.
KAMAL = {"update": (6.9, 8.0), "standby": (5.6, 6.3), "rollback": (5.6, 6.3), "nothing": (4.8, 5.7)}
KAMAL_GAP, KAMAL_REQUESTS = 0.047, 37331

RATE = 200
FLOOR_SECONDS = 20
LEAD, TRAIL = 2, 3
PORT = 18080
API_PORT = 8000
NAME = "truthgraph-bench"
HEADER = "X-TruthGraph-Release"
# Where the roles keep things on a host, and where this keeps what it has to remember on the one that it works on.
ROOT, CONFIG, OWN = "/var/lib/truthgraph", "/etc/truthgraph", "/var/lib/truthgraph-bench"
PLAYBOOK_TIMEOUT = 600
# What tells a variant of the application from one that somebody else deploys.
MARK = "benchmarks/rollout.py"
# For a running playbook, after Ctrl-C: it finishes or undoes what it has begun.
PLAYBOOK_GRACE = 300

# Releases that do not work: what is done to the application, and what the deploy says of each.
BROKEN = {
    "ends": (ends_at_once, "release that ends at its start, undone", "No request went to the new release."),
    "fails": (fails_for_every_client, "release that answers 500 after the switch, undone", "was taken back"),
}

STATIC = """
import asyncio
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\n%s\\r\\n{}"
class Static(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        head, end, body = self.data.partition(b"\\r\\n\\r\\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\\r\\n")[0]
        if not end or len(body) < int(length or 0):
            return
        self.data = b""
        closes = b"connection: close" in head.lower()
        self.transport.write(ANSWER % (b"Connection: close\\r\\n" if closes else b""))
        if closes:
            self.transport.close()
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Static, "0.0.0.0", %d, backlog=1000)
    await server.serve_forever()
asyncio.run(main())
"""

# Undoes all that the stages floor, compose and swarm may have done on their host, as far as they came.
CLEAN = r"""
bad=0
systemctl stop NAME-static 2>/dev/null
containers() { docker ps --all --quiet --filter "label=$1"; }
containers com.docker.compose.project=NAME | xargs -r docker rm --force || bad=1
containers truthgraph.bench | xargs -r docker rm --force || bad=1
if [ -e OWN/swarm ]; then
  docker service rm NAME
  for _ in $(seq 100); do [ -n "$(containers com.docker.swarm.service.name=NAME)" ] || break; sleep 0.3; done
  [ "$(docker info --format '{{.Swarm.LocalNodeState}}')" = inactive ] || docker swarm leave --force || bad=1
  docker network rm docker_gwbridge
fi
if [ -e OWN/daemon.json ]; then
  cp -p OWN/daemon.json /etc/docker/.NAME && mv -T /etc/docker/.NAME /etc/docker/daemon.json &&
    systemctl reload docker || bad=1
fi
if [ -e OWN/packages ]; then
  DEBIAN_FRONTEND=noninteractive apt-get -qy purge $(cat OWN/packages) || bad=1
fi
[ $bad = 1 ] || rm -rf OWN
exit $bad
""".replace("NAME", NAME).replace("OWN", OWN)

# Lists the packages first: what is on it is removed at the end, and nothing else.
INSTALL_COMPOSE = f"""
set -e
docker compose version >/dev/null 2>&1 && exit
planned() {{ apt-get -qs --no-install-recommends install docker-compose | awk '$1 == "Inst" {{ print $2 }}'; }}
new=$(planned) && [ -n "$new" ] || {{ apt-get -q update && new=$(planned); }}
echo $new > {OWN}/packages
DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install $new
docker compose version
"""

# Swarm refuses an engine with live-restore; it can be turned off and on without a restart.
START_SWARM = rf"""
set -e
[ "$(docker info --format '{{{{.Swarm.LocalNodeState}}}}')" = inactive ]
if [ "$(docker info --format '{{{{.LiveRestoreEnabled}}}}')" = true ]; then
  cp -p /etc/docker/daemon.json {OWN}/daemon.json
  python3 -c 'import json, sys; c = json.load(sys.stdin); c["live-restore"] = False; print(json.dumps(c, indent=2))' \
    < {OWN}/daemon.json > /etc/docker/.{NAME}
  mv -T /etc/docker/.{NAME} /etc/docker/daemon.json
  systemctl reload docker
  for _ in $(seq 30); do
    [ "$(docker info --format '{{{{.LiveRestoreEnabled}}}}')" = true ] || break
    sleep 0.2
  done
fi
touch {OWN}/swarm
docker swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:2377
"""

# Removes releases from a host: stopped containers, records, kept configuration, and images that no other record names.
FORGET = """
import json, pathlib, shutil, subprocess, sys
root, config, *gone = sys.argv[1:]
def docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True).stdout
def read(path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        return {}
records = {path.stem: read(path) for path in pathlib.Path(root, "releases").glob("*.json")}
used = json.dumps([record for release, record in records.items() if release not in gone])
for release in gone:
    record = records.get(release, {})
    for identity in (release, record.get("inference", "")):
        if identity and identity not in used:
            label = ["--filter", "label=truthgraph.identity=" + identity]
            stopped = ["--filter", "status=exited", "--filter", "status=created"]
            for container in docker("ps", "--all", "--quiet", *label, *stopped).split():
                docker("rm", container)
    for image in record.get("images", {}).values():
        if image not in used:
            docker("image", "rm", image)
    pathlib.Path(root, "releases", release + ".json").unlink(missing_ok=True)
    shutil.rmtree(pathlib.Path(config, "releases", release), ignore_errors=True)
"""


class Busy(BenchError):
    """Somebody else works on the lab."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One change, and what the client saw of it. None where there was no client."""

    # Seconds until the command ended, and until nothing but the new release answered from outside, on every host.
    wall: float | None = None
    answers: float | None = None
    requests: int | None = None
    failed_idempotent: int | None = None
    failed_others: int | None = None
    gap: float | None = None
    # How late the client itself was at most: a gap may be its own by that much.
    late: float | None = None


@dataclasses.dataclass
class Row:
    """One line of the table, with one run for each round."""

    key: str
    what: str
    command: str
    runs: list[Run] = dataclasses.field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """Return what was measured of one kind."""
        return [value for value in (getattr(run, name) for run in self.runs) if value is not None]


@dataclasses.dataclass(frozen=True)
class Service:
    """How the container that serves is run, as far as another one can be run in the same way."""

    command: list[str]
    environment: list[str]
    user: str
    binds: list[tuple[str, str]]
    tmpfs: dict[str, str]
    network: str
    pids_limit: int
    grace: int

    @classmethod
    def of(cls, container: dict[str, t.Any]) -> Service:
        """Return it from what the engine says of a container."""
        config, limits = container["Config"], container["HostConfig"]
        binds = [(mount["Source"], mount["Destination"]) for mount in container["Mounts"] if mount["Type"] == "bind"]
        return cls(
            command=config["Cmd"],
            environment=config["Env"],
            user=config["User"],
            binds=binds,
            tmpfs=limits.get("Tmpfs") or {},
            network=limits["NetworkMode"],
            pids_limit=limits.get("PidsLimit") or 0,
            grace=config.get("StopTimeout") or 10,
        )

    def command_of(self, release: str) -> list[str]:
        """Return the command with which it says which release it is, as the collection's proxy does."""
        return [*self.command, "--header", f"{HEADER}:{release}"]

    def compose_file(self) -> str:
        """Return it for `docker compose`; image and release come from the environment. JSON is YAML."""
        service = {
            "image": "${IMAGE}",
            "command": self.command_of("${RELEASE}"),
            "environment": self.environment,
            "user": self.user,
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "pids_limit": self.pids_limit,
            "stop_grace_period": f"{self.grace}s",
            "volumes": [f"{source}:{target}:ro" for source, target in self.binds],
            "tmpfs": [f"{path}:{options}" for path, options in self.tmpfs.items()],
            "networks": ["bench"],
            "ports": [f"{PORT}:{API_PORT}"],
        }
        networks = {"bench": {"name": self.network, "external": True}}
        return json.dumps({"name": NAME, "services": {"api": service}, "networks": networks}, indent=2)

    def arguments(self) -> list[str]:
        """Return what `docker create` and `docker service create` have in common."""
        arguments = ["--user", self.user, "--read-only", "--cap-drop", "ALL"]
        for entry in self.environment:
            arguments += ["--env", entry]
        for source, target in self.binds:
            arguments += ["--mount", f"type=bind,src={source},dst={target},readonly"]
        for path in self.tmpfs:
            arguments += ["--mount", f"type=tmpfs,dst={path}"]
        return arguments

    def create(self, image: str, release: str, name: str) -> str:
        """Return the command that makes the container without compose."""
        own = ["--label", "truthgraph.bench=1", "--network", self.network, "--publish", f"{PORT}:{API_PORT}"]
        own += ["--security-opt", "no-new-privileges", "--pids-limit", str(self.pids_limit)]
        own += ["--stop-timeout", str(self.grace)]
        return shlex.join(["docker", "create", "--name", name, *own, *self.arguments(), image, *self.command_of(release)])

    def create_service(self, image: str, release: str) -> str:
        """Return the command that makes the service of a swarm."""
        own = ["--name", NAME, "--replicas", "2", "--publish", f"{PORT}:{API_PORT}", "--no-resolve-image", "--quiet"]
        own += ["--update-order", "start-first", "--rollback-order", "start-first"]
        own += ["--limit-pids", str(self.pids_limit), "--stop-grace-period", f"{self.grace}s"]
        return shlex.join(["docker", "service", "create", *own, *self.arguments(), image, *self.command_of(release)])

    def update_service(self, image: str, release: str) -> str:
        """Return the command that changes its image."""
        arguments = shlex.join(self.command_of(release))
        own = ["--quiet", "--no-resolve-image", "--image", image, "--args", arguments]
        return shlex.join(["docker", "service", "update", *own, NAME])


def run_of(seen: dict[str, t.Any], began: float, wall: float | None, release: str = "") -> Run:
    """Return what a load saw of a change that began then and, if it was one, led to that release."""
    answers = None
    if release:
        answers = max(answering_since(target["releases"], release) for target in seen["targets"].values()) - began
    return Run(
        wall=wall,
        answers=answers,
        requests=sum(counts["requests"] for counts in seen["methods"].values()),
        failed_idempotent=seen["methods"]["GET"]["failures"],
        failed_others=seen["methods"]["POST"]["failures"],
        gap=seen["longest_gap"],
        late=seen["max_late"],
    )


def answering_since(releases: list[dict[str, t.Any]], release: str) -> float:
    """Return when a release had begun to answer and all others had ended to; infinite if it never was so."""
    first = [seen["first"] for seen in releases if seen["release"] == release]
    last = [seen["last"] for seen in releases if seen["release"] == release]
    others = [seen["last"] for seen in releases if seen["release"] != release]
    if not first or max(others, default=0) > max(last):
        return float("inf")
    since: float = max([*first, *others])
    return since


def span(values: t.Sequence[float], digits: int) -> str:
    """Return values as `4.2`, `4.1-4.3`, or `-` where there are none."""
    if not values:
        return "-"
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low}-{high}"


def ratio(values: t.Sequence[float], published: tuple[float, float]) -> str:
    """Return values as parts of a published span, from the best case to the worst."""
    if not values:
        return "-"
    return span([min(values) / published[1], max(values) / published[0]], 2)


def figures_table(rows: list[Row]) -> list[str]:
    """Return the measured figures."""
    lines = []
    for row in rows:
        requests = row.values("requests")
        lines.append(
            (
                row.what,
                span(row.values("answers"), 1),
                span(row.values("wall"), 1),
                *(
                    f"{sum(row.values(name)):.0f}" if requests else "-"
                    for name in ("requests", "failed_idempotent", "failed_others")
                ),
                f"{max(row.values('gap')):.3f}" if requests else "-",
                f"`{row.command}`",
            )
        )
    head = ["what", "answers everywhere after, s", "command took, s", "requests", "failed GET", "failed POST"]
    return table([*head, "longest gap, s", "command"], lines)


def kamal_table(rows: list[Row], bake: float) -> list[str]:
    """Return the figures of the rollout as parts of Kamal's; none if the rollout was not measured."""
    lines = []
    for row in rows:
        if row.key not in KAMAL:
            continue
        walls = row.values("wall")
        if row.key != "nothing":
            answers, less_bake = row.values("answers"), [wall - bake for wall in walls]
            lines.append((f"{row.what}, until it answers everywhere", answers, row.key))
            lines.append((f"{row.what}, all of it less the bake window", less_bake, row.key))
        else:
            lines.append((f"{row.what}, all of it", walls, row.key))
    head = ["", "Kamal 2.12, one host, s", "here, the whole lab, s", "part of Kamal's"]
    cells = [(what, span(KAMAL[key], 1), span(values, 1), ratio(values, KAMAL[key])) for what, values, key in lines]
    return table(head, cells) if cells else []


def report(rows: list[Row], facts: list[str], notes: list[str], bake: float) -> str:
    """Return what goes between the markers."""
    lines = [*(f"- {fact}" for fact in facts), "", *figures_table(rows)]
    lates = [late for row in rows for late in row.values("late")]
    if lates:
        lines += ["", f"The client itself was at most {max(lates):.3f} s late with a request."]
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    compared = kamal_table(rows, bake)
    if compared:
        lines += [
            "",
            "Kamal's figures are not of this run. They were measured earlier, on the same lab machine, with one host, "
            f"no build and no push: 0 of {KAMAL_REQUESTS:,} requests failed, longest gap {KAMAL_GAP} s. Kamal has "
            f"no bake window; here it takes {bake:g} s, during which the new release serves already.",
            "",
            *compared,
        ]
    return "\n".join(lines)


def ask(url: str) -> tuple[int, str]:
    """Return the status that a URL answers and the release that it names; status 0 if there is no answer."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=3)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader(HEADER, "")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def await_answer(url: str, release: str, seconds: float = 60) -> bool:
    """Wait until a URL answers 200 three times in a row, as that release; say whether it does."""
    end = time.monotonic() + seconds
    passes = 0
    while passes < 3 and time.monotonic() < end:
        passes = passes + 1 if ask(url) == (200, release) else 0
        time.sleep(0.1)
    return passes == 3


class Bench:
    """One run on the lab."""

    def __init__(self, fleet: Fleet, rounds: int) -> None:
        self.fleet = fleet
        self.rounds = rounds
        self.apis = {member.name: member for member in fleet.of_group("truthgraph_api")}
        # The one on which compose and Swarm run. Postgres may have the other one.
        self.member: Member = list(self.apis.values())[-1]
        self.own_url = f"http://{self.member.address}:{PORT}"
        self.urls = {name: f"http://{member.address}:{API_PORT}" for name, member in self.apis.items()}
        self.remembered = pathlib.Path(fleet.variables["state_dir"]) / "bench.json"
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="tg-bench-"))
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.facts: list[str] = []
        # Of the two variants: source tree, release and core image. The others have a source tree only.
        self.trees = {name: self.scratch / name for name in ("a", "b", *BROKEN)}
        self.releases: dict[str, str] = {}
        self.images: dict[str, str] = {}
        self._connections = 0

    # The lab

    def on(self, script: str, seconds: int = 120, member: Member | None = None) -> str:
        """Run a script on a host, by default the one with compose and Swarm, and return what it says."""
        member = member or self.member
        done = member.host.run("timeout %s bash -c %s 2>&1", str(seconds), script)
        if done.rc:
            raise BenchError(f"On {member.name}: {script.strip()[:200]}\nended with {done.rc}: {done.stdout[-2000:]}")
        return str(done.stdout)

    def playbook(self, name: str, variables: dict[str, t.Any] | None = None, *, cold: bool = False, fails: str = "") -> float:
        """Run a playbook on the lab as an operator does, and return how long it took; `fails` is what it has to say."""
        directory = "molecule/shared" if name == "prepare" else "playbooks"
        command = [tool("ansible-playbook"), "-i", "inventories/lab", f"{directory}/{name}.yml"]
        # The lab's own releases are not to be pruned because of those that are deployed here.
        command += ["-e", json.dumps({"release_keep": 100, **(variables or {})})]
        more = {}
        if cold:
            # Who presses enter at night has no SSH connection open.
            self._connections += 1
            more["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(self.scratch / f"ssh{self._connections}")
        log = self.scratch / "playbook.log"
        with log.open("wb") as out:
            start = time.monotonic()
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=toolchain_environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(PLAYBOOK_TIMEOUT)
            except KeyboardInterrupt:
                say(f"{name}.yml is let finish what it has begun ...")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PLAYBOOK_GRACE)
                raise
            finally:
                wall = time.monotonic() - start
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        text = log.read_text(encoding="utf-8", errors="replace")
        if fails and not (code and fails in text):
            raise BenchError(f"{name}.yml ended with {code}, and not because of what was broken:\n{text[-3000:]}")
        if code and not fails:
            if "The fleet is locked: held by" in text:
                raise Busy(f"{name}.yml cannot begin: another run has the lock of the fleet. Wait until it is free.")
            raise BenchError(f"{name}.yml ended with {code}:\n{text[-3000:]}")
        return wall

    def serves(self) -> dict[str, str]:
        """Return the release that each API host answers as, empty where none does."""
        return {name: ask(f"{url}/health")[1] for name, url in self.urls.items()}

    def records(self, member: Member) -> list[str]:
        """Return the releases in a host's ledger."""
        names = member.host.check_output("ls %s/releases 2>/dev/null || true", ROOT).split()
        return [name[: -len(".json")] for name in names if name.endswith(".json")]

    def remember(self) -> None:
        """Note what there is, to leave the lab like that."""
        serves = self.serves()
        if len(set(serves.values())) != 1 or not all(serves.values()):
            raise BenchError(f"The API hosts do not all serve the same release ({serves}). Run `make deploy` first.")
        self.note({"serves": next(iter(serves.values())), "made": []})

    def note(self, note: dict[str, t.Any]) -> None:
        """Write down what serves and what was made, for the end, or the next run if this one is killed."""
        self.remembered.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

    def noted(self) -> dict[str, t.Any] | None:
        """Return what was written down, None if there is nothing to restore."""
        return json.loads(self.remembered.read_text(encoding="utf-8")) if self.remembered.exists() else None

    def own_serving(self) -> set[str]:
        """Return the variants of this program that serve somewhere, as releases. Another's release is left alone."""
        own = set()
        for name, release in self.serves().items():
            host = self.apis[name].host
            look = host.run("docker exec %s grep -q %s /app/truthgraph/main.py", serving(host, "api"), MARK)
            if look.rc == 0:
                own.add(release)
        return own

    def restore(self) -> None:
        """Leave the lab as it was noted."""
        note = self.noted()
        if note is None:
            return
        serve = self.own_serving()
        if serve:
            say(f"Back to release {note['serves']} ...")
            self.playbook("rollback", {"release": note["serves"]})
        for member in self.fleet.members.values():
            gone = sorted({*note["made"], *serve}.intersection(self.records(member)))
            if gone:
                self.on(shlex.join(["python3", "-c", FORGET, ROOT, CONFIG, *gone]), member=member)
        self.remembered.unlink()

    def clean(self) -> list[str]:
        """Remove everything that this made; return what could not be done."""
        problems = []
        for step in (lambda: self.on(CLEAN, 180), self.restore):
            try:
                step()
            except (BenchError, AssertionError, OSError, RuntimeError, ValueError) as error:
                problems.append(str(error))
        shutil.rmtree(self.scratch, ignore_errors=True)
        return problems

    # Measuring

    def row(self, key: str, what: str, command: str) -> Row:
        """Return a line of the table, a new one if it is not there."""
        for row in self.rows:
            if row.key == key:
                return row
        self.rows.append(Row(key, what, command))
        return self.rows[-1]

    def under_load(self, targets: dict[str, str], change: t.Callable[[], t.Any], release: str = "") -> Run:
        """Make a change under load; with a release, wait until every target answers as that."""
        with Load(targets, RATE, max_seconds=PLAYBOOK_TIMEOUT) as load:
            time.sleep(LEAD)
            began, start = time.time(), time.monotonic()
            change()
            wall = time.monotonic() - start
            end = time.monotonic() + 60
            while release and time.monotonic() < end:
                seen = load.snapshot()["targets"].values()
                if all(answering_since(target["releases"], release) < float("inf") for target in seen):
                    break
                time.sleep(0.5)
            time.sleep(TRAIL)
            run = run_of(load.stop(), began, wall, release)
        if run.answers == float("inf"):
            raise BenchError(f"Release {release} does not answer at {', '.join(targets.values())}, or not alone.")
        return run

    def prepare(self, variants: bool) -> None:
        """Deploy both variants, so that there is nothing to be built or pulled when it counts."""
        self.remember()
        self.on(f"mkdir -p -m 700 {OWN}")
        if ask(f"{self.own_url}/")[0]:
            raise BenchError(f"Something answers at {self.own_url} already.")
        if not variants:
            return
        for name, tree in self.trees.items():
            ignored = shutil.ignore_patterns("__pycache__", ".git")
            shutil.copytree(CHECKOUT / "files" / "app", tree, ignore=ignored)
            with (tree / "truthgraph" / "main.py").open("a", encoding="utf-8") as file:
                file.write(f"\n# Variant {name} of {MARK}.\n")
            if name in BROKEN:
                say(f"Building the {BROKEN[name][1].partition(',')[0]} ...")
                BROKEN[name][0](tree)
                self.playbook("prepare", {"image_build_source": str(tree)})
                continue
            say(f"Deploying variant {name}, to have it at hand ...")
            say(f"... {self.playbook('deploy', {'image_build_source': str(tree)}):.0f} s")
            self.releases[name] = self.serves()[self.member.name]
            self.note({**(self.noted() or {}), "made": list(self.releases.values())})
        records = {name: json.loads(self.on(f"cat {ROOT}/releases/{release}.json")) for name, release in self.releases.items()}
        kinds = records["a"]["images"]
        different = {kind for kind in kinds if len({record["images"][kind] for record in records.values()}) > 1}
        if different != {"core"}:
            raise BenchError(f"The variants differ in {sorted(different)}, not in the image core alone.")
        self.images = {name: record["images"]["core"] for name, record in records.items()}

    def service(self) -> Service:
        """Return how the API is run on the host at this moment."""
        return Service.of(inspect(self.member.host, serving(self.member.host, "api")))

    # The stages

    def floor(self) -> None:
        """Measure a server that nobody touches."""
        row = self.row("floor", "static server behind nothing, untouched", "python3, asyncio")
        say("A static server ...")
        self.on(
            f"systemd-run --quiet --collect --unit={NAME}-static --property=RuntimeMaxSec=300 "
            f"python3 -c {shlex.quote(STATIC.replace('%d', str(PORT)))}"
        )
        if not await_answer(f"{self.own_url}/health", "", 10):
            raise BenchError("The static server does not answer.")
        with Load({self.member.name: self.own_url}, RATE, max_seconds=FLOOR_SECONDS + 10) as load:
            time.sleep(FLOOR_SECONDS)
            row.runs.append(run_of(load.stop(), time.time(), None))
        self.on(f"systemctl stop {NAME}-static")

    def compose(self) -> None:
        """Measure what `docker compose up` does with another image."""
        service = self.service()
        try:
            say("Installing docker compose ...")
            version = self.on(INSTALL_COMPOSE, 180).split()
            if version:
                self.facts.append(f"docker compose {version[-1].lstrip('v')}, installed for this and removed again.")
            command = "docker compose up --detach"
        except BenchError as error:
            command = "docker create, stop, rm, rename, start"
            self.notes.append(
                "docker compose could not be installed, so what it does was done by hand: create the new "
                "container, stop and remove the earlier one, start the new one."
            )
            say(str(error))
        installed = command.startswith("docker compose")
        self.on(f"umask 077; cat > {OWN}/compose.yaml <<'EOF'\n{service.compose_file()}\nEOF")

        def up(name: str) -> None:
            if installed:
                setting = f"IMAGE={shlex.quote(self.images[name])} RELEASE={self.releases[name]}"
                self.on(f"{setting} docker compose --file {OWN}/compose.yaml up --detach")
                return
            self.on(
                f"{service.create(self.images[name], self.releases[name], f'{NAME}-new')} && "
                f"{{ docker stop {NAME}; docker rm {NAME}; docker rename {NAME}-new {NAME}; docker start {NAME}; }}"
            )

        say("docker compose ...")
        up("a")
        if not await_answer(f"{self.own_url}/ready", self.releases["a"]):
            raise BenchError("What docker compose has started does not become ready.")
        targets = {self.member.name: self.own_url}
        for _round in range(self.rounds):
            for key, what, name in (("compose", "update", "b"), ("compose-back", "rollback", "a")):
                run = self.under_load(targets, functools.partial(up, name), self.releases[name])
                self.row(key, f"docker compose, one container: {what}", command).runs.append(run)
        if installed:
            setting = f"IMAGE={shlex.quote(self.images['a'])} RELEASE=a"
            self.on(f"{setting} docker compose --file {OWN}/compose.yaml down")
        else:
            self.on(f"docker rm --force {NAME}")

    def swarm(self) -> None:
        """Measure a rolling update of two replicas and its rollback."""
        service = self.service()
        say("Docker Swarm ...")
        self.on(START_SWARM)
        self.on(service.create_service(self.images["a"], self.releases["a"]), 90)
        targets = {self.member.name: self.own_url}
        reachable = await_answer(f"{self.own_url}/ready", self.releases["a"], 10)
        if not reachable:
            self.notes.append(
                "Swarm's ingress network does not work on the lab's hosts (it takes the kernel's IPVS), and two "
                "replicas on one host cannot publish a port without it. So there are only times of Swarm, without load."
            )
        update = service.update_service(self.images["b"], self.releases["b"])
        for _round in range(self.rounds):
            for key, what, command, release in (
                ("swarm", "update", update, self.releases["b"]),
                ("swarm-back", "rollback", f"docker service rollback --quiet {NAME}", self.releases["a"]),
            ):
                short = "docker service update --image" if what == "update" else "docker service rollback"
                row = self.row(key, f"Docker Swarm, two replicas, start-first: {what}", short)
                if reachable:
                    row.runs.append(self.under_load(targets, functools.partial(self.on, command), release))
                else:
                    start = time.monotonic()
                    self.on(command)
                    row.runs.append(Run(wall=time.monotonic() - start))

    def rollout(self) -> None:
        """Measure what the collection does on the whole lab."""
        deploy = "ansible-playbook playbooks/deploy.yml"
        known = set(self.records(self.member))
        say("Preparing the hosts again, after what the other stages have installed on one ...")
        self.playbook("deploy", {"image_build_source": str(self.trees["b"])})
        for _round in range(self.rounds):
            # Else an update would find the container of the earlier round, which a new release never does.
            for member in self.apis.values():
                self.on(
                    f"docker ps --all --quiet --filter label=truthgraph.identity={self.releases['a']} "
                    "--filter status=exited | xargs -r docker rm",
                    member=member,
                )
            for key, what, playbook, tree, name, stands_by in (
                ("update", "new release", "deploy", "a", "a", True),
                ("standby", "rollback to what stands by", "rollback", "", "b", True),
                ("standby", "rollback to what stands by", "rollback", "", "a", False),
                ("rollback", "rollback to what was stopped", "rollback", "", "b", False),
                *((key, what, "deploy", key, "", False) for key, (_spoil, what, _fails) in BROKEN.items()),
                ("nothing", "deploy of nothing new", "deploy", "b", "", False),
            ):
                say(f"This collection: {what} ...")
                variables: dict[str, t.Any] = {"image_build_source": str(self.trees[tree])} if tree else {}
                variables["release_standby"] = stands_by
                fails = BROKEN[key][2] if key in BROKEN else ""
                change = functools.partial(self.playbook, playbook, variables, cold=True, fails=fails)
                run = self.under_load(self.urls, change, self.releases.get(name, ""))
                command = deploy if playbook == "deploy" else "ansible-playbook playbooks/rollback.yml"
                self.row(key, f"this collection, {len(self.urls)} API hosts: {what}", command).runs.append(run)
            # Those that failed are in the ledger too.
            made = [*self.releases.values(), *set(self.records(self.member)) - known]
            self.note({**(self.noted() or {}), "made": made})

    def describe(self) -> list[str]:
        """Return where, when and with what it was measured, without names or paths of this machine."""
        look = "docker version --format '{{.Server.Version}}'; haproxy -v | head -n 1"
        system, docker, haproxy = self.on(f". /etc/os-release; echo $PRETTY_NAME; {look}").splitlines()
        ansible = subprocess.run([tool("ansible"), "--version"], capture_output=True, text=True, check=True).stdout
        return [
            today(),
            f"Machine: {machine()}, for the client, Ansible and all {len(self.fleet.members)} hosts of the lab together.",
            f"Hosts: {system}, Docker {docker}, HAProxy {re.sub('^.*?version ', '', haproxy).split()[0]}. "
            f"Control node: {re.sub(r'[^ a-z0-9.-]', '', ansible.splitlines()[0])}, Python {sys.version.split()[0]}.",
            f"Load: {RATE} requests per second to each target, of a hundred {WEIGHTS[0]} GET /health, {WEIGHTS[1]} GET "
            f"/ready, {WEIGHTS[2]} POST /api/v1/verify; every second one on a connection of its own.",
            f"Rounds: {self.rounds}.",
        ]


def bake_window() -> float:
    """Return for how long a new release is watched."""
    defaults = yaml.safe_load((CHECKOUT / "roles" / "release" / "defaults" / "main.yml").read_text(encoding="utf-8"))
    return float(defaults["release_bake"])


def measure(bench: Bench, stages: list[str]) -> str:
    """Run the stages, and return what goes between the markers."""
    bench.facts = bench.describe()
    bench.prepare(variants=stages != ["floor"])
    for stage in stages:
        getattr(bench, stage)()
    return report(bench.rows, bench.facts, bench.notes, bake_window())


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure rollouts on the deployed lab, and write docs/benchmarks.md.")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas; then nothing is written")
    parser.add_argument("--rounds", type=int, default=2, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--json", metavar="FILE", help="write every single figure there")
    parser.add_argument("--clean", action="store_true", help="only remove what a killed run has left")
    options = parser.parse_args()
    stages = [stage for stage in STAGES if stage in options.only.split(",")]
    if len(stages) != len(options.only.split(",")):
        parser.error(f"the stages are {', '.join(STAGES)}")
    # Found out before an hour is spent, not after it.
    between_markers(DOCUMENT.read_text(encoding="utf-8"), MARKERS, "")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    bench = Bench(Fleet(), options.rounds)
    text, failed = "", ""
    try:
        bench.on(CLEAN, 180)
        bench.restore()
        if not options.clean:
            text = measure(bench, stages)
    except BenchError as error:
        failed = str(error)
    except KeyboardInterrupt:
        failed = "Interrupted."
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        say("Removing what was made ...")
        problems = bench.clean()
    if text:
        print(text)
    if options.json:
        figures = [dataclasses.asdict(row) for row in bench.rows]
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if text and tuple(stages) == STAGES:
        write(DOCUMENT, MARKERS, text)
    for problem in filter(None, [failed, *(f"Not removed: {problem}" for problem in problems)]):
        print(problem, file=sys.stderr)
    return 1 if failed or problems else 0


if __name__ == "__main__":
    sys.exit(main())
