"""The program that takes and restores backups: its rules alone, and its work on a Postgres where there is one."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.truthgraph.platform.tests.unit.postgres_server import TOOLS, postgres

ROLES = Path(__file__).resolve().parents[2] / "roles"
PROGRAM = ROLES / "backup/files/truthgraph-backup"
# Runs what is to be run in the container here.
DOCKER = """#!/bin/sh
shift
[ "$1" = --interactive ] && shift
shift
export PGHOST={home}/socket PATH={tools}:$PATH
exec "$@"
"""
# Of what stands for a dump.
DUMP = hashlib.sha256(b"dump").hexdigest()
FAKE_AGE = """#!/bin/sh
cat "$(dirname "$0")/age-fails" 2>/dev/null && exit 1
exec tr 'A-Za-z' 'N-ZA-Mn-za-m'
"""


def load_program() -> types.ModuleType:
    loader = importlib.machinery.SourceFileLoader("truthgraph_backup", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("truthgraph_backup", loader))
    # Nothing is compiled beside the role's files.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


program = load_program()


def manifest(name: str, **more: t.Any) -> dict[str, t.Any]:
    return {
        "format": 1,
        "backup": name,
        "database": "truthgraph",
        "owner": "truthgraph",
        "encoding": "UTF8",
        "begun": "2026-01-01T00:00:00+00:00",
        "reason": "test",
        "encryption": "none",
        "files": {"database": {"name": "database.dump", "bytes": 4, "sha256": DUMP}},
        "rows": {"public.evidence": 2},
        "revision": ["0001"],
        "extensions": {"vector": "0.8.0"},
        "database_bytes": 1000,
        **more,
    }


def add(directory: Path, name: str, proven: bool = False, **more: t.Any) -> Path:
    path = directory / name
    path.mkdir(parents=True)
    (path / "database.dump").write_bytes(b"dump")
    (path / "manifest.json").write_text(json.dumps(manifest(name, **more)))
    if proven:
        (path / "proof.json").write_text(json.dumps({"proven": True, "when": "then"}))
    return path


@pytest.fixture
def config(tmp_path: Path) -> dict[str, t.Any]:
    directory = tmp_path / "backups"
    directory.mkdir(mode=0o700)
    return {**program.DEFAULTS, "directory": str(directory)}


# Without Postgres.


def name_of(day: int, hour: int = 3, month: int = 1) -> str:
    return f"2026{month:02}{day:02}T{hour:02}0000Z-abcdef"


def test_the_newest_stay_whatever_else() -> None:
    names = [name_of(1, hour) for hour in range(10)]
    assert program.kept([(name, False) for name in names], 3, 0, 0) == set(names[-3:])


def test_one_of_each_day_and_week_stays() -> None:
    names = [name_of(day, hour) for day in range(1, 29) for hour in (3, 15)]
    stay = program.kept([(name, False) for name in names], 1, 4, 3)
    # The last of each day; and the last of each week, whose Sundays are the 25th, the 18th and the 11th.
    assert stay == {name_of(28, 15), name_of(27, 15), name_of(26, 15), name_of(25, 15), name_of(18, 15)}


def test_the_newest_proven_one_always_stays() -> None:
    names = [name_of(day) for day in range(1, 11)]
    proven = [(name, index < 2) for index, name in enumerate(names)]
    assert program.kept(proven, 2, 0, 0) == {names[-1], names[-2], names[1]}


def test_pruning_leaves_what_it_cannot_read_and_other_databases(config: dict[str, t.Any]) -> None:
    directory = Path(config["directory"])
    for day in range(1, 6):
        add(directory, name_of(day))
    add(directory, name_of(1, 4), database="other")
    (directory / name_of(1, 5)).mkdir()
    (directory / "something-else").mkdir()
    config.update(keep_last=2, keep_daily=0, keep_weekly=0)
    assert program.prune(config) == {"kept": [name_of(5), name_of(4)], "pruned": [name_of(3), name_of(2), name_of(1)]}
    left = {name_of(5), name_of(4), name_of(1, 4), name_of(1, 5), "something-else"}
    assert {path.name for path in directory.iterdir()} == left


def test_a_dump_may_take_more_than_the_database_unless_an_earlier_one_was_small() -> None:
    assert program.space_needed(1000, None) == 1200
    small = {"database_bytes": 1000, "files": {"database": {"bytes": 100}}}
    assert program.space_needed(1000, small) == 200
    # What has grown since takes more.
    assert program.space_needed(3000, small) == 600
    large = {"database_bytes": 1000, "files": {"database": {"bytes": 900}}}
    assert program.space_needed(1000, large) == 1200


def test_too_little_space_is_said_with_both_figures(config: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program.shutil, "disk_usage", lambda _path: types.SimpleNamespace(free=500))
    with pytest.raises(program.Problem, match=r"1200 and 500 bytes.*Nothing was written"):
        program.check_space(config, 1000, None)


def test_what_dead_runs_have_left_is_removed_and_nothing_else(config: dict[str, t.Any]) -> None:
    directory = Path(config["directory"])
    add(directory, name_of(1))
    (directory / f"{name_of(2)}.partial").mkdir()
    (directory / "mine.partial").mkdir()
    assert program.remove_partial(str(directory)) == [f"{name_of(2)}.partial"]
    assert sorted(path.name for path in directory.iterdir()) == [name_of(1), "mine.partial"]


def test_a_second_run_says_who_is_at_work(config: dict[str, t.Any]) -> None:
    with program.lock(config, "take", 0):
        began = time.monotonic()
        said = rf"process {os.getpid()} \(take, since .*--wait"
        with pytest.raises(program.Problem, match=said), program.lock(config, "prove", 0.5):
            pass
        assert time.monotonic() - began >= 0.5
    with program.lock(config, "prove", 0):
        pass


def test_the_lock_of_a_process_that_is_gone_is_free(config: dict[str, t.Any]) -> None:
    code = (
        "import fcntl, os, sys, time\n"
        "file = open(sys.argv[1], 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\nprint('there', flush=True)\ntime.sleep(60)\n"
    )
    path = Path(config["directory"], ".lock")
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(program.Problem, match="another process"), program.lock(config, "take", 0):
            pass
        process.kill()
        process.wait()
        with program.lock(config, "take", 0), path.open(encoding="utf-8") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_one_changed_byte_is_refused(config: dict[str, t.Any]) -> None:
    path = add(Path(config["directory"]), name_of(1)) / "database.dump"
    program.verify(config, manifest(name_of(1)))
    path.write_bytes(b"dumb")
    with pytest.raises(program.Problem, match=r"SHA-256 differs.*Use another backup"):
        program.verify(config, manifest(name_of(1)))
    path.unlink()
    with pytest.raises(program.Problem, match="cannot be read"):
        program.verify(config, manifest(name_of(1)))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', "not json"])
def test_a_damaged_manifest_is_refused_and_listed(config: dict[str, t.Any], text: str) -> None:
    path = add(Path(config["directory"]), name_of(1)) / "manifest.json"
    path.write_text(text)
    with pytest.raises(program.Problem, match="Use another backup"):
        program.chosen(config, "latest")
    [entry] = program.listed(config)["backups"]
    assert entry["backup"] == name_of(1) and entry["problem"]


def test_which_backup_is_meant(config: dict[str, t.Any]) -> None:
    with pytest.raises(program.Problem, match=r"no backup of truthgraph.*truthgraph-backup take"):
        program.chosen(config, "latest")
    add(Path(config["directory"]), name_of(1))
    add(Path(config["directory"]), name_of(2))
    add(Path(config["directory"]), name_of(3), database="other")
    assert program.chosen(config, "latest")["backup"] == name_of(2)
    assert program.chosen(config, name_of(1))["backup"] == name_of(1)
    for wrong in ("../../etc", name_of(9), ""):
        with pytest.raises(program.Problem, match="truthgraph-backup list"):
            program.chosen(config, wrong)


def test_people_get_lines_and_tables() -> None:
    backups = [{"backup": "b"}, {"backup": "a", "problem": "damaged"}]
    lines = program.as_text({"lost": 2, "copied": None, "pruned": [], "backups": backups}).splitlines()
    assert lines[:4] == ["lost: 2", "copied: none", "pruned: none", "backups:"]
    assert lines[4:] == ["  backup  problem", "  b", "  a       damaged"]


def test_what_a_restore_would_lose() -> None:
    rows, lost = program.difference({"a": 5, "b": 1, "c": 2}, {"a": 3, "b": 4, "d": 1, "c": 2})
    assert lost == 2
    assert rows == [
        {"table": "a", "before": 5, "after": 3},
        {"table": "b", "before": 1, "after": 4},
        {"table": "d", "before": 0, "after": 1},
    ]


def test_what_came_back_is_compared() -> None:
    wanted = {"rows": {"a": 1, "b": 2}, "revision": ["1"], "extensions": {"vector": "1", "x": "1"}}
    found = {"rows": {"a": 2, "c": 0}, "revision": ["2"], "extensions": {"vector": "2"}}
    assert program.mismatches(wanted, wanted) == []
    assert program.mismatches(wanted, found) == [
        "table a has 2 rows and not 1",
        "table b is missing",
        "table c is there and should not be",
        "the schema's revision is ['2'] and not ['1']",
        "extension x is missing",
    ]
    assert program.other_versions(wanted, found) == ["extension vector is 2 here and was 1"]


def test_only_the_owner_is_taken_out_of_the_roles() -> None:
    text = (
        "CREATE ROLE postgres;\nALTER ROLE postgres WITH SUPERUSER PASSWORD 'x';\n"
        "CREATE ROLE truthgraph;\nALTER ROLE truthgraph WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM';\n"
        "CREATE ROLE truthgraph_reader;\nCREATE ROLE \"with space\";\n"
    )
    assert program.role_statements(text, "truthgraph") == text.splitlines()[2:4]
    assert program.role_statements(text, "with space") == ['CREATE ROLE "with space";']
    assert program.role_statements(text, "postgres") == []
    with pytest.raises(program.Problem, match="superuser"):
        program.role_statements("CREATE ROLE boss;\nALTER ROLE boss WITH SUPERUSER;", "boss")


def test_all_roles_are_made_but_the_superuser_and_those_that_are_there() -> None:
    text = (
        "-- Roles\nCREATE ROLE postgres;\nALTER ROLE postgres WITH SUPERUSER PASSWORD 'SCRAM-1';\n"
        "CREATE ROLE postgres_reader;\nALTER ROLE postgres_reader WITH LOGIN;\n"
        "CREATE ROLE truthgraph;\nALTER ROLE truthgraph WITH LOGIN PASSWORD 'SCRAM-2';\n"
        "CREATE ROLE \"with space\";\nGRANT truthgraph TO \"with space\" GRANTED BY postgres;\n"
    )
    lines = program.all_role_statements(text, ["truthgraph", "with space"]).splitlines()
    assert lines == [
        "-- Roles",
        "CREATE ROLE postgres_reader;",
        "ALTER ROLE postgres_reader WITH LOGIN;",
        # What is there gets the present password.
        "ALTER ROLE truthgraph WITH LOGIN PASSWORD 'SCRAM-2';",
        'GRANT truthgraph TO "with space" GRANTED BY postgres;',
    ]


def test_names_of_databases_fit() -> None:
    assert program.derived_name("truthgraph", "_before_x") == "truthgraph_before_x"
    assert program.derived_name("x" * 63, "_before_x") == "x" * 54 + "_before_x"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encryption": "zip"}, "none, age or gpg"),
        ({"encryption": "age"}, "recipients_files"),
        ({"keep_last": 0}, "keep_last"),
        ({"keep_last": "7"}, "keep_last"),
        ({"directory": "backups"}, "absolute"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, change: dict[str, t.Any], words: str) -> None:
    path = tmp_path / "backup.json"
    path.write_text(json.dumps(change))
    with pytest.raises(program.Problem, match=words):
        program.load_config(str(path))


def test_the_role_writes_what_the_program_knows() -> None:
    variables = yaml.safe_load((ROLES / "backup/vars/main.yml").read_text(encoding="utf-8"))
    assert set(variables["__backup_config"]) == set(program.DEFAULTS) - {"docker"}
    postgres = yaml.safe_load((ROLES / "postgres/vars/main.yml").read_text(encoding="utf-8"))
    assert variables["__backup_container"] == postgres["__postgres_container_name"]


@pytest.mark.parametrize(
    "arguments", [[], ["eat"], ["restore"], ["take", "--wait", "long"], ["list", "--more"], ["prove", "a", "b"]]
)
def test_wrong_arguments_are_one_line_and_end_with_one(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "--help" in said.err


def test_the_servers_own_databases_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "backup.json").write_text("{}")
    wrong = ["--config", str(tmp_path / "backup.json"), "restore", "latest", "--database", "postgres"]
    assert program.main(wrong) == 1
    assert "Nothing is restored there" in capsys.readouterr().err


def test_all_of_a_pipeline_that_fails_is_said() -> None:
    with pytest.raises(program.Problem, match=r"^sh failed: FATAL: first$"):
        program.run_stages([["sh", "-c", "echo hint >&2; echo FATAL: first >&2; exit 1"], ["cat"]])
    with pytest.raises(program.Problem, match=r"^sh failed: last$"):
        program.run_stages([["sh", "-c", "yes"], ["sh", "-c", "head -c 10 >/dev/null; echo last >&2; exit 3"]])
    with pytest.raises(program.Problem, match="no-such-program is not on this host"):
        program.run_stages([["sh", "-c", "yes"], ["no-such-program"]])


def test_a_full_disk_ends_the_programs(tmp_path: Path) -> None:
    def sink(_chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        program.run_stages([["sh", "-c", "yes"]], sink=sink)


@pytest.fixture
def fake_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "age"
    path.parent.mkdir()
    path.write_text(FAKE_AGE)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def test_age_is_given_recipients_and_identity(config: dict[str, t.Any], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    config.update(encryption="age", recipients_files=[str(key), str(key)], identity_file=str(key))
    with program.encrypting(config) as (commands, suffix):
        given = ["--recipients-file", str(key)]
        assert (commands, suffix) == ([["age", "--encrypt", *given, *given]], ".age")
    with program.decrypting(config, manifest(name_of(1), encryption="age")) as commands:
        assert commands == [["age", "--decrypt", "--identity", str(key)]]


def test_a_missing_key_is_said(config: dict[str, t.Any]) -> None:
    config.update(encryption="age", recipients_files=["/nowhere"])
    with pytest.raises(program.Problem, match="/nowhere is missing"), program.encrypting(config):
        pass
    for identity in ("", "/nowhere"):
        config["identity_file"] = identity
        stored = manifest(name_of(1), encryption="age")
        said = r"encrypted with age.*backup_identity_file"
        with pytest.raises(program.Problem, match=said), program.decrypting(config, stored):
            pass


def test_plain_text_does_not_reach_the_disk(config: dict[str, t.Any], tmp_path: Path, fake_age: Path) -> None:
    config.update(encryption="age", recipients_files=[__file__], identity_file=__file__)
    with program.encrypting(config) as (encrypt, suffix):
        entry = program.store(str(tmp_path / f"text{suffix}"), [["echo", "secret"], *encrypt])
    assert entry["name"] == "text.age" and entry["bytes"] == 7
    assert (tmp_path / "text.age").read_text() == "frperg\n"
    assert (tmp_path / "text.age").stat().st_mode & 0o777 == 0o600
    stored = manifest(name_of(1), encryption="age")
    with program.decrypting(config, stored) as decrypt, (tmp_path / "text.age").open("rb") as file:
        assert program.output_of(decrypt, file) == b"secret\n"
    (fake_age.parent / "age-fails").touch()
    with program.encrypting(config) as (encrypt, suffix), pytest.raises(program.Problem, match="age failed"):
        program.store(str(tmp_path / "other.age"), [["echo", "secret"], *encrypt])


@pytest.mark.skipif(not shutil.which("gpg"), reason="gpg is not on this machine")
def test_gpg_with_a_real_key(config: dict[str, t.Any]) -> None:
    # The agent's socket has a short path.
    with tempfile.TemporaryDirectory(prefix="tg-") as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", ""]
        subprocess.run([*gpg, "--quick-generate-key", "test", "rsa2048", "encr"], check=True, capture_output=True)
        for name, what in (("public", "--export"), ("secret", "--export-secret-keys")):
            done = subprocess.run([*gpg, "--armor", what, "test"], check=True, capture_output=True)
            Path(home, name).write_bytes(done.stdout)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
        config.update(encryption="gpg", recipients_files=[f"{home}/public"], identity_file=f"{home}/secret")
        with program.encrypting(config) as (encrypt, suffix):
            path = f"{home}/text{suffix}"
            program.store(path, [["echo", "secret"], *encrypt])
        assert b"secret" not in Path(path).read_bytes()
        with program.decrypting(config, manifest(name_of(1), encryption="gpg")) as decrypt, Path(path).open("rb") as file:
            assert program.output_of(decrypt, file) == b"secret\n"


# With Postgres.


class Server:
    """A Postgres of these tests, and the program that takes it for the one in the container."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.docker = home / "docker"
        self.docker.write_text(DOCKER.format(home=home, tools=TOOLS[-1]))
        self.docker.chmod(0o755)

    def sql(self, query: str, database: str = "postgres") -> str:
        return str(program.sql({**program.DEFAULTS, "docker": str(self.docker)}, query, database))


