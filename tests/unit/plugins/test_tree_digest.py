"""What counts in a directory, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.lookup.tree_digest import digest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "package").mkdir(parents=True)
    (tmp_path / "tree" / "package" / "main.py").write_text("one")
    (tmp_path / "tree" / "run").write_text("two")
    return tmp_path / "tree"


def test_times_and_what_is_compiled_do_not_count(tree: Path) -> None:
    before = digest(str(tree))
    os.utime(tree / "run", (1, 1))
    for name in (".git", "__pycache__", ".venv"):
        (tree / name).mkdir()
        (tree / name / "file").write_text("other")
    assert digest(str(tree)) == before and len(before) == 12


@pytest.mark.parametrize("change", ["content", "name", "program", "moved", "added", "removed", "link"])
def test_what_counts(tree: Path, change: str) -> None:
    before = digest(str(tree))
    run = tree / "run"
    if change == "content":
        run.write_text("tw0")
    elif change == "name":
        run.rename(tree / "walk")
    elif change == "program":
        run.chmod(0o755)
    elif change == "moved":
        run.rename(tree / "package" / "run")
    elif change == "added":
        (tree / "empty").touch()
    elif change == "removed":
        run.unlink()
    else:
        run.unlink()
        run.symlink_to("package/main.py")
    assert digest(str(tree)) != before


def test_a_directory_that_is_not_there_has_no_digest(tree: Path) -> None:
    assert digest(str(tree / "none")) == ""
