# From Postgres 15 to 17 on the lab's database host: a real server of the old version with the application's data, clients
# that store evidence all the while, and both versions' own programs. The lab's own volume is set aside for the time, and
# serves again at the end.
import contextlib
import json
import re
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, Playbook, Run, play
from ansible_collections.truthgraph.platform.molecule.shared.writer import Writer, psql, stored

OLD = "truthgraph-test-upgrade"
NEW = f"{OLD}-17"
LABS = "truthgraph-postgres-data"
IN_15 = {"postgres_volume": OLD, "fleet_database_version": 15}
IN_17 = {"postgres_volume": OLD, "fleet_database_version": 17}
NOTES, BACKUPS = "/etc/truthgraph/postgres", "/var/lib/truthgraph/backups"
COPIES = """
INSERT INTO evidence (content_sha256, text, source, embedding)
SELECT sha256(convert_to('copy ' || number, 'UTF8')), 'copy ' || number, 'copies', embedding
FROM generate_series(1, 2000) AS number, (SELECT embedding FROM evidence LIMIT 1) AS one
"""
SAID: dict[str, t.Any] = {}


def plain(text: str) -> str:
    return " ".join(text.split())


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


def upgrade(**variables: t.Any) -> Run:
    return play("upgrade_postgres", {**IN_17, **variables})


@pytest.fixture(scope="module")
def cpu1(fleet: Fleet) -> Host:
    return fleet.hosts["cpu1"]


def running(cpu1: Host) -> tuple[int, str, str]:
    # Version, volume and number of the container that serves.
    found = json.loads(cpu1.run("docker", "inspect", "truthgraph-postgres"))[0]
    [volume] = [mount["Name"] for mount in found["Mounts"] if mount["Type"] == "volume"]
    return int(psql(cpu1, "SHOW server_version_num")) // 10000, volume, found["Id"]


def volumes(cpu1: Host) -> set[str]:
    return {name for name in cpu1.run("docker", "volume", "ls", "--quiet").split() if name.startswith(OLD)}


def contents(cpu1: Host) -> list[str]:
    # What must be the same before and after: the rows, the schema's revision, and the roles with their passwords. Of the
    # superuser's, which is set anew, the salt differs.
    return [
        psql(cpu1, "SELECT id, text, source, embedding FROM evidence ORDER BY id"),
        psql(cpu1, "SELECT version_num FROM alembic_version"),
        psql(
            cpu1,
            "SELECT rolname, rolcanlogin, rolsuper, rolpassword FROM pg_authid "
            "WHERE rolname !~ '^(pg_|postgres)' ORDER BY 1",
        ),
    ]


def nothing_is_left(cpu1: Host) -> None:
    assert cpu1.look().lock is None
    assert "truthgraph-postgres-upgrade" not in cpu1.look().containers
    assert psql(cpu1, "SHOW default_transaction_read_only") == "off"
    assert cpu1.run("ls", NOTES).split().count("upgrade.json") == 0


def said(name: str, text: t.Any) -> None:
    SAID[name] = text


def seen(writer: Writer) -> dict[str, t.Any]:
    # From the first refused write to the end of the last one.
    times = [(one.began, one.ended) for one in writer.failed]
    return {
        "acknowledged": len(writer.acknowledged),
        "failed": len(times),
        "by status": sorted({one.status for one in writer.failed}),
        "seconds": round(max(end for _, end in times) - min(begin for begin, _ in times), 1) if times else 0,
    }


@contextlib.contextmanager
def no_login_in_17(cpu1: Host) -> t.Iterator[None]:
    # As soon as the new version serves, the API may not log in any more.
    psql_in = "docker exec -i truthgraph-postgres psql -XAtU postgres"
    script = (
        f"until {psql_in} -c 'SHOW server_version' </dev/null 2>/dev/null | grep -q ^17; do sleep 0.1; done; {psql_in} <<'END'\n"
        "SET default_transaction_read_only = off;\n"
        "SELECT format('ALTER ROLE %I NOLOGIN', rolname) FROM pg_roles WHERE rolname LIKE 'truthgraph%' \\gexec\n"
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'truthgraph%';\nEND"
    )
    cpu1.run("systemd-run", "--collect", "--unit=test-upgrade-break", "sh", "-c", script)
    try:
        yield
    finally:
        cpu1.run("systemctl", "stop", "test-upgrade-break.service", check=False)


