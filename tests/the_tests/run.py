"""Tests the tests: breaks the product one line at a time, and demands that the test that is named for it notices.

breaks.yml says what is broken and by which test that has to be found. Nothing is broken in the checkout: all happens in a copy of
it, and each line is mended before the next one is broken. A test that passes with the line and fails without it protects it.

    .venv/bin/python tests/the_tests/run.py [WORD...]      only breaks whose file or test has one of the words
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parents[2]
BREAKS = Path(__file__).with_name("breaks.yml")
# How a test says that something is not as it should be. Anything else may be a break that only keeps the test from running.
NOTICED = ("AssertionError", "assert ", "Failed: ")
# Kinds of what pytest reports of a test that did not pass.
KINDS = ("error", "failure", "skipped")
# Seconds that a test may take.
LIMIT = 300


class Break(t.NamedTuple):
    """One line of the product, what it is made into, and the test that has to fail then."""

    file: str
    line: str
    broken: str
    test: str


class Result(t.NamedTuple):
    """What became of a test: passed, failed, or why it is neither."""

    what: str
    words: str = ""


def breaks(path: Path = BREAKS) -> list[Break]:
    """Return the list, with a sentence about the first entry that cannot be used."""
    found = [Break(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]
    for one in found:
        times = (ROOT / one.file).read_text(encoding="utf-8").count(one.line)
        if times != 1:
            raise SystemExit(f"{one.file} has this {times} times, and not once as it has to: {one.line}")
        if one.line == one.broken:
            raise SystemExit(f"{one.file}: nothing is broken by leaving this as it is: {one.line}")
    return found


def copy(place: Path) -> Path:
    """Copy what git knows of the checkout, committed or not, to where Ansible and Python look for the collection first."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    target = place / "ansible_collections" / "truthgraph" / "platform"
    for name in filter(None, names):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    # Some tests ask git what there is.
    for arguments in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *arguments], cwd=target, check=True)
    return target


def run(tests: t.Collection[str], tree: Path) -> dict[str, Result]:
    """Run tests in the copy, with nothing of the checkout but its toolchain; what became of each."""
    place = tree.parents[2]
    report = place / "report.xml"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),
        "ANSIBLE_COLLECTIONS_PATH": str(place),
        # A broken line of the same length, written within the same second, would not be compiled anew.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *tests]
    try:
        limit = LIMIT * len(tests)
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return dict.fromkeys(tests, Result("hung", f"for {limit} s"))
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    lost = Result("not run", (done.stdout + done.stderr)[-500:])
    return {test: verdict([case for case in cases if is_of(case, test)]) if cases else lost for test in tests}


def is_of(case: ElementTree.Element, test: str) -> bool:
    """Say whether a case of pytest's report is the test of this name, or one of its parameters."""
    file, _, name = test.partition("::")
    found = case.get("name", "")
    return case.get("classname") == file.removesuffix(".py").replace("/", ".") and name in (found, found.partition("[")[0])


def verdict(cases: list[ElementTree.Element]) -> Result:
    """Return what became of a test with all of its parameters: whether one has failed, and only as a test should."""
    said = [(kind, entry.get("message", "").split("\n")[0]) for case in cases for kind in KINDS for entry in case.iter(kind)]
    if not cases:
        return Result("not run")
    for kind, words in said:
        if kind == "failure" and words.startswith(NOTICED):
            return Result("failed", words)
    return Result(*said[0]) if said else Result("passed")


def try_one(one: Break, tree: Path) -> str:
    """Return what is wrong with the test of a break; nothing if it notices."""
    path = tree / one.file
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(text.replace(one.line, one.broken), encoding="utf-8")
        result = run([one.test], tree)[one.test]
    finally:
        path.write_text(text, encoding="utf-8")
    return "" if result.what == "failed" else " ".join(filter(None, result))


def main(words: list[str]) -> int:
    """Run the tests as they are, and then break one line after the other, with a row for each."""
    chosen = [one for one in breaks() if not words or any(word in f"{one.file} {one.test}" for word in words)]
    tests = list(dict.fromkeys(one.test for one in chosen))
    width = max((len(one.file) for one in chosen), default=0)
    noticed = 0
    with tempfile.TemporaryDirectory(prefix="truthgraph-the-tests-") as place:
        tree = copy(Path(place))
        print(f"{len(tests)} tests, as they are ...", flush=True)
        whole = run(tests, tree) if tests else {}
        for number, one in enumerate(chosen, 1):
            begun = time.monotonic()
            before = whole[one.test]
            unbroken = "" if before.what == "passed" else f"without a break: {' '.join(filter(None, before))}"
            problem = unbroken or try_one(one, tree)
            noticed += not problem
            said = "noticed" if not problem else "MISSED "
            name = one.test.removeprefix("tests/unit/")
            print(f"{number:3}/{len(chosen)}  {said}  {one.file:{width}}  {name}  {time.monotonic() - begun:.0f} s", flush=True)
            if problem:
                print(f"      {one.line.strip()}\n      -> {one.broken.strip()}\n      {problem}", flush=True)
    print(f"{noticed} of {len(chosen)} breaks are noticed by the test that is named for them.")
    return 0 if chosen and noticed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
