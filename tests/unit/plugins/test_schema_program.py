"""What is run in an image to change the schema: with real migrations on a Postgres where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.truthgraph.platform.plugins.module_utils import schema_program
from ansible_collections.truthgraph.platform.plugins.modules import schema
from ansible_collections.truthgraph.platform.tests.unit.postgres_server import TOOLS, postgres, psql

ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool

# What a tree says itself must not matter.
engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool,
                       connect_args={"options": "-c lock_timeout=1h -c statement_timeout=1h"})
with engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=os.environ.get("EACH") == "1")
    with context.begin_transaction():
        context.run_migrations()
"""
FIRST = 'op.execute("CREATE TABLE evidence (id int PRIMARY KEY, text text)")'
UNDO_FIRST = 'op.execute("DROP TABLE evidence")'
SECOND = 'op.execute("ALTER TABLE evidence ADD note text")\n    op.execute("CREATE TABLE extra (a int)")'
UNDO_SECOND = 'op.execute("DROP TABLE extra")\n    op.execute("ALTER TABLE evidence DROP note")'
REQUEST = {"action": "upgrade", "keep": [], "measure": False, "lock_timeout": "10s", "statement_timeout": "5min", "wait": 5,
           "owner": "truthgraph-schema somebody@somewhere"}


@pytest.fixture(scope="module")
def home() -> t.Iterator[Path]:
    if not TOOLS:
        pytest.skip("Postgres is not on this machine")
    with postgres() as running:
        yield running


class Tree:
    """A source tree with migrations, and a database of its own."""

    def __init__(self, home: Path, directory: Path) -> None:
        self.home, self.directory = home, directory
        (directory / "alembic" / "versions").mkdir(parents=True)
        (directory / "alembic" / "env.py").write_text(ENV)
        (directory / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")

    def add(self, revision: str, down: str | None, upgrade: str, downgrade: str, top: str = "") -> None:
        (self.directory / "alembic" / "versions" / f"{revision}.py").write_text(
            f"from alembic import op\nrevision = {revision!r}\ndown_revision = {down!r}\n{top}\n\n"
            f"def upgrade():\n    {upgrade}\n\n" + (f"def downgrade():\n    {downgrade}\n" if downgrade else "")
        )

    def start(self, each: bool = False, **more: t.Any) -> subprocess.Popen[str]:
        url = f"postgresql+psycopg://postgres@/tree?host={self.home}/socket"
        return subprocess.Popen(
            [sys.executable, "-c", schema.program(), json.dumps({**REQUEST, **more})],
            cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "DATABASE_URL": url, "EACH": "1" if each else "0"},
        )

    def answer(self, running: subprocess.Popen[str]) -> dict[str, t.Any]:
        output = running.communicate(timeout=60)[0]
        found = [line for line in output.splitlines() if line.startswith(schema_program.MARK)]
        assert running.returncode == 0 and len(found) == 1, output
        told: dict[str, t.Any] = json.loads(found[0][len(schema_program.MARK) :])
        return told

    def run(self, action: str = "upgrade", **more: t.Any) -> dict[str, t.Any]:
        return self.answer(self.start(action=action, **more))

    def sql(self, query: str) -> str:
        return psql(self.home, query, "tree")

    def start_sql(self, query: str) -> subprocess.Popen[bytes]:
        running = subprocess.Popen(
            [f"{TOOLS[-1]}/psql", "-Xq", "-h", f"{self.home}/socket", "-U", "postgres", "-d", "tree", "-c", query]
        )
        time.sleep(0.5)
        return running


@pytest.fixture
def tree(home: Path, tmp_path: Path) -> t.Iterator[Tree]:
    psql(home, "CREATE DATABASE tree")
    made = Tree(home, tmp_path)
    made.add("0001", None, FIRST, UNDO_FIRST)
    yield made
    psql(home, "DROP DATABASE tree WITH (FORCE)")


@pytest.fixture
def two(tree: Tree) -> Tree:
    """With two migrations that were made, and data in what the second has added."""
    tree.add("0002", "0001", SECOND, UNDO_SECOND, "contract = True")
    tree.run()
    tree.sql("INSERT INTO evidence SELECT n, 'text', CASE WHEN n < 4 THEN 'note' END FROM generate_series(1, 10) AS n")
    tree.sql("INSERT INTO extra VALUES (1), (2)")
    return tree


