"""What is said of hosts: a row each, and a line for what needs attention."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.truthgraph.platform.plugins.plugin_utils import status

NOW = 1_800_000_000.0
DAY = 86400
LIMITS: dict[str, t.Any] = {
    **{"certificate_days": 30, "backup_days": 2, "proof_days": 8, "backups": ["a"]},
    **{"free": 4e9, "free_build": 8e9, "builds": ["b"]},
}


def answered(**more: t.Any) -> dict[str, t.Any]:
    """Return what the module release_state answers of a host on which all is well."""
    backup = {"backup": "20270115T000000Z-0a1b2c", "begun": NOW - 3 * 3600, "rows": 7, "bytes": 15}
    return {
        **{"engine": True, "proxy": True, "traffic": {"api": "blue_green", "api_blue": "r1"}},
        "containers": [
            dict.fromkeys(status.SHOWN_OF_A_CONTAINER, "") | {"name": "truthgraph-api-blue", "id": "not shown"}
        ],
        "certificates": {"/a.crt": NOW + 300 * DAY, "/b.crt": NOW + 90 * DAY},
        "backups": {"count": 3, "since": NOW - 9 * DAY, "newest": backup, "proven": backup},
        "disk": {"/var/lib/docker": {"total": 50 * 10**9, "free": 20 * 10**9}, "/var/lib": {"total": 9e9, "free": 9e9}},
        **{"seal": {"fingerprint": "f", "drift": []}, "now": NOW},
        **more,
    }


def of(*hosts: str, **more: t.Any) -> dict[str, t.Any]:
    return status.overview({host: answered(**more) for host in hosts}, [*hosts])


def test_an_overview_has_what_matters() -> None:
    found = status.overview({"a": answered()}, ["a", "gone"])
    assert found["gone"] == {"reachable": False}
    assert found["a"]["live"] == {"api": "blue"}
    assert [one["name"] for one in found["a"]["containers"]] == ["truthgraph-api-blue"]
    assert "id" not in found["a"]["containers"][0]


def test_a_row_has_the_fullest_disk_and_the_first_certificate() -> None:
    rows = status.host_rows(status.overview({"a": answered()}, ["a", "gone"]))
    assert rows[0] == ["a", 9.0, 9.0, "90 d", 3, "3 h ago", "3 h ago", "nothing"]
    assert rows[1] == ["gone", "-", "-", "-", "-", "-", "-", "cannot be reached"]


def test_a_row_of_a_blank_host() -> None:
    blank = answered(
        traffic={},
        containers=[],
        certificates={},
        backups={"count": 0, "since": 0, "newest": {}, "proven": {}},
        seal={"fingerprint": "", "drift": []},
    )
    assert status.host_rows(status.overview({"a": blank}, ["a"]))[0][3:] == ["-", "-", "-", "-", "not prepared yet"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(59, "59 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_a_span_of_time(seconds: float, words: str) -> None:
    assert status.in_words(seconds) == words


def test_all_is_well() -> None:
    assert status.problems(of("a", "b"), LIMITS) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"certificates": {"/a.crt": NOW + 29.5 * DAY}}, ["/a.crt ends at 2027-02-13 20:00 UTC, in 29 days"]),
        ({"certificates": {"/a.crt": None}}, ["/a.crt cannot be read"]),
        ({"certificates": {"/a.crt": NOW + 30.1 * DAY}}, []),
        (
            {"backups": {"count": 0, "since": NOW - 9 * DAY, "newest": {}, "proven": {}}},
            ["taken in 2 days; there is none", "proven in 8 days; there is none"],
        ),
        (
            {"backups": {"count": 9, "since": 0, "newest": {"begun": NOW - 3 * DAY}, "proven": {"begun": NOW - 7 * DAY}}},
            ["taken in 2 days; the last is of 2027-01-12 08:00 UTC"],
        ),
        ({"disk": {"/var/lib/docker": {"total": 9e9, "free": 3.9e9}}}, ["/var/lib/docker has 3.9 GB free"]),
    ],
    ids=["certificate", "unreadable", "in time", "no backup", "old backup", "disk"],
)
def test_what_needs_attention(more: dict[str, t.Any], said: list[str]) -> None:
    found = status.problems(of("a", **more), LIMITS)
    assert len(found) == len(said)
    for line, words in zip(found, said, strict=True):
        assert line.startswith("a: ") and words in line


def test_only_hosts_that_ought_to_have_backups_are_asked_for_them() -> None:
    none = {"count": 0, "since": 0, "newest": {}, "proven": {}}
    assert status.problems(of("b", backups=none), LIMITS) == []
    assert status.problems(of("a", backups=none, seal={"fingerprint": "", "drift": []}), LIMITS) == []
    assert status.problems(of("a", backups=none), {**LIMITS, "backup_days": 0, "proof_days": 0}) == []


def test_a_new_fleet_has_time_for_its_first_backup() -> None:
    new = {"count": 0, "since": NOW - 1.9 * DAY, "newest": {}, "proven": {}}
    assert status.problems(of("a", backups=new), LIMITS) == []
    assert len(status.problems(of("a", backups={**new, "since": NOW - 2.1 * DAY}), LIMITS)) == 1


def test_a_host_that_builds_needs_more_room() -> None:
    disk = {"/var/lib/docker": {"total": 9e9, "free": 7e9}}
    assert status.problems(of("a", disk=disk), LIMITS) == []
    assert "a deploy needs 8.0 GB" in status.problems(of("b", disk=disk), LIMITS)[0]


def test_an_unhealthy_container_says_why() -> None:
    sick = dict.fromkeys(status.SHOWN_OF_A_CONTAINER, "") | {"name": "truthgraph-api-blue", "problem": "no database"}
    assert status.problems(of("a", containers=[sick]), LIMITS) == ["a: truthgraph-api-blue: no database"]
