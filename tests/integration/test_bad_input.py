# Bad input ends a deploy with one clear error that names the thing and the way out, before anything has changed.
import pathlib
import re
import shlex
import subprocess
import time
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet, tool
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Run

NOT_OURS = 8009


@pytest.fixture
def refused(deploy: t.Callable[..., Run], snapshot: t.Callable[[], dict[str, list[str]]]) -> t.Callable[..., Run]:
    # Deploys, and checks what all refusals have in common: they fail in one task, and nothing is different afterwards.
    def run(variables: t.Any, *wanted: str, options: t.Sequence[str] = (), **more: t.Any) -> Run:
        before = snapshot()
        result = deploy(variables, *options, **more)
        assert result.code != 0, f"the deploy was not refused\n{result}"
        assert result.changed == {}, str(result)
        assert snapshot() == before, str(result)
        assert len({task for task, _, _ in result.failures}) == 1, str(result)
        assert len({host for _, host, _ in result.failures}) == len(result.failures), str(result)
        for _, host, message in [*result.failures, ("", "the end", result.last_words)]:
            text = " ".join(message.split())
            for pattern in wanted:
                assert re.search(pattern, text), f"{host} says nothing like {pattern!r}\n{result}"
        return result

    return run


def replace(path: pathlib.Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# The application tree.


def test_source_path_is_missing(refused: t.Callable[..., Run], tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "nowhere"
    result = refused({"image_build_source": str(missing)}, re.escape(str(missing)), "image_build_source")
    assert len(result.failures) == 1


def test_source_has_no_pyproject(refused: t.Callable[..., Run], tree: pathlib.Path) -> None:
    (tree / "pyproject.toml").unlink()
    result = refused({"image_build_source": str(tree)}, re.escape(str(tree)), r"pyproject\.toml")
    assert len(result.failures) == 1


def test_main_needs_torch_in_split(refused: t.Callable[..., Run], tree: pathlib.Path) -> None:
    replace(tree / "truthgraph" / "main.py", "import asyncio\n", "import asyncio\nimport torch\n")
    line = (tree / "truthgraph" / "main.py").read_text(encoding="utf-8").splitlines().index("import torch") + 1
    refused({"image_build_source": str(tree)}, rf"truthgraph/main\.py:{line}\b", "torch", "split|monolith|Move|move")


def test_main_needs_torch_through_another_module_in_split(refused: t.Callable[..., Run], tree: pathlib.Path) -> None:
    replace(tree / "truthgraph" / "errors.py", "DATABASE =", "import sentence_transformers\n\nDATABASE =")
    refused({"image_build_source": str(tree)}, r"truthgraph/errors\.py:\d+", "sentence_transformers", r"main\.py")


def test_source_has_no_ml_service(refused: t.Callable[..., Run], tree: pathlib.Path) -> None:
    (tree / "truthgraph" / "ml").rename(tree / "elsewhere")
    refused({"image_build_source": str(tree)}, r"truthgraph/ml", "monolith|split", re.escape(str(tree)))


def test_lock_is_stale(refused: t.Callable[..., Run], tree: pathlib.Path) -> None:
    subprocess.run([tool("uv"), "lock", "--quiet"], cwd=tree, check=True, timeout=300)
    replace(tree / "pyproject.toml", '"alembic>=1.14,<2",', '"alembic>=1.14,<2",\n    "idna",')
    refused({"image_build_source": str(tree)}, r"uv\.lock does not fit pyproject\.toml", "Run in the source tree: uv lock")


def test_python_is_newer_than_that_of_the_base(refused: t.Callable[..., Run], tree: pathlib.Path) -> None:
    replace(tree / "pyproject.toml", 'requires-python = ">=3.11"', 'requires-python = ">=3.14"')
    refused({"image_build_source": str(tree)}, r"requires-python is >=3\.14", r"would do: 3\.14", "image_build_core_python")


def test_image_exceeds_its_budget(refused: t.Callable[..., Run]) -> None:
    budgets = {"core": {"unpacked": 100_000_000}}
    refused(
        {"image_build_budgets": budgets},
        r"image core is larger than its budget \(image_build_budgets\.core\)",
        r"100\.0 MB are allowed",
        "layer group|python package",
    )


# The inventory.


def test_topology_is_unknown(refused: t.Callable[..., Run]) -> None:
    result = refused({"fleet_topology": "star"}, "fleet_topology", "'star'", r"one of:.*\bsplit\b")
    assert len(result.failures) == 1


def test_group_is_empty(refused: t.Callable[..., Run], inventory_with: t.Callable[[str, str], pathlib.Path]) -> None:
    inventory = inventory_with(r"^truthgraph_inference:\n  hosts:\n    gpu1: .*$", "truthgraph_inference:\n  hosts: {}")
    result = refused({}, "truthgraph_inference", "no host in", inventory=inventory)
    assert len(result.failures) == 1


def test_hosts_are_left_out_by_limit(refused: t.Callable[..., Run]) -> None:
    result = refused({}, "leaves out", "build1", "cpu2", "gpu1", "without --limit", options=["--limit", "cpu1"])
    assert len(result.failures) == 1


def test_database_password_is_empty(refused: t.Callable[..., Run]) -> None:
    refused({"fleet_database_password": ""}, "fleet_database_password", "vault")


# The registry. One of one's own is set up by the deploy, so what can be wrong with it beforehand is a foreign one's.


@pytest.fixture
def foreign(fleet: Fleet, inventory_with: t.Callable[[str, str], pathlib.Path]) -> tuple[dict[str, t.Any], dict[str, str]]:
    # The lab's registry, in an inventory in which it is somebody else's.
    inventory = inventory_with(r"^truthgraph_registry:\n  hosts:\n    build1:\n", "truthgraph_registry:\n  hosts: {}\n")
    return {"inventory": inventory}, {"fleet_registry_address": fleet.registry}


def test_registry_is_unreachable(refused: t.Callable[..., Run]) -> None:
    variables = {"fleet_registry_address": "127.0.0.1:5999"}
    refused(variables, r"127\.0\.0\.1:5999", "cannot be reached", "fleet_registry_address")


def test_registry_password_is_wrong(
    refused: t.Callable[..., Run], fleet: Fleet, foreign: tuple[dict[str, t.Any], dict[str, str]]
) -> None:
    where, variables = foreign
    result = refused(
        {**variables, "fleet_registry_password": "not-the-password"},
        re.escape(fleet.registry),
        "refuses user name or password",
        "fleet_registry_password",
        **where,
    )
    assert "not-the-password" not in str(result)


def test_registry_certificate_is_not_trusted(
    refused: t.Callable[..., Run],
    fleet: Fleet,
    foreign: tuple[dict[str, t.Any], dict[str, str]],
    other_ca: pathlib.Path,
) -> None:
    where, variables = foreign
    refused(
        {**variables, "fleet_registry_ca_file": str(other_ca)},
        re.escape(fleet.registry),
        "not trusted",
        "fleet_registry_ca_file",
        **where,
    )


def test_registry_ca_file_is_missing(
    refused: t.Callable[..., Run], foreign: tuple[dict[str, t.Any], dict[str, str]], tmp_path: pathlib.Path
) -> None:
    where, variables = foreign
    missing = str(tmp_path / "none.crt")
    refused({**variables, "fleet_registry_ca_file": missing}, re.escape(missing), "does not exist", **where)


def test_own_registry_certificate_is_not_trusted(refused: t.Callable[..., Run], fleet: Fleet, other_ca: pathlib.Path) -> None:
    refused({"fleet_registry_ca_file": str(other_ca)}, re.escape(fleet.registry), "fleet_registry_ca_file")


# The hosts.


def test_no_room_on_disk(refused: t.Callable[..., Run]) -> None:
    result = refused({"release_min_free_host": 10**15}, "GB free in /var/lib/docker", "Make room", "release_min_free_host")
    assert {host for _, host, _ in result.failures} == {"cpu1", "cpu2", "gpu1"}


def test_no_room_on_disk_to_build(refused: t.Callable[..., Run]) -> None:
    result = refused({"release_min_free_build": 10**15}, "GB free in /var/lib/docker", "Make room", "release_min_free_build")
    assert [host for _, host, _ in result.failures] == ["build1"]


@pytest.fixture
def squatter(fleet: Fleet) -> t.Iterator[int]:
    # Something that is not ours on a port of cpu2.
    host = fleet.members["cpu2"].host
    start = f"python3 -m http.server {NOT_OURS} --bind 0.0.0.0 >/dev/null 2>&1 </dev/null & echo $!"
    number = int(host.check_output("sh -c %s", start))
    deadline = time.monotonic() + 15
    while not host.socket(f"tcp://0.0.0.0:{NOT_OURS}").is_listening:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield number
    host.check_output("kill %s", str(number))


def test_port_of_the_api_is_taken(refused: t.Callable[..., Run], squatter: int) -> None:
    result = refused(
        {"fleet_api_port": NOT_OURS},
        rf"[Pp]ort {NOT_OURS} is taken by {shlex.quote('python3')}",
        rf"process {squatter}\b",
        "choose another port with .*api_port",
    )
    assert [host for _, host, _ in result.failures] == ["cpu2"]


def test_secrets_are_not_shown_by_any_refusal(deploy: t.Callable[..., Run]) -> None:
    result = deploy({"fleet_database_password": "", "fleet_registry_password": "shown-by-mistake"})
    assert result.code != 0
    assert "shown-by-mistake" not in str(result)
