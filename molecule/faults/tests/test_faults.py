# One part fails while evidence is written at every API. Whatever clients see of it, the service recovers by itself, and what
# was acknowledged is in the database.
import contextlib
import subprocess
import time
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fixtures import SEEN_FAULTS
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, play
from ansible_collections.truthgraph.platform.molecule.shared.writer import Writer, psql

HOSTS = {name: Host(name) for name in ("build1", "cpu1", "cpu2", "gpu1")}
HELD = 4
# The processes of a container; as its first one dies, so does it.
MAIN = "docker inspect --format '{{.State.Pid}}' "
SERVING = "docker ps --quiet --filter label=truthgraph.service="


def shell(host: str, text: str) -> str:
    return HOSTS[host].run("sh", "-c", text)


def kill_main(host: str, container: str, signal: str = "KILL") -> None:
    shell(host, f"kill -{signal} $({MAIN} {container})")


def held(host: str, stop: str, go_on: str) -> None:
    shell(host, stop)
    try:
        time.sleep(HELD)
    finally:
        shell(host, go_on)


def cut(host: str, port: int, side: str) -> None:
    # In a table of its own, so that no rule of the product is touched.
    rule = f"tcp {side} {port} drop"
    held(
        host,
        "nft -f - <<E\ntable inet cut {\n chain in { type filter hook prerouting priority -300; " + rule + "; }\n"
        " chain out { type filter hook output priority -300; " + rule + "; }\n}\nE",
        "nft delete table inet cut",
    )


def frozen(host: str, service: str) -> None:
    held(host, f"docker pause $({SERVING}{service})", f"docker unpause $({SERVING}{service})")


