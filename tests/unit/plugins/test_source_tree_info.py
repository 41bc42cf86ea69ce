"""The check of an application tree: what is refused, where the message points, and what is let through."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import textwrap
import time
import typing as t

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import source_tree, uv_lock
from ansible_collections.truthgraph.platform.plugins.module_utils.source_tree import inspect_tree

HASH = "--hash=sha256:" + "0" * 64

TREE = {
    "pyproject.toml": '[project]\nname = "truthgraph"\nrequires-python = ">=3.11"\n',
    "truthgraph/__init__.py": '__version__ = "1.2.3"\n',
    "truthgraph/main.py": "import fastapi\nfrom truthgraph import settings\napp = fastapi.FastAPI()\n",
    "truthgraph/settings.py": "import os\n",
    "truthgraph/ml/__init__.py": "from truthgraph.ml.service import app\n",
    "truthgraph/ml/service.py": "import torch\napp = object()\n",
    "alembic.ini": "[alembic]\nscript_location = %(here)s/alembic\n",
    "alembic/env.py": "",
    "requirements/core.txt": f"uvicorn==1.0 \\\n    {HASH}\nalembic==1.0 \\\n    {HASH}\n",
    "requirements/ml.txt": f"uvicorn==1.0 {HASH}\n",
    "requirements/torch-cpu.txt": "# a comment\ntorch==2.13.0\n",
}


def write(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content), encoding="utf-8")
    return root


@pytest.fixture(name="tree")
def fixture_tree(tmp_path: pathlib.Path) -> pathlib.Path:
    return write(tmp_path / "tree", TREE)


def finding(root: pathlib.Path, topology: str = "split") -> source_tree.Finding:
    """Return the only finding of a tree."""
    findings = inspect_tree(root, topology).findings
    assert len(findings) == 1, findings
    return findings[0]


def test_a_good_tree_has_no_finding_and_says_what_it_is(tree: pathlib.Path) -> None:
    report = inspect_tree(tree, "split")
    assert report.findings == []
    assert (report.version, report.requires_python) == ("1.2.3", ">=3.11")
    assert report.revision.startswith("content-")


def test_the_reference_application_is_a_good_tree() -> None:
    app = pathlib.Path(__file__).parents[3] / "files" / "app"
    assert inspect_tree(app, "split").findings == inspect_tree(app, "monolith").findings == []


def test_migrations_are_read_without_running_them(tree: pathlib.Path) -> None:
    write(
        tree,
        {
            "alembic/versions/0001_a.py": 'raise SystemExit\nrevision = "0001"\n',
            "alembic/versions/0002_b.py": 'revision: str = "0002"\ncontract = True\n',
            "alembic/versions/broken.py": "revision = (\n",
            "alembic/versions/helper.py": "other = 1\n",
        },
    )
    assert inspect_tree(tree, "split").migrations == [
        {"revision": "0001", "file": "0001_a.py", "contract": False},
        {"revision": "0002", "file": "0002_b.py", "contract": True},
    ]


def test_a_missing_tree_is_named(tmp_path: pathlib.Path) -> None:
    found = finding(tmp_path / "absent")
    assert found.file == str(tmp_path / "absent")
    assert "image_build_source" in found.remedy


def test_a_file_is_no_tree(tree: pathlib.Path) -> None:
    assert "not a directory" in finding(tree / "pyproject.toml").what


def test_an_unknown_topology_is_refused_with_the_known_ones(tree: pathlib.Path) -> None:
    found = finding(tree, "stack")
    assert "'stack'" in found.what and "split" in found.remedy


def test_a_tree_without_pyproject_is_refused(tree: pathlib.Path) -> None:
    (tree / "pyproject.toml").unlink()
    assert finding(tree).what == "pyproject.toml is missing"


def test_a_broken_pyproject_is_refused_with_its_line(tree: pathlib.Path) -> None:
    write(tree, {"pyproject.toml": "[project\n"})
    assert "line 1" in finding(tree).why


def test_all_findings_come_at_once(tree: pathlib.Path) -> None:
    (tree / "pyproject.toml").unlink()
    (tree / "alembic.ini").unlink()
    write(tree, {"truthgraph/__init__.py": ""})
    assert {found.file for found in inspect_tree(tree, "split").findings} == {
        str(tree / "pyproject.toml"),
        "alembic.ini",
        "truthgraph/__init__.py",
    }


@pytest.mark.parametrize("statement", ["import torch", "from torch import nn", "import sentence_transformers as st"])
def test_main_that_imports_ml_libraries_is_refused_with_its_line(tree: pathlib.Path, statement: str) -> None:
    write(tree, {"truthgraph/main.py": f"import os\n{statement}\napp = object()\n"})
    found = finding(tree)
    assert found.file == "truthgraph/main.py:2"
    assert "inside the function" in found.remedy


@pytest.mark.parametrize(
    "step",
    [
        "from truthgraph import deep",
        "import truthgraph.deep",
        "from . import deep",
        "from .deep import thing",
        "if True:\n    import truthgraph.deep",
        "try:\n    import truthgraph.deep\nexcept ValueError:\n    pass",
        "try:\n    import absent\nexcept ImportError:\n    import truthgraph.deep",
        "with open('x'):\n    import truthgraph.deep",
        "class Model:\n    import truthgraph.deep",
    ],
)
def test_imports_are_followed_through_the_package(tree: pathlib.Path, step: str) -> None:
    write(
        tree,
        {
            "truthgraph/main.py": f"{step}\napp = object()\n",
            "truthgraph/deep/__init__.py": "from .deeper import thing\n",
            "truthgraph/deep/deeper.py": "\nimport transformers\nthing = 1\n",
        },
    )
    found = finding(tree)
    assert found.file == "truthgraph/deep/deeper.py:2"
    assert "truthgraph/deep/__init__.py:1" in found.why


def test_the_package_itself_is_loaded_before_main(tree: pathlib.Path) -> None:
    write(tree, {"truthgraph/__init__.py": '__version__ = "1"\nimport torch\n'})
    assert finding(tree).file == "truthgraph/__init__.py:2"


@pytest.mark.parametrize(
    "harmless",
    [
        "def embed():\n    import torch",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "import typing\nif typing.TYPE_CHECKING:\n    import torch",
        "try:\n    import torch\nexcept ImportError:\n    torch = None",
        "try:\n    import torch\nexcept (ValueError, ModuleNotFoundError):\n    torch = None",
        "import torchless",
    ],
)
def test_imports_that_cannot_fail_the_start_are_fine(tree: pathlib.Path, harmless: str) -> None:
    write(tree, {"truthgraph/main.py": f"{harmless}\napp = object()\n"})
    assert inspect_tree(tree, "split").findings == []


def test_main_that_imports_the_ml_package_is_refused_once(tree: pathlib.Path) -> None:
    write(tree, {"truthgraph/main.py": "from truthgraph.ml import app\n"})
    found = finding(tree)
    assert (found.file, found.what) == ("truthgraph/main.py:1", "truthgraph.main needs truthgraph.ml")


def test_a_circle_of_imports_ends(tree: pathlib.Path) -> None:
    write(tree, {"truthgraph/settings.py": "import truthgraph.main\n"})
    assert inspect_tree(tree, "split").findings == []


def test_split_without_ml_package_is_refused(tree: pathlib.Path) -> None:
    for name in ("__init__", "service"):
        (tree / "truthgraph" / "ml" / f"{name}.py").unlink()
    found = finding(tree)
    assert found.file == "truthgraph/ml/__init__.py" and "Add the package" in found.remedy


def test_a_core_that_needs_torch_is_told_of_monolith_and_is_good_there(tree: pathlib.Path) -> None:
    write(tree, {"truthgraph/main.py": "import torch\napp = 1\n"})
    assert "fleet_topology: monolith" in finding(tree).remedy
    shutil.rmtree(tree / "truthgraph" / "ml")
    assert inspect_tree(tree, "monolith").findings == []


def test_a_monolith_needs_no_list_for_ml_but_a_pinned_torch(tree: pathlib.Path) -> None:
    (tree / "requirements/ml.txt").unlink()
    assert inspect_tree(tree, "monolith").findings == []
    (tree / "requirements/torch-cpu.txt").unlink()
    assert finding(tree, "monolith").file == "requirements/torch-cpu.txt"
    # A list that pins it does as well.
    text = (tree / "requirements/core.txt").read_text(encoding="utf-8")
    write(tree, {"requirements/core.txt": f"{text}torch==2.9.0+cu130 {HASH}\nnvidia-cublas==13.0 {HASH}\ntriton==3 {HASH}\n"})
    assert inspect_tree(tree, "monolith").findings == []
    texts = source_tree.requirement_texts(tree, "api", "cpu")
    assert texts["torch"] == {"torch.txt": "torch==2.9.0\n"} and texts["dependencies"] == {"core.txt": text}


def test_onnx_needs_an_export_and_its_lists(tree: pathlib.Path) -> None:
    found = {one.file: one for one in inspect_tree(tree, "split", runtime="onnx").findings}
    assert set(found) == {"truthgraph/ml/export.py", "requirements/onnx.txt", "requirements/export.txt"}
    for name in ("onnx", "export"):
        write(tree, {f"requirements/{name}.txt": f"uvicorn==1.0 {HASH}\nonnxruntime==1.0 {HASH}\n"})
    write(tree, {"truthgraph/ml/export.py": ""})
    assert inspect_tree(tree, "split", runtime="onnx").findings == []
    # It has neither a monolith nor CUDA.
    assert "image_build_ml_runtime to torch" in inspect_tree(tree, "monolith", runtime="onnx").findings[0].remedy
    write(tree, {"requirements/torch-cuda.txt": "torch==2.13.0\n"})
    assert "image_build_torch to cpu" in inspect_tree(tree, "split", "cuda", runtime="onnx").findings[0].remedy


def test_onnx_from_a_lock_exports_with_its_torch(tree: pathlib.Path) -> None:
    project = ["[project]", 'name = "truthgraph"', 'version = "1"', 'requires-python = ">=3.11"']
    project += ['dependencies = ["uvicorn", "alembic"]', "[project.optional-dependencies]", 'ml = ["uvicorn", "torch"]']
    write(tree, {"pyproject.toml": "\n".join([*project, 'onnx = ["uvicorn", "onnxruntime"]', ""]), "truthgraph/ml/export.py": ""})
    shutil.rmtree(tree / "requirements")
    subprocess.run([uv_lock.uv_path(), "lock", "--quiet"], cwd=tree, check=True, timeout=300)
    assert "no extra export" in finding_of_runtime(tree, "onnx").what
    write(tree, {"pyproject.toml": "\n".join([*project, 'onnx = ["uvicorn", "onnxruntime"]', 'export = ["onnx"]', ""])})
    subprocess.run([uv_lock.uv_path(), "lock", "--quiet"], cwd=tree, check=True, timeout=300)
    assert inspect_tree(tree, "split", runtime="onnx").findings == []
    texts = source_tree.requirement_texts(tree, "ml-onnx", "cpu")
    assert "torch==2." in texts["torch"]["torch.txt"] and "onnx==" in texts["export"]["export.txt"]
    assert "torch" not in texts["dependencies"]["ml-onnx.txt"] and "onnxruntime==" in texts["dependencies"]["ml-onnx.txt"]


def finding_of_runtime(root: pathlib.Path, runtime: str) -> t.Any:
    [found] = inspect_tree(root, "split", runtime=runtime).findings
    return found


def test_lists_that_are_installed_together_have_to_agree(tree: pathlib.Path) -> None:
    write(tree, {"requirements/ml.txt": f"uvicorn==2.0 {HASH}\n"})
    assert inspect_tree(tree, "split").findings == []
    found = finding(tree, "monolith")
    assert found.file == "requirements/ml.txt" and found.what.startswith("uvicorn is 1.0 in requirements/core.txt, and 2.0")
    assert "--constraint requirements/core.txt" in found.remedy
    # Several versions, for several systems, are the same in both.
    both = f"uvicorn==1.0 ; python_version < '3.12' {HASH}\nuvicorn==2.0 ; python_version >= '3.12' {HASH}\n"
    write(tree, {"requirements/ml.txt": both, "requirements/core.txt": f"alembic==1.0 {HASH}\n{both}"})
    assert inspect_tree(tree, "monolith").findings == []


def test_ml_that_needs_a_module_of_core_is_refused(tree: pathlib.Path) -> None:
    write(tree, {"truthgraph/ml/service.py": "from truthgraph.settings import x\napp = object()\n"})
    assert finding(tree).file == "truthgraph/ml/service.py:1"


def test_ml_may_use_the_package_version(tree: pathlib.Path) -> None:
    write(tree, {"truthgraph/ml/service.py": "from truthgraph import __version__\napp = object()\n"})
    assert inspect_tree(tree, "split").findings == []


@pytest.mark.parametrize("module", ["main", "ml/__init__"])
def test_a_module_without_app_is_refused(tree: pathlib.Path, module: str) -> None:
    write(tree, {f"truthgraph/{module}.py": "application = object()\n"})
    assert finding(tree).file == f"truthgraph/{module}.py"


def test_a_syntax_error_is_refused_with_its_line(tree: pathlib.Path) -> None:
    write(tree, {"truthgraph/settings.py": "x = 1\ndef broken(:\n"})
    assert finding(tree).file == "truthgraph/settings.py:2"


def test_missing_requirements_name_the_command_that_makes_them(tree: pathlib.Path) -> None:
    (tree / "requirements/core.txt").unlink()
    found = finding(tree)
    assert found.file == "requirements/core.txt"
    assert "uv lock" in found.remedy and "--generate-hashes" in found.remedy


def test_a_lock_that_cannot_be_used_is_one_finding(tree: pathlib.Path) -> None:
    write(tree, {"uv.lock": "none"})
    found = finding(tree)
    assert found.file == "uv.lock" and found.remedy.endswith("uv lock")


def test_a_test_tool_is_named_with_its_line_and_refuses_nothing(tree: pathlib.Path) -> None:
    write(tree, {"requirements/ml.txt": f"# a comment\nuvicorn==1.0 {HASH}\npytest==8.0 \\\n  {HASH}\n"})
    report = inspect_tree(tree, "split")
    assert report.findings == []
    assert report.warnings == ["requirements/ml.txt:3 lists pytest, which no service needs. The images do not get it."]


def test_a_test_tool_in_the_extra_is_named_with_its_line_of_pyproject(tree: pathlib.Path) -> None:
    write(
        tree,
        {
            "pyproject.toml": """
                [project]
                name = "truthgraph"
                version = "1"
                requires-python = ">=3.11"
                dependencies = ["uvicorn", "alembic"]

                [project.optional-dependencies]
                ml = [
                    "uvicorn",
                    "pytest>=8",
                ]
            """
        },
    )
    subprocess.run([uv_lock.uv_path(), "lock", "--quiet"], cwd=tree, check=True, timeout=300)
    report = inspect_tree(tree, "split")
    assert report.findings == []
    assert report.warnings == ["pyproject.toml:11 lists pytest, which no service needs. The images do not get it."]


def test_an_entry_without_hash_is_refused_with_its_line(tree: pathlib.Path) -> None:
    write(tree, {"requirements/ml.txt": f"# a comment\nnumpy==2 \\\n  {HASH}\nuvicorn==1.0\n"})
    assert finding(tree).file == "requirements/ml.txt:4"


def test_core_without_alembic_is_refused(tree: pathlib.Path) -> None:
    write(tree, {"requirements/core.txt": f"uvicorn==1.0 {HASH}\n"})
    assert finding(tree).what.startswith("alembic missing")


def test_an_unpinned_torch_is_refused(tree: pathlib.Path) -> None:
    write(tree, {"requirements/torch-cpu.txt": "torch>=2\n"})
    assert finding(tree).file == "requirements/torch-cpu.txt"


@pytest.mark.parametrize(("location", "message"), [("db", "outside"), ("alembic/other", "missing")])
def test_migrations_that_would_not_be_in_the_image_are_refused(tree: pathlib.Path, location: str, message: str) -> None:
    write(tree, {"alembic.ini": f"[alembic]\nscript_location = {location}\n", "db/env.py": ""})
    assert message in finding(tree).what


def test_a_link_out_of_the_tree_is_refused(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tree / "truthgraph" / "data.txt").symlink_to(tmp_path / "secret")
    assert "leads out of the source tree" in finding(tree).why


def git(root: pathlib.Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*"]
    subprocess.run(["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True)


def test_the_revision_is_the_commit_only_if_all_of_the_tree_is_committed(tree: pathlib.Path) -> None:
    git(tree, "init")
    git(tree, "add", ".")
    git(tree, "commit", "-m", "one")
    head = subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout
    report = inspect_tree(tree, "split")
    assert report.revision == head.strip()
    assert abs(report.committed_at - time.time()) < 60
    write(tree, {".gitignore": "local.py\n"})
    git(tree, "add", ".")
    git(tree, "commit", "-m", "two")
    write(tree, {"truthgraph/local.py": ""})
    # It is ignored by git, yet it would be in the image.
    report = inspect_tree(tree, "split")
    assert report.revision.startswith("content-") and report.committed_at == 0
    (tree / "truthgraph" / "local.py").unlink()
    assert not inspect_tree(tree, "split").revision.startswith("content-")
    write(tree, {"truthgraph/settings.py": "import sys\n"})
    assert inspect_tree(tree, "split").revision.startswith("content-")


def test_the_content_revision_follows_contents_and_not_times(tree: pathlib.Path) -> None:
    before = inspect_tree(tree, "split").revision
    os.utime(tree / "truthgraph" / "main.py", (1, 1))
    assert inspect_tree(tree, "split").revision == before
    write(tree, {"truthgraph/ml/service.py": "app = 2\n"})
    assert inspect_tree(tree, "split").revision != before


def test_the_message_has_every_finding_with_its_place(tree: pathlib.Path) -> None:
    (tree / "alembic.ini").unlink()
    write(tree, {"truthgraph/main.py": "import torch\napp = 1\n"})
    text = source_tree.message(str(tree), inspect_tree(tree, "split").findings)
    assert str(tree) in text
    assert "\n- truthgraph/main.py:1: " in text and "\n- alembic.ini: " in text
