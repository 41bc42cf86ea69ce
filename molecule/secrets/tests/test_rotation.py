# Passwords are replaced by a deploy with the new one, while clients go on.
from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import threading
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, Run, UnderLoad, play
from ansible_collections.truthgraph.platform.molecule.shared.writer import psql

CPU1 = Host("cpu1")
NEW = {
    "fleet_database_password": "another-1f/8c@b:2#d4",
    "fleet_registry_password": "another-9a7e",
}
PAUSE = 1
# Those at work are left alone: a request whose query is ended may fail, whatever the password.
END_SESSIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = 'truthgraph' AND state = 'idle' AND now() - state_change > interval '20 ms';\n"
)
LOG_IN = """
import sys
import psycopg
try:
    with psycopg.connect(sys.stdin.read().strip().replace("+psycopg", "", 1), connect_timeout=5) as connection:
        print(*connection.execute("SELECT session_user = current_user, current_user").fetchone())
except psycopg.Error as error:
    print(error)
"""


@pytest.fixture
def replaced(fleet: Fleet, tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., Run]]:
    """Deploy with one variable more, from a file, as it would come from a vault. In the end the lab's own are back."""

    def deploy(variable: str | None = None, tree: str = "reference", **more: t.Any) -> Run:
        file = tmp_path / "vault.json"
        file.write_text(json.dumps({variable: NEW[variable]} if variable else {}), encoding="utf-8")
        return play("deploy", {**fleet.tree(tree), **more}, "-e", f"@{file}")

    yield deploy
    run = deploy()
    assert run.code == 0, str(run)


class NewConnections(threading.Thread):
    """Ends every session of the API again and again, so that what serves has to log in anew all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[int] = []
        self._over = threading.Event()

    def run(self) -> None:
        command = ["docker", "exec", "-i", CPU1.container, "docker", "exec", "-i", "truthgraph-postgres",
                   "psql", "-XAtqU", "postgres"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
            assert session.stdin and session.stdout
            while not self._over.wait(PAUSE):
                session.stdin.write(END_SESSIONS)
                session.stdin.flush()
                self.ended.append(int(session.stdout.readline()))
            session.stdin.close()

    def __enter__(self) -> NewConnections:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.join()
        assert len([count for count in self.ended if count]) > 5, self.ended


def address() -> str:
    """Return with what the API that serves logs in."""
    return CPU1.file_of(f"truthgraph-api-{CPU1.look().slot}", "/run/secrets/truthgraph/DATABASE_URL")


def log_in(url: str) -> str:
    """Return what Postgres says to it."""
    command = ["docker", "exec", "-i", CPU1.container, "docker", "exec", "-i", f"truthgraph-api-{CPU1.look().slot}"]
    done = subprocess.run([*command, "python3", "-c", LOG_IN], input=url, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("variable", NEW)
def test_a_password_is_replaced_and_no_request_is_dropped(
    fleet: Fleet, under_load: UnderLoad, replaced: t.Callable[..., Run], variable: str | None
) -> None:
    fleet.bring("reference")
    earlier = address()
    constrained = NewConnections if variable == "fleet_database_password" else contextlib.nullcontext
    with under_load(), constrained():
        run = replaced(variable)
    assert run.code == 0, str(run)
    fleet.check_serves(fleet.release)
    # Nothing differs any more.
    again = replaced(variable)
    assert (again.code, again.changed) == (0, {}), str(again)
    if variable == "fleet_database_password":
        assert address() != earlier
        assert log_in(address()) == "False truthgraph"
        assert "FATAL" in log_in(earlier)
        assert psql(CPU1, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'truthgraph%'").strip() == "2"
    with under_load(), constrained():
        back = replaced()
    assert back.code == 0, str(back)
    assert address() == earlier


def test_a_new_password_of_the_database_with_a_deploy_that_fails(
    fleet: Fleet, under_load: UnderLoad, replaced: t.Callable[..., Run]
) -> None:
    # What serves goes on with the earlier one, and either can be deployed after it.
    release = fleet.bring("reference")
    fleet.tree("never-ready", rollout.never_ready)
    earlier = address()
    with under_load(), NewConnections():
        run = replaced("fleet_database_password", "never-ready", api_ready_timeout=8)
        assert run.code != 0, str(run)
        run = replaced()
        assert run.code == 0, str(run)
    fleet.check_serves(release)
    assert address() == earlier


def test_a_rollback_comes_before_the_deploy_with_the_new_password(
    fleet: Fleet, under_load: UnderLoad, tmp_path: pathlib.Path
) -> None:
    # Whoever has written a new password into the vault may have to roll back before it was ever deployed.
    release = fleet.once("another")
    fleet.bring("reference")
    file = tmp_path / "vault.json"
    file.write_text(json.dumps({"fleet_database_password": NEW["fleet_database_password"]}), encoding="utf-8")
    with under_load(), NewConnections():
        run = play("rollback", {"release": release}, "-e", f"@{file}")
        assert run.code == 0, str(run)
        assert fleet.deploy("reference").code == 0
