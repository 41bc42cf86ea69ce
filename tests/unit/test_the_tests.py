"""The list of lines that `make test-the-tests` breaks: it fits the checkout, and nothing but a failed assertion counts."""

from __future__ import annotations

import importlib.util
import re
import types
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the list has to have something of.
KINDS = [
    r"roles/\w+/templates/",
    r"roles/\w+/tasks/",
    r"roles/\w+/(defaults|vars)/",
    r"roles/\w+/files/",
    r"plugins/modules/",
    r"plugins/module_utils/",
    r"plugins/filter/",
    r"plugins/lookup/",
    r"plugins/callback/",
    r"plugins/plugin_utils/",
    r"files/dockerfiles/truthgraph\.Dockerfile",
    r"files/dockerfiles/\w+\.(sh|py)",
    r"files/app/truthgraph/\w+\.py",
    r"files/app/truthgraph/ml/",
]


@pytest.fixture(scope="module", name="program")
def fixture_program() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("run_the_tests", ROOT / "tests/the_tests/run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_line_is_in_its_file_once_and_its_test_is_there(program: types.ModuleType) -> None:
    breaks = program.breaks()
    assert len(breaks) >= 30 and len({(one.file, one.line) for one in breaks}) == len(breaks)
    for one in breaks:
        file, _, name = one.test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {re.escape(name.partition('[')[0])}\(", text, flags=re.MULTILINE), one.test


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_among_them(program: types.ModuleType, kind: str) -> None:
    assert any(re.match(kind, one.file) for one in program.breaks())


def test_a_line_that_is_not_there_is_named(program: types.ModuleType, tmp_path: Path) -> None:
    (tmp_path / "breaks.yml").write_text("[{file: LICENSE, line: no such line, broken: '', test: x}]")
    with pytest.raises(SystemExit, match="LICENSE has this 0 times"):
        program.breaks(tmp_path / "breaks.yml")


@pytest.mark.parametrize(
    ("cases", "what"),
    [
        ("", "not run"),
        ("<testcase/>", "passed"),
        ("<testcase/><testcase><failure message='AssertionError: it is not'/></testcase>", "failed"),
        ("<testcase><failure message='assert 1 == 2'/></testcase>", "failed"),
        ("<testcase><failure message='Failed: DID NOT RAISE ValueError'/></testcase>", "failed"),
        ("<testcase><failure message='KeyError: 3'/></testcase><testcase/>", "failure"),
        ("<testcase><error message='failed on setup'/></testcase>", "error"),
        ("<testcase><skipped message='needs HAProxy'/></testcase>", "skipped"),
    ],
)
def test_only_what_a_test_says_itself_counts_as_noticed(program: types.ModuleType, cases: str, what: str) -> None:
    found = list(ElementTree.fromstring(f"<all>{cases}</all>"))
    assert program.verdict(found).what == what


def test_a_report_is_read_by_the_name_of_the_test(program: types.ModuleType) -> None:
    case = ElementTree.fromstring('<testcase classname="tests.unit.plugins.test_slot" name="test_it[retired-1]"/>')
    file = "tests/unit/plugins/test_slot.py"
    assert program.is_of(case, f"{file}::test_it") and program.is_of(case, f"{file}::test_it[retired-1]")
    assert not program.is_of(case, f"{file}::test_i") and not program.is_of(case, f"{file}::test_it[other]")
    assert not program.is_of(case, "tests/unit/test_slot.py::test_it")
