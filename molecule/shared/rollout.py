# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of a rollout need: to run a playbook and watch it, to look at the lab's hosts, and to spoil the application.

The hosts are looked at through the engine that runs the lab, so that it works with a host that SSH cannot reach, and with
nothing of the product's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t
import urllib.parse

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, tool, toolchain_environment
from ansible_collections.truthgraph.platform.tests.load.client import Load

# The APIs at their hosts' own addresses, as clients of a fleet reach them. The ports that the lab publishes lead through a
# process of this machine's engine, which would take an eighth of the machine at 200 requests a second.
APIS = {"cpu1": "http://10.203.77.21:8000", "cpu2": "http://10.203.77.22:8000"}
SERVICES = {"cpu1": "api", "cpu2": "api", "gpu1": "inference"}
RELEASE_HEADER = "X-TruthGraph-Release"
# Requests per second for each API. The two cores that hosts, clients and control node share have time to spare for these;
# a larger machine may be asked for more.
RATE = int(os.environ.get("TRUTHGRAPH_TEST_RATE", "100"))
# A client that has to wait longer for an answer has been kept waiting by the rollout.
MOST_GAP = 1.0
LAST_WORDS = "this release was broken on purpose"
# The playbooks of the product; others are the tests' own.
PRODUCT = {path.stem for path in (CHECKOUT / "playbooks").glob("*.yml")}
# Unless a test says otherwise, so that it takes no longer than it must.
DEFAULTS = {"release_bake": 2}

# Looks at a host, once or until an expression over `s` is true. It runs on hosts that have nothing but Python.
LOOK = """
import functools, json, os, subprocess, sys, time
ROOT = "/var/lib/truthgraph"

def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""

def parsed(path):
    try:
        return json.loads(read(path))
    except ValueError:
        return None

class State:
    @functools.cached_property
    def map(self):
        return dict(line.split() for line in read("/etc/truthgraph/proxy/traffic.map").splitlines())
    @functools.cached_property
    def records(self):
        directory = ROOT + "/releases"
        names = os.listdir(directory) if os.path.isdir(directory) else []
        return {name[:-5]: parsed(os.path.join(directory, name)) for name in names if name.endswith(".json")}
    @functools.cached_property
    def journal(self):
        return [json.loads(line) for line in read(ROOT + "/journal.jsonl").splitlines() if line]
    @functools.cached_property
    def lock(self):
        return parsed(ROOT + "/lock.json")
    @functools.cached_property
    def pending(self):
        return parsed(ROOT + "/pending.json")
    @functools.cached_property
    def undone(self):
        return parsed(ROOT + "/undone.json")
    @functools.cached_property
    def fence(self):
        return read(ROOT + "/fence-seen").strip()
    @functools.cached_property
    def containers(self):
        names = subprocess.run(["docker", "ps", "--all", "--quiet"], capture_output=True, text=True).stdout.split()
        if not names:
            return {}
        done = subprocess.run(["docker", "container", "inspect", *names], capture_output=True, text=True)
        found = {}
        for info in json.loads(done.stdout or "[]"):
            found[info["Name"].lstrip("/")] = {
                "id": info["Id"], "state": info["State"]["Status"], "started": info["State"]["StartedAt"],
                "health": (info["State"].get("Health") or {}).get("Status", ""), "image": info["Config"]["Image"],
                "restart": info["HostConfig"]["RestartPolicy"]["Name"], "environment": info["Config"]["Env"],
            }
        return found
    @property
    def slots(self):
        return {name: found for name, found in self.containers.items()
                if name.startswith(("truthgraph-api-", "truthgraph-inference-"))}
    @property
    def running(self):
        return sorted(name for name, found in self.slots.items() if found["state"] == "running")

condition, patience = sys.argv[1], float(sys.argv[2])
deadline = time.monotonic() + patience
s = State()
while not eval(condition):
    if time.monotonic() > deadline:
        print(f"never came true in {patience:g} s: {condition}", file=sys.stderr)
        sys.exit(4)
    time.sleep(0.02)
    s = State()
print(json.dumps({name: getattr(s, name) for name in sys.argv[3:]}))
"""
PARTS = ("map", "records", "journal", "lock", "pending", "undone", "fence", "containers")