def busy_connections() -> None:
    # All that the application may have, and some more that are refused.
    sessions = [
        subprocess.Popen(["docker", "exec", HOSTS["cpu1"].container, "docker", "exec", "truthgraph-postgres",
                          "psql", "-XqU", "postgres", "-c", f"SELECT pg_sleep({HELD})"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
        for _ in range(90)
    ]
    for session in sessions:
        session.wait(60)


def locked_table() -> None:
    psql(HOSTS["cpu1"], f"BEGIN; LOCK TABLE evidence; SELECT pg_sleep({HELD}); COMMIT")


FAULTS = {
    "postgres: kill -9 of the first process": lambda: kill_main("cpu1", "truthgraph-postgres"),
    "postgres: kill -9 of a session": lambda: shell("cpu1", "pkill -9 -o -f 'postgres: truthgraph_[0-9a-f]* truthgraph'"),
    "postgres: all sessions ended": lambda: psql(
        HOSTS["cpu1"], "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'truthgraph'"
    ),
    "postgres: restarted": lambda: shell("cpu1", "docker restart truthgraph-postgres"),
    "postgres: frozen for a while": lambda: frozen("cpu1", "postgres"),
    "postgres: no connection is left for a while": busy_connections,
    "postgres: the table is locked for a while": locked_table,
    "inference: kill -9": lambda: kill_main("gpu1", f"$({SERVING}inference)"),
    "inference: frozen for a while": lambda: frozen("gpu1", "inference"),
    "api on cpu1: kill -9": lambda: kill_main("cpu1", f"$({SERVING}api)"),
    "api on cpu2: frozen for a while": lambda: frozen("cpu2", "api"),
    "haproxy on cpu1: kill -9": lambda: shell("cpu1", "pkill -9 haproxy"),
    "haproxy on gpu1: kill -9": lambda: shell("gpu1", "pkill -9 haproxy"),
    "dockerd on cpu1: kill -9": lambda: shell("cpu1", "pkill -9 dockerd"),
    "dockerd on gpu1: kill -9": lambda: shell("gpu1", "pkill -9 dockerd"),
    "containerd on cpu1: kill -9": lambda: shell("cpu1", "pkill -9 -x containerd"),
    "dockerd on cpu1: restarted": lambda: shell("cpu1", "systemctl restart docker"),
    "registry: kill -9": lambda: kill_main("build1", "truthgraph-registry"),
    "network: api to postgres cut for a while": lambda: cut("cpu1", 5432, "dport"),
    "network: api to inference cut for a while": lambda: cut("gpu1", 8001, "dport"),
    "cpu2, an API host: restarted": HOSTS["cpu2"].restart,
    "gpu1, the inference host: restarted": HOSTS["gpu1"].restart,
    "cpu1, with Postgres: restarted": HOSTS["cpu1"].restart,
}
# What clients must not notice at all.
UNSEEN = {
    "dockerd on gpu1: kill -9",
    "dockerd on cpu1: kill -9",
    "containerd on cpu1: kill -9",
    "dockerd on cpu1: restarted",
    "registry: kill -9",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_service_recovers_by_itself_and_nothing_acknowledged_is_lost(fleet: Fleet, fault: str) -> None:
    writer = recovers(fleet, fault, FAULTS[fault])
    if fault in UNSEEN:
        assert writer.failed == []


def recovers(fleet: Fleet, fault: str, happens: t.Callable[[], object]) -> Writer:
    """Let a fault happen while evidence is stored, and return what clients saw of it."""
    release = fleet.release
    with Writer() as writer:
        time.sleep(1)
        began = time.monotonic()
        happens()
        outage = writer.recovered(began, 120)
    database = HOSTS["cpu1"]
    # The engine may need longer than the service, which needs no engine.
    shell("cpu1", "timeout 60 sh -c 'until docker exec truthgraph-postgres true; do sleep 0.5; done' 2>/dev/null")
    with contextlib.ExitStack() as stack:
        stack.callback(writer.forget, database)
        lost, longest = writer.lost(database), max(one.ended - one.began for one in writer.sent)
        counts = (len(writer.acknowledged), len(lost))
        SEEN_FAULTS.append((fault, len(writer.sent), len(writer.failed), f"{longest:.2f}", f"{outage:.2f}", *counts))
        assert lost == []
    # The same release serves, and every service is healthy again.
    deadline = time.monotonic() + 60
    while True:
        try:
            fleet.check_serves(release)
            return writer
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


SMALL = "/srv/truthgraph-small"


@pytest.fixture
def small_disk(fleet: Fleet) -> t.Iterator[None]:
    """Postgres keeps its data on a file system of its own, which is small, and afterwards where it did before."""
    reference = fleet.tree("reference")
    other = {**reference, "postgres_volume": "truthgraph-small", "postgres_allow_restart": True}
    shell("cpu1", f"mkdir -p {SMALL} && mount -t tmpfs -o size=300m tmpfs {SMALL}")
    shell("cpu1", f"install -d -m 700 -o 999 -g 999 {SMALL}/data")
    volume = f"--opt type=none --opt o=bind --opt device={SMALL}/data truthgraph-small"
    shell("cpu1", f"docker volume create {volume}")
    try:
        run = play("deploy", other)
        assert run.code == 0, str(run)
        yield
    finally:
        back = play("deploy", {**reference, "postgres_allow_restart": True})
        assert back.code == 0, str(back)
        shell("cpu1", f"docker volume rm truthgraph-small && umount {SMALL} && rmdir {SMALL}")


def full() -> None:
    # Until nothing fits any more, which is how dd ends; and what is written next needs room.
    shell("cpu1", f"dd if=/dev/zero of={SMALL}/full bs=1M 2>/dev/null || test $(df --output=avail {SMALL} | tail -1) = 0")
    switch = "docker exec truthgraph-postgres psql -XqU postgres -c 'SELECT pg_switch_wal()' >/dev/null 2>&1 && sleep 0.2"
    shell("cpu1", f"timeout 60 sh -c 'while {switch.replace(chr(39), chr(34))}; do :; done' || test $? != 124")


def test_a_full_disk(fleet: Fleet, small_disk: None) -> None:
    def full_for_a_while() -> None:
        full()
        time.sleep(HELD)
        shell("cpu1", f"rm {SMALL}/full")

    writer = recovers(fleet, "postgres: its disk is full for a while", full_for_a_while)
    assert writer.failed
