# What becomes of the data when a release with a migration is returned from, with writers at work before, during and after.
# The tests run in their order; each leaves the reference release and its schema, or says so.
import contextlib
import json
import re
import subprocess
import time
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, Playbook, Run, play
from ansible_collections.truthgraph.platform.molecule.shared.writer import Writer, psql, stored

BEFORE, AFTER = "0001", "0002"
# The key of the advisory lock that a run holds while it works on the schema, and the name of who has it here.
ADVISORY_LOCK = 8317604429150761
SOMEBODY = "a_test_that_has_the_lock"


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def cpu1(fleet: Fleet) -> Host:
    return fleet.hosts["cpu1"]


def revision(cpu1: Host, database: str = "truthgraph") -> str:
    return psql(cpu1, "SELECT version_num FROM alembic_version", database).strip()


def count(cpu1: Host, what: str = "*", database: str = "truthgraph") -> int:
    return int(psql(cpu1, f"SELECT count({what}) FROM evidence", database))


def databases(cpu1: Host) -> set[str]:
    return set(psql(cpu1, "SELECT datname FROM pg_database WHERE NOT datistemplate", "postgres").split())


def entries(cpu1: Host, event: str) -> list[dict[str, t.Any]]:
    return [entry for entry in cpu1.look().journal if entry["event"] == event]


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


def refused(run: Run, *words: str) -> None:
    assert run.code != 0, str(run)
    for one in words:
        assert re.search(one, run.last_words), f"{one}\n{run}"


@pytest.fixture(scope="module", autouse=True)
def as_it_was(fleet: Fleet, cpu1: Host) -> t.Iterator[None]:
    # The images are built before the first test; each begins with the reference release and its schema.
    for name, change in (("adds-a-note", rollout.adds_a_note), ("takes-a-column-away", rollout.takes_a_column_away),
                         ("cannot-be-taken-back", rollout.cannot_be_taken_back)):
        fleet.tree(name, change)
    fleet.bring("reference")
    assert revision(cpu1) == BEFORE and databases(cpu1) == {"postgres", "truthgraph"}
    yield
    for name in databases(cpu1):
        if name.startswith("truthgraph_before_"):
            psql(cpu1, f'DROP DATABASE "{name}"', "postgres")
    if revision(cpu1) != BEFORE:
        fleet.bring("adds-a-note")
        good(play("rollback", {"release": fleet.once("reference"), "rollback_data": "downgrade", "rollback_confirmed": True}))


@pytest.fixture
def writer(cpu1: Host) -> t.Iterator[Writer]:
    with Writer() as writing:
        time.sleep(1)
        yield writing
    writing.forget(cpu1)


def settled(writer: Writer, cpu1: Host) -> None:
    # Some more rows afterwards; then nobody has seen a failure, and everything is there.
    time.sleep(1)
    assert len(writer.acknowledged) > 50
    assert writer.failed == []
    assert writer.lost(cpu1) == []


def unchanged(fleet: Fleet, cpu1: Host, release: str, there: str) -> None:
    fleet.check_serves(release)
    assert revision(cpu1) == there
    assert "truthgraph_rehearsal" not in databases(cpu1)


