"""What an image consists of: layers from the engine's words, what has grown, and a bill of materials that others can read."""

from __future__ import annotations

import copy
import json
import typing as t

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ansible_collections.truthgraph.platform.plugins.module_utils import inventory
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli
from ansible_collections.truthgraph.platform.plugins.modules import image_inventory

DIGEST = "sha256:" + "5" * 64


def row(instruction: str, size: int) -> str:
    return json.dumps({"CreatedBy": instruction, "Size": str(size), "ID": "<missing>"})


# As `docker history` lists them: the newest first.
HISTORY = "\n".join(
    [
        row('CMD ["uvicorn" "truthgraph.ml:app"]', 0),
        row("COPY /app /app # buildkit", 70),
        row("COPY /opt/models /opt/models # buildkit", 600),
        row("COPY /opt/venv /opt/venv # buildkit", 500),
        row("COPY /opt/venv /opt/venv # buildkit", 4000),
        row("RUN |1 USER_ID=10001 /bin/sh -c cp entrypoint.sh /usr/local/bin/truthgraph-entrypoint # buildkit", 9),
        row("ARG USER_ID=10001", 0),
        row("ADD rootfs.tar / # buildkit", 800),
    ]
)


def package(name: str, version: str, size: int, *licenses: str) -> dict[str, t.Any]:
    return {"name": name, "version": version, "bytes": size, "licenses": list(licenses)}


@pytest.fixture
def found() -> dict[str, t.Any]:
    return {
        "unpacked_bytes": 5979,
        "layers": inventory.layers_of(HISTORY),
        "python": [
            package("torch", "2.13.0+cpu", 2500, "BSD-3-Clause"),
            package("nvidia-cublas", "13.1", 1000),
            package("triton", "3.6.0", 400, "MIT License"),
            package("numpy", "2.3.1", 300, "BSD-3-Clause AND MIT"),
        ],
        "system": [{**package("libstdc++6", "14.2.0-19", 90), "architecture": "amd64"}],
        "distribution": "debian-13",
    }


def test_layers_are_those_of_their_instructions() -> None:
    layers = inventory.layers_of(HISTORY)
    assert [(one["group"], one["bytes"]) for one in layers] == [
        *[("base", 800), ("runtime", 9), ("packages", 4000), ("packages", 500), ("weights", 600), ("source", 70)]
    ]


def test_parts_add_up_to_the_image(found: dict[str, t.Any]) -> None:
    groups = inventory.groups_of(found)
    assert groups == {"base": 800, "python": 600, "torch": 2500, "cuda": 1400, "weights": 600, "app": 79}
    assert sum(groups.values()) == found["unpacked_bytes"]


def test_what_has_grown_is_named_by_layer_and_by_package(found: dict[str, t.Any]) -> None:
    before = copy.deepcopy(found)
    before["python"][3].update(version="2.0.0", bytes=100)
    del before["system"][0]
    before["layers"][-1]["bytes"] = 60
    lines = inventory.growth(found, before)
    assert lines[0].startswith("python package numpy 2.3.1 (was 2.0.0): 0.0 MB")
    assert any(line.startswith("system package libstdc++6 14.2.0-19") for line in lines)
    assert any(line.startswith("layer group app") for line in lines)
    assert not any("torch" in line for line in lines)


def test_without_an_earlier_image_the_largest_is_named(found: dict[str, t.Any]) -> None:
    assert inventory.growth(found, {})[0].startswith("layer group torch")


@pytest.mark.parametrize(
    ("budget", "problems"),
    [
        ({"unpacked": 100_000_000, "compressed": 40_000_000}, 0),
        ({"unpacked": 99_999_999, "compressed": 40_000_000}, 1),
        ({"unpacked": 1, "compressed": 1}, 2),
        ({"unpacked": 0}, 0),
        ({}, 0),
    ],
)
def test_a_budget_is_kept_to_the_byte(budget: dict[str, t.Any], problems: int) -> None:
    assert len(inventory.over_budget({"unpacked": 100_000_000, "compressed": 40_000_000}, budget)) == problems


def test_the_bill_of_materials_is_valid_and_the_same_every_time(found: dict[str, t.Any]) -> None:
    created = "2026-01-02T03:04:05Z"
    bill = inventory.cyclonedx(found, "ml", DIGEST, "0.1.0", created)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert bill == inventory.cyclonedx(copy.deepcopy(found), "ml", DIGEST, "0.1.0", created)
    assert bill["metadata"]["timestamp"] == created
    purls = {one["purl"] for one in bill["components"]}
    assert "pkg:pypi/torch@2.13.0%2Bcpu" in purls
    assert "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=debian-13" in purls
    licenses = {one["name"]: one.get("licenses") for one in bill["components"]}
    assert licenses["numpy"] == [{"expression": "BSD-3-Clause AND MIT"}]
    assert licenses["triton"] == [{"license": {"name": "MIT License"}}]
    assert licenses["nvidia-cublas"] is None


def test_other_images_have_other_bills(found: dict[str, t.Any]) -> None:
    numbers = {
        inventory.cyclonedx(found, "ml", f"sha256:{digit * 64}", "", "")["serialNumber"] for digit in ("1", "2")
    }
    assert len(numbers) == 2
    assert "timestamp" not in inventory.cyclonedx(found, "ml", DIGEST, "", "")["metadata"]


def test_a_model_that_the_build_exports_counts_as_weights() -> None:
    [layer] = inventory.layers_of(row("COPY /opt/exported /opt/models # buildkit", 600))
    assert layer["group"] == "weights"


MISSING = "ModuleNotFoundError: No module named 'torch'"
TRACE = f'Traceback (most recent call last):\n  File "/app/truthgraph/main.py", line 3, in <module>\n    import x\n{MISSING}\n'


class Engine:
    """A container that imports what an image serves, and ends as it is told to."""

    def __init__(self, code: int, said: str) -> None:
        self.ending = code, "", said

    def run(self, *_arguments: str) -> str:
        return '["uvicorn", "truthgraph.main:app"]'

    def try_run(self, *arguments: str) -> tuple[int, str, str]:
        assert arguments[-1] == "import truthgraph.main"
        return self.ending


def lacking(engine: Engine, image: str, name: str) -> str:
    return image_inventory.lacking(t.cast(DockerCli, engine), image, name)


def test_what_an_image_lacks_is_named_with_its_line_and_the_way_out() -> None:
    said = lacking(Engine(1, TRACE), "core@sha256:1", "core")
    assert "truthgraph/main.py:3 needs torch" in said and "fleet_topology: monolith" in said
    # Elsewhere it is a matter of the dependencies.
    assert "Add torch to the dependencies" in lacking(Engine(1, TRACE), "ml@sha256:1", "ml")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, TRACE),  # It can do without, and says so.
        (1, f"{TRACE}\nDuring handling of the above exception, another exception occurred:\n\nKeyError: 'DATABASE_URL'\n"),
        (1, "ValueError: DATABASE_URL is empty\n"),
    ],
)
def test_what_else_ends_an_import_is_not_for_a_build_to_judge(code: int, said: str) -> None:
    assert lacking(Engine(code, said), "core@sha256:1", "core") == ""
