"""The module release_prune: what goes, and above all what stays."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger
from ansible_collections.truthgraph.platform.plugins.modules.release_prune import is_candidate, repository
from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble

PREFIX = "10.0.0.1:5000/truthgraph"
OLD, MIDDLE, LIVE, FAILED = "111111111111", "222222222222", "333333333333", "ffffffffffff"


def reference(name: str, number: int, prefix: str = PREFIX) -> str:
    return f"{prefix}/{name}@sha256:{number:x}{'0' * 60}"


@pytest.fixture
def engine(tmp_path: Path) -> EngineDouble:
    return EngineDouble(tmp_path / "engine")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three releases that were stable, and one that failed. Each has an API of its own; the first two share a core."""
    ledger = Ledger(str(tmp_path / "truthgraph"))
    for number, release in enumerate((OLD, MIDDLE, LIVE), start=1):
        images = {"api": reference("api", number), "core": reference("core", max(2, number))}
        ledger.write({"id": release, "result": "stable", "stable_at": float(number), "images": images})
    ledger.write({"id": FAILED, "result": "failed", "images": {"api": reference("api", 15)}})
    return ledger


@pytest.fixture
def images(engine: EngineDouble) -> list[str]:
    names = [reference("api", number) for number in (1, 2, 3, 15)] + [reference("core", number) for number in (2, 3)]
    for number, name in enumerate(names):
        engine.add_image(number, name)
    return names


def prune(engine: EngineDouble, ledger: Ledger, **more: t.Any) -> dict[str, t.Any]:
    arguments = {"root": ledger.root, "prefix": PREFIX, "live": [LIVE], "count": 1, **more}
    result = engine.run("release_prune", **arguments)
    assert not result.get("failed"), result
    assert result["changed"] is False
    # ansible-core changed what a warning looks like.
    warnings = [text if isinstance(text, str) else text["event"]["msg"] for text in result.get("warnings", [])]
    assert warnings == result["problems"]
    return result


def without(names: list[str], *gone: str) -> list[str]:
    return sorted(set(names) - set(gone))