@pytest.fixture(scope="module", autouse=True)
def fifteen(fleet: Fleet, cpu1: Host) -> t.Iterator[None]:
    before, backups = running(cpu1), cpu1.run("ls", BACKUPS).split()
    assert before[:2] == (17, LABS), before
    try:
        good(play("postgres_of", IN_15))
        with Writer() as writer:
            writer.recovered(0, 120)
        assert running(cpu1)[:2] == (15, OLD)
        # A role that the fleet does not know, with a password of its own and a right.
        psql(cpu1, "CREATE ROLE reader LOGIN PASSWORD 'only-for-this-test'; GRANT SELECT ON evidence TO reader")
        yield
    finally:
        if "upgrade.json" in cpu1.run("ls", NOTES).split():
            good(upgrade())  # A test that failed has left it so.
        good(play("postgres_of", {"fleet_database_version": 17}))
        assert running(cpu1)[:2] == before[:2]
        cpu1.run("docker", "rm", "--force", "truthgraph-postgres-upgrade", check=False)
        for name in volumes(cpu1):
            cpu1.run("docker", "volume", "rm", name)
        cpu1.run("rm", "-f", f"{NOTES}/volumes.json", f"{NOTES}/upgrade.json")
        for name in set(cpu1.run("ls", BACKUPS).split()) - set(backups):
            cpu1.run("rm", "-r", f"{BACKUPS}/{name}")
        good(play("verify"))
        print(json.dumps(SAID, indent=2))


def test_a_deploy_with_another_version_is_refused(fleet: Fleet, cpu1: Host) -> None:
    before = running(cpu1), fleet.look()
    run = play("deploy", {**IN_17, **fleet.tree("reference", build=False)})
    assert run.code != 0 and run.changed == {}, str(run)
    for word in (OLD, "Postgres 15", "fleet_database_version is 17", "playbooks/upgrade_postgres.yml", "Nothing was changed"):
        assert word in run.last_words, run.last_words
    # The way down is none, and no way.
    down = {"postgres_volume": LABS, "fleet_database_version": 15}
    run = play("deploy", {**down, **fleet.tree("reference", build=False)})
    assert run.code != 0 and run.changed == {}, str(run)
    for word in ("Postgres 17", "fleet_database_version is 15", "no way down", "Set fleet_database_version to 17"):
        assert word in run.last_words, run.last_words
    run = play("upgrade_postgres", down)
    assert run.code != 0 and "no way down" in run.last_words and run.changed == {}, str(run)
    assert (running(cpu1), fleet.look()) == before


def test_a_rehearsal_touches_nothing_that_serves(cpu1: Host) -> None:
    before = running(cpu1), contents(cpu1)
    with Writer() as writer:
        run = good(upgrade())
    assert writer.failed == [] and writer.lost(cpu1) == []
    writer.forget(cpu1)
    assert (running(cpu1), contents(cpu1)) == before
    told = plain(run.said)
    said("rehearsal", f"{run.seconds:.0f} s: Rehearsed{told.partition('Rehearsed')[2][:891]}")
    assert re.search(r"get errors for about \d+ seconds", told) and "upgrade_confirmed=true" in told, told
    assert volumes(cpu1) == {OLD, NEW} and NEW in told
    nothing_is_left(cpu1)


def test_check_mode_only_says_it(cpu1: Host) -> None:
    before = running(cpu1), volumes(cpu1)
    run = good(play("upgrade_postgres", {**IN_17, "upgrade_confirmed": True}, "--check"))
    assert run.changed == {} and "15 to 17" in run.said and (running(cpu1), volumes(cpu1)) == before, str(run)


def test_a_failure_before_a_write_was_refused_changes_nothing(cpu1: Host) -> None:
    before = running(cpu1), contents(cpu1)
    with Writer() as writer:
        run = upgrade(upgrade_confirmed=True, fleet_database_password="another-one")
    assert run.code != 0 and "cannot log in to the new version" in run.last_words, str(run)
    assert "deploy first" in run.last_words
    assert writer.failed == [] and writer.lost(cpu1) == []
    writer.forget(cpu1)
    assert (running(cpu1), contents(cpu1)) == before
    nothing_is_left(cpu1)


