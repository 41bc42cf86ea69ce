# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the scenarios that roll out. A conftest.py takes all of them: `from ...fixtures import *`."""

from __future__ import annotations

import contextlib
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.rollout import APIS, Clients, Fleet, UnderLoad, clients

ROWS: list[dict[str, t.Any]] = []
# What the scenario faults has seen: a row for each fault.
SEEN_FAULTS: list[tuple[t.Any, ...]] = []
COLUMNS = ("requests", "failed GET", "failed POST", "gap", "seconds")

__all__ = ["fleet", "pytest_terminal_summary", "under_load"]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Return the lab's fleet, which has to be deployed."""
    return Fleet(tmp_path_factory.mktemp("trees"))


@pytest.fixture
def under_load(request: pytest.FixtureRequest) -> UnderLoad:
    """Return a context in which clients ask every API, and none may see a failure."""

    @contextlib.contextmanager
    def context(targets: t.Iterable[str] = APIS, posts_may_fail_for: float = 0) -> t.Iterator[Clients]:
        seen = None
        try:
            with clients(request.node.name, targets, posts_may_fail_for) as seen:
                yield seen
        finally:
            if seen is not None and seen.row:
                ROWS.append({"case": f"{seen.case} ({', '.join(seen.targets)})", **seen.row})

    return context


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what clients saw, case by case."""
    if ROWS:
        terminalreporter.section("what clients saw")
        width = max(len(row["case"]) for row in ROWS)
        terminalreporter.write_line("  ".join(["case".ljust(width), *COLUMNS]))
        for row in ROWS:
            values = [f"{row[name]:{len(name)}.3f}" if isinstance(row[name], float) else f"{row[name]:{len(name)}}"
                      for name in COLUMNS]
            terminalreporter.write_line("  ".join([row["case"].ljust(width), *values]))
