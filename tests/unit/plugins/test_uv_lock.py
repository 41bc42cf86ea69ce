"""What a tree with uv.lock installs. The locks are made by uv itself, from the package index of this machine."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import source_tree, uv_lock
from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble

PROJECT = """
[project]
name = "truthgraph"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["uvicorn>=0.30", "alembic>=1.14"]

[project.optional-dependencies]
ml = [
    "uvicorn>=0.30",
    "torch>=2.6,<3",
    "pytest>=8",
]
served = ["idna"]

[dependency-groups]
dev = ["pytest>=8"]
"""


def lock(root: pathlib.Path) -> None:
    subprocess.run([uv_lock.uv_path(), "lock", "--quiet"], cwd=root, check=True, timeout=300)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tree whose lock pins torch as the usual index has it, which on Linux is the CUDA build."""
    root = tmp_path_factory.mktemp("locked")
    (root / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    lock(root)
    return root


@pytest.fixture
def tree(made: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(made, tmp_path / "tree")
    return tmp_path / "tree"


def names(locked: uv_lock.Locked) -> set[str]:
    return {source_tree.normalised_name(entry) for entry in uv_lock.entries(locked.dependencies)}


def test_core_gets_what_the_project_needs_with_hashes(tree: pathlib.Path) -> None:
    found = uv_lock.locked(tree)
    assert {"uvicorn", "alembic", "sqlalchemy", "h11"} <= names(found)
    assert found.torch == ""
    assert all("--hash=sha256:" in entry and "==" in entry for entry in uv_lock.entries(found.dependencies))


def test_ml_gets_torch_apart_and_nothing_of_cuda(tree: pathlib.Path) -> None:
    text = (tree / "uv.lock").read_text(encoding="utf-8")
    assert 'name = "nvidia-cublas' in text or 'name = "nvidia-cudnn' in text, "the lock is for the CUDA build"
    found = uv_lock.locked(tree, "ml")
    assert found.torch.startswith("2.")
    assert "sympy" in names(found), "what torch needs on any host stays"
    assert not [name for name in names(found) if uv_lock.CUDA.match(name) or name == "torch"]


def test_the_cuda_build_gets_its_libraries_with_hashes_and_no_compilers(tree: pathlib.Path) -> None:
    found = uv_lock.entries(uv_lock.locked(tree, "ml").cuda)
    listed = {source_tree.normalised_name(entry) for entry in found}
    assert [name for name in listed if name.startswith("nvidia-cudnn")] and all("--hash=" in entry for entry in found)
    assert not [name for name in listed if uv_lock.COMPILERS.match(name)]
    # Only where they are wanted.
    texts = {torch: source_tree.requirement_texts(tree, "ml", torch)["torch"]["torch.txt"] for torch in ("cpu", "cuda")}
    assert "nvidia-" not in texts["cpu"] and texts["cuda"] == texts["cpu"] + "".join(found)
    assert uv_lock.locked(tree).cuda == ""


def test_an_extra_with_a_server_is_all_that_ml_gets(tree: pathlib.Path) -> None:
    assert "alembic" not in names(uv_lock.locked(tree, "ml"))
    assert {"alembic", "uvicorn", "idna"} <= names(uv_lock.locked(tree, "served"))


def test_a_monolith_gets_the_project_with_its_extra_where_it_has_that(tree: pathlib.Path) -> None:
    found = uv_lock.locked(tree, "ml", whole=True)
    assert {"alembic", "uvicorn", "sympy"} <= names(found) and found.torch.startswith("2.")
    alone = uv_lock.locked(tree, "none-such", whole=True)
    assert "alembic" in names(alone) and alone.torch == ""


def test_test_tools_are_left_out_with_what_only_they_need(tree: pathlib.Path) -> None:
    found = names(uv_lock.locked(tree, "ml"))
    assert not {"pytest", "iniconfig", "pluggy"} & found


def test_development_gets_them(tree: pathlib.Path) -> None:
    assert {"pytest", "pluggy", "alembic"} <= names(uv_lock.locked(tree, dev=True))
    assert "pytest" not in names(uv_lock.locked(tree))


def test_an_extra_serves_development_as_well_as_a_group(tree: pathlib.Path) -> None:
    text = (tree / "pyproject.toml").read_text(encoding="utf-8")
    text = text.replace('served = ["idna"]', 'served = ["idna"]\ndev = ["pytest>=8"]').partition("[dependency-groups]")[0]
    (tree / "pyproject.toml").write_text(text, encoding="utf-8")
    lock(tree)
    assert {"pytest", "pluggy", "alembic"} <= names(uv_lock.locked(tree, dev=True))


def test_what_a_tree_asks_for_itself_stays_whatever_it_is_called(tree: pathlib.Path) -> None:
    text = (tree / "pyproject.toml").read_text(encoding="utf-8")
    (tree / "pyproject.toml").write_text(text.replace('"torch>=2.6,<3",', '"nvidia-ml-py",'), encoding="utf-8")
    lock(tree)
    assert "nvidia-ml-py" in names(uv_lock.locked(tree, "ml"))


def test_a_stale_lock_is_refused_with_the_command_that_mends_it(tree: pathlib.Path) -> None:
    text = (tree / "pyproject.toml").read_text(encoding="utf-8")
    (tree / "pyproject.toml").write_text(text.replace('"alembic>=1.14"', '"alembic>=1.14", "idna"'), encoding="utf-8")
    before = (tree / "uv.lock").read_bytes()
    with pytest.raises(uv_lock.LockError) as caught:
        uv_lock.locked(tree)
    assert "uv.lock does not fit pyproject.toml" in str(caught.value) and caught.value.remedy.endswith("uv lock")
    assert (tree / "uv.lock").read_bytes() == before
    lock(tree)
    assert "idna" in names(uv_lock.locked(tree))


def test_a_lock_that_is_none_is_refused(tree: pathlib.Path) -> None:
    (tree / "uv.lock").write_text("this is no lock", encoding="utf-8")
    with pytest.raises(uv_lock.LockError, match="cannot be read"):
        uv_lock.locked(tree)


def test_a_tree_without_the_extra_is_told_so(tree: pathlib.Path) -> None:
    with pytest.raises(uv_lock.LockError, match="no extra gpu"):
        uv_lock.locked(tree, "gpu")


def test_a_python_that_is_not_there_is_named(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyproject.toml", "uv.lock"):
        text = (tree / name).read_text(encoding="utf-8")
        (tree / name).write_text(text.replace('">=3.11"', '">=3.99"'), encoding="utf-8")
    with pytest.raises(uv_lock.LockError, match="uv python install"):
        uv_lock.locked(tree)


def test_requirement_files_keep_all_but_test_tools() -> None:
    text = "# made by uv\nuvicorn==1.0 \\\n    --hash=sha256:1\npytest==8.0 \\\n    --hash=sha256:2\nh11==1.0 --hash=sha256:3\n"
    assert uv_lock.without_tests(text) == "uvicorn==1.0 \\\n    --hash=sha256:1\nh11==1.0 --hash=sha256:3\n"
    plain = text.replace("pytest", "pyte")
    assert uv_lock.without_tests(plain) == plain


def test_a_tree_without_a_lock_is_resolved_once(made: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tree, kept = tmp_path / "tree", tmp_path / "kept"
    tree.mkdir()
    # Its version is computed by a build, which nobody runs for this.
    text = PROJECT.replace('version = "1.0"', 'dynamic = ["version"]') + "\n[build-system]\nrequires = ['no-such-thing']\n"
    (tree / "pyproject.toml").write_text(text, encoding="utf-8")
    place, new = uv_lock.resolve(tree, kept, {})
    assert new and (place / "uv.lock").is_file()
    assert "pytest" in names(uv_lock.locked(place, dev=True)), "the group dev is resolved with the rest"
    assert {"uvicorn", "alembic"} <= names(uv_lock.locked(place))
    assert "pytest" not in names(uv_lock.locked(place, "ml"))
    assert list(tree.iterdir()) == [tree / "pyproject.toml"]
    # It is found again, without the index.
    assert uv_lock.resolve(tree, kept, {"UV_OFFLINE": "1"}) == (place, False)
    # Other needs are resolved anew.
    (tree / "pyproject.toml").write_text(text.replace('"alembic>=1.14"', '"alembic>=1.14", "idna"'), encoding="utf-8")
    other, new = uv_lock.resolve(tree, kept, {})
    assert new and other != place and "idna" in names(uv_lock.locked(other))
    assert sorted(kept.iterdir()) == sorted([place, other])


def test_the_module_answers_where_the_lock_is_whatever_the_settings_are(tmp_path: pathlib.Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "pyproject.toml").write_text('[project]\nname = "truthgraph"\ndependencies = ["idna"]\n', encoding="utf-8")
    engine = EngineDouble(tmp_path / "engine")
    # A secret is masked wherever it occurs in an answer; an unset timeout, 0, is none.
    index = {"index_url": "", "extra_index_urls": [], "find_links_urls": [], "find_links": [], "ca_bundle": "", "timeout": 0}
    result = engine.run("source_lock", path=str(tree), directory=str(tmp_path / "10"), index=index)
    assert not result.get("failed"), result
    assert (pathlib.Path(result["resolved"]) / "uv.lock").is_file()


def test_the_settings_of_uv_in_the_project_count(tree: pathlib.Path) -> None:
    text = (tree / "pyproject.toml").read_text(encoding="utf-8")
    (tree / "pyproject.toml").write_text(f'{text}\n[tool.uv]\nexclude-newer = "2026-01-01T00:00:00Z"\n', encoding="utf-8")
    (tree / "uv.lock").unlink()
    lock(tree)
    assert "uvicorn" in names(uv_lock.locked(tree))


def test_what_is_no_release_is_refused_by_name(tree: pathlib.Path) -> None:
    own = tree / "own"
    own.mkdir()
    (own / "pyproject.toml").write_text('[project]\nname = "own-thing"\nversion = "1"\n', encoding="utf-8")
    text = (tree / "pyproject.toml").read_text(encoding="utf-8").replace('"alembic>=1.14"', '"alembic>=1.14", "own-thing"')
    (tree / "pyproject.toml").write_text(f'{text}\n[tool.uv.sources]\nown-thing = {{ path = "own" }}\n', encoding="utf-8")
    lock(tree)
    with pytest.raises(uv_lock.LockError, match="own-thing"):
        uv_lock.locked(tree)


def test_what_cannot_be_resolved_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT.replace("alembic>=1.14", "alembic>=9999"), encoding="utf-8")
    with pytest.raises(uv_lock.LockError, match=r"cannot be resolved.*alembic"):
        uv_lock.resolve(tmp_path, tmp_path / "kept", {})
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_tree_that_says_what_is_installed_is_left_alone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert source_tree.lock_of(tree, tmp_path) == tree
    (tree / "uv.lock").unlink()
    assert source_tree.lock_of(tree, tmp_path) == tmp_path
    (tree / "requirements").mkdir()
    (tree / "requirements" / "core.txt").write_text("", encoding="utf-8")
    assert source_tree.lock_of(tree, tmp_path) is None