def test_an_upgrade_and_a_second_one(tree: Tree) -> None:
    found = tree.run("look")
    assert (found["pending"], found["before"], found["after"]) == (True, [], [])
    found = tree.run()
    assert (found["problem"], found["pending"], found["before"], found["after"]) == ("", False, [], ["0001"])
    found = tree.run()
    assert (found["pending"], found["before"], found["after"]) == (False, ["0001"], ["0001"])


def test_a_later_schema_is_left_alone(tree: Tree, two: Tree) -> None:
    (two.directory / "alembic" / "versions" / "0002.py").unlink()
    found = two.run()
    assert (found["problem"], found["pending"], found["after"], found["known"]) == ("", False, ["0002"], ["0001"])
    assert two.run("downgrade", keep=["0001"])["problem"] == "unknown"


def test_a_downgrade_says_what_goes(two: Tree) -> None:
    found = two.run("downgrade", keep=["0001"], measure=True)
    assert (found["problem"], found["before"], found["after"], found["back"]) == ("", ["0002"], ["0001"], ["0002"])
    assert found["contracts"] == ["0002"]
    assert found["lost"] == [
        {"what": "column", "name": "public.evidence.note", "count": 3},
        {"what": "table", "name": "public.extra", "count": 2},
    ]
    assert two.sql("SELECT count(*) FROM evidence") == "10"
    # There and back again.
    assert two.run()["after"] == ["0002"]


def test_nothing_to_take_back(two: Tree) -> None:
    found = two.run("downgrade", keep=["0001", "0002"], measure=True)
    assert (found["problem"], found["after"], found["back"], found["lost"]) == ("", ["0002"], [], [])


@pytest.mark.parametrize(
    ("downgrade", "top"),
    [
        ("raise NotImplementedError", ""),
        ('"""There is no way back."""\n    raise RuntimeError("no")', ""),
        ("", ""),
        ("pass", "irreversible = True"),
    ],
    ids=["raises", "raises-after-its-text", "has-none", "says-so"],
)
def test_what_is_irreversible_is_left_alone(two: Tree, downgrade: str, top: str) -> None:
    two.add("0003", "0002", "pass", downgrade, top)
    two.run()
    found = two.run("downgrade", keep=["0001"], measure=True)
    assert (found["problem"], found["irreversible"], found["back"]) == ("irreversible", ["0003"], ["0003", "0002"])
    assert (found["after"], two.sql("SELECT count(note) FROM evidence")) == (["0003"], "3")
    # What is not to be taken back does not matter.
    assert two.run("downgrade", keep=["0001", "0002", "0003"])["problem"] == ""


def test_branches_are_left_alone(two: Tree) -> None:
    two.add("0003", "0001", "pass", "pass")
    assert two.run()["after"] == ["0002", "0003"]
    found = two.run("downgrade", keep=["0001"])
    assert (found["problem"], found["after"]) == ("branches", ["0002", "0003"])


def test_what_the_release_does_not_know_at_all_is_left_alone(two: Tree) -> None:
    assert two.run("downgrade", keep=["9999"])["problem"] == "branches"
    assert two.sql("SELECT count(*) FROM evidence") == "10"


def test_a_migration_that_fails_changes_nothing_or_says_what_it_has(two: Tree) -> None:
    two.add("0003", "0002", 'op.execute("CREATE TABLE third (a int)")', UNDO_FIRST)
    two.add("0004", "0003", "raise RuntimeError('on purpose')", "pass")
    found = two.run()
    assert (found["problem"], found["before"], found["after"]) == ("failed", ["0002"], ["0002"])
    found = two.answer(two.start(each=True))
    assert (found["problem"], found["before"], found["after"]) == ("failed", ["0002"], ["0003"])


def test_a_statement_that_takes_too_long_is_ended(two: Tree) -> None:
    two.add("0003", "0002", 'op.execute("SELECT pg_sleep(30)")', "pass")
    began = time.monotonic()
    found = two.run(statement_timeout="500ms")
    assert (found["problem"], found["after"]) == ("statement", ["0002"]) and time.monotonic() - began < 20
    two.add("0003", "0002", 'op.execute("SET LOCAL statement_timeout = 0; SELECT pg_sleep(0.7)")', "pass")
    assert two.run(statement_timeout="500ms")["after"] == ["0003"]


def test_a_migration_that_waits_for_a_lock_gives_up(two: Tree) -> None:
    two.add("0003", "0002", 'op.execute("ALTER TABLE evidence ADD third int")', "pass")
    holding = two.start_sql("BEGIN; LOCK TABLE evidence; SELECT pg_sleep(20)")
    try:
        found = two.run(lock_timeout="500ms")
    finally:
        holding.kill()
        holding.wait()
    assert (found["problem"], found["after"]) == ("lock", ["0002"])


