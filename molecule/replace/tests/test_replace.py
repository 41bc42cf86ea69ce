# A host of the lab is removed with its disk, a blank one of the same name is made, and one command has it serve again.
import contextlib
import pathlib
import re
import subprocess
import time
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import (
    APIS,
    Fleet,
    Host,
    Run,
    UnderLoad,
    forget_connections,
    header,
    play,
)
from ansible_collections.truthgraph.platform.molecule.shared.writer import Writer, psql, stored

KNOWN_HOSTS = pathlib.Path.home() / ".local" / "state" / "truthgraph" / "lab" / "ssh" / "known_hosts"
ADDRESSES = {"cpu2": "10.203.77.22"}
EARLIER = {"api_environment": {"TRUTHGRAPH_TEST": "earlier"}, "api_secrets": {"TEST_TOKEN": "of the earlier release"}}
TOKEN = "/etc/truthgraph/releases/{}/api/TEST_TOKEN"


def plain(text: str) -> str:
    return " ".join(text.split())


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


def lose(name: str) -> None:
    good(play("remove_host", {"host": name}))
    forget_connections()


def make_blank(name: str) -> None:
    good(play("lab"))
    assert not Host(name).run("sh", "-c", "ls /var/lib/truthgraph /etc/truthgraph 2>/dev/null; true"), f"{name} is not blank"


def running(fleet: Fleet, *names: str) -> dict[str, t.Any]:
    found = fleet.look()
    return {name: found[name].running for name in names}


@contextlib.contextmanager
def another_key(name: str) -> t.Iterator[None]:
    # As if the control node still knew the dead host's key.
    forget = ["ssh-keygen", "-q", "-R", ADDRESSES[name], "-f", str(KNOWN_HOSTS)]
    subprocess.run(forget, check=True, capture_output=True)
    forget_connections()
    with KNOWN_HOSTS.open("a", encoding="utf-8") as file:
        file.write(f"{ADDRESSES[name]} {Host('cpu1').run('cat', '/etc/ssh/ssh_host_ed25519_key.pub')}")
    try:
        yield
    finally:
        subprocess.run(forget, check=True, capture_output=True)


@pytest.fixture(scope="module")
def releases(fleet: Fleet) -> t.Iterator[dict[str, str]]:
    """The release that serves, and the one before, of which every host has kept a secret."""
    good(fleet.deploy("reference", **EARLIER))
    earlier = fleet.release
    good(fleet.deploy("reference"))
    yield {"serving": fleet.release, "earlier": earlier}
    good(fleet.deploy("reference"))


def check_all_is_well(fleet: Fleet, releases: dict[str, str], name: str, **variables: t.Any) -> None:
    """The fleet is whole: a deploy finds nothing to do, and the new host has all that a rollback needs."""
    found = fleet.check_serves(releases["serving"])
    assert set(found[name].records) >= set(releases.values()), found[name].records.keys()
    run = good(fleet.deploy("reference", **variables))
    assert run.changed == {}, run.changed
    if name.startswith("cpu"):
        path = TOKEN.format(releases["earlier"])
        assert Host(name).run("cat", path) == EARLIER["api_secrets"]["TEST_TOKEN"]
        assert Host(name).run("stat", "-c", "%a %u", path).strip() == "440 0"


def check_rollback(fleet: Fleet, releases: dict[str, str]) -> None:
    good(play("rollback"))
    assert {header(url) for url in APIS.values()} == {releases["earlier"]}
    good(play("rollback"))
    fleet.check_serves(releases["serving"])


def test_a_host_that_lives_is_refused(fleet: Fleet, releases: dict[str, str]) -> None:
    before = running(fleet, "cpu1", "cpu2", "gpu1")
    run = play("replace_host", {"host": "cpu2"})
    assert run.code != 0 and "cpu2 is not blank" in run.last_words and "deploy.yml" in run.last_words, str(run)
    run = play("replace_host", {"host": "cpu9"})
    assert run.code != 0 and "It was 'cpu9'" in run.last_words and "cpu2" in run.last_words, str(run)
    assert running(fleet, "cpu1", "cpu2", "gpu1") == before and fleet.look()["cpu1"].lock is None


