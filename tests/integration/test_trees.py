# Application trees that are not ours, built for real on the lab's build host and looked into there.
import json
import os
import pathlib
import shutil
import subprocess
import time
import typing as t

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, Fleet, tool
from ansible_collections.truthgraph.platform.tests.integration.conftest import Build, play

# No build system, no requirement files: a lock that pins the CUDA build of torch, and test tools among what ml needs.
PROJECT = """
[project]
name = "truthgraph"
version = "9.9"
requires-python = ">=3.11"
dependencies = ["alembic>=1.14", "fastapi>=0.115", "uvicorn>=0.34"]

[project.optional-dependencies]
ml = [
    "torch>=2.6,<3",
    "pytest>=8",
]

[dependency-groups]
dev = ["pytest>=8"]
"""
MAIN = "import fastapi\n\napp = fastapi.FastAPI()\n"
LOOK = """
import importlib.metadata as metadata, json, truthgraph, truthgraph.main
print(json.dumps([truthgraph.__version__, type(truthgraph.main.app).__name__,
                  {one.metadata["Name"].lower(): one.version for one in metadata.distributions()}]))
"""

IMAGES_OF_RELEASES = """
import glob, json
records = [json.load(open(path)) for path in glob.glob("/var/lib/truthgraph/releases/*.json")]
print(json.dumps(sorted({image for record in records for image in record["images"].values()})))
"""


def find_links() -> list[str]:
    return [place for place in os.environ.get("PIP_FIND_LINKS", "").split() if pathlib.Path(place).is_dir()]


