# The build for hosts with NVIDIA GPUs. It takes several GB and many minutes, so it has a target of its own: make test-cuda.
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet
from ansible_collections.truthgraph.platform.tests.integration.test_runtimes import compare  # noqa: F401

LIMIT = 4_500_000_000
LOOK = """
import importlib.util, torch
print(torch.version.cuda, *(name for name in ("triton", "cuda.bindings") if importlib.util.find_spec(name.partition(".")[0])))
"""


@pytest.fixture(scope="session")
def timeout() -> int:
    return 3000


def test_it_computes_on_the_cpu_and_keeps_to_its_size(fleet: Fleet, compare: t.Callable[..., tuple[float, t.Any, t.Any]]) -> None:  # noqa: F811
    least, image, answer = compare(image_build_torch="cuda")
    assert answer["device"] == "cpu" and least >= 0.9999
    assert image["unpacked_bytes"] <= LIMIT
    host = fleet.of_group("truthgraph_build")[0].host
    found = host.check_output("docker run --rm --network none %s python3 -c %s", image["reference"], LOOK)
    version, *compilers = found.split()
    assert version.partition(".")[0] in ("12", "13") and compilers == []


def test_it_computes_on_a_gpu(fleet: Fleet, compare: t.Callable[..., tuple[float, t.Any, t.Any]]) -> None:  # noqa: F811
    host = fleet.of_group("truthgraph_build")[0].host
    if host.run("nvidia-smi").rc != 0:
        pytest.skip("the build host has no NVIDIA GPU")
    least, _image, answer = compare("--gpus all", image_build_torch="cuda")
    assert answer["device"] == "cuda" and least >= 0.999
