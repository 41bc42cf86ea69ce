# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any moment of the database on the lab's hosts: kept, proven, brought back after a disaster, and not kept any more.

Nothing is simulated: what is deleted here is really deleted, and comes back from what Barman has or not at all.
"""

from __future__ import annotations

import datetime
import json
import re
import time
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, Run, play
from ansible_collections.truthgraph.platform.molecule.shared.writer import Writer, psql, stored

KEPT = {"backup_point_in_time": True}
ROLE = "truthgraph_barman"
UNITS = ("truthgraph-barman-wal.service", "truthgraph-barman-cron.timer", "truthgraph-point-in-time.timer",
         "truthgraph-point-in-time-prove.timer")
PASSFILE = "/etc/barman.d/truthgraph.pgpass"
RECOVERED = "/var/lib/truthgraph/backups/recovered"


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


def plain(text: str) -> str:
    return " ".join(text.split())


def moments(cpu1: Host) -> dict[str, t.Any]:
    listed: dict[str, t.Any] = json.loads(cpu1.run("truthgraph-point-in-time", "list", "--json"))
    return listed


def now(cpu1: Host) -> str:
    """The moment, as Postgres sees it."""
    return psql(cpu1, "SELECT clock_timestamp() AT TIME ZONE 'UTC'").strip() + "+00"


def databases(cpu1: Host) -> set[str]:
    return set(psql(cpu1, "SELECT datname FROM pg_database WHERE NOT datistemplate").split())


def drop_kept(cpu1: Host) -> None:
    for name in databases(cpu1):
        if name.startswith("truthgraph_before_"):
            psql(cpu1, f'DROP DATABASE "{name}"', "postgres")


def no_slot_no_role(cpu1: Host) -> bool:
    roles = f"SELECT rolname FROM pg_roles WHERE rolname = '{ROLE}'"
    return psql(cpu1, f"SELECT slot_name FROM pg_replication_slots UNION {roles}") == ""


@pytest.fixture(scope="module")
def cpu1(fleet: Fleet) -> Host:
    return fleet.hosts["cpu1"]


@pytest.fixture(scope="module", autouse=True)
def kept(fleet: Fleet, cpu1: Host) -> t.Iterator[Run]:
    """Every moment is kept while these tests run. Afterwards the lab is as it was."""
    fleet.bring("reference")
    first = good(fleet.deploy("reference", **KEPT))
    try:
        yield first
    finally:
        good(fleet.deploy("reference"))
        drop_kept(cpu1)
        # What people would keep.
        cpu1.run("sh", "-c", f"rm -rf {RECOVERED} /var/lib/barman/truthgraph-*")


def test_it_is_turned_on_by_a_deploy(cpu1: Host, fleet: Fleet) -> None:
    for unit in UNITS:
        assert cpu1.run("systemctl", "is-enabled", unit).strip() == "enabled", unit
        assert cpu1.run("systemctl", "is-active", unit).strip() == "active", unit
    [chain] = moments(cpu1)["chains"]
    assert chain["bases"] == 1 and chain["first"] < chain["last"], chain
    # Postgres was not restarted, and a second run finds everything as it is, also where it looks at the hosts anew.
    again = good(play("backup", {**KEPT, "backup_prove": False}))
    assert again.changed == {"cpu1": 1}, again.changed  # The backup itself.
    assert not good(fleet.deploy("reference", **KEPT)).changed


def test_barman_may_replicate_and_nothing_else(cpu1: Host) -> None:
    flags = "rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication, rolcanlogin"
    assert psql(cpu1, f"SELECT {flags} FROM pg_roles WHERE rolname = '{ROLE}'").strip() == "f|f|f|f|t|t"
    assert psql(cpu1, f"SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname = '{ROLE}'").strip() == "SCRAM-SHA-256$"
    rules = psql(cpu1, f"SELECT type, address, auth_method FROM pg_hba_file_rules WHERE '{ROLE}' = ANY (user_name)").split()
    assert rules and all(re.fullmatch(r"hostssl\|(10\.203\.77\.21|172\.30\.240\.1)\|scram-sha-256", one) for one in rules), rules
    assert cpu1.run("stat", "-c", "%U %a", PASSFILE).strip() == "barman 600"
    password = cpu1.run("cat", PASSFILE).strip().rpartition(":")[2]
    assert len(password) == 32 and password not in cpu1.run("ps", "-ewwo", "args")
    assert "sslmode=verify-full" in cpu1.run("cat", "/etc/barman.d/truthgraph.conf")
    # It is let into no database of the application.
    where = "host=10.203.77.21 user=truthgraph_barman dbname=truthgraph sslmode=require passfile=" + PASSFILE
    answer = cpu1.run("runuser", "-u", "barman", "--", "sh", "-c", f"psql '{where}' -c 'SELECT 1' 2>&1", check=False)
    assert "no pg_hba.conf entry" in answer, answer


def test_a_dead_barman_does_not_fill_the_disk(cpu1: Host, fleet: Fleet) -> None:
    assert psql(cpu1, "SHOW max_slot_wal_keep_size").strip() == "4GB"
    # Tried with a limit that is soon reached.
    good(fleet.deploy("reference", **KEPT, backup_point_in_time_wal_keep="64MB"))
    limit = "SELECT wal_status FROM pg_replication_slots"
    try:
        cpu1.run("systemctl", "stop", "truthgraph-barman-cron.timer", "truthgraph-barman-wal.service")
        for _ in range(10):
            psql(cpu1, "SELECT pg_logical_emit_message(false, 'test', repeat('x', 15000000)); SELECT pg_switch_wal()")
        psql(cpu1, "CHECKPOINT")
        assert psql(cpu1, limit).strip() == "lost"
    finally:
        # The next deploy begins anew, with a base backup, and what was kept before stays.
        good(fleet.deploy("reference", **KEPT))
    assert psql(cpu1, limit).strip() in ("reserved", "extended")
    [chain] = moments(cpu1)["chains"]
    assert chain["bases"] == 2, chain


def test_after_a_disaster_any_moment_comes_back(cpu1: Host) -> None:
    with Writer() as writer:
        time.sleep(3)
        # Whatever was acknowledged by now has to be there.
        before = set(writer.acknowledged)
        moment = now(cpu1)
        time.sleep(1)
        after_moment = time.monotonic()
        time.sleep(2)
    # What was sent only after the moment, by the clock of this machine, which is the database's too.
    after = {one.text for one in writer.sent if one.status == 201 and one.began > after_moment}
    assert len(before) > 20 and len(after) > 20 and not before & after
    total = int(psql(cpu1, "SELECT count(*) FROM evidence"))
    psql(cpu1, "DELETE FROM evidence")
    try:
        run = play("restore", {"restore_to": moment, **KEPT})
        said = plain(run.last_words)
        assert run.code != 0 and "would lose 0 rows" in said and "restore_confirmed=true" in said, str(run)
        counted = re.search(r"from base backup (\w+), beside truthgraph as it is now:", plain(run.said))
        assert counted and counted[1] in cpu1.run("ls", moments(cpu1)["chains"][0]["chain"] + "/base"), run.said
        [held] = re.findall(r"^public\.evidence +0 +(\d+)$", run.said, re.MULTILINE)
        assert psql(cpu1, "SELECT count(*) FROM evidence").strip() == "0" and databases(cpu1) == {"postgres", "truthgraph"}

        run = good(play("restore", {"restore_to": moment, "restore_confirmed": True, **KEPT}))
        [kept_as] = databases(cpu1) - {"postgres", "truthgraph"}
        assert kept_as in plain(run.said)
        found = stored(cpu1, writer.source)
        assert before <= found, sorted(before - found)[:5]
        assert not after & found, sorted(after & found)[:5]
        assert int(psql(cpu1, "SELECT count(*) FROM evidence")) == int(held) < total
        assert psql(cpu1, "SELECT count(*) FROM evidence", kept_as).strip() == "0"
        # And the API writes again.
        with Writer() as again:
            again.recovered(time.monotonic(), 60)
        assert not again.lost(cpu1)
        again.forget(cpu1)
    finally:
        writer.forget(cpu1)
        drop_kept(cpu1)
    assert cpu1.run("docker", "ps", "--all", "--quiet", "--filter", "name=truthgraph-recovery") == ""
    assert cpu1.run("sh", "-c", "ls -d /var/lib/barman/recovery-* 2>/dev/null || true") == ""


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2020-01-01 00:00:00+00", "cannot be recovered. Possible is every moment from"),
        ((datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).isoformat(" "), "is in the future"),
        ("2026-11-27 10:15:00", "in which time zone"),
        ("yesterday", "is no time"),
    ],
)
def test_a_moment_that_cannot_be_recovered_is_refused(cpu1: Host, moment: str, words: str) -> None:
    before = psql(cpu1, "SELECT count(*) FROM evidence")
    run = play("restore", {"restore_to": moment, "restore_confirmed": True, **KEPT})
    said = plain(run.last_words)
    assert run.code != 0 and words in said and "nothing was changed" in said.lower(), str(run)
    assert psql(cpu1, "SELECT count(*) FROM evidence") == before and databases(cpu1) == {"postgres", "truthgraph"}


def test_it_is_proven_by_recovering_it(cpu1: Host) -> None:
    run = good(play("backup", KEPT))
    proof = json.loads(cpu1.run("cat", f"{RECOVERED}/point-in-time.json"))
    assert proof["proven"] and proof["compared"], proof
    counted = json.loads(cpu1.run("truthgraph-backup", "count", "--json"))
    assert proof["rows"] == sum(counted["rows"].values()) > 0, (proof, counted)
    assert "every moment from" in run.said and proof["when"] in run.said, run.said
    # As the timer does it.
    cpu1.run("systemctl", "start", "truthgraph-point-in-time-prove.service", timeout=300)
    # A chain with a hole in it is not proven.
    [chain] = moments(cpu1)["chains"]
    newest = cpu1.run("sh", "-c", f"ls -d {chain['chain']}/wals/*/0* | tail -1").strip()
    cpu1.run("mv", newest, "/root/hidden-wal")
    try:
        run = play("backup", KEPT)
        assert run.code != 0 and "is not proven" in plain(run.last_words), str(run)
    finally:
        cpu1.run("mv", "/root/hidden-wal", newest)
    good(play("backup", KEPT))


# These are the last, since nothing is kept on this host from then on.
def test_turned_off_it_leaves_nothing_but_what_was_kept(cpu1: Host, fleet: Fleet) -> None:
    [chain] = moments(cpu1)["chains"]
    good(fleet.deploy("reference"))
    assert no_slot_no_role(cpu1)
    assert psql(cpu1, "SHOW max_slot_wal_keep_size").strip() == "-1"
    assert psql(cpu1, f"SELECT count(*) FROM pg_hba_file_rules WHERE '{ROLE}' = ANY (user_name)").strip() == "0"
    patterns = ("truthgraph-barman*", "truthgraph-point-in-time*")
    units = cpu1.run("systemctl", "list-unit-files", "--no-legend", *patterns, check=False)
    assert units == "" and cpu1.run("sh", "-c", f"ls {PASSFILE} 2>/dev/null || true") == ""
    assert cpu1.run("ls", f"{chain['chain']}/base").split(), "the base backups are gone"
    run = play("restore", {"restore_to": "latest"})
    assert run.code != 0 and "backup_point_in_time is off" in plain(run.last_words), str(run)


def test_another_host_keeps_it_as_well(cpu1: Host, fleet: Fleet) -> None:
    elsewhere = {**KEPT, "backup_point_in_time_host": "cpu2"}
    cpu2 = fleet.hosts["cpu2"]
    try:
        good(fleet.deploy("reference", **elsewhere))
        assert moments(cpu2)["chains"][0]["bases"] == 1
        assert not good(fleet.deploy("reference", **elsewhere)).changed
        with Writer() as writer:
            time.sleep(3)
            before, moment = set(writer.acknowledged), now(cpu1)
        psql(cpu1, "DELETE FROM evidence")
        good(play("restore", {"restore_to": moment, "restore_confirmed": True, **elsewhere}))
        assert before and before <= stored(cpu1, writer.source)
        writer.forget(cpu1)
        good(play("backup", elsewhere))
        assert json.loads(cpu2.run("cat", f"{RECOVERED}/point-in-time.json"))["compared"]
    finally:
        # Turned off where it is.
        good(fleet.deploy("reference", **elsewhere | {"backup_point_in_time": False}))
        drop_kept(cpu1)
        cpu2.run("sh", "-c", f"rm -rf {RECOVERED} /var/lib/barman/truthgraph-*")
    assert no_slot_no_role(cpu1)
