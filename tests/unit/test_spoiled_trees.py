"""The ways in which the scenarios spoil the application: each still finds what it replaces."""

from __future__ import annotations

import inspect
import shutil
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.molecule.shared import rollout
from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT

WAYS = [
    function
    for _name, function in inspect.getmembers(rollout, inspect.isfunction)
    if function.__module__ == rollout.__name__ and list(inspect.signature(function).parameters) == ["tree"]
]


def contents(tree: Path) -> dict[Path, bytes]:
    return {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_there_are_some() -> None:
    assert len(WAYS) >= 8


@pytest.mark.parametrize("spoil", WAYS, ids=lambda spoil: spoil.__name__)
def test_it_changes_the_tree(spoil: t.Callable[[Path], None], tmp_path: Path) -> None:
    tree = tmp_path / "app"
    shutil.copytree(CHECKOUT / "files" / "app", tree, ignore=shutil.ignore_patterns("__pycache__"))
    before = contents(tree)
    spoil(tree)
    assert contents(tree) != before
    for path in tree.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