@pytest.fixture(scope="module")
def server() -> t.Iterator[Server]:
    if not TOOLS:
        pytest.skip("Postgres is not on this machine")
    with postgres() as home:
        running = Server(home)
        running.sql("CREATE ROLE truthgraph LOGIN PASSWORD 'secret'")
        yield running


@pytest.fixture
def live(server: Server, config: dict[str, t.Any]) -> t.Iterator[dict[str, t.Any]]:
    """The configuration for a database with 100 rows in it."""
    server.sql("CREATE DATABASE truthgraph OWNER truthgraph")
    server.sql(
        "CREATE EXTENSION citext; CREATE SCHEMA \"Odd one\" AUTHORIZATION truthgraph;"
        "CREATE TABLE evidence (id int PRIMARY KEY, text citext); ALTER TABLE evidence OWNER TO truthgraph;"
        "INSERT INTO evidence SELECT n, 'text ' || n FROM generate_series(1, 100) AS n;"
        "CREATE TABLE \"Odd one\".\"it's\" (a int); CREATE TABLE alembic_version (version_num text);"
        "INSERT INTO alembic_version VALUES ('0001')",
        "truthgraph",
    )
    yield {**config, "docker": str(server.docker)}
    for name in json.loads(server.sql("SELECT jsonb_agg(datname) FROM pg_database WHERE datname ~ '^truthgraph'")):
        server.sql(f'DROP DATABASE "{name}" WITH (FORCE)')


