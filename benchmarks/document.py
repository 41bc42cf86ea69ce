# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks have in common: how they tell whoever waits, and how their figures come into docs/."""

from __future__ import annotations

import datetime
import os
import pathlib
import re
import subprocess
import sys
import time
import typing as t

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT


class BenchError(Exception):
    """It cannot go on; the message is for whoever runs it."""


def say(text: str) -> None:
    """Tell whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def interrupt(_number: int, _frame: t.Any) -> None:
    """Let a signal end the run in the same way as Ctrl-C."""
    raise KeyboardInterrupt


def table(head: t.Sequence[str], rows: t.Iterable[t.Sequence[str]]) -> list[str]:
    """Return lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def machine() -> str:
    """Return what this machine is, without its name."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores ({cpu.group(1) if cpu else 'unknown'}), {memory:.0f} GiB"


def today() -> str:
    """Return the day and the commit of this checkout."""
    git = ["git", "-C", str(CHECKOUT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=False).stdout
    whole = f"{commit or 'unknown'}{', with changes on top' if changed else ''}"
    return f"Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}. Collection: commit {whole}."


def between_markers(document: str, name: str, text: str) -> str:
    """Return a document with text in place of what is between the markers of that name."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise BenchError(f"The document does not have the lines {begin} and {end} once each, in this order.")
    before, rest = document.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"


def write(path: pathlib.Path, name: str, text: str) -> None:
    """Put text between the markers of that name in a file."""
    path.write_text(between_markers(path.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    say(f"Written to {path.parent.name}/{path.name}.")