# Ends SSH on a host as a lost network would: no new connection, and those that are there are gone. What they have started
# goes on.
CUT_OFF = """
import os, subprocess
subprocess.run(["systemctl", "stop", "ssh.socket", "ssh.service"], check=True)
for number in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{number}/comm", encoding="utf-8") as file:
            if file.read().strip() in ("sshd", "sshd-session", "sshd-auth"):
                os.kill(int(number), 9)
    except (FileNotFoundError, ProcessLookupError):
        pass
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run of a playbook has answered, read from Ansible's events."""

    code: int
    output: str
    seconds: float

    @functools.cached_property
    def events(self) -> list[dict[str, t.Any]]:
        """The events, without what else was printed."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{") and line.endswith("}")]

    @functools.cached_property
    def results(self) -> list[tuple[str, str, dict[str, t.Any]]]:
        """Task, host and result of everything that was done."""
        return [
            (event["task"]["name"], host, result)
            for event in self.events
            if event["_event"].startswith("v2_runner_on_")
            for host, result in event.get("hosts", {}).items()
        ]

    @functools.cached_property
    def failures(self) -> list[tuple[str, str, str]]:
        """Task, host and message of every failure. One that a rescue has seen is repeated by the task that ends the run."""
        return [
            (task, host, str(result.get("msg", result)))
            for task, host, result in self.results
            if result.get("failed") or result.get("unreachable")
        ]

    @property
    def stats(self) -> dict[str, dict[str, int]]:
        """The recap by host; nothing if the run was killed."""
        return next((event["stats"] for event in self.events if event["_event"] == "v2_playbook_on_stats"), {})

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks have changed something, by host."""
        return {host: counts["changed"] for host, counts in self.stats.items() if counts["changed"]}

    @property
    def last_words(self) -> str:
        """The message of the last failure, on one line."""
        return " ".join(self.failures[-1][2].split()) if self.failures else ""

    @functools.cached_property
    def said(self) -> str:
        """Everything that the run said by messages."""
        return "\n".join(str(result["msg"]) for _, _, result in self.results if result.get("msg"))

    @functools.cached_property
    def report(self) -> dict[str, t.Any]:
        """The facts of the report that the run has left."""
        page = re.search(r"The report of this run is (\S+)\.html", self.said)
        assert page, str(self)
        facts: dict[str, t.Any] = json.loads(pathlib.Path(f"{page[1]}.json").read_text(encoding="utf-8"))
        return facts

    def __str__(self) -> str:
        lines = [f"{host}: {task}: {message}" for task, host, message in self.failures]
        other = [line for line in self.output.splitlines() if not line.startswith("{")]
        tasks = [event["task"]["name"] for event in self.events if event["_event"] == "v2_playbook_on_task_start"]
        last = f"last task {tasks[-1] if tasks else None}"
        return "\n".join([f"exit code {self.code} after {self.seconds:.1f} s, {last}, {self.stats}", *lines, *other[-20:]])


