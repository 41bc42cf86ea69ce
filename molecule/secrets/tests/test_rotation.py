# Passwords are replaced by a deploy with the new one, while clients go on.
import json

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import play

NEW = {
    "fleet_database_password": "another-1f/8c@b:2#d4",
    "fleet_registry_password": "another-9a7e",
}


@pytest.fixture
def replaced(fleet, tmp_path):
    """Deploy with one variable more, from a file, as it would come from a vault."""

    def deploy(variable=None):
        file = tmp_path / "vault.json"
        file.write_text(json.dumps({variable: NEW[variable]} if variable else {}), encoding="utf-8")
        return play("deploy", fleet.tree("reference"), "-e", f"@{file}")

    yield deploy
    run = deploy()
    assert run.code == 0, str(run)


@pytest.mark.parametrize("variable", NEW)
def test_a_password_is_replaced_and_no_request_is_dropped(fleet, under_load, replaced, variable):
    fleet.bring("reference")
    with under_load():
        run = replaced(variable)
    assert run.code == 0, str(run)
    fleet.check_serves(fleet.release)
    # Nothing differs any more.
    again = replaced(variable)
    assert (again.code, again.changed) == (0, {}), str(again)
    with under_load():
        back = replaced()
    assert back.code == 0, str(back)
