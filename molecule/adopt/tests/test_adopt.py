# A composition like the seed document's on cpu2, taken over by the fleet, whose Postgres is on cpu1, and given back.
# Clients read and write at its port all through. Nothing is simulated. The tests build on each other, in this order.
from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
import typing as t
import urllib.parse

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, Playbook, Run, play
from ansible_collections.truthgraph.platform.molecule.shared.writer import Writer, psql, stored

SEED = {"cpu2": "http://10.203.77.22:8000"}
BESIDE = {"fleet_api_port": 8080}
CONFIRMED = {**BESIDE, "adopt_confirmed": True}
RETURN = {**CONFIRMED, "adopt_state": "returned"}
SECRET = "seed-secret-7f3a9c"
NAMES = ("truthgraph-api-core", "truthgraph-ml-inference", "truthgraph-postgres")
POLICIES = {"truthgraph-api-core": "on-failure:7", "truthgraph-ml-inference": "no:0", "truthgraph-postgres": "always:0"}
RECORD = "/var/lib/truthgraph/adoption.json"


def plain(text: str) -> str:
    return " ".join(text.split())


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    # The composition's password is in no output, whatever was read of its containers.
    assert SECRET not in run.output
    return run


@pytest.fixture(scope="module")
def cpu1(fleet: Fleet) -> Host:
    return fleet.hosts["cpu1"]


@pytest.fixture(scope="module")
def cpu2(fleet: Fleet) -> Host:
    return fleet.hosts["cpu2"]


def seed_sql(cpu2: Host, query: str) -> str:
    return cpu2.run("docker", "exec", "truthgraph-postgres", "psql", "-XAtU", "truthgraph", "-c", query).strip()


def seed_stored(cpu2: Host, source: str) -> set[str]:
    return set(seed_sql(cpu2, f"SELECT text FROM evidence WHERE source = '{source}'").splitlines())


def databases(cpu1: Host) -> set[str]:
    return set(psql(cpu1, "SELECT datname FROM pg_database WHERE NOT datistemplate", "postgres").split())


def containers(cpu2: Host) -> dict[str, tuple[str, str, str]]:
    names = cpu2.run("docker", "ps", "--all", "--filter", "label=com.docker.compose.project=truthgraph", "--format", "{{.Names}}")
    found = json.loads(cpu2.run("docker", "container", "inspect", *names.split()))
    return {
        one["Name"].strip("/"): (one["State"]["Status"], one["State"]["StartedAt"],
                                 "{Name}:{MaximumRetryCount}".format(**one["HostConfig"]["RestartPolicy"]))
        for one in found if "-run-" not in one["Name"]
    }


def serving(cpu2: Host) -> str:
    """Who answers at the composition's port: the fleet says its release."""
    return "fleet" if rollout.header(SEED["cpu2"]) else "composition"


class Reader:
    """Asks the composition's port for evidence, on a new connection each time, until it is stopped."""

    def __init__(self) -> None:
        self.failed: list[t.Any] = []
        self.count, self.longest = 0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        parts = urllib.parse.urlsplit(SEED["cpu2"])
        while not self._over.is_set():
            began = time.monotonic()
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
            try:
                body = json.dumps({"claim": "The Eiffel Tower stands in Paris."})
                connection.request("POST", "/api/v1/verify", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status != 200:
                    self.failed.append((began, answer.status, text[:200]))
            except (OSError, http.client.HTTPException) as error:
                self.failed.append((began, 0, repr(error)))
            finally:
                connection.close()
            self.count += 1
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.05)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()


def check_clients(case: str, writer: Writer, reader: Reader) -> float:
    """No read failed, no connection broke, and writes were refused for as long as nobody may write and no longer."""
    refused = writer.failed
    longest = max([one.ended for one in refused], default=0) - min([one.began for one in refused], default=0)
    print(f"{case}: {reader.count} reads, {len(reader.failed)} failed, longest {reader.longest:.2f} s; "
          f"{len(writer.sent)} writes, {len(writer.acknowledged)} acknowledged, {len(refused)} refused in {longest:.1f} s")
    assert reader.failed == [], reader.failed[:5]
    broken = [one for one in refused if one.status != 503]
    assert broken == [], broken[:5]
    assert len(writer.acknowledged) > 20
    return longest


def refused_seconds(run: Run) -> float:
    return float(re.findall(r"Writes were refused for ([\d.]+) s", plain(run.said))[0])


