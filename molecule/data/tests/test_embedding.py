# The database knows which model made its vectors.
import json
import pathlib
import typing as t

from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, UnderLoad, play, replace
from ansible_collections.truthgraph.platform.molecule.shared.writer import psql


def another_model(tree: pathlib.Path) -> None:
    # Of the same name and dimension, and with other vectors.
    replace(tree / "truthgraph" / "ml" / "embedder.py", "return vectors.numpy()", "return vectors.roll(1, dims=1).numpy()")


def known(host: Host) -> dict[str, t.Any]:
    sql = (
        "SELECT json_build_object('model', model, 'release', release, 'dimension', vector_dims(vector)) "
        "FROM truthgraph_platform.embedding"
    )
    found: dict[str, t.Any] = json.loads(psql(host, sql))
    return found


def test_a_release_with_another_model_is_refused_unless_asked_for(fleet: Fleet, under_load: UnderLoad) -> None:
    cpu1 = fleet.hosts["cpu1"]
    # What made the vectors is noted whenever the inference service changes.
    run = fleet.deploy("reference", inference_environment={"TRUTHGRAPH_TORCH_THREADS": "1", "TRUTHGRAPH_MAX_PENDING": "2100"})
    assert run.code == 0, str(run)
    release = fleet.release
    before = known(cpu1)
    assert (before["model"], before["dimension"]) == ("all-MiniLM-L6-v2", 384), before
    tree = fleet.tree("another-model", another_model)
    with under_load():
        run = play("deploy", tree)
    assert run.code != 0, str(run)
    assert "brings another model" in run.last_words and "release_other_embeddings=true" in run.last_words, str(run)
    fleet.check_serves(release)
    assert known(cpu1) == before
    try:
        run = play("deploy", {**tree, "release_other_embeddings": True})
        assert run.code == 0, str(run)
        assert known(cpu1)["release"] == fleet.release != release
        # Now the earlier one is the other.
        run = play("rollback")
        assert run.code != 0 and "brings another model" in run.last_words, str(run)
    finally:
        run = play("deploy", {**fleet.tree("reference"), "release_other_embeddings": True})
        assert run.code == 0, str(run)