@pytest.fixture
def locked_tree(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "locked"
    (root / "truthgraph" / "ml").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (root / "truthgraph" / "__init__.py").write_text('__version__ = "9.9"\n', encoding="utf-8")
    # No earlier run can have built it.
    (root / "truthgraph" / "main.py").write_text(f"{MAIN}MADE = {time.time()}\n", encoding="utf-8")
    (root / "truthgraph" / "ml" / "__init__.py").write_text(MAIN, encoding="utf-8")
    shutil.copytree(CHECKOUT / "files" / "app" / "alembic", root / "alembic")
    shutil.copy(CHECKOUT / "files" / "app" / "alembic.ini", root / "alembic.ini")
    subprocess.run([tool("uv"), "lock", "--quiet"], cwd=root, check=True, timeout=300)
    return root


def test_a_locked_tree_without_a_build_of_its_own(fleet: Fleet, build: Build, locked_tree: pathlib.Path) -> None:
    images, said = build(locked_tree, "core")
    assert images["core"]["built"]
    host = fleet.of_group("truthgraph_build")[0].host
    version, app, installed = json.loads(
        host.check_output("docker run --rm --network none %s python3 -c %s", images["core"]["reference"], LOOK)
    )
    assert (version, app) == ("9.9", "FastAPI")
    lock = (locked_tree / "uv.lock").read_text(encoding="utf-8")
    for name in ("alembic", "fastapi", "uvicorn"):
        assert f'name = "{name}"\nversion = "{installed[name]}"' in lock
    assert not {"torch", "pytest"} & set(installed)
    # The warning has the line.
    assert "pyproject.toml:11 lists pytest" in " ".join(said.split())
    again, _said = build(locked_tree, "core")
    assert not again["core"]["built"]
    assert again["core"]["digest"] == images["core"]["digest"]


def test_a_tree_with_neither_lock_nor_requirement_files(fleet: Fleet, build: Build, locked_tree: pathlib.Path) -> None:
    # Its version is that of the package, which only a build would find out.
    (locked_tree / "uv.lock").unlink()
    project = locked_tree / "pyproject.toml"
    text = project.read_text(encoding="utf-8").replace('version = "9.9"', 'dynamic = ["version"]')
    project.write_text(f"{text}\n[build-system]\nrequires = ['no-such-build-system']\n", encoding="utf-8")
    images, said = build(locked_tree, "core")
    assert "Commit a lock: uv lock" in " ".join(said.split())
    host = fleet.of_group("truthgraph_build")[0].host
    version, app, installed = json.loads(
        host.check_output("docker run --rm --network none %s python3 -c %s", images["core"]["reference"], LOOK)
    )
    assert (version, app) == ("9.9", "FastAPI") and {"alembic", "uvicorn"} <= set(installed)
    again, _said = build(locked_tree, "core")
    assert (again["core"]["built"], again["core"]["digest"]) == (False, images["core"]["digest"])


def test_a_core_that_turns_out_to_need_torch_is_told_of_monolith(fleet: Fleet, build: Build, locked_tree: pathlib.Path) -> None:
    # No import statement says so: it shows when the image is tried. The lock pins the CUDA build, of a version of which there
    # is a CPU build at hand.
    wheels = [path for place in find_links() for path in pathlib.Path(place).glob("torch-*+cpu-*.whl")]
    assert wheels, "no find-links directory (PIP_FIND_LINKS) has a CPU build of torch"
    torch = wheels[0].name.split("-")[1].partition("+")[0]
    project = locked_tree / "pyproject.toml"
    project.write_text(project.read_text(encoding="utf-8").replace("torch>=2.6,<3", f"torch=={torch}"), encoding="utf-8")
    subprocess.run([tool("uv"), "lock", "--quiet"], cwd=locked_tree, check=True, timeout=300)
    main = locked_tree / "truthgraph" / "main.py"
    text = main.read_text(encoding="utf-8")
    main.write_text(f"import importlib\n\ntorch = importlib.import_module('torch')\n{text}", encoding="utf-8")
    answer = {"image_build_source": str(locked_tree), "image_build_targets": ["core"], "answer": "/dev/null"}
    said = " ".join(play("tests/integration/build.yml", answer, code=2).split())
    assert "truthgraph/main.py:3 needs torch" in said and "fleet_topology: monolith" in said
    images, _said = build(locked_tree, "api", fleet_topology="monolith")
    host = fleet.of_group("truthgraph_build")[0].host
    command = "docker run --rm --network none --tmpfs /tmp %s python3 -c %s"
    installed = json.loads(host.check_output(command, images["api"]["reference"], LOOK))[2]
    assert installed["torch"] == f"{torch}+cpu" and not [name for name in installed if name.startswith("nvidia-")]
    assert {"alembic", "fastapi"} <= set(installed)


def test_the_tests_of_a_tree_run_in_its_image(fleet: Fleet, locked_tree: pathlib.Path) -> None:
    (locked_tree / "tests").mkdir()
    test = locked_tree / "tests" / "test_it.py"
    test.write_text("import truthgraph\n\ndef test_it():\n    assert truthgraph.__file__.startswith('/app/')\n", encoding="utf-8")
    assert "1 passed" in play("playbooks/test.yml", {"image_build_source": str(locked_tree)})
    test.write_text("def test_it():\n    assert 1 == 2\n", encoding="utf-8")
    assert "assert 1 == 2" in play("playbooks/test.yml", {"image_build_source": str(locked_tree)}, code=2)
    host = fleet.of_group("truthgraph_build")[0].host
    assert not host.file("/var/lib/truthgraph-build/tests").exists


def test_the_cache_of_the_builder_keeps_to_its_limit(fleet: Fleet, build: Build, locked_tree: pathlib.Path) -> None:
    host = fleet.of_group("truthgraph_build")[0].host
    limit = 250_000_000
    images, _said = build(locked_tree, "core", image_build_cache_bytes=limit)
    assert images["core"]["built"]
    usage = json.loads(host.check_output("curl --silent --unix-socket /run/docker.sock http://engine/system/df?type=build-cache"))
    # What an image in the engine has as its layer is no cache.
    cached = [record["Size"] for record in usage["BuildCache"] if not record["Shared"] and not record["InUse"]]
    assert sum(cached) <= limit


def layers(host: testinfra.host.Host, reference: str) -> list[tuple[str, int]]:
    # The layers of an image in the registry: digests and compressed bytes.
    manifest = json.loads(host.check_output("docker manifest inspect %s", reference))
    return [(layer["digest"], layer["size"]) for layer in manifest["layers"]]


def test_a_change_of_the_source_moves_one_small_layer(fleet: Fleet, build: Build, locked_tree: pathlib.Path) -> None:
    host = fleet.of_group("truthgraph_build")[0].host
    registry = fleet.of_group("truthgraph_registry")[0].host
    first = build(locked_tree, "core")[0]["core"]
    before = stored(registry)
    main = locked_tree / "truthgraph" / "main.py"
    main.write_text(main.read_text(encoding="utf-8") + "CHANGED = True\n", encoding="utf-8")
    second = build(locked_tree, "core")[0]["core"]
    assert second["built"]
    # What was sent to the registry, and what a host with the first one has to fetch.
    assert stored(registry) - before < 1_000_000
    new = [size for digest, size in layers(host, second["reference"]) if (digest, size) not in layers(host, first["reference"])]
    assert len(new) == 1 and sum(new) < 1_000_000
    member = fleet.of_group("truthgraph_api")[1].host
    try:
        member.check_output("docker pull --quiet %s", first["reference"])
        pulled = member.check_output("docker pull %s", second["reference"])
        assert pulled.count("Pull complete") == 1 and pulled.count("Already exists") == len(layers(host, second["reference"])) - 1
    finally:
        member.run("docker rmi %s %s", first["reference"], second["reference"])


def test_the_same_key_gives_the_same_image_from_an_empty_cache(fleet: Fleet, build: Build, locked_tree: pathlib.Path) -> None:
    host = fleet.of_group("truthgraph_build")[0].host
    first = build(locked_tree, "core")[0]["core"]
    before = layers(host, first["reference"])
    needed = needed_digests(fleet)
    play("tests/integration/prune.yml", {"registry_prune_keep": needed, "registry_prune_known": [*needed, first["digest"]]})
    host.check_output("docker rmi %s", first["reference"])
    # All but the installer's downloads.
    host.check_output("docker builder prune --all --force --filter type=regular")
    # Elsewhere, and at another time.
    again = build(shutil.copytree(locked_tree, locked_tree.with_name("elsewhere")), "core")[0]["core"]
    assert again["built"] and again["key"] == first["key"]
    assert layers(host, again["reference"]) == before and again["digest"] == first["digest"]


def needed_digests(fleet: Fleet) -> list[str]:
    # What the hosts' releases run, by digest.
    members = fleet.of_group("truthgraph_api") + fleet.of_group("truthgraph_inference")
    found = {one for member in members for one in json.loads(member.host.check_output("python3 -c %s", IMAGES_OF_RELEASES))}
    return sorted(reference.partition("@")[2] for reference in found)


def stored(registry: testinfra.host.Host) -> int:
    # Bytes that the registry has on its disk.
    size = registry.check_output("du -sb $(docker volume inspect --format '{{.Mountpoint}}' truthgraph-registry)")
    return int(size.split()[0])


def test_the_registry_gives_up_what_nothing_needs_and_takes_it_again(
    fleet: Fleet, build: Build, locked_tree: pathlib.Path
) -> None:
    registry = fleet.of_group("truthgraph_registry")[0].host
    builder = fleet.of_group("truthgraph_build")[0].host

    def pulled(reference: str) -> t.Any:
        builder.run("docker rmi %s", reference)
        return builder.run("docker pull --quiet %s", reference)

    needed = set()
    for member in fleet.of_group("truthgraph_api") + fleet.of_group("truthgraph_inference"):
        needed.update(json.loads(member.host.check_output("python3 -c %s", IMAGES_OF_RELEASES)))
    # What nobody needs, as large as a picture.
    (locked_tree / "truthgraph" / "picture.bin").write_bytes(os.urandom(5_000_000))
    built = build(locked_tree, "core")[0]["core"]
    before = stored(registry)
    keep = [reference.partition("@")[2] for reference in needed]
    play("tests/integration/prune.yml", {"registry_prune_keep": keep, "registry_prune_known": [*keep, built["digest"]]})
    assert stored(registry) < before - 4_500_000
    gone = pulled(built["reference"])
    assert gone.rc != 0 and "manifest unknown" in gone.stderr
    for reference in needed:
        assert pulled(reference).rc == 0, reference
    again = build(locked_tree, "core")[0]["core"]
    assert again["built"] and pulled(again["reference"]).rc == 0
