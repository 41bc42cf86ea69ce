# The database's backups on the lab's hosts: the program, its timers and both playbooks. Nothing is simulated: what is
# lost here is really lost, and comes back from the backup or not at all.
import contextlib
import http.client
import json
import re
import subprocess
import time
import typing as t
import urllib.parse
import uuid

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.rollout import APIS, Fleet, Host, Run, play

DIRECTORY = "/var/lib/truthgraph/backups"
CONTAINER, VOLUME = "truthgraph-postgres", "truthgraph-postgres-data"
TIMERS = ("truthgraph-backup.timer", "truthgraph-backup-prove.timer")
FLIP = """
import sys
with open(sys.argv[1], "r+b") as file:
    content = file.read()
    file.seek(len(content) // 2)
    file.write(bytes([content[len(content) // 2] ^ 1]))
"""
# Leaves nothing of a backup but a manifest that says that its dump was tiny.
SHRINK = """
import json, sys
manifest = json.load(sys.stdin)
manifest["files"]["database"]["bytes"] = 100
manifest["database_bytes"] = 10 ** 12
json.dump(manifest, open(sys.argv[1], "w"))
"""


def plain(text: str) -> str:
    return " ".join(text.split())


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


@pytest.fixture(scope="module")
def cpu1(fleet: Fleet) -> Host:
    return fleet.hosts["cpu1"]