def test_a_failure_after_the_switch_goes_back_and_loses_nothing(cpu1: Host) -> None:
    before = running(cpu1)
    with Writer() as writer:
        with no_login_in_17(cpu1):
            run = upgrade(upgrade_confirmed=True, postgres_upgrade_api_retries=3)
        assert run.code != 0 and "serves again" in run.last_words and "did not answer well" in run.last_words, str(run)
        writer.recovered(0, 60)
    assert running(cpu1)[:2] == before[0:2]
    assert writer.failed and writer.lost(cpu1) == []
    said("taken back", f"{run.seconds:.0f} s: {run.last_words}")
    said("taken back, as clients saw it", seen(writer))
    writer.forget(cpu1)
    nothing_is_left(cpu1)


def test_a_run_that_is_killed_is_recognised(fleet: Fleet, cpu1: Host) -> None:
    with Writer() as writer:
        with Playbook("upgrade_postgres", {**IN_17, "upgrade_confirmed": True}) as killed:
            killed.until_task("Note when it answers again", role="postgres")
            killed.kill()
        # The new version serves, and nobody may write to it.
        assert running(cpu1)[:2] == (17, NEW)
        run = play("deploy", {**IN_15, **fleet.tree("reference", build=False)})
        assert run.code != 0 and "was interrupted" in run.last_words and run.changed == {}, str(run)
        run = good(upgrade())
        assert "is taken back" in plain(run.said), run.said
        writer.recovered(0, 60)
    assert running(cpu1)[:2] == (15, OLD) and writer.lost(cpu1) == []
    said("killed, then taken back", f"{run.seconds:.0f} s")
    said("killed, as clients saw it", seen(writer))
    writer.forget(cpu1)
    nothing_is_left(cpu1)


def test_the_upgrade(cpu1: Host) -> None:
    before = contents(cpu1)
    with Writer() as writer:
        writer.recovered(0, 60)
        run = good(upgrade(upgrade_confirmed=True))
        writer.recovered(0, 60)
    assert running(cpu1)[:2] == (17, NEW)
    assert writer.lost(cpu1) == []
    # What was refused was said to be refused, and nothing else went wrong.
    assert {one.status for one in writer.failed} <= {0, 500, 502, 503, 504}, writer.failed[:3]
    said("upgrade", f"{run.seconds:.0f} s: {plain(run.said)[-700:]}")
    said("upgrade, as clients saw it", seen(writer))
    writer.forget(cpu1)
    assert contents(cpu1) == before
    assert psql(cpu1, "SELECT has_table_privilege('reader', 'evidence', 'SELECT')") == "t"
    assert psql(cpu1, "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'evidence'") == "t"
    told = plain(run.said)
    assert f"volume {OLD}, of Postgres 15, is kept" in told and "upgrade_back=true" in told, told
    assert volumes(cpu1) == {OLD, NEW}
    nothing_is_left(cpu1)


def test_a_second_run_has_nothing_to_do(fleet: Fleet, cpu1: Host) -> None:
    before = running(cpu1)
    run = good(upgrade(upgrade_confirmed=True))
    assert run.changed == {} and "There is nothing to do" in run.said, str(run)
    # The role itself, as a deploy runs it, finds everything as it wants it.
    run = good(play("postgres_of", IN_17))
    assert "cpu1" not in run.changed and running(cpu1) == before, str(run)
    run = play("deploy", {**IN_15, **fleet.tree("reference", build=False)})
    assert run.code != 0 and OLD in run.last_words and "upgrade_back=true" in run.last_words, str(run)


def test_the_way_back_says_what_it_loses(cpu1: Host) -> None:
    with Writer() as writer:
        writer.recovered(0, 60)
    # More than earlier tests have taken away since the upgrade.
    psql(cpu1, COPIES)
    then = json.loads(cpu1.run("cat", f"{NOTES}/volumes.json"))[OLD]["before"]["rows"]["public.evidence"]
    more = int(psql(cpu1, "SELECT count(*) FROM evidence")) - then
    run = upgrade(upgrade_back=True)
    assert run.code != 0 and more > 0 and f"there are {more} rows more than then" in run.last_words, str(run)
    assert "public.evidence" in run.last_words and running(cpu1)[:2] == (17, NEW)
    run = good(upgrade(upgrade_back=True, upgrade_confirmed=True))
    assert running(cpu1)[:2] == (15, OLD)
    assert stored(cpu1, writer.source) == set() and volumes(cpu1) == {OLD, NEW}
    with Writer() as again:
        again.recovered(0, 60)
    assert again.lost(cpu1) == []
    again.forget(cpu1)
    said("way back", f"{run.seconds:.0f} s")
    nothing_is_left(cpu1)
