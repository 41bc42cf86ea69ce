"""The build context of an image: what is in it, what its key depends on, which wheels go with it."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import subprocess
import tarfile
import typing as t

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import source_tree, uv_lock, wheels
from ansible_collections.truthgraph.platform.plugins.modules import image_context

DOCKERFILES = pathlib.Path(__file__).parents[3] / "files" / "dockerfiles"
BASE = "registry.example:5000/truthgraph/base/python@sha256:" + "1" * 64
CPU311 = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.fixture(name="tree")
def fixture_tree(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "tree"
    for name in (
        "pyproject.toml",
        "alembic.ini",
        "alembic/env.py",
        "truthgraph/__init__.py",
        "truthgraph/main.py",
        "truthgraph/__pycache__/main.cpython-311.pyc",
        "truthgraph/stray.pyc",
        "truthgraph/tests/test_main.py",
        "truthgraph/ml/__init__.py",
        "tests/test_all.py",
        "scripts/run.sh",
        ".git/config",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "requirements").mkdir()
    (root / "requirements/core.txt").write_text("uvicorn==1.0 --hash=sha256:0\nprivate-thing==3.0 --hash=sha256:0\n")
    (root / "requirements/ml.txt").write_text("uvicorn==1.0 --hash=sha256:0\n")
    (root / "requirements/torch-cpu.txt").write_text("torch==2.13.0\n")
    return root


def names(tree: pathlib.Path, image: str) -> list[str]:
    return [path for path, _mode, _content in image_context.stage(tree, image, DOCKERFILES, "cpu")]


def content(tree: pathlib.Path, image: str, dockerfiles: pathlib.Path = DOCKERFILES) -> str:
    return source_tree.digest_of(image_context.stage(tree, image, dockerfiles, "cpu"))


def source_names(tree: pathlib.Path, image: str) -> list[str]:
    return [name for name in names(tree, image) if name.startswith(("source/", "dependencies/", "torch/", "model/"))]


def test_core_gets_the_package_without_ml_and_the_migrations(tree: pathlib.Path) -> None:
    assert source_names(tree, "core") == [
        "dependencies/core.txt",
        "source/alembic.ini",
        "source/alembic/env.py",
        "source/truthgraph/__init__.py",
        "source/truthgraph/main.py",
    ]


def test_ml_gets_its_own_package_only(tree: pathlib.Path) -> None:
    (tree / "requirements/model.txt").write_text("weights==1 --hash=sha256:0\n")
    assert source_names(tree, "ml") == [
        "dependencies/ml.txt",
        "model/model.txt",
        "source/truthgraph/__init__.py",
        "source/truthgraph/ml/__init__.py",
        "torch/torch-cpu.txt",
    ]


def test_every_file_that_the_dockerfile_copies_is_staged(tree: pathlib.Path) -> None:
    staged = names(tree, "core")
    assert {"Dockerfile", "runtime/entrypoint.sh", "runtime/healthcheck.py", "slim.py", "with-index.sh"} <= set(staged)


def test_times_owners_and_group_modes_do_not_change_the_archive(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = image_context.archive(image_context.stage(tree, "core", DOCKERFILES, "cpu"))
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o600)
    assert image_context.archive(image_context.stage(copy, "core", DOCKERFILES, "cpu")) == before


def test_the_archive_is_normalised(tree: pathlib.Path) -> None:
    data = image_context.archive(image_context.stage(tree, "core", DOCKERFILES, "cpu"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    assert {(member.mtime, member.uid, member.gid) for member in members} == {(315532800, 0, 0)}
    # The stages that have nothing to install still mount their directories.
    assert {"torch", "model"} <= {member.name for member in members}
    assert len({member.name for member in members}) == len(members)


@pytest.mark.parametrize(
    ("path", "image", "changes"),
    [
        ("truthgraph/main.py", "core", True),
        ("truthgraph/main.py", "ml", False),
        ("truthgraph/ml/__init__.py", "core", False),
        ("truthgraph/ml/__init__.py", "ml", True),
        ("truthgraph/tests/test_main.py", "core", False),
        ("requirements/core.txt", "core", True),
        ("requirements/core.txt", "ml", False),
        ("requirements/torch-cpu.txt", "ml", True),
        ("scripts/run.sh", "core", False),
    ],
)
def test_an_image_follows_what_it_copies_and_nothing_else(tree: pathlib.Path, path: str, image: str, changes: t.Any) -> None:
    before = content(tree, image)
    (tree / path).write_text("changed==1 --hash=sha256:0")
    assert (content(tree, image) != before) is changes


def test_the_dockerfile_and_the_files_beside_it_count(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = content(tree, "core")
    for name in ("truthgraph.Dockerfile", "entrypoint.sh", "healthcheck.py", "slim.py", "with-index.sh"):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(DOCKERFILES, copy)
        assert content(tree, "core", copy) == before
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        assert content(tree, "core", copy) != before


def test_an_executable_bit_counts(tree: pathlib.Path) -> None:
    before = content(tree, "core")
    (tree / "truthgraph" / "main.py").chmod(0o755)
    assert content(tree, "core") != before


def test_two_files_do_not_look_like_one() -> None:
    together = source_tree.digest_of([("a", 0o644, b"xy")])
    assert source_tree.digest_of([("a", 0o644, b"x"), ("b", 0o644, b"y")]) != together
    assert source_tree.digest_of([("b", 0o644, b"y"), ("a", 0o644, b"x")]) == source_tree.digest_of(
        [("a", 0o644, b"x"), ("b", 0o644, b"y")]
    )


def test_a_link_inside_the_tree_is_staged_as_what_it_leads_to(tree: pathlib.Path) -> None:
    (tree / "truthgraph" / "alias.py").symlink_to("main.py")
    staged = {path: data for path, _mode, data in image_context.stage(tree, "core", DOCKERFILES, "cpu")}
    assert staged["source/truthgraph/alias.py"] == b"truthgraph/main.py"


@pytest.mark.parametrize("target", ["/etc/hostname", "../../outside", "nothing", "."])
def test_other_links_are_refused_by_name(tree: pathlib.Path, target: str) -> None:
    (tree.parent / "outside").write_text("x")
    (tree / "truthgraph" / "link").symlink_to(target)
    with pytest.raises(source_tree.TreeError, match=r"truthgraph/link"):
        names(tree, "core")


def test_a_pipe_is_refused(tree: pathlib.Path) -> None:
    os.mkfifo(tree / "truthgraph" / "pipe")
    with pytest.raises(source_tree.TreeError, match="pipe is neither"):
        names(tree, "core")


def key(**changes: t.Any) -> str:
    return image_context.key_of(**{"content": "c", "base": BASE, "build_args": {"A": "1"}, "torch": [], **changes})


def test_the_key_follows_base_arguments_and_torch(tmp_path: pathlib.Path) -> None:
    wheel = wheels.parse_wheel(tmp_path / CPU311)
    assert wheel
    wheel.path.write_bytes(b"one")
    keys = {
        key(),
        key(content="d"),
        key(base=BASE.replace("1", "2")),
        key(build_args={"A": "2"}),
        key(torch=[wheel]),
    }
    wheel.path.write_bytes(b"two")
    keys.add(key(torch=[wheel]))
    assert len(keys) == 6
    assert all(len(text) == 24 for text in keys)


def test_the_key_does_not_follow_where_the_base_is_stored() -> None:
    assert key(base=BASE.replace("registry.example:5000", "other.example")) == key()


def choose(tree: pathlib.Path, directory: pathlib.Path, pythons: t.Sequence[str] = ("3.13", "3.11"), **changes: t.Any) -> t.Any:
    arguments = {"variant": "cpu", "find_links": [str(directory)], "machine": "x86_64", "torch_index": False, **changes}
    return image_context.choose_wheels(tree, "ml", pythons=pythons, **arguments)


def test_python_is_chosen_so_that_the_torch_wheel_fits(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / CPU311).touch()
    python, torch, more = choose(tree, tmp_path)
    assert (python, [wheel.path.name for wheel in torch], more) == ("3.11", [CPU311], [])


def test_the_preferred_python_wins_if_there_is_a_wheel_for_it(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / CPU311).touch()
    (tmp_path / CPU311.replace("311", "313")).touch()
    python, torch, _more = choose(tree, tmp_path)
    assert python == "3.13" and len(torch) == 1


@pytest.mark.parametrize(
    "name",
    [
        CPU311.replace("2.13.0", "2.12.0"),
        CPU311.replace("x86_64", "aarch64"),
        CPU311.replace("+cpu", "+cu130"),
        CPU311.replace("311", "310"),
        CPU311.replace("cp311-cp311", "cp311-cp311t"),
    ],
)
def test_without_a_cpu_build_of_torch_the_way_out_is_named(tree: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(image_context.ContextError, match="image_build_torch_index_url") as caught:
        choose(tree, tmp_path)
    assert "2.13.0" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_with_an_index_of_cpu_builds_no_wheel_is_needed(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert choose(tree, tmp_path, torch_index=True) == ("3.13", [], [])


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (">=3.11", ["3.13", "3.11"]),
        (">=3.12", ["3.13"]),
        (">=3.13.1", ["3.13"]),
        ("<3.13", ["3.11"]),
        ("", ["3.13", "3.11"]),
    ],
)
def test_only_pythons_that_the_tree_runs_on_are_chosen(tree: pathlib.Path, wanted: str, fits: t.Any) -> None:
    (tree / "pyproject.toml").write_text(f'[project]\nrequires-python = "{wanted}"\n')
    assert image_context.pythons_for(tree, ["3.13", "3.11"]) == fits


@pytest.mark.parametrize(
    ("wanted", "said"),
    [(">=3.14,<3.16", "These would do: 3.14, 3.15."), (">=4", "No Python does"), ("new", "says nothing")],
)
def test_a_tree_for_another_python_is_refused_with_those_that_would_do(tree: pathlib.Path, wanted: str, said: str) -> None:
    (tree / "pyproject.toml").write_text(f'[project]\nrequires-python = "{wanted}"\n')
    with pytest.raises(image_context.ContextError) as caught:
        image_context.pythons_for(tree, ["3.13", "3.11"])
    assert said in str(caught.value) and wanted in str(caught.value)


def test_a_lock_is_installed_instead_of_requirement_files(tree: pathlib.Path) -> None:
    project = '[project]\nname = "truthgraph"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["idna==3.10"]\n'
    (tree / "pyproject.toml").write_text(project + '[project.optional-dependencies]\nml = ["uvicorn", "typing-extensions"]\n')
    subprocess.run([uv_lock.uv_path(), "lock", "--quiet"], cwd=tree, check=True, timeout=300)
    staged = {path: data.decode() for path, _mode, data in image_context.stage(tree, "core", DOCKERFILES, "cpu")}
    assert "idna==3.10" in staged["dependencies/core.txt"] and "private-thing" not in staged["dependencies/core.txt"]
    staged = {path: data.decode() for path, _mode, data in image_context.stage(tree, "ml", DOCKERFILES, "cpu")}
    assert "idna" not in staged["dependencies/ml.txt"] and "typing-extensions" in staged["dependencies/ml.txt"]
    assert staged["torch/torch-cpu.txt"] == "torch==2.13.0\n"


def test_core_takes_private_wheels_but_never_torch(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / CPU311).touch()
    (tmp_path / "Private_Thing-3.0-py3-none-any.whl").touch()
    (tmp_path / "private_thing-4.0-py3-none-any.whl").touch()
    python, torch, more = image_context.choose_wheels(tree, "core", "cpu", [str(tmp_path)], ["3.13"], "x86_64", False)
    assert (python, torch) == ("3.13", [])
    assert [wheel.path.name for wheel in more] == ["Private_Thing-3.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp313-cp313-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp39-abi3-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp314-abi3-manylinux_2_28_x86_64.whl", False),
    ],
)
def test_wheel_tags(name: str, fits: bool) -> None:
    wheel = wheels.parse_wheel(pathlib.Path(name))
    assert wheel and wheel.fits_python("3.13") is fits


@pytest.mark.parametrize("name", ["a-1.tar.gz", "a.whl", "notes.txt"])
def test_other_files_are_no_wheels(name: str) -> None:
    assert wheels.parse_wheel(pathlib.Path(name)) is None


def test_a_local_version_is_asked_for_exactly() -> None:
    wheel = wheels.parse_wheel(pathlib.Path(CPU311))
    assert wheel
    assert wheels.satisfies(wheel, "torch==2.13.0 ; python_version > '3'")
    assert wheels.satisfies(wheel, "torch == 2.13.0+cpu --hash=sha256:0")
    assert not wheels.satisfies(wheel, "torch==2.13.0+cu130")
    assert not wheels.satisfies(wheel, "torch>=2")


def test_write_leaves_an_equal_file_alone(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "deep" / "x.tar"
    assert image_context.write(target, b"1")
    assert not image_context.write(target, b"1")
    assert image_context.write(target, b"2")
    assert [path.name for path in target.parent.iterdir()] == ["x.tar"]