class Playbook:
    """A playbook that runs now."""

    def __init__(
        self,
        name: str,
        variables: dict[str, t.Any],
        *options: str,
        inventory: pathlib.Path = LAB,
        callback: str = "ansible.posix.jsonl",
    ) -> None:
        self.name = name
        path = CHECKOUT / ("playbooks" if name in PRODUCT else "molecule/shared") / f"{name}.yml"
        command = [tool("ansible-playbook"), "-i", str(inventory), str(path)]
        # It is read for as long as the run is looked at.
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            mode="r", encoding="utf-8", prefix=f"{name}-", suffix=".jsonl", delete=not os.environ.get("TRUTHGRAPH_KEEP_RUNS")
        )
        self._began = time.monotonic()
        with pathlib.Path(self._file.name).open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "-e", json.dumps({**DEFAULTS, **variables}), *options],
                cwd=CHECKOUT,
                env=toolchain_environment(ANSIBLE_STDOUT_CALLBACK=callback),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        self._file.seek(0)
        return self._file.read()

    def result(self, timeout: float = 600) -> Run:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {timeout} s.\n{Run(-9, self.output, timeout)}") from None
        return Run(code, self.output, time.monotonic() - self._began)

    def until(self, host: str, condition: str, timeout: float = 300) -> None:
        """Wait until an expression over the state of a host is true, which has to be before the playbook ends."""
        watching = Host(host).watch(condition, timeout)
        try:
            while watching.poll() is None:
                if self.process.poll() is not None and watching.poll() is None:
                    raise AssertionError(f"{self.name} ended before {host} had: {condition}\n{self.result()}")
                time.sleep(0.01)
            assert watching.stderr is not None
            assert watching.returncode == 0, f"{watching.stderr.read()}\n{Run(0, self.output, timeout)}"
        finally:
            watching.kill()
            watching.communicate()

    def until_task(self, name: str, timeout: float = 300, role: str = "release") -> None:
        """Wait until the task of a role begins, and stop the playbook there for the moment; `go_on` lets it continue."""
        deadline = time.monotonic() + timeout
        while f'"name":"truthgraph.platform.{role} : {name}"' not in self.output:
            assert self.process.poll() is None, f"{self.name} ended before '{name}'\n{self.result()}"
            assert time.monotonic() < deadline, f"'{name}' did not come in {timeout} s\n{Run(0, self.output, timeout)}"
            time.sleep(0.01)
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue what `until_task` has stopped."""
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once with everything that it has started here, as a crash of the control node would."""
        family = descendants(self.process.pid)
        for pid in (self.process.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def __enter__(self) -> Playbook:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._file.close()


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    parents: dict[int, list[int]] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = []
    for child in parents.get(pid, []):
        found += [child, *descendants(child)]
    return found


def play(
    name: str, variables: dict[str, t.Any] | None = None, *options: str, timeout: float = 600, inventory: pathlib.Path = LAB
) -> Run:
    """Run a playbook to its end."""
    with Playbook(name, variables or {}, *options, inventory=inventory) as running:
        return running.result(timeout)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was found on a host."""

    host: str
    map: dict[str, str]
    records: dict[str, t.Any]
    journal: list[dict[str, t.Any]]
    lock: dict[str, t.Any] | None
    pending: dict[str, t.Any] | None
    undone: dict[str, t.Any] | None
    fence: str
    containers: dict[str, dict[str, t.Any]]

    @property
    def service(self) -> str:
        """The service with slots that it has, if any."""
        return SERVICES.get(self.host, "")

    @property
    def slot(self) -> str:
        """The slot that serves."""
        return self.map.get(self.service, "").partition("_")[0]

    @property
    def other_slot(self) -> str:
        """The slot beside it."""
        return "green" if self.slot == "blue" else "blue"

    @property
    def release(self) -> str:
        """The release in the slot of the API that serves."""
        return self.map.get(f"api_{self.slot}", "")

    @property
    def slots(self) -> dict[str, dict[str, t.Any]]:
        """Its slots' containers by their slots."""
        start = f"truthgraph-{self.service}-"
        return {name[len(start) :]: found for name, found in self.containers.items() if name.startswith(start)}

    @property
    def live(self) -> dict[str, t.Any]:
        """The container that serves."""
        return self.slots[self.slot]

    @property
    def running(self) -> dict[str, tuple[str, str]]:
        """Every container that runs, with its id and when it was started."""
        return {
            name: (found["id"], found["started"])
            for name, found in self.containers.items()
            if found["state"] == "running"
        }


class Host:
    """A host of the lab, as the engine of this machine sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.container = f"truthgraph-lab-{name}"

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> str:
        """Run a command on it and return what it writes."""
        done = subprocess.run(
            ["docker", "exec", self.container, *command], capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def watch(self, condition: str, timeout: float, *parts: str) -> subprocess.Popen[str]:
        """Start to look at it until an expression over `s` is true."""
        return subprocess.Popen(
            ["docker", "exec", self.container, "python3", "-c", LOOK, condition, str(timeout), *parts],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def look(self, condition: str = "True", timeout: float = 0) -> Seen:
        """Return its state, as soon as an expression is true."""
        watching = self.watch(condition, timeout, *PARTS)
        try:
            output, errors = watching.communicate(timeout=timeout + 60)
        finally:
            watching.kill()
        assert watching.returncode == 0, f"{self.name}: {errors}"
        return Seen(self.name, **json.loads(output))

    @contextlib.contextmanager
    def cut_off(self) -> t.Iterator[None]:
        """Let nobody reach it by SSH, while its services go on."""
        try:
            self.run("python3", "-c", CUT_OFF)
            yield
        finally:
            self.reconnect()

    def reconnect(self) -> None:
        """Let SSH in again."""
        self.run("systemctl", "start", "ssh.service")

    def restart(self) -> None:
        """Restart the whole host, and return when its services do."""
        subprocess.run(["docker", "restart", self.container], check=True, capture_output=True, timeout=120)
        deadline = time.monotonic() + 120
        while "running" not in self.run("systemctl", "is-system-running", check=False) and time.monotonic() < deadline:
            time.sleep(0.5)

    def file_of(self, container: str, path: str) -> str:
        """Return a file as a container of the host sees it; empty where there is none."""
        return self.run("docker", "exec", container, "cat", path, check=False)


def header(url: str) -> str:
    """Return which release answers at a URL, as a client sees it."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, f"{url} answered {answer.status}"
        return answer.getheader(RELEASE_HEADER, "")
    finally:
        connection.close()


class Clients:
    """A load on the APIs while something is done, and what its users saw of it."""

    def __init__(self, case: str, targets: dict[str, str], posts_may_fail_for: float) -> None:
        self.case = case
        self.targets = targets
        self.posts_may_fail_for = posts_may_fail_for
        self.result: dict[str, t.Any] = {}
        self.row: dict[str, t.Any] = {}

    def releases(self, host: str) -> list[str]:
        """Return which releases answered at a host, in the order of their first answers."""
        return [seen["release"] for seen in self.result["targets"][host]["releases"]]

    def release_span(self, host: str, release: str) -> tuple[float, float]:
        """Return when a release answered first and last at a host."""
        seen = next(one for one in self.result["targets"][host]["releases"] if one["release"] == release)
        return seen["first"], seen["last"]

    def check(self) -> None:
        """Fail if a client saw more than it may."""
        for host, seen in self.result["targets"].items():
            get, post = seen["methods"]["GET"], seen["methods"]["POST"]
            wanted = RATE * self.result["seconds"]
            sent = get["requests"] + post["requests"]
            assert sent >= 0.9 * wanted, f"{host}: only {sent} of {wanted:.0f} requests were sent"
            failed = get["failed"] + post["failed"]
            # Who cannot do the work does not say to be ready, either.
            excused = [
                one
                for one in failed
                if self.posts_may_fail_for
                and (one["method"] == "POST" or (one["path"], one["what"]) == ("/ready", "it answered 503"))
            ]
            counted, most = get["failures"] + post["failures"] - len(excused), [one for one in failed if one not in excused][:5]
            assert counted == 0, f"{host}: {counted} of {sent} requests failed: {most or 'too many to look at'}"
            if excused:
                times = [one["time"] for one in excused]
                what = f"{host}: what needs the inference service failed from {min(times)} to {max(times)}"
                assert max(times) - min(times) <= self.posts_may_fail_for, what
            what = f"{host}: nothing good was answered for {seen['longest_gap']} s until {seen['longest_gap_until']}"
            assert seen["longest_gap"] <= MOST_GAP, what


# What the fixture under_load gives.
UnderLoad = t.Callable[..., contextlib.AbstractContextManager[Clients]]


@contextlib.contextmanager
def clients(case: str, targets: t.Iterable[str] = APIS, posts_may_fail_for: float = 0) -> t.Iterator[Clients]:
    """Put load on the APIs meanwhile, and check that no client has seen a failure."""
    watched = Clients(case, {name: APIS[name] for name in targets}, posts_may_fail_for)
    with Load(watched.targets, rate=RATE) as load:
        # Long enough for every kind of request to have been answered before anything happens.
        time.sleep(0.5)
        yield watched
        time.sleep(0.5)
        watched.result = load.stop()
    methods = watched.result["methods"]
    watched.row = {
        "requests": sum(counts["requests"] for counts in methods.values()),
        "failed GET": methods["GET"]["failures"],
        "failed POST": methods["POST"]["failures"],
        "gap": watched.result["longest_gap"],
        "seconds": watched.result["seconds"],
    }
    watched.check()


class Fleet:
    """The lab's fleet: its state, and the releases that a session works with."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.hosts = {name: Host(name) for name in ("build1", "cpu1", "cpu2", "gpu1")}
        self._known: dict[str, str] = {}
        self._built: set[str] = set()

    def look(self) -> dict[str, Seen]:
        """Return the state of every host."""
        watching = {name: host.watch("True", 0, *PARTS) for name, host in self.hosts.items()}
        found = {}
        for name, process in watching.items():
            output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, f"{name}: {errors}"
            found[name] = Seen(name, **json.loads(output))
        return found

    @property
    def release(self) -> str:
        """The release that serves on every host, as clients see it."""
        [release] = {header(url) for url in APIS.values()}
        return release

    def check_serves(
        self, release: str, without: t.Collection[str] = (), services: t.Collection[str] = ("api", "inference")
    ) -> dict[str, Seen]:
        """Check that a release serves and that no run has left anything; return what was found on the hosts.

        On the hosts in `without`, which nobody could reach, something may be left that does not serve. Of a service that the
        release has not, nothing runs and nothing is asked.
        """
        found = self.look()
        assert found["cpu1"].lock is None, f"the lock is not free: {found['cpu1'].lock}"
        for name, service in SERVICES.items():
            seen = found[name]
            if service not in services:
                running = sorted(slot for slot, one in seen.slots.items() if one["state"] == "running")
                assert (running, seen.map) == ([], {}), f"{name}: {running} {seen.map}"
                continue
            assert seen.live["state"] == "running" and seen.live["health"] == "healthy", f"{name}: {seen.live}"
            assert seen.live["restart"] == "unless-stopped", f"{name}: a restart would lose {seen.live}"
            if service == "api":
                assert seen.release == release, f"{name} serves {seen.release}, not {release}: {seen.map}"
                assert header(APIS[name]) == release, name
                assert seen.map["api"] in ("blue", "green"), f"{name}: {seen.map}"
            if name not in without:
                running = sorted(slot for slot, one in seen.slots.items() if one["state"] == "running")
                assert running == [seen.slot], f"{name}: beside {seen.slot} there runs {running}"
                assert seen.pending is None and seen.undone is None, f"{name}: {seen.pending} {seen.undone}"
                unfinished = [one for one, record in seen.records.items() if record["result"] in ("pending", "committed")]
                assert unfinished == [], f"{name}: {seen.records}"
                # Nothing is left in the map of a slot that does not serve.
                keys = [key for key in seen.map if key.endswith(f"_{seen.other_slot}")]
                assert keys == [], f"{name}: {seen.map}"
            assert seen.records[release]["result"] == "stable", f"{name}: {seen.records[release]['result']}"
        return found

    def tree(self, name: str, spoil: t.Callable[[pathlib.Path], None] | None = None, *, build: bool = True) -> dict[str, str]:
        """Return the variables that deploy the reference application, or a copy of it with a change of its API alone.

        The same name is the same image in every session. With `spoil` the copy does not work. The images are built here, so
        that the deploy has them: the machine is too small for a build and for the load of the tests at the same time.
        """
        copy = self.directory / name if name != "reference" else CHECKOUT / "files" / "app"
        if not copy.is_dir():
            shutil.copytree(CHECKOUT / "files" / "app", copy, ignore=shutil.ignore_patterns("__pycache__", ".git"))
            replace(copy / "truthgraph" / "main.py", 'title="TruthGraph"', f'title="TruthGraph, {name}"')
            if spoil:
                spoil(copy)
        variables = {"image_build_source": str(copy)}
        if build and name not in self._built:
            run = play("prepare", variables)
            assert run.code == 0, str(run)
            self._built.add(name)
        return variables

    def deploy(self, name: str, **variables: t.Any) -> Run:
        """Deploy one of the trees."""
        run = play("deploy", {**self.tree(name), **variables})
        if run.code == 0 and not variables:
            self._known[name] = self.release
        return run

    def once(self, name: str) -> str:
        """Return the release of a tree, which serves now if it has not in this session."""
        return self._known.get(name) or self.bring(name)

    def bring(self, name: str) -> str:
        """Let the release of a tree serve, in the fastest way, and return its id."""
        known = self._known.get(name)
        if known is None or known != self.release:
            run = play("rollback", {"release": known}) if known else self.deploy(name)
            if known and run.code:
                # It may have been pruned meanwhile.
                run = self.deploy(name)
            assert run.code == 0, str(run)
        return self._known[name]


def forget_connections() -> None:
    """End SSH's connections, which outlive the host that they lead to."""
    for socket in (pathlib.Path.home() / ".ansible" / "cp").glob("*"):
        subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "none"], capture_output=True, check=False)


