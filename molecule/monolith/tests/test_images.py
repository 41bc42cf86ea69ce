# The image of the monolith, by the digest that its container was started from.
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet
from ansible_collections.truthgraph.platform.molecule.shared.image import Image
from ansible_collections.truthgraph.platform.molecule.shared.image_checks import *  # noqa: F403

# As the engine counts them; the seed says 6.20 GB.
API_CPU_BYTES = 1_450_000_000


@pytest.fixture(scope="session")
def image(fleet: rollout.Fleet, deployed: Fleet, index_words: list[str]) -> t.Iterator[Image]:
    run = fleet.deploy("reference", fleet_topology="monolith")
    assert run.code == 0, str(run)
    imports = ["truthgraph.main:app", "alembic", "psycopg", "torch", "sentence_transformers", "transformers"]
    yield Image(deployed.of_group("truthgraph_api")[0], "api", imports, index_words)
    run = fleet.deploy("reference")
    assert run.code == 0, str(run)


def test_everything_is_in_one_image(image: Image) -> None:
    repository = image.reference.partition("@")[0]
    assert repository.endswith("/api")
    assert image.python["imported"] == {
        "truthgraph.main:app": "FastAPI",
        **dict.fromkeys(["alembic", "psycopg", "torch", "sentence_transformers", "transformers"], "module"),
    }
    assert "/app/alembic/env.py" in image.files and "/app/truthgraph/ml/__init__.py" in image.files


def test_no_cuda_in_it(image: Image) -> None:
    assert [path for path in image.files if "/site-packages/nvidia/" in path or "libcudart" in path] == []


def test_it_keeps_to_its_size(image: Image) -> None:
    assert image.facts["Size"] <= API_CPU_BYTES
