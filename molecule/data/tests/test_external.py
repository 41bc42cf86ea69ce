# A database that is not the fleet's own: here the lab's Postgres, of which this inventory knows the address only.
import typing as t

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Run, UnderLoad, play

EXTERNAL = CHECKOUT / "molecule" / "data" / "external" / "hosts.yml"


def external(variables: dict[str, t.Any], name: str = "deploy") -> Run:
    return play(name, variables, inventory=EXTERNAL)


def test_a_fleet_without_a_database_of_its_own(fleet: Fleet, under_load: UnderLoad) -> None:
    release = fleet.bring("reference")
    cpu1 = fleet.hosts["cpu1"]
    started = cpu1.run("docker", "inspect", "--format", "{{.State.StartedAt}}", "truthgraph-postgres")
    try:
        with under_load():
            run = external(fleet.tree("reference"))
        # Its images and its settings are the same, so it is the same release.
        assert run.code == 0 and fleet.release == release, str(run)
        # No backup can be taken, so a migration has to be asked for.
        run = external(fleet.tree("migration-fails", rollout.migration_fails))
        assert run.code != 0 and "release_backup_before_migration=false" in run.last_words, str(run)
        run = external({**fleet.tree("migration-fails"), "release_backup_before_migration": False})
        assert run.code != 0 and rollout.LAST_WORDS in run.last_words, str(run)
        assert cpu1.run("docker", "inspect", "--format", "{{.State.StartedAt}}", "truthgraph-postgres") == started
        fleet.check_serves(release)
    finally:
        run = fleet.deploy("reference")
        assert run.code == 0, str(run)


def test_without_any_database_it_says_what_to_set(fleet: Fleet) -> None:
    run = external({**fleet.tree("reference"), "fleet_database_host": ""})
    assert run.code != 0 and "set fleet_database_host" in run.last_words, str(run)