@contextlib.contextmanager
def session(cpu1: Host, sql: str, name: str = SOMEBODY) -> t.Iterator[None]:
    # A session of the application's role that does something for as long as it is wanted.
    command = ["docker", "exec", "-e", f"PGAPPNAME={name}", "truthgraph-postgres", "psql", "-XqU", "postgres", "-d", "truthgraph"]
    statements = f"SET ROLE truthgraph; {sql}; SELECT pg_sleep(300)"
    running = subprocess.Popen(["docker", "exec", cpu1.container, *command, "-c", statements], stdout=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield
    finally:
        psql(cpu1, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'", "postgres")
        running.wait(30)


def test_a_statement_that_takes_too_long_changes_nothing(fleet: Fleet, cpu1: Host, writer: Writer) -> None:
    old = fleet.release
    run = play("deploy", {**fleet.tree("adds-a-note"), "api_migrate_statement_timeout": "1s"})
    refused(run, r"more than 1s \(api_migrate_statement_timeout\)", "No request went to the new release")
    unchanged(fleet, cpu1, old, BEFORE)
    refused(play("deploy", {**fleet.tree("adds-a-note"), "api_migrate_statement_timeout": "soon"}), "is 'soon'. Write it as")
    settled(writer, cpu1)


def test_a_migration_that_waits_for_a_lock_gives_up(fleet: Fleet, cpu1: Host, writer: Writer) -> None:
    old = fleet.release
    with session(cpu1, "BEGIN; LOCK TABLE evidence IN ACCESS SHARE MODE"):
        run = play("deploy", {**fleet.tree("adds-a-note"), "api_migrate_lock_timeout": "1s"})
    refused(run, r"lock for more than 1s \(api_migrate_lock_timeout\)", "No request went to the new release")
    unchanged(fleet, cpu1, old, BEFORE)
    settled(writer, cpu1)


def test_who_else_works_on_the_schema_is_said(fleet: Fleet, cpu1: Host) -> None:
    old = fleet.release
    with session(cpu1, f"SELECT pg_advisory_lock({ADVISORY_LOCK})"):
        run = play("deploy", {**fleet.tree("adds-a-note"), "api_migrate_wait": 1})
    refused(run, r"not done after 1 s \(api_migrate_wait\): " + SOMEBODY)
    unchanged(fleet, cpu1, old, BEFORE)


def test_keep_leaves_the_schema_and_every_row(fleet: Fleet, cpu1: Host, writer: Writer) -> None:
    old = fleet.release
    good(fleet.deploy("adds-a-note"))
    time.sleep(1)
    assert revision(cpu1) == AFTER
    good(play("rollback"))
    fleet.check_serves(old)
    assert revision(cpu1) == AFTER and count(cpu1, "note") > 0
    settled(writer, cpu1)


def test_two_migrations_at_once_take_turns(fleet: Fleet, cpu1: Host) -> None:
    # After the test before, the reference release serves and can live with either schema.
    [image] = {one["images"]["core"] for one in cpu1.look().records.values() if AFTER in one["schema"].get("known", ())}
    back = {"image": image, "api_migrate_action": "downgrade", "api_migrate_keep": [BEFORE]}
    good(play("migrate", back))
    assert revision(cpu1) == BEFORE
    with Playbook("migrate", {"image": image}) as first, Playbook("migrate", {"image": image}) as second:
        runs = [good(one.result()) for one in (first, second)]
    assert sorted(sum(run.changed.values()) for run in runs) == [0, 1], runs
    assert revision(cpu1) == AFTER


def test_downgrade_says_what_goes_and_loses_no_row(fleet: Fleet, cpu1: Host, writer: Writer) -> None:
    old, new = fleet.release, fleet.bring("adds-a-note")
    time.sleep(1)
    run = play("rollback", {"release": old, "rollback_data": "downgrade"})
    refused(run, "Taking back 0002 would lose [0-9]+ rows or values", "rollback_confirmed=true", "No request would fail")
    assert re.search(r"^column +public\.evidence\.note +[1-9]", run.said, re.MULTILINE), run.said
    unchanged(fleet, cpu1, new, AFTER)
    run = good(play("rollback", {"release": old, "rollback_data": "downgrade", "rollback_confirmed": True}))
    unchanged(fleet, cpu1, old, BEFORE)
    settled(writer, cpu1)
    entry = entries(cpu1, "downgrade")[-1]
    assert (entry["result"], entry["revisions"], entry["release"]) == ("done", [AFTER], old), entry
    noted = sum(one["count"] for one in entry["lost"])
    assert noted > 0 and f"Gone with it are {noted} rows or values; they are in backup {entry['backup']}" in plain(run.said)
    proof = json.loads(cpu1.run("cat", f"/var/lib/truthgraph/backups/{entry['backup']}/proof.json"))
    assert proof["proven"]
    seen = cpu1.look()
    assert seen.records[old]["data"]["how"] == "downgrade" and seen.records[new]["schema"]["taken_back"] == [AFTER]
    # The release whose migration is gone is not returned to, but deployed.
    refused(play("rollback", {"release": new}), f"{new} cannot be returned to: 0002, which it needs, was taken back; deploy it")
    unchanged(fleet, cpu1, old, BEFORE)


def test_restore_loses_what_it_has_said_and_keeps_it(fleet: Fleet, cpu1: Host, writer: Writer) -> None:
    old = fleet.release
    good(fleet.deploy("adds-a-note"))
    new = fleet.release
    assert revision(cpu1) == AFTER
    time.sleep(1)
    run = good(play("rollback", {"list": True}))
    row = re.search(rf"^{old} .* yes +takes back 0002 +(\S+), ([0-9]+) rows$", run.said, re.MULTILINE)
    assert row, run.said
    taken = json.loads(cpu1.run("cat", f"/var/lib/truthgraph/backups/{row[1]}/manifest.json"))
    assert taken["reason"] == f"before the migration to release {new}" and taken["revision"] == [BEFORE]
    run = play("rollback", {"release": old, "rollback_data": "restore"})
    refused(run, f"Backup {row[1]} is of", "[1-9][0-9]* rows that are there now would be lost", "rollback_confirmed=true")
    unchanged(fleet, cpu1, new, AFTER)
    run = good(play("rollback", {"release": old, "rollback_data": "restore", "rollback_confirmed": True}))
    time.sleep(1)
    [kept] = [name for name in databases(cpu1) if name.startswith("truthgraph_before_")]
    unchanged(fleet, cpu1, old, BEFORE)
    # What is not in the one is in the other, and it is as much as was said.
    query = f"SELECT text FROM evidence WHERE source = '{writer.source}'"
    acknowledged = set(writer.acknowledged)
    now, then = stored(cpu1, writer.source), set(psql(cpu1, query, kept).splitlines())
    assert acknowledged <= now | then
    announced = count(cpu1, database=kept) - taken["rows"]["public.evidence"]
    entry = entries(cpu1, "restore")[-1]
    assert (entry["result"], entry["rows"], entry["kept"], entry["backup"]) == ("done", announced, kept, row[1]), entry
    assert f"{announced} rows that were there before are not in it. What was there is kept as {kept}." in plain(run.said)
    assert len(acknowledged - now) <= announced
    print(f"restore: {len(acknowledged)} acknowledged, {announced} announced, {len(acknowledged - now)} of the writer's, "
          f"{len(writer.failed)} failed {writer.failed[:3]}")
    psql(cpu1, f'DROP DATABASE "{kept}"', "postgres")


def test_a_contraction_is_kept_from_earlier_releases_and_taken_back_before(fleet: Fleet, cpu1: Host, writer: Writer) -> None:
    old = fleet.release
    good(fleet.deploy("takes-a-column-away"))
    new = fleet.release
    run = play("rollback", {"release": old})
    refused(run, "0002 took away what it uses", "rollback_data=downgrade takes 0002 back", "rollback_data=restore", "asks")
    refused(play("rollback", {"release": old, "rollback_data": "downgrade"}), "requests may fail", "rollback_confirmed=true")
    unchanged(fleet, cpu1, new, AFTER)
    good(play("rollback", {"release": old, "rollback_data": "downgrade", "rollback_confirmed": True}))
    unchanged(fleet, cpu1, old, BEFORE)
    assert psql(cpu1, "SELECT count(*) FROM evidence WHERE created_at IS NULL") == "0"
    journal = cpu1.look().journal
    assert [entry["event"] for entry in journal[-2:]] == ["downgrade", "rollback"], journal[-3:]
    settled(writer, cpu1)


def test_a_failure_after_the_data_was_changed_brings_it_back(fleet: Fleet, cpu1: Host) -> None:
    old = fleet.release
    good(fleet.deploy("takes-a-column-away"))
    new = fleet.release
    options = {"release": old, "rollback_data": "downgrade", "rollback_confirmed": True}
    with Playbook("rollback", options) as running:
        running.until_task("Prepare")
        assert revision(cpu1) == BEFORE
        with fleet.hosts["cpu2"].cut_off():
            running.go_on()
            run = running.result()
    refused(run, "cpu2: cannot be reached")
    assert revision(cpu1) == AFTER
    assert [entry["result"] for entry in entries(cpu1, "downgrade")][-2:] == ["done", "undone"]
    good(play("status"))
    unchanged(fleet, cpu1, new, AFTER)
    good(play("rollback", options))
    unchanged(fleet, cpu1, old, BEFORE)


def test_what_cannot_be_taken_back_is_refused(fleet: Fleet, cpu1: Host, writer: Writer) -> None:
    old = fleet.release
    good(fleet.deploy("cannot-be-taken-back"))
    new = fleet.release
    before = cpu1.run("ls", "/var/lib/truthgraph/backups")
    run = play("rollback", {"release": old, "rollback_data": "downgrade"})
    refused(run, "0002 cannot be taken back", "rollback_data=restore")
    unchanged(fleet, cpu1, new, AFTER)
    assert cpu1.run("ls", "/var/lib/truthgraph/backups") == before
    settled(writer, cpu1)
    good(play("rollback", {"release": old, "rollback_data": "restore", "rollback_confirmed": True}))
    unchanged(fleet, cpu1, old, BEFORE)