def databases(server: Server) -> list[str]:
    told: list[str] = json.loads(
        server.sql("SELECT jsonb_agg(datname ORDER BY datname) FROM pg_database WHERE NOT datistemplate")
    )
    return told


def command(live: dict[str, t.Any], *arguments: str) -> list[str]:
    path = Path(live["directory"]).parent / "backup.json"
    path.write_text(json.dumps(live))
    return [sys.executable, str(PROGRAM), "--config", str(path), *arguments]


def run(live: dict[str, t.Any], *arguments: str) -> tuple[int, dict[str, t.Any], str]:
    done = subprocess.run(command(live, *arguments, "--json"), capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_take_prove_and_restore(server: Server, live: dict[str, t.Any]) -> None:
    code, taken, errors = run(live, "take", "--reason", "a test")
    assert code == 0, errors
    assert (taken["rows"], taken["tables"], taken["revision"], taken["copied"]) == (101, 3, ["0001"], None)
    path = Path(taken["directory"])
    modes = {found.name: found.stat().st_mode & 0o777 for found in (path, *path.iterdir())}
    assert modes == {path.name: 0o700, "database.dump": 0o600, "roles.sql": 0o600, "manifest.json": 0o600}
    assert "SCRAM-SHA-256" in (path / "roles.sql").read_text()
    written = json.loads((path / "manifest.json").read_text())
    assert written["rows"] == {"Odd one.it's": 0, "public.alembic_version": 1, "public.evidence": 100}
    assert written["reason"] == "a test" and written["extensions"].keys() == {"plpgsql", "citext"}

    code, proof, errors = run(live, "prove")
    assert (code, proof["proven"], proof["backup"]) == (0, True, path.name), errors
    assert json.loads((path / "proof.json").read_text()) == proof
    assert databases(server) == ["postgres", "truthgraph"]

    # What was acknowledged since is lost by a restore, and said before.
    server.sql("INSERT INTO evidence SELECT n, 'later' FROM generate_series(101, 107) AS n; "
               "DROP TABLE \"Odd one\".\"it's\"", "truthgraph")
    code, counted, errors = run(live, "restore", "latest", "--count")
    assert (code, counted["lost"], counted["exists"]) == (0, 7, True), errors
    assert counted["differences"] == [{"table": "public.evidence", "before": 107, "after": 100}]
    assert databases(server) == ["postgres", "truthgraph"]

    # Somebody is connected, as the API always is, and comes back at once.
    psql = f"{TOOLS[-1]}/psql -qXh {server.home}/socket -U postgres truthgraph -c 'SELECT pg_sleep(9)'"
    client = subprocess.Popen(
        ["sh", "-c", f"while :; do {psql}; done"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(0.3)
        code, restored, errors = run(live, "restore", path.name)
    finally:
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
    assert code == 0, errors
    assert (restored["rows"], restored["lost"], restored["revision"]) == (101, 7, ["0001"])
    kept = restored["kept"]
    assert kept.startswith("truthgraph_before_") and restored["drop"] == f'DROP DATABASE "{kept}";'
    assert databases(server) == ["postgres", "truthgraph", kept]
    assert server.sql("SELECT count(*) FROM evidence", "truthgraph") == "100"
    assert server.sql("SELECT count(*) FROM evidence", kept) == "107"
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'truthgraph'"
    assert server.sql(owner) == "truthgraph"
    assert server.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'evidence'", "truthgraph") == "truthgraph"


def test_a_database_that_is_gone_comes_back_with_its_owner(server: Server, live: dict[str, t.Any]) -> None:
    assert run(live, "take")[0] == 0
    hashed = "SELECT rolpassword FROM pg_authid WHERE rolname = 'truthgraph'"
    before = server.sql(hashed)
    server.sql("DROP DATABASE truthgraph")
    server.sql("DROP ROLE truthgraph")
    code, restored, errors = run(live, "restore", "latest")
    assert (code, restored.get("kept"), restored.get("role_created")) == (0, "", True), errors
    assert server.sql("SELECT count(*) FROM evidence", "truthgraph") == "100"
    assert server.sql(hashed) == before


def test_rows_that_come_meanwhile_are_in_neither_count_nor_dump(server: Server, live: dict[str, t.Any]) -> None:
    # What is inserted after the snapshot is not in the dump, and is not counted either.
    with program.Session(live, "truthgraph") as session:
        snapshot = session.begin()
        server.sql("INSERT INTO evidence VALUES (1000, 'late')", "truthgraph")
        found = program.describe(session)
        dump = program.output_of([program.dump_command(live, snapshot)])
    assert found["rows"]["public.evidence"] == 100
    assert dump[:5] == b"PGDMP"


def test_a_backup_that_was_changed_is_neither_proven_nor_restored(server: Server, live: dict[str, t.Any]) -> None:
    path = Path(run(live, "take")[1]["directory"])
    dump = path / "database.dump"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    for arguments in (["prove"], ["restore", "latest"], ["restore", "latest", "--count"]):
        code, _, errors = run(live, *arguments)
        assert code == 1 and "SHA-256 differs" in errors and errors.count("\n") == 1, errors
    assert json.loads((path / "proof.json").read_text())["proven"] is False
    # Even if somebody makes the checksum right.
    written = json.loads((path / "manifest.json").read_text())
    written["files"]["database"]["sha256"] = program.digest_of(str(dump))
    written["rows"]["public.evidence"] = 99
    (path / "manifest.json").write_text(json.dumps(written))
    for arguments in (["prove"], ["restore", "latest"]):
        assert run(live, *arguments)[0] == 1
    assert databases(server) == ["postgres", "truthgraph"]
    assert server.sql("SELECT count(*) FROM evidence", "truthgraph") == "100"


def test_databases_of_dead_runs_are_dropped(server: Server, live: dict[str, t.Any]) -> None:
    assert run(live, "take")[0] == 0
    for name in ("truthgraph_proof_0123abcd", "truthgraph_restoring_0123abcd", "truthgraph_proof_mine"):
        server.sql(f"CREATE DATABASE {name}")
    assert run(live, "prove")[0] == 0
    assert databases(server) == ["postgres", "truthgraph", "truthgraph_proof_mine"]


def test_a_failed_switch_changes_nothing(
    server: Server, live: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(live, "take")[0] == 0
    monkeypatch.setattr(program, "SWITCH_TRIES", 1)
    # The name for the earlier database is taken, so that the renaming fails.
    names = {True: "truthgraph_taken", False: "truthgraph_restoring_0123abcd"}
    monkeypatch.setattr(program, "derived_name", lambda _name, suffix: names["before" in suffix])
    server.sql("CREATE DATABASE truthgraph_taken")
    with pytest.raises(program.Problem, match="could not be renamed, so truthgraph is what it was"):
        program.restore(live, "latest", "truthgraph", 0, False)
    assert databases(server) == ["postgres", "truthgraph", "truthgraph_taken"]
    assert server.sql("SELECT count(*) FROM evidence", "truthgraph") == "100"


def test_what_a_restore_has_kept_can_be_put_back(server: Server, live: dict[str, t.Any]) -> None:
    assert run(live, "take")[0] == 0
    server.sql("DELETE FROM evidence WHERE id > 10", "truthgraph")
    _, restored, _ = run(live, "restore", "latest")
    time.sleep(1)
    code, answer, errors = run(live, "exchange", restored["kept"])
    assert code == 0, errors
    assert (server.sql("SELECT count(*) FROM evidence", "truthgraph")) == "10"
    assert (server.sql("SELECT count(*) FROM evidence", answer["kept"])) == "100"
    assert databases(server) == ["postgres", "truthgraph", answer["kept"]]
    # Nothing else gets the name.
    for other in ("postgres", "truthgraph", "truthgraph_before_20260101t000000z", restored["kept"] + '" --'):
        code, _, errors = run(live, "exchange", other)
        assert code == 1 and "There is no database" in errors, errors


def test_a_failed_take_leaves_nothing(server: Server, live: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: t.Any) -> t.NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(program, "store", full)
    with pytest.raises(program.Problem, match="is full, so no backup was kept"):
        program.take(live, "test", 0)
    assert [name for name in os.listdir(live["directory"]) if name != ".lock"] == []
    code, _, errors = run({**live, "database": "nothing"}, "take")
    assert code == 1 and 'database "nothing" does not exist' in errors and errors.count("\n") == 1


def test_an_ended_take_leaves_nothing(server: Server, live: dict[str, t.Any]) -> None:
    # Somebody has the table, so that the dump waits.
    with program.Session(live, "truthgraph") as other:
        other.ask("BEGIN")
        other.ask("LOCK TABLE evidence IN ACCESS EXCLUSIVE MODE")
        with subprocess.Popen(command(live, "take"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 20
            while not list(Path(live["directory"]).glob("*.partial")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            code, _, errors = run(live, "take")
            assert code == 1 and f"process {process.pid} (take" in errors
            process.terminate()
            process.wait(20)
    assert process.returncode == 143
    assert [name for name in os.listdir(live["directory"]) if name != ".lock"] == []


def test_a_failed_copy_keeps_the_backup(server: Server, live: dict[str, t.Any]) -> None:
    code, taken, errors = run({**live, "copy_command": ["sh", "-c", "echo no way >&2; exit 7"]}, "take")
    assert (code, taken["copied"]) == (2, False) and "no way" in errors and "is kept" in errors
    assert Path(taken["directory"]).is_dir()
    code, taken, _ = run({**live, "copy_command": ["cp", "-r", "-t", str(Path(live["directory"]).parent)]}, "take")
    assert (code, taken["copied"]) == (0, True)
    assert (Path(live["directory"]).parent / taken["backup"] / "manifest.json").is_file()
    _, listed, _ = run(live, "list")
    assert listed["backups"][0]["backup"] == taken["backup"] and len(listed["backups"]) == 2
    assert run({**live, "keep_last": 1, "keep_daily": 0, "keep_weekly": 0}, "prune")[1]["kept"] == [taken["backup"]]


def test_an_encrypted_backup_comes_back(server: Server, live: dict[str, t.Any], tmp_path: Path) -> None:
    if not shutil.which("gpg"):
        pytest.skip("gpg is not on this machine")
    with tempfile.TemporaryDirectory(prefix="tg-") as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", ""]
        subprocess.run([*gpg, "--quick-generate-key", "test", "rsa2048", "encr"], check=True, capture_output=True)
        for name, what in (("public", "--export"), ("secret", "--export-secret-keys")):
            done = subprocess.run([*gpg, "--armor", what, "test"], check=True, capture_output=True)
            (tmp_path / name).write_bytes(done.stdout)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
    live = {**live, "encryption": "gpg", "recipients_files": [str(tmp_path / "public")]}
    code, taken, errors = run(live, "take")
    assert code == 0 and taken["files"] == ["database.dump.gpg", "roles.sql.gpg"], errors
    code, _, errors = run(live, "prove")
    assert code == 1 and "no identity file is configured" in errors and errors.count("\n") == 1
    assert not Path(taken["directory"], "proof.json").exists()
    live["identity_file"] = str(tmp_path / "secret")
    code, proof, errors = run(live, "prove")
    assert code == 0 and proof["proven"], errors
