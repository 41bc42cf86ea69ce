"""The clean-up of an installed environment inside the build."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
import types

import pytest

SLIM = pathlib.Path(__file__).parents[3] / "files" / "dockerfiles" / "slim.py"


@pytest.fixture(name="slim")
def fixture_slim() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("slim", SLIM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="site")
def fixture_site(tmp_path: pathlib.Path) -> pathlib.Path:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, text in {
        "one/__init__.py": "from one.core import x\n",
        "one/core.py": "x = 1\n",
        "one/tests/__init__.py": "",
        "one/tests/test_core.py": "from one.tests import helper\n",
        "two/__init__.py": "from two.tests._helper import value\n",
        "two/tests/__init__.py": "",
        "two/tests/_helper.py": "value = 1\n",
        "three/__init__.py": "from .deep import test\n",
        "three/deep/__init__.py": "",
        "three/deep/test/__init__.py": "",
        "four/__init__.py": "'''import four.tests'''\n",
        "four/tests/__init__.py": "",
        "data/tests/table.csv": "1,2\n",
        "torch/__init__.py": "",
        "torch/include/ATen/ATen.h": "",
        "torch/lib/libtorch.so": "",
        "torch/lib/libx.a": "",
        "nvidia/cu13/lib/libnvrtc.so.13": "",
        "nvidia/cu13/lib/libnvrtc.alt.so.13": "",
        "nvidia/cu13/lib/libcusolver.so.12": "",
        "nvidia/cu13/lib/libcusolverMg.so.12": "",
        "nvidia/cu13/include/cuda/std/version": "",
        "one/stub.pyi": "",
    }.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return site


def test_tests_that_nothing_imports_go(slim: types.ModuleType, site: pathlib.Path) -> None:
    slim.remove(site)
    assert not (site / "one/tests").exists()
    assert not (site / "four/tests").exists()


@pytest.mark.parametrize("kept", ["two/tests/_helper.py", "three/deep/test/__init__.py", "data/tests/table.csv"])
def test_what_the_library_itself_uses_stays(slim: types.ModuleType, site: pathlib.Path, kept: str) -> None:
    slim.remove(site)
    assert (site / kept).exists()


def test_what_only_a_compiler_reads_goes(slim: types.ModuleType, site: pathlib.Path) -> None:
    slim.remove(site)
    assert not (site / "torch/include").exists()
    assert not (site / "torch/lib/libx.a").exists()
    assert (site / "torch/lib/libtorch.so").exists()
    assert (site / "one/stub.pyi").exists()


def test_bytecode_does_not_depend_on_times_and_all_times_are_equal(
    slim: types.ModuleType, site: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    slim.main(tmp_path)
    compiled = next((site / "one/__pycache__").glob("core.*.pyc"))
    # Flags: checked against nothing, as the sources cannot change in an image.
    assert compiled.read_bytes()[4:8] == b"\x01\0\0\0"
    assert {path.lstat().st_mtime for path in tmp_path.rglob("*")} == {315532800}
    (site / "one/core.py").write_text("x = 2\n")
    command = [sys.executable, "-c", "import one; print(one.x)"]
    assert subprocess.run(command, env={"PYTHONPATH": str(site)}, check=True, capture_output=True).stdout == b"1\n"


def test_a_directory_of_packages_works_too(slim: types.ModuleType, tmp_path: pathlib.Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("")
    slim.main(tmp_path)
    assert list((tmp_path / "model" / "__pycache__").iterdir())


def test_a_source_tree_is_compiled_and_kept_as_it_is(site: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    subprocess.run([sys.executable, SLIM, "--keep", tmp_path], check=True)
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert before < after
    assert {path.suffix for path in after - before} == {".pyc"}
    assert (site / "one/tests/test_core.py") in after


def test_what_the_installer_leaves_goes(slim: types.ModuleType, site: pathlib.Path, tmp_path: pathlib.Path) -> None:
    notes = site / "one-1.dist-info" / "uv_cache.json"
    notes.parent.mkdir()
    notes.write_text("{}")
    record = site / "one-1.dist-info" / "RECORD"
    record.write_text("one/__init__.py,sha256=x,1\none-1.dist-info/uv_cache.json,sha256=y,2\n")
    (tmp_path / ".lock").touch(0o666)
    (tmp_path / "bin").mkdir()
    for name in ("activate", "activate.fish", "uvicorn"):
        (tmp_path / "bin" / name).touch()
    slim.main(tmp_path)
    assert not notes.exists() and not (tmp_path / ".lock").exists()
    assert record.read_text() == "one/__init__.py,sha256=x,1\n"
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["uvicorn"]


def test_only_root_may_write(slim: types.ModuleType, site: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (site / "one/core.py").chmod(0o666)
    slim.main(tmp_path)
    assert (site / "one/core.py").stat().st_mode & 0o777 == 0o644


def test_of_cuda_only_what_inference_loads_stays(slim: types.ModuleType, site: pathlib.Path) -> None:
    slim.remove(site)
    left = sorted(path.name for path in (site / "nvidia").rglob("*") if path.is_file())
    assert left == ["libcusolver.so.12", "libnvrtc.so.13"]