@pytest.fixture(scope="module", autouse=True)
def composition(fleet: Fleet, cpu1: Host, cpu2: Host) -> t.Iterator[None]:
    good(play("deploy", BESIDE))
    before = databases(cpu1)
    try:
        good(play("composition", {"composition_password": SECRET}, timeout=900))
        yield
    finally:
        cpu2.run("nft", "delete", "table", "ip", "truthgraph_adopt", check=False)
        play("composition", {"composition_state": "absent", "composition_password": SECRET})
        cpu2.run("rm", "-rf", "/root/seed", RECORD, "/etc/truthgraph/proxy/further_ports.json")
        for name in databases(cpu1) - before:
            psql(cpu1, f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")
        good(fleet.deploy("reference"))


@pytest.fixture(scope="module")
def first(composition: None, cpu2: Host) -> Writer:
    """Rows that the composition has had since long."""
    with Writer(SEED) as writer:
        time.sleep(5)
    assert writer.failed == []
    return writer


def test_its_port_is_refused_by_a_deploy_that_says_the_way_out(cpu2: Host) -> None:
    before = containers(cpu2)
    run = play("deploy", {})
    assert run.code != 0
    said = plain(" ".join(message for _, _, message in run.failures))
    assert "Port 8000 is taken by the container truthgraph-api-core of the composition truthgraph" in said, said
    assert "playbooks/adopt.yml" in said and "fleet_api_port" in said, said
    assert containers(cpu2) == before


def test_without_confirmation_it_only_looks(cpu1: Host, cpu2: Host, first: Writer) -> None:
    before = containers(cpu2), databases(cpu1), psql(cpu1, "SELECT count(*) FROM evidence")
    run = good(play("adopt", BESIDE))
    assert run.changed == {}, run.changed
    said = plain(run.said)
    assert "Nothing was changed." in said and "-e adopt_confirmed=true" in said, said
    assert re.search(r"writes are refused for about \d+ s", said), said
    count = len(first.acknowledged)
    assert re.search(rf"public\.evidence +{count} +{count}$", run.said, re.MULTILINE), run.said
    assert "huggingface-cache" in said and "Postgres 15." in said, said
    assert (containers(cpu2), databases(cpu1), psql(cpu1, "SELECT count(*) FROM evidence")) == before
    assert "adopt" not in cpu2.run("docker", "ps", "--all", "--format", "{{.Names}}")
    assert "adopt" not in cpu2.run("ls", "/var/lib/truthgraph", "/run") + cpu1.run("ls", "/var/lib/truthgraph")


def test_vectors_of_another_model_are_refused(cpu1: Host, cpu2: Host) -> None:
    turn = (
        "UPDATE truthgraph_platform.embedding SET vector = (SELECT ('[' || string_agg((-x)::text, ',') || ']')::vector "
        "FROM unnest(vector::real[]) AS x)"
    )
    psql(cpu1, turn)
    try:
        run = play("adopt", CONFIRMED)
    finally:
        psql(cpu1, turn)
    assert run.code != 0 and "another model than the fleet's" in run.last_words and "-1.0" in run.last_words, str(run)
    assert serving(cpu2) == "composition"


def test_what_is_not_healthy_is_refused(cpu2: Host) -> None:
    cpu2.run("docker", "stop", "truthgraph-ml-inference")
    try:
        run = play("adopt", CONFIRMED)
    finally:
        cpu2.run("docker", "start", "truthgraph-ml-inference")
    assert run.code != 0 and "truthgraph-ml-inference is not running" in run.last_words, str(run)
    run = play("adopt", {**CONFIRMED, "adopt_project": "another"})
    assert run.code != 0 and "docker compose ls --all" in run.last_words, str(run)
    deadline = time.monotonic() + 120
    while readiness() != 200:
        assert time.monotonic() < deadline
        time.sleep(1)


def readiness() -> int:
    connection = http.client.HTTPConnection("10.203.77.22", 8000, timeout=10)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def pause_at(running: Playbook, task: str, timeout: float = 300) -> None:
    """Wait until a task of the role begins, and stop the playbook there for the moment."""
    deadline = time.monotonic() + timeout
    while f'"name":"truthgraph.platform.adopt : {task}"' not in running.output:
        assert running.process.poll() is None, f"ended before '{task}'\n{running.result()}"
        assert time.monotonic() < deadline, task
        time.sleep(0.01)
    os.kill(running.process.pid, signal.SIGSTOP)


def test_what_does_not_come_back_whole_gives_all_back(cpu1: Host, cpu2: Host, first: Writer) -> None:
    before = containers(cpu2), databases(cpu1)
    with Reader() as reader, Writer(SEED) as writer:
        with Playbook("adopt", CONFIRMED) as running:
            pause_at(running, "See what was restored")
            psql(cpu1, "UPDATE evidence SET text = text || '!' WHERE text LIKE '%number 1'", "truthgraph_adopting")
            os.kill(running.process.pid, signal.SIGCONT)
            run = running.result()
        time.sleep(2)
    assert run.code != 0 and "public.evidence" in run.last_words and "given back as it was" in run.last_words, str(run)
    check_clients("failed verification", writer, reader)
    assert writer.sent[-1].status == 201, "it can be written again"
    assert {*writer.acknowledged} <= seed_stored(cpu2, writer.source)
    assert (containers(cpu2), databases(cpu1)) == before
    assert serving(cpu2) == "composition" and cpu1.look().lock is None


def test_a_killed_run_is_undone_by_the_next(cpu1: Host, cpu2: Host) -> None:
    before = containers(cpu2), databases(cpu1)
    with Playbook("adopt", CONFIRMED) as running:
        pause_at(running, "Bring its schema up to date")
        running.kill()
    with Writer(SEED) as writer:
        time.sleep(2)
    assert writer.acknowledged == [], "it is still read-only"
    run = good(play("adopt", BESIDE))
    assert "was interrupted" in plain(run.said) and "undone" in plain(run.said), run.said
    with Writer(SEED) as writer:
        time.sleep(2)
    assert writer.failed == []
    left = databases(cpu1) - before[1]
    # What the fleet could have stored in it meanwhile is kept.
    assert len(left) == 1 and left.pop().startswith("truthgraph_not_adopted_")
    assert containers(cpu2) == before[0] and cpu1.look().lock is None


def test_it_is_adopted_with_clients_at_work(cpu1: Host, cpu2: Host, first: Writer) -> None:
    with Reader() as reader, Writer(SEED) as writer:
        time.sleep(2)
        run = good(play("adopt", CONFIRMED))
        time.sleep(3)
    longest = check_clients("adoption", writer, reader)
    print(f"the playbook says {refused_seconds(run)} s, and took {run.seconds:.0f} s")
    assert longest < refused_seconds(run) + 3
    assert serving(cpu2) == "fleet" and writer.sent[-1].status == 201
    assert writer.lost(cpu1) == [] and first.lost(cpu1) == []
    assert {state for state, _, _ in containers(cpu2).values()} == {"exited"}
    assert {policy for _, _, policy in containers(cpu2).values()} == {"no:0"}
    assert "postgres-data" in cpu2.run("docker", "volume", "ls") and "huggingface-cache" in cpu2.run("docker", "volume", "ls")
    assert "truthgraph_adopt" not in cpu2.run("nft", "list", "tables")
    kept = re.search(r"kept as (truthgraph_before_adoption_\w+)\.", plain(run.said))
    assert kept and kept[1] in databases(cpu1), run.said
    assert psql(cpu1, "SELECT count(*) FROM truthgraph_platform.embedding").strip() == "1"
    assert cpu1.look().lock is None
    again = good(play("adopt", CONFIRMED))
    assert again.changed == {} and "There is nothing to do" in plain(again.said), again.said


def test_deploys_do_not_forget_its_port(cpu1: Host, cpu2: Host) -> None:
    with Reader() as reader, Writer(SEED) as writer:
        # As its operator does when all clients are to use the port everywhere; and back.
        good(play("deploy", {}))
        run = play("adopt", {**RETURN, "fleet_api_port": 8000})
        assert run.code != 0 and "fleet_api_port" in run.last_words, str(run)
        good(play("deploy", BESIDE))
    check_clients("two deploys", writer, reader)
    assert writer.failed == [] and writer.lost(cpu1) == [] and serving(cpu2) == "fleet"


def test_rows_that_cannot_come_back_are_refused(cpu1: Host, cpu2: Host) -> None:
    psql(cpu1, "ALTER TABLE evidence ADD mood text DEFAULT 'good'")
    try:
        run = play("adopt", RETURN)
    finally:
        psql(cpu1, "ALTER TABLE evidence DROP mood")
    assert run.code != 0 and "public.evidence has other columns now" in run.last_words, str(run)
    assert "adopt_lose_rows=true" in run.last_words and serving(cpu2) == "fleet"


def test_it_is_given_back_with_every_row(cpu1: Host, cpu2: Host, first: Writer) -> None:
    with Reader() as reader, Writer(SEED) as writer:
        time.sleep(3)
        run = good(play("adopt", {**RETURN, "adopt_confirmed": False}))
        assert run.changed == {} and "the contents of public.evidence have changed" in plain(run.said), run.said
        assert serving(cpu2) == "fleet"
        run = good(play("adopt", RETURN))
        time.sleep(3)
    longest = check_clients("return", writer, reader)
    print(f"the playbook says {refused_seconds(run)} s, and took {run.seconds:.0f} s")
    assert serving(cpu2) == "composition" and writer.sent[-1].status == 201
    assert {*writer.acknowledged} <= seed_stored(cpu2, writer.source)
    assert {*first.acknowledged} <= seed_stored(cpu2, first.source)
    assert longest < refused_seconds(run) + 3
    assert re.search(r"public\.evidence \d+ added, 0 removed", plain(run.said)), run.said
    assert {name: state for name, (state, _, _) in containers(cpu2).items()} == dict.fromkeys(NAMES, "running")
    assert {name: policy for name, (_, _, policy) in containers(cpu2).items()} == POLICIES
    assert "truthgraph_adopt" not in cpu2.run("nft", "list", "tables")
    # The fleet goes on beside it, and can be written.
    with Writer({"cpu1": "http://10.203.77.21:8080"}) as beside:
        time.sleep(2)
    assert beside.failed == [] and {*beside.acknowledged} <= stored(cpu1, beside.source)
    assert cpu1.look().lock is None
    again = good(play("adopt", RETURN))
    assert again.changed == {} and "There is nothing to do" in plain(again.said)