def ask_program(cpu1: Host, *arguments: str) -> tuple[int, dict[str, t.Any], str]:
    done = subprocess.run(
        ["docker", "exec", cpu1.container, "truthgraph-backup", *arguments, "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def take(cpu1: Host) -> dict[str, t.Any]:
    code, taken, errors = ask_program(cpu1, "take", "--reason", "a test", "--wait", "60")
    assert code == 0, errors
    return taken


def sql(cpu1: Host, query: str, database: str = "truthgraph") -> str:
    options = ["--username=postgres", f"--dbname={database}", "--tuples-only", "--no-align", "--no-psqlrc", "--quiet"]
    return cpu1.run("docker", "exec", CONTAINER, "psql", *options, f"--command={query}").strip()


def databases(cpu1: Host) -> set[str]:
    return set(sql(cpu1, "SELECT datname FROM pg_database WHERE NOT datistemplate", "postgres").splitlines())


def rows(cpu1: Host, database: str = "truthgraph") -> int:
    return int(sql(cpu1, "SELECT count(*) FROM evidence", database))


def names(cpu1: Host) -> list[str]:
    return [name for name in cpu1.run("ls", DIRECTORY).split() if name != ".lock"]


def store(text: str, patience: float = 0) -> str:
    # As a client does; until the API is there again, if that is to be waited for.
    parts = urllib.parse.urlsplit(APIS["cpu1"])
    deadline = time.monotonic() + patience
    while True:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/v1/evidence", json.dumps({"text": text}), headers)
            answer = connection.getresponse()
            status, body = answer.status, answer.read().decode()
        except OSError as error:
            status, body = 0, repr(error)
        finally:
            connection.close()
        if status == 201:
            return str(json.loads(body)["id"])
        assert time.monotonic() < deadline, f"{status} {body}"
        time.sleep(0.5)


def store_some(number: int) -> dict[str, str]:
    return {text: store(text) for text in (f"Evidence {uuid.uuid4()} of a test." for _ in range(number))}


def drop_kept(cpu1: Host) -> None:
    for name in databases(cpu1):
        if re.match("truthgraph_before_", name):
            sql(cpu1, f'DROP DATABASE "{name}"', "postgres")


@pytest.fixture(scope="module", autouse=True)
def installed(fleet: Fleet, cpu1: Host) -> t.Iterator[None]:
    fleet.bring("reference")
    good(play("backup"))
    yield
    # What was stored here would be found by others who search.
    sql(cpu1, "DELETE FROM evidence WHERE text LIKE 'Evidence % of a test.'")
    drop_kept(cpu1)
    good(play("backup"))


def test_a_backup_is_taken_proven_and_shown(cpu1: Host) -> None:
    acknowledged = store_some(10)
    run = good(play("backup"))
    # The backup itself, and nothing else on a host that is as the role left it.
    assert run.changed == {"cpu1": 1}, run.changed
    newest = max(names(cpu1))
    assert re.search(rf"^{newest} .* by a playbook$", run.said, re.MULTILINE), run.said
    proof = json.loads(cpu1.run("cat", f"{DIRECTORY}/{newest}/proof.json"))
    manifest = json.loads(cpu1.run("cat", f"{DIRECTORY}/{newest}/manifest.json"))
    assert proof["proven"] and manifest["rows"]["public.evidence"] >= len(acknowledged)
    assert manifest["pgvector"] and manifest["revision"], manifest
    modes = cpu1.run("find", DIRECTORY, "-printf", "%y %m\\n").split("\n")
    assert set(filter(None, modes)) == {"d 700", "f 600"}, modes
    assert databases(cpu1) == {"postgres", "truthgraph"}


def test_check_mode_takes_nothing(cpu1: Host) -> None:
    before = names(cpu1)
    run = good(play("backup", {}, "--check"))
    assert run.changed == {} and names(cpu1) == before


def test_timers_are_enabled_and_their_services_work(cpu1: Host) -> None:
    for timer in TIMERS:
        assert cpu1.run("systemctl", "is-enabled", timer).strip() == "enabled"
        assert cpu1.run("systemctl", "is-active", timer).strip() == "active"
    before = set(names(cpu1))
    cpu1.run("systemctl", "start", "truthgraph-backup.service")
    newest = max(names(cpu1))
    assert newest not in before
    cpu1.run("systemctl", "start", "truthgraph-backup-prove.service")
    _, listed, _ = ask_program(cpu1, "list")
    [entry] = [entry for entry in listed["backups"] if entry["backup"] == newest]
    assert entry["proven"] and entry["reason"] == "schedule", entry


def test_two_at_once_wait_for_each_other(cpu1: Host) -> None:
    command = ["docker", "exec", cpu1.container, "truthgraph-backup", "take", "--json", "--wait", "120"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    taken = [json.loads(process.communicate(timeout=300)[0])["backup"] for process in both]
    assert len(set(taken)) == 2 and set(taken) <= set(names(cpu1))
    # And whoever does not wait is told.
    holding = subprocess.Popen(["docker", "exec", cpu1.container, "flock", f"{DIRECTORY}/.lock", "sleep", "5"])
    try:
        time.sleep(1)
        code, _, errors = ask_program(cpu1, "take")
    finally:
        holding.wait(30)
    assert code == 1 and "is at work on the backups" in errors and "--wait" in errors, errors


def test_a_backup_with_one_byte_changed_is_refused(cpu1: Host) -> None:
    taken = take(cpu1)
    before = rows(cpu1)
    try:
        cpu1.run("python3", "-c", FLIP, f"{taken['directory']}/database.dump")
        run = play("restore", {"restore_backup": taken["backup"], "restore_confirmed": True})
        assert run.code != 0 and "SHA-256 differs" in run.last_words, str(run)
        code, _, errors = ask_program(cpu1, "prove", taken["backup"])
        assert code == 1 and "SHA-256 differs" in errors, errors
    finally:
        cpu1.run("rm", "-r", taken["directory"])
    assert databases(cpu1) == {"postgres", "truthgraph"} and rows(cpu1) == before
    assert cpu1.look().lock is None


def test_a_restore_says_what_it_loses_and_keeps_it(cpu1: Host) -> None:
    taken = take(cpu1)
    later = store_some(3)
    before = rows(cpu1)
    run = play("restore")
    assert run.code != 0 and "restore_backup" in run.last_words, str(run)
    run = play("restore", {"restore_backup": "latest"})
    assert run.code != 0 and "would lose 3 rows" in run.last_words, str(run)
    assert "restore_confirmed=true" in run.last_words, str(run)
    assert re.search(rf"^public\.evidence +{before} +{before - 3}$", run.said, re.MULTILINE), run.said
    assert rows(cpu1) == before and databases(cpu1) == {"postgres", "truthgraph"}

    run = good(play("restore", {"restore_backup": taken["backup"], "restore_confirmed": True}))
    said = plain(run.said)
    kept = re.search(r"kept as (truthgraph_before_\w+)\.", said)
    assert kept and f'DROP DATABASE "{kept[1]}";' in said, said
    assert "3 rows that were there before are not in it" in said, said
    assert databases(cpu1) == {"postgres", "truthgraph", kept[1]}
    assert (rows(cpu1), rows(cpu1, kept[1])) == (before - 3, before)
    assert cpu1.look().lock is None
    # The API is there again, and what was lost can be stored again.
    for text in later:
        store(text, patience=30)
    assert rows(cpu1) == before
    drop_kept(cpu1)


def test_a_lock_of_another_run_is_respected(fleet: Fleet, cpu1: Host) -> None:
    owner = {"who": "somebody@elsewhere", "machine": "m", "boot": "b", "pid": 1, "started": 1}
    lock = {"owner": owner, "action": "deploy", "fence": int(cpu1.look().fence or 1), "since": time.time(),
            "expires": time.time() + 300}
    path = "/var/lib/truthgraph/lock.json"
    before = rows(cpu1)
    take(cpu1)
    try:
        cpu1.run("python3", "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", path, json.dumps(lock))
        run = play("restore", {"restore_backup": "latest", "restore_confirmed": True})
        assert run.code != 0 and "somebody@elsewhere" in run.last_words and "break_lock" in run.last_words, str(run)
    finally:
        cpu1.run("rm", "-f", path)
    assert databases(cpu1) == {"postgres", "truthgraph"} and rows(cpu1) == before


@contextlib.contextmanager
def small_disk(cpu1: Host, size: str) -> t.Iterator[None]:
    cpu1.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", DIRECTORY)
    try:
        yield
    finally:
        cpu1.run("umount", DIRECTORY)


def test_too_little_room_is_said_beforehand(cpu1: Host) -> None:
    with small_disk(cpu1, "1m"):
        run = play("backup")
        assert run.code != 0, str(run)
        said = re.search(r"may need .* free \(\d+ and \d+ bytes\)\. Nothing was written", run.last_words)
        assert said, run.last_words
        assert names(cpu1) == []


def test_a_disk_that_becomes_full_leaves_nothing(cpu1: Host) -> None:
    assert rows(cpu1) >= 10
    taken = take(cpu1)
    manifest = cpu1.run("cat", f"{taken['directory']}/manifest.json")
    with small_disk(cpu1, "20k"):
        path = f"{DIRECTORY}/{taken['backup']}"
        cpu1.run("mkdir", "-m", "700", path)
        subprocess.run(
            ["docker", "exec", "-i", cpu1.container, "python3", "-c", SHRINK, f"{path}/manifest.json"],
            input=manifest, text=True, check=True, timeout=60,
        )
        code, _, errors = ask_program(cpu1, "take")
        assert code == 1 and "is full, so no backup was kept" in errors, errors
        assert names(cpu1) == [taken["backup"]]
    assert taken["backup"] in names(cpu1)


def test_an_encrypted_backup_is_proven_with_its_key_only(cpu1: Host) -> None:
    key = "/root/test-backup-key"
    cpu1.run("apt-get", "-q", "update", timeout=300)
    cpu1.run("apt-get", "-qy", "--no-install-recommends", "install", "age", timeout=300)
    cpu1.run("age-keygen", "-o", key)
    try:
        recipient = cpu1.run("age-keygen", "-y", key).strip()
        encrypted = {"backup_encryption": "age", "backup_recipients": [recipient]}
        run = good(play("backup", encrypted))
        newest = max(names(cpu1))
        assert "was not proven" in plain(run.said), run.said
        # The timer that would fail every week is gone.
        assert "truthgraph-backup-prove.timer" not in cpu1.run("systemctl", "list-timers", "--all", "--no-pager")
        assert cpu1.run("head", "-c", "21", f"{DIRECTORY}/{newest}/database.dump.age") == "age-encryption.org/v1"
        code, _, errors = ask_program(cpu1, "prove", newest)
        assert code == 1 and "backup_identity_file" in errors, errors
        good(play("backup", {**encrypted, "backup_identity_file": key}))
        newest = max(names(cpu1))
        assert json.loads(cpu1.run("cat", f"{DIRECTORY}/{newest}/proof.json"))["proven"]
    finally:
        cpu1.run("rm", "-f", key)
        good(play("backup"))


def test_before_a_migration_a_backup_is_taken_and_proven(fleet: Fleet, cpu1: Host) -> None:
    tree = fleet.tree("migration-fails", rollout.migration_fails)
    old, before = fleet.release, names(cpu1)
    run = play("deploy", tree)
    assert run.code != 0 and rollout.LAST_WORDS in run.last_words, str(run)
    [newest] = set(names(cpu1)) - set(before)
    manifest = json.loads(cpu1.run("cat", f"{DIRECTORY}/{newest}/manifest.json"))
    assert manifest["reason"].startswith("before the migration to release "), manifest
    assert json.loads(cpu1.run("cat", f"{DIRECTORY}/{newest}/proof.json"))["proven"]
    # Without one nothing is migrated.
    with small_disk(cpu1, "1m"):
        run = play("deploy", tree)
    assert run.code != 0 and "No backup of the database was taken" in run.last_words, str(run)
    assert rollout.LAST_WORDS not in run.last_words
    fleet.check_serves(old)


# Last, since it takes the data away.
def test_a_lost_volume_comes_back(fleet: Fleet, cpu1: Host) -> None:
    acknowledged = store_some(5)
    before = rows(cpu1)
    run = good(play("backup"))
    newest = max(names(cpu1))
    assert newest in run.said

    cpu1.run("docker", "rm", "--force", CONTAINER)
    cpu1.run("docker", "volume", "rm", VOLUME)
    # It brings Postgres back, with the tables and nothing in them.
    good(fleet.deploy("reference", release_bake=2))
    assert databases(cpu1) == {"postgres", "truthgraph"} and rows(cpu1) == 0

    run = good(play("restore", {"restore_backup": newest, "restore_confirmed": True}))
    assert rows(cpu1) == before
    ids = set(sql(cpu1, "SELECT id FROM evidence").split())
    assert set(acknowledged.values()) <= ids
    # What is known keeps its number, so this asks the API for the row that came back.
    for text, number in acknowledged.items():
        assert store(text, patience=60) == number
    assert rows(cpu1) == before
    drop_kept(cpu1)
    good(fleet.deploy("reference"))
