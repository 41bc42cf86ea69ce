# The images that really run, each by the digest that its container was started from.
import re

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet
from ansible_collections.truthgraph.platform.molecule.shared.image import Image
from ansible_collections.truthgraph.platform.molecule.shared.image_checks import *  # noqa: F403

# Bytes as the engine counts them, and 5% for what changes with the Debian archive and the packages.
CORE_BYTES = 200_000_000 * 1.05
ML_CPU_BYTES = 1_410_000_000 * 1.05


@pytest.fixture(scope="session")
def core(fleet: Fleet, index_words: list[str]) -> Image:
    return Image(fleet.of_group("truthgraph_api")[0], "api", ["truthgraph.main:app", "alembic", "psycopg"], index_words)


@pytest.fixture(scope="session")
def ml(fleet: Fleet, index_words: list[str]) -> Image:
    imports = ["torch", "sentence_transformers", "transformers", "truthgraph.ml:app"]
    return Image(fleet.of_group("truthgraph_inference")[0], "inference", imports, index_words)


@pytest.fixture(scope="session", params=["core", "ml"])
def image(request: pytest.FixtureRequest) -> Image:
    chosen: Image = request.getfixturevalue(request.param)
    return chosen


def test_torch_is_absent_from_core(core: Image) -> None:
    assert not core.python["found"]["torch"]
    assert [path for path in core.files if "libtorch" in path] == []


def test_no_ml_package_in_core(core: Image) -> None:
    assert not core.python["found"]["sentence_transformers"]
    assert not core.python["found"]["transformers"]
    assert [path for path in core.files if path.startswith("/app/truthgraph/ml/")] == []


@pytest.mark.parametrize("module", ["torch", "sentence_transformers", "transformers"])
def test_ml_imports(ml: Image, module: str) -> None:
    assert ml.python["imported"][module] == "module"


def test_no_cuda_in_the_cpu_image(ml: Image) -> None:
    assert [path for path in ml.files if re.search(r"lib(cudart|cublas|cudnn|nccl)|/site-packages/(nvidia|triton)/", path)] == []


def test_app_object_of_core_imports(core: Image) -> None:
    assert core.python["imported"]["truthgraph.main:app"] == "FastAPI"


def test_app_object_of_ml_imports(ml: Image) -> None:
    assert ml.python["imported"]["truthgraph.ml:app"] == "FastAPI"


def test_migrations_can_run_from_core(core: Image) -> None:
    assert core.python["imported"]["alembic"] == "module"
    assert core.python["imported"]["psycopg"] == "module"
    assert "/app/alembic.ini" in core.files
    assert "/app/alembic/env.py" in core.files


def test_core_keeps_to_its_size(core: Image) -> None:
    assert core.facts["Size"] <= CORE_BYTES


def test_ml_keeps_to_its_size(ml: Image) -> None:
    assert ml.facts["Size"] <= ML_CPU_BYTES