def test_two_at_once_take_turns(two: Tree) -> None:
    two.add("0003", "0002", 'op.execute("SELECT pg_sleep(2)")\n    op.execute("CREATE TABLE third (a int)")', "pass")
    both = [two.start(wait=30) for _ in range(2)]
    found = sorted((two.answer(one) for one in both), key=lambda one: one["before"])
    assert [one["before"] for one in found] == [["0002"], ["0003"]]
    assert [one["problem"] for one in found] == ["", ""] and found[1]["waited"] >= 1


def test_who_does_not_wait_is_told_whose_turn_it_is(two: Tree) -> None:
    two.add("0003", "0002", 'op.execute("SELECT pg_sleep(20)")', "pass")
    first = two.start()
    deadline = time.monotonic() + 10
    while "truthgraph-schema" not in two.sql("SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) "
                                             "WHERE locktype = 'advisory' AND granted"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = two.run(wait=0, owner="truthgraph-schema another")
    assert found["problem"] == "held" and "truthgraph-schema somebody@somewhere (role postgres" in found["holder"]
    # And a run that is killed leaves no lock.
    first.kill()
    first.wait()
    assert two.run("look", wait=30)["after"] == ["0002"]


def test_the_limits_and_the_owner_are_checked() -> None:
    params = {**REQUEST, "owner": "it's; 'me'@host"}
    assert schema.request(params)["owner"] == "truthgraph-schema its me@host"
    assert all(schema.TIMEOUT.match(one) for one in ("0", "10s", "5min", "1 h"))
    assert not any(schema.TIMEOUT.match(one) for one in ("soon", "10s'; DROP", ""))


# The module around it, with a docker that runs at once what is to be run in a container.

DOCKER = """#!{python}
import os, sys
if sys.argv[1] != "run":
    sys.exit(0)
os.chdir({tree!r})
os.environ["DATABASE_URL"] = {url!r}
os.execv(sys.executable, [sys.executable, *sys.argv[sys.argv.index("python3") + 1:]])
"""


@pytest.fixture
def module(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> t.Any:
    tools = tmp_path / "bin"
    tools.mkdir()
    url = f"postgresql+psycopg://postgres@/tree?host={tree.home}/socket"
    (tools / "docker").write_text(DOCKER.format(python=sys.executable, tree=str(tree.directory), url=url))
    (tools / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    temporary = tempfile.TemporaryDirectory
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda prefix, dir: temporary(prefix=prefix, dir=tmp_path))

    def run(**options: t.Any) -> dict[str, t.Any]:
        with patch_module_args({"image": "core@sha256:1", "network": "n", **options}), pytest.raises(SystemExit):
            schema.main()
        told: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return told

    return run


def test_the_module_migrates_once(module: t.Any) -> None:
    found = module()
    assert found["changed"] and (found["before"], found["after"], found["image"]) == ([], ["0001"], "core@sha256:1")
    assert not module()["changed"] and not module(action="look")["changed"]


def test_the_module_takes_back(two: Tree, module: t.Any) -> None:
    found = module(action="check", keep=["0001"])
    assert (found["changed"], found["back"], found["after"]) == (False, ["0002"], ["0002"])
    found = module(action="downgrade", keep=["0001"], measure=True)
    assert found["changed"] and found["after"] == ["0001"] and sum(one["count"] for one in found["lost"]) == 5


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "options", "words"),
    [
        (
            'op.execute("SELECT pg_sleep(9)")',
            "pass",
            {"statement_timeout": "100ms"},
            "than 100ms (api_migrate_statement_timeout)",
        ),
        ("raise RuntimeError('on purpose')", "pass", {}, "The last lines that Alembic wrote:"),
        ("pass", "raise RuntimeError", {}, ""),
    ],
)
def test_the_module_says_what_is_in_the_way(
    two: Tree, module: t.Any, upgrade: str, downgrade: str, options: dict[str, t.Any], words: str
) -> None:
    two.add("0003", "0002", upgrade, downgrade)
    found = module(**options)
    if words:
        assert found["failed"] and words in found["msg"] and found["after"] == ["0002"], found
        return
    for action in ("check", "downgrade"):
        found = module(action=action, keep=["0001"])
        assert found["failed"] and found["after"] == ["0003"], found
        assert "Of 0003, 0002, which would be taken back, 0003 cannot be: it is irreversible." in found["msg"]


def test_the_module_refuses_what_is_no_time(module: t.Any) -> None:
    assert module(lock_timeout="soon")["msg"].startswith("api_migrate_lock_timeout is 'soon'. Write it as")
