"""What who works on the collection relies on: hooks and CI do what the Makefile says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def recipe(target: str) -> str:
    """The lines of a target."""
    [found] = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    return str(found)


def test_hooks_run_what_make_lint_runs() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local", "nothing is fetched"
    entries = [hook["entry"] for hook in repository["hooks"]]
    for program in ("yamllint", "ansible-lint"):
        [wanted] = re.findall(rf"\$\(BIN\)/({program} --[a-z-]+)", recipe("lint"))
        assert any(f".venv/bin/{wanted}" in entry for entry in entries), wanted


def test_actions_are_pinned_by_commit() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    # The version beside it is for people, and for who renews it.
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert len(re.findall(r"@[0-9a-f]{40}  # v\d+\.\d+\.\d+\n", text)) == len(used)


def test_ci_runs_what_there_is() -> None:
    commands = [step["run"] for step in STEPS if "run" in step]
    assert ".ci/run" in commands and (ROOT / ".ci/run").stat().st_mode & 0o111
    for command in commands:
        for target in command.removeprefix("make ").split() if command.startswith("make ") else []:
            assert recipe(target)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_ci_tries_the_oldest_python_that_is_supported() -> None:
    [said] = re.findall(r"Python (\d\.\d+) or newer", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert WORKFLOW["jobs"]["lint-and-unit"]["strategy"]["matrix"]["python"][0] == said
    assert f"--python-version {said} " in recipe("requirements")


def test_renovate_leaves_alone_what_is_written_by_a_program() -> None:
    rules = json.loads((ROOT / "renovate.json").read_text(encoding="utf-8"))["packageRules"]
    off = {name for rule in rules if rule.get("enabled") is False for name in rule.get("matchFileNames", [])}
    assert off == {"files/app/requirements/**"} and (ROOT / "files/app/requirements/compile.sh").is_file()


def test_whoever_works_on_it_finds_how() -> None:
    assert "`CONTRIBUTING.md`" in (ROOT / "README.md").read_text(encoding="utf-8")