def test_an_api_host(fleet: Fleet, releases: dict[str, str], under_load: UnderLoad) -> None:
    before = running(fleet, "cpu1", "gpu1")
    fence = int(fleet.look()["cpu1"].fence)
    with under_load(["cpu1"]):
        lose("cpu2")
        # What everybody types first says the way out.
        for name in ("status", "deploy"):
            run = play(name)
            assert run.code != 0 and "replace_host.yml -e host=cpu2" in plain(run.said), str(run)
        make_blank("cpu2")
        with another_key("cpu2"):
            run = play("replace_host", {"host": "cpu2"})
            assert run.code != 0 and f"ssh-keygen -R {ADDRESSES['cpu2']}" in run.last_words, str(run)
            assert "IDENTIFICATION HAS CHANGED" in run.last_words, str(run)
        check = good(play("replace_host", {"host": "cpu2"}, "--check"))
        assert check.changed == {} and re.search("cpu2 +api .* replaced", check.said), str(check)
        run = good(play("replace_host", {"host": "cpu2"}))
        assert set(run.changed) <= {"cpu1", "cpu2"}, run.changed
    print(f"cpu2 was replaced in {run.seconds:.0f} s")
    assert running(fleet, "cpu1", "gpu1") == before, "another host was changed"
    assert int(fleet.look()["cpu2"].fence) > fence
    check_all_is_well(fleet, releases, "cpu2")
    check_rollback(fleet, releases)


def test_the_inference_host(fleet: Fleet, releases: dict[str, str], under_load: UnderLoad) -> None:
    before = running(fleet, "cpu1", "cpu2")
    # Without it no claim is verified; everything else is answered.
    with under_load(posts_may_fail_for=900):
        lose("gpu1")
        make_blank("gpu1")
        run = good(play("replace_host", {"host": "gpu1"}))
    print(f"gpu1 was replaced in {run.seconds:.0f} s")
    assert running(fleet, "cpu1", "cpu2") == before, "another host was changed"
    assert "secrets of" in plain(run.said) and "/inference" in run.said
    check_all_is_well(fleet, releases, "gpu1")
    with under_load():
        check_rollback(fleet, releases)


# Last, since it takes the data away.
def test_the_host_of_the_database_an_api_and_the_lock(fleet: Fleet, releases: dict[str, str], tmp_path: pathlib.Path) -> None:
    away = {"backup_controller_dir": str(tmp_path)}
    fence, before = int(fleet.look()["cpu1"].fence), running(fleet, "cpu2", "gpu1")
    with Writer() as writer:
        time.sleep(5)
        promised = list(writer.acknowledged)
        good(play("backup", away))
        time.sleep(5)
    [backup] = [path.name for path in (tmp_path / "lab").iterdir()]
    assert len(promised) > 20 and len(writer.acknowledged) > len(promised) and not writer.failed, writer.failed
    rows = int(psql(Host("cpu1"), "SELECT count(*) FROM evidence"))

    lose("cpu1")
    make_blank("cpu1")
    run = play("replace_host", {"host": "cpu1", **away})
    assert run.code != 0 and "restore_confirmed=true" in run.last_words and backup in run.last_words, str(run)
    assert "what was stored or changed after that is lost" in run.last_words
    run = good(play("replace_host", {"host": "cpu1", "restore_confirmed": True, **away}))
    print(f"cpu1 was replaced in {run.seconds:.0f} s")
    assert running(fleet, "cpu2", "gpu1") == before, "another host was changed"
    assert int(fleet.look()["cpu1"].fence) > fence

    database = Host("cpu1")
    there = stored(database, writer.source)
    lost = set(writer.acknowledged) - there
    print(f"{rows} rows, {len(writer.acknowledged)} acknowledged, {len(lost)} of them lost, as was said")
    assert set(promised) <= there
    began = time.mktime(time.strptime(backup.split("-")[0], "%Y%m%dT%H%M%SZ")) - time.timezone
    offset = time.time() - time.monotonic()
    assert all(one.ended + offset >= began for one in writer.sent if one.text in lost), "more is lost than was said"
    databases = psql(database, "SELECT datname FROM pg_database WHERE NOT datistemplate", "postgres").split()
    assert set(databases) == {"postgres", "truthgraph"}
    assert Host("cpu1").run("systemctl", "is-active", "truthgraph-backup.timer").strip() == "active"
    with Writer() as later:
        time.sleep(3)
    assert not later.failed and not later.lost(database)
    check_all_is_well(fleet, releases, "cpu1", **away)
    check_rollback(fleet, releases)
    # A host with data is never written over.
    database.run("rm", "/var/lib/truthgraph/seal.json")
    database.run("sh", "-c", "sed -i '/^api /d' /etc/truthgraph/proxy/traffic.map")
    try:
        run = play("replace_host", {"host": "cpu1", "restore_confirmed": True, **away})
        assert run.code != 0 and "has a database with tables in it" in run.last_words, str(run)
    finally:
        good(fleet.deploy("reference"))
    assert set(promised) <= stored(database, writer.source)
    writer.forget(database)
    later.forget(database)
