# What `deploy.yml --check` says, and that it changes nothing.
import pathlib
import re
import shutil
import typing as t

from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, play, unchanged

MIGRATION = 'revision = "0002"\ndown_revision = "0001"\ncontract = True\n\n\ndef upgrade() -> None:\n    pass\n'


def planned(variables: dict[str, t.Any]) -> str:
    run = play("deploy", variables, "--check")
    assert run.code == 0, str(run)
    return run.said


def test_nothing_to_do_is_said(fleet: Fleet) -> None:
    release = fleet.bring("reference")
    said = planned(fleet.tree("reference"))
    for host, service in (("cpu1", "api"), ("cpu2", "api"), ("gpu1", "inference")):
        assert re.search(rf"^{host} +{service} +\S+ +\S+@\S+ +(blue|green) +nothing +0.0$", said, re.MULTILINE), said
    assert release in said
    assert "Migrations" not in said and "Expected interruption" not in said


def test_another_release_is_said_with_what_it_costs(fleet: Fleet) -> None:
    fleet.tree("other")
    release = fleet.bring("reference")
    before = fleet.look()
    settings = {"api_environment": {"TRUTHGRAPH_TEST_COLOUR": "green"}}
    said = planned({**fleet.tree("other"), **settings})
    row = rf"^cpu1 +api +{release} -> [0-9a-f.]+ +core@(\w+) -> core@(?!\1)\w+ +(blue -> green|green -> blue) +replaced +"
    # The hosts may have the image of an earlier test; if they have not, all but its last layers are there.
    found = re.search(rf"{row}([0-9.]+)$", said, re.MULTILINE)
    assert found and float(found[3]) < 5, said
    assert "cpu1, cpu2: api: environment.TRUTHGRAPH_TEST_COLOUR: unset -> green" in said
    assert "Expected interruption: none." in said
    unchanged(before, fleet.look())


def test_what_is_still_to_be_built_is_said_with_its_migrations(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    fleet.bring("reference")
    before = fleet.look()
    tree = tmp_path / "tree"
    shutil.copytree(fleet.tree("reference")["image_build_source"], tree, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "alembic" / "versions" / "0002_less.py").write_text(MIGRATION, encoding="utf-8")
    said = planned({"image_build_source": str(tree)})
    assert re.search(r"^cpu1 +api +.* -> to be built +.* +replaced +-$", said, re.MULTILINE), said
    assert "Migrations to be run: 0002_less.py." in said
    assert "0002_less.py takes something away" in said
    unchanged(before, fleet.look())