def unchanged(before: dict[str, Seen], after: dict[str, Seen]) -> None:
    """Check that all is as it was: what runs since when, which slot serves, what is remembered, and who has worked last."""
    for name, then in before.items():
        assert after[name].running == then.running, name
        assert after[name].map == then.map, name
        assert after[name].records == then.records, name
        assert after[name].journal == then.journal, name
        assert after[name].lock is None, name


def replace(path: pathlib.Path, old: str, new: str) -> None:
    """Replace a text in a file, where it is exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


# Ways to spoil the application.

SAY_LAST_WORDS = f'    logging.getLogger("truthgraph").error("{LAST_WORDS}")\n'
BEFORE_THE_PARTS = "    database = Database("


def ends_at_once(tree: pathlib.Path) -> None:
    """Let the API end when it starts."""
    replace(tree / "truthgraph" / "main.py", BEFORE_THE_PARTS, f'    raise SystemExit("{LAST_WORDS}")\n{BEFORE_THE_PARTS}')


def never_ready(tree: pathlib.Path) -> None:
    """Let the API answer that it is not ready, whatever its parts say."""
    replace(tree / "truthgraph" / "main.py", "status_code=503 if failures else 200", "status_code=503")
    replace(tree / "truthgraph" / "main.py", BEFORE_THE_PARTS, SAY_LAST_WORDS + BEFORE_THE_PARTS)


def starts_too_slowly(tree: pathlib.Path) -> None:
    """Let the API take longer to start than anybody waits."""
    lines = f"{SAY_LAST_WORDS}    await asyncio.sleep(3600)\n"
    replace(tree / "truthgraph" / "main.py", BEFORE_THE_PARTS, lines + BEFORE_THE_PARTS)


def model_never_loads(tree: pathlib.Path) -> None:
    """Let the inference service fail while it loads its model."""
    loads = "embedder = await asyncio.to_thread(load, self.settings, self._nodes_at)"
    replace(tree / "truthgraph" / "ml" / "service.py", loads, f'raise OSError("{LAST_WORDS}")')


def migration_fails(tree: pathlib.Path) -> None:
    """Add a migration that cannot be done, after half of it was."""
    (tree / "alembic" / "versions" / "0002_broken.py").write_text(
        '"""Broken on purpose."""\n\nfrom alembic import op\n\nrevision = "0002"\ndown_revision = "0001"\n\n\n'
        'def upgrade():\n    op.execute("CREATE TABLE broken_on_purpose (id integer)")\n'
        f'    raise RuntimeError("{LAST_WORDS}")\n\n\ndef downgrade():\n    pass\n',
        encoding="utf-8",
    )


def _adds_migration(tree: pathlib.Path, top: str, upgrade: str, downgrade: str) -> None:
    (tree / "alembic" / "versions" / "0002_test.py").write_text(
        f'"""Of a test."""\n\nfrom alembic import op\n\nrevision = "0002"\ndown_revision = "0001"\n{top}\n\n'
        f"def upgrade():\n{upgrade}\n\ndef downgrade():\n{downgrade}",
        encoding="utf-8",
    )


def adds_a_note(tree: pathlib.Path) -> None:
    """Add a column by a migration that takes two seconds, and write to it."""
    upgrade = '    op.execute("SELECT pg_sleep(2)")\n    op.execute("ALTER TABLE evidence ADD note text")\n'
    _adds_migration(tree, "", upgrade, '    op.execute("ALTER TABLE evidence DROP note")\n')
    database = tree / "truthgraph" / "database.py"
    replace(database, "(content_sha256, text, source, embedding)", "(content_sha256, text, source, embedding, note)")
    replace(database, "CAST(:embedding AS vector))\n    ON", "CAST(:embedding AS vector), 'noted')\n    ON")


def takes_a_column_away(tree: pathlib.Path) -> None:
    """Drop a column that the API does not ask for, as if earlier releases did."""
    upgrade = '    op.execute("ALTER TABLE evidence DROP created_at")\n'
    back = '    op.execute("ALTER TABLE evidence ADD created_at timestamptz NOT NULL DEFAULT now()")\n'
    _adds_migration(tree, "contract = True\n", upgrade, back)


def cannot_be_taken_back(tree: pathlib.Path) -> None:
    """Add a table by a migration without a way back."""
    upgrade = '    op.execute("CREATE TABLE irreversible (id integer)")\n'
    _adds_migration(tree, "", upgrade, '    raise NotImplementedError("there is no way back")\n')


def _fails_for_clients(tree: pathlib.Path, condition: str) -> None:
    # Who comes through the proxy is a client; readiness, trial request and health checks come directly.
    middleware = (
        "import time\n\nCLIENTS = []\n\n\n"
        '@app.middleware("http")\n'
        "async def fail_clients(request: Request, call_next):\n"
        '    if "x-forwarded-for" in request.headers:\n'
        "        CLIENTS.append(time.monotonic())\n"
        f"        if {condition}:\n"
        f'            return JSONResponse({{"detail": "{LAST_WORDS}"}}, status_code=500)\n'
        "    return await call_next(request)\n\n\n"
    )
    replace(tree / "truthgraph" / "main.py", '@app.get("/health")', f'{middleware}@app.get("/health")')


def fails_for_every_client(tree: pathlib.Path) -> None:
    """Let the API prove itself well, and answer 500 to every client."""
    _fails_for_clients(tree, "True")


def fails_a_second_later(tree: pathlib.Path) -> None:
    """Let the API prove itself well, and answer 500 to every client from a second after the first."""
    _fails_for_clients(tree, "CLIENTS[-1] - CLIENTS[0] > 1")


def fails_at_its_work(tree: pathlib.Path) -> None:
    """Let the API prove itself well, and answer 500 to clients, but not when they ask for its health."""
    _fails_for_clients(tree, 'request.url.path not in ("/health", "/ready")')
