"""What holds for all unit tests: no engine answers them.

`pytest tests/unit --role api`, which `make test ROLE=api` uses, chooses the tests of one role.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_configure(config: pytest.Config) -> None:
    """Let no test find an engine that happens to run: it would fail on a machine on which none does."""
    os.environ["DOCKER_HOST"] = "unix:///nonexistent/docker.sock"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--role", default="", help="only tests of this role, of its files, and of the plugins that it uses")


def plugins_of(role: Path) -> set[str]:
    """Return the modules, filters and lookups that a role uses; of a filter also the file that has it."""
    texts = [path.read_text(encoding="utf-8") for part in ("tasks", "vars", "defaults") for path in role.glob(f"{part}/**/*.yml")]
    used = set(re.findall(r"\btruthgraph\.platform\.(\w+)", "\n".join(texts)))
    used -= {path.name for path in role.parent.iterdir()}
    filters = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "plugins/filter").glob("*.py")}
    return used | {stem for stem, text in filters.items() if any(f'"{name}":' in text for name in used)}


def is_of(text: str, role: Path) -> bool:
    """Say whether a file of tests is about a role: it names the role, a file of its own, or a plugin that it uses."""
    own = [re.escape(path.name) for part in ("files", "templates") for path in (role / part).rglob("*") if path.is_file()]
    named = rf"roles/{role.name}/|truthgraph\.platform\.{role.name}\b|\b(?:ROLES|roles\") / \"{role.name}[/\"]"
    named += "".join(rf"|[/\"]{name}\"" for name in own)
    plugins = "|".join(sorted(plugins_of(role))) or "(?!)"
    kinds = "action|filter|lookup|modules|module_utils|plugin_utils"
    imported = rf"plugins\.(?:{kinds})(?:\.| import (?:\w+, )*)(?:{plugins})\b|\.run\(\"(?:{plugins})\""
    return bool(re.search(f"{named}|{imported}", text))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the other tests out; of those that every role has to pass, other roles'."""
    name = config.getoption("--role")
    if not name:
        return
    role = ROOT / "roles" / name
    if not role.is_dir():
        raise pytest.UsageError(f"There is no role {name}.")
    about = {path: is_of(path.read_text(encoding="utf-8"), role) for path in {item.path for item in items}}
    chosen = []
    for item in items:
        params = getattr(item, "callspec", None)
        given = params.params.get("role") if params else None
        if given == role if isinstance(given, Path) else about[item.path]:
            chosen.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