def test_old_and_failed_releases_go_with_their_images(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    result = prune(engine, ledger, count=2)
    gone = [reference("api", 1), reference("api", 15)]
    assert result["kept"] == [MIDDLE, LIVE] and result["problems"] == []
    assert sorted(result["images"]) == sorted(gone) and result["records"] == [OLD, FAILED]
    # The core of the first release is that of the second, too.
    assert engine.images == without(images, *gone)
    assert sorted(ledger.records()[0]) == [MIDDLE, LIVE]
    again = prune(engine, ledger, count=2)
    assert (again["images"], again["records"], again["problems"]) == ([], [], [])


def test_bills_of_materials_go_with_the_last_release_that_has_the_image(
    engine: EngineDouble, ledger: Ledger, images: list[str]
) -> None:
    bills = Path(ledger.root) / "sboms"
    bills.mkdir()
    names = {name: name.rpartition("@")[2] for name in images}
    for digest in names.values():
        (bills / f"{digest.replace(':', '-')}.cdx.json").write_text("{}")
    gone = sorted([names[reference("api", 1)], names[reference("api", 15)]])
    assert prune(engine, ledger, count=2, _ansible_check_mode=True)["bills"] == gone
    assert len(list(bills.iterdir())) == len(set(names.values()))
    assert prune(engine, ledger, count=2)["bills"] == gone
    left = {path.name.removesuffix(".cdx.json").replace("-", ":", 1) for path in bills.iterdir()}
    assert left == set(names.values()) - set(gone)
    assert prune(engine, ledger, count=2)["bills"] == []


def test_a_host_that_only_builds_keeps_what_was_deployed(engine: EngineDouble, images: list[str], tmp_path: Path) -> None:
    deployed = [reference("api", 3), reference("core", 3)]
    result = prune(engine, Ledger(str(tmp_path / "no-ledger")), live=[], keep_images=deployed)
    assert result["kept"] == [] and result["problems"] == []
    assert engine.images == sorted(deployed)


def test_a_live_release_stays_however_old(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    prune(engine, ledger, live=[OLD])
    assert sorted(ledger.records()[0]) == [OLD, LIVE]
    assert reference("api", 1) in engine.images and reference("core", 2) in engine.images


@pytest.mark.parametrize("result", ["pending", "committed"])
def test_an_unfinished_release_stays(engine: EngineDouble, ledger: Ledger, images: list[str], result: str) -> None:
    ledger.write({"id": FAILED, "result": result, "images": {"api": reference("api", 15)}})
    prune(engine, ledger)
    assert FAILED in ledger.records()[0] and reference("api", 15) in engine.images


def test_only_images_of_this_fleet_are_touched(engine: EngineDouble, ledger: Ledger) -> None:
    others = [
        reference("base-python", 4),
        reference("postgres", 4),
        reference("api/extra", 4),
        reference("api", 4, "10.0.0.1:5000/truthgraph-staging"),
        reference("api", 4, "10.0.0.1:5000/other"),
        reference("api", 4, "10.0.0.1:5000"),
        reference("api", 4, "10.0.0.2:5000/truthgraph"),
        f"{PREFIX}-api:old",
        "python:3.11",
        "api:old",
    ]
    for number, name in enumerate(others):
        engine.add_image(number, name)
    # An image that somebody else has named, too, and one without any name.
    mixed = [reference("api", 5), "somebody/tool:1"], [f"{PREFIX}/core:key", f"{PREFIX}/base-python:key"]
    for number, names in enumerate(mixed, start=50):
        engine.add_image(number, *names)
    engine.add_image(60)
    before = engine.images
    result = prune(engine, ledger)
    assert (result["images"], result["problems"]) == ([], [])
    assert engine.images == before


def test_all_names_of_an_image_go(engine: EngineDouble, ledger: Ledger) -> None:
    names = [f"{PREFIX}/ml:key", f"{PREFIX}/ml:latest", reference("ml", 9)]
    engine.add_image(1, *names)
    engine.add_image(2, reference("core", 8), reference("api", 8))
    result = prune(engine, ledger)
    assert sorted(result["images"]) == sorted([*names, reference("core", 8), reference("api", 8)])
    assert result["problems"] == [] and engine.images == []


def test_a_needed_image_keeps_all_its_names(engine: EngineDouble, ledger: Ledger) -> None:
    engine.add_image(1, reference("api", 3), f"{PREFIX}/api:key", reference("api", 9))
    prune(engine, ledger)
    assert engine.images == sorted([reference("api", 3), f"{PREFIX}/api:key", reference("api", 9)])


def test_images_to_keep_stay(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    engine.add_image(7, f"{PREFIX}/ml:wanted")
    prune(engine, ledger, keep_images=[reference("api", 1), f"{PREFIX}/ml:wanted"])
    assert reference("api", 1) in engine.images and f"{PREFIX}/ml:wanted" in engine.images
    assert reference("api", 15) not in engine.images


@pytest.mark.parametrize("status", ["running", "exited"])
@pytest.mark.parametrize("way", ["id", "reference", "manifest"])
def test_an_image_of_any_container_stays(
    engine: EngineDouble, ledger: Ledger, images: list[str], status: str, way: str
) -> None:
    name = reference("api", 1)
    described: dict[str, dict[str, t.Any]] = {
        "id": {"Image": f"sha256:{0:064x}", "Config": {"Image": "renamed"}},
        "reference": {"Image": "sha256:else", "Config": {"Image": name}},
        "manifest": {"Image": "", "Config": {}, "ImageManifestDescriptor": {"digest": name.partition("@")[2]}},
    }
    engine.add("somebodys-container", status=status, **described[way])
    engine.add("another", Image="sha256:another", Config={"Image": "python:3.11"})
    result = prune(engine, ledger)
    assert name in engine.images and reference("api", 15) not in engine.images
    assert result["problems"] == []


def test_an_image_that_cannot_be_removed_is_a_warning(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    (engine.home / "stuck").write_text(reference("api", 1))
    result = prune(engine, ledger)
    assert len(result["problems"]) == 1
    assert reference("api", 1) in result["problems"][0] and "conflict: unable to delete" in result["problems"][0]
    assert sorted(result["images"]) == sorted([reference("api", 2), reference("core", 2), reference("api", 15)])
    assert result["records"] == [MIDDLE, FAILED]
    assert sorted(ledger.records()[0]) == [OLD, LIVE]
    (engine.home / "stuck").unlink()
    assert prune(engine, ledger)["records"] == [OLD]


def test_check_mode_says_what_would_go(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    result = prune(engine, ledger, _ansible_check_mode=True)
    assert sorted(ledger.records()[0]) == [OLD, MIDDLE, LIVE, FAILED] and engine.images == sorted(images)
    assert "rmi" not in (engine.home / "commands").read_text()
    really = prune(engine, ledger)
    for key in ("kept", "images", "records"):
        assert sorted(result[key]) == sorted(really[key]) != []


def test_what_vanishes_meanwhile_is_no_problem(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    (engine.home / "vanishing").write_text("0123abcd 4567cdef")
    engine.add("one", Image="sha256:one", Config={"Image": reference("api", 1)})
    result = prune(engine, ledger)
    assert result["problems"] == [] and reference("api", 1) in engine.images
    assert reference("api", 15) not in engine.images


def test_an_engine_that_is_down_is_a_warning(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    (engine.home / "down").write_text("")
    result = prune(engine, ledger)
    assert "Cannot connect" in result["problems"][0] and result["records"] == []
    assert sorted(ledger.records()[0]) == [OLD, MIDDLE, LIVE, FAILED]


def test_an_answer_that_is_half_is_a_warning(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    (engine.home / "half.json").write_text('{"Image": ')
    result = prune(engine, ledger)
    assert "no JSON" in result["problems"][0] and engine.images == sorted(images)


def test_a_host_without_an_engine_has_only_records(
    engine: EngineDouble, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (engine.bin / "docker").unlink()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert prune(engine, ledger)["records"] == [OLD, MIDDLE, FAILED]


def test_a_damaged_record_stops_it(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    """Its images may be those of a release that serves."""
    path = Path(ledger.root) / "releases" / f"{MIDDLE}.json"
    path.write_text("half")
    result = prune(engine, ledger)
    assert str(path) in result["problems"][0] and engine.images == sorted(images)
    assert sorted(ledger.records()[0]) == [OLD, LIVE, FAILED]


def test_a_live_release_without_a_record_stops_it(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    result = prune(engine, ledger, live=[LIVE, "abcdefabcdef"])
    assert "no record of the live release abcdefabcdef" in result["problems"][0]
    assert engine.images == sorted(images)


def test_a_record_without_images_is_no_obstacle(engine: EngineDouble, ledger: Ledger, images: list[str]) -> None:
    ledger.write({"id": LIVE, "result": "stable", "stable_at": 3.0})
    ledger.write({"id": FAILED, "result": "failed", "images": None})
    result = prune(engine, ledger)
    assert result["problems"] == [] and FAILED in result["records"] and LIVE in ledger.records()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prefix": "/"}, "The prefix is empty"), ({"live": ["latest"]}, "'latest' cannot be the id")],
)
def test_what_makes_no_sense_is_refused(engine: EngineDouble, ledger: Ledger, options: dict[str, t.Any], message: str) -> None:
    result = engine.run("release_prune", **{"root": ledger.root, "prefix": PREFIX, **options})
    assert result["failed"] and message in result["msg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10.0.0.1:5000/truthgraph/api:key", f"{PREFIX}/api"),
        ("10.0.0.1:5000/truthgraph/api", f"{PREFIX}/api"),
        ("10.0.0.1:5000/truthgraph/api@sha256:12", f"{PREFIX}/api"),
        ("10.0.0.1:5000/truthgraph/api:key@sha256:12", f"{PREFIX}/api"),
        ("python:3.11", "python"),
    ],
)
def test_the_repository_of_a_reference(name: str, expected: str) -> None:
    assert repository(name) == expected


def test_an_image_of_nothing_is_no_candidate() -> None:
    assert not is_candidate({"Id": "1", "RepoTags": ["<none>:<none>"], "RepoDigests": None}, PREFIX)
