"""What the callback `story` is made of: where output goes, and what a run's failures mean. It knows no task and no play."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import os
import re
import sys
import threading
import typing as t
from pathlib import Path

from ansible.utils.display import Display, get_text_width

COLORS = re.compile(r"\x1b\[[0-9;]*m")
# What a terminal would obey rather than show.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
WARNINGS = ("[WARNING]: ", "[DEPRECATION WARNING]: ", "[DEPRECATED]: ")


def shown(text: str) -> str:
    """Return a text of a host without anything that would move a cursor or change a color."""
    return CONTROLS.sub("", COLORS.sub("", text.replace("\r\n", "\n"))).strip("\n")


def took(seconds: float) -> str:
    """Return how long something took, as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def cut(text: str, columns: int) -> str:
    """Return the first line of a text, no wider than so many columns."""
    line = text.partition("\n")[0]
    if len(line) < len(text) or get_text_width(line) > columns:
        while line and get_text_width(line) > columns - 4:
            line = line[:-1]
        line = f"{line.rstrip()} ..."
    return line


def names(hosts: t.Iterable[str]) -> str:
    """Return the names of hosts, or how many they are where that says it better."""
    found = sorted(set(hosts))
    text = ", ".join(found)
    return text if len(found) <= 4 or len(text) <= 40 else f"{len(found)} hosts"


class Log:
    """A file that gets everything, and that nobody else may read. Without a directory it is none."""

    def __init__(self, directory: Path | None, name: str, keep: int) -> None:
        self.path: Path | None = None
        self._file = -1
        if directory is None or keep < 1:
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        started = f"{name}-{datetime.datetime.now().astimezone():%Y%m%dT%H%M%S}"
        for path in (directory / f"{started}.log", directory / f"{started}-{os.getpid()}.log"):
            with contextlib.suppress(FileExistsError):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
                self.path = path
                break
        ours = re.compile(re.escape(name) + r"-\d{8}T\d{6}(-\d+)?\.log")
        # The time is in the name; another run may remove the same ones.
        logs = (path.name for path in directory.iterdir() if ours.fullmatch(path.name))
        for log in sorted(logs, reverse=True)[keep:]:
            (directory / log).unlink(missing_ok=True)

    def write(self, text: str) -> None:
        """Add a text with the time of the day. Unbuffered: workers are forked from this process."""
        if self._file < 0:
            return
        lines = COLORS.sub("", text).strip("\n").split("\n")
        data = f"{datetime.datetime.now().astimezone():%H:%M:%S} " + "\n         ".join(lines) + "\n"
        with contextlib.suppress(OSError):  # A full disk does not end a deploy.
            os.write(self._file, data.encode(errors="replace"))

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


class Screen:
    """Where all of Ansible's output goes through: to the log, and what is part of the story to the terminal.

    There is no event for warnings, nor for what others print, but one method of one object that all of it goes through.
    Ansible writes from two threads and forks from one of them: the lock is taken before Ansible's own, and a worker,
    which has a copy of this object, goes straight to Ansible's method.
    """

    def __init__(self, display: Display, animated: bool) -> None:
        self.lock = threading.RLock()
        self.log = Log(None, "", 0)
        self.warnings: dict[str, str] = {}
        self.collects = True  # Warnings are kept for the end.
        self._animated = animated
        self._display, self._ask, self._ask_until = display.display, display.prompt, display.prompt_until
        self._quiet = self._asking = 0
        self._painted = False
        self._pid = os.getpid()
        # Ansible has one display, which everything asks: these methods of it are replaced on purpose.
        display.display = self.display  # type: ignore[method-assign]
        display.prompt = self.ask  # type: ignore[method-assign]
        display.prompt_until = self.ask_until  # type: ignore[method-assign]

    def display(
        self,
        msg: str,
        color: str | None = None,
        stderr: bool = False,
        screen_only: bool = False,
        log_only: bool = False,
        newline: bool = True,
        caplevel: int | None = None,
    ) -> None:
        """Stand in for Ansible's method."""
        if os.getpid() != self._pid:
            return self._display(msg, color, stderr, screen_only, log_only, newline, caplevel)
        with self.lock:
            if not log_only:
                self.log.write(msg)
            hidden = bool(self._quiet)
            if self.collects and stderr and msg.startswith(WARNINGS):
                self.warnings.setdefault(msg, color or "")
                hidden = True
            if hidden and screen_only:
                return None
            if not hidden and not log_only:
                self.clear()
            # What is hidden still goes to a log file that Ansible's own settings name.
            return self._display(msg, color, stderr, screen_only, log_only or hidden, newline, caplevel)

    def tell(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        """Print a line of the story, at once, also into a pipe."""
        with self.lock:
            self.clear()
            self._display(text, color=color, stderr=stderr)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()

    @contextlib.contextmanager
    def quiet(self) -> t.Iterator[None]:
        """Let what Ansible prints in here go to the log alone."""
        with self.lock:
            self._quiet += 1
            try:
                yield
            finally:
                self._quiet -= 1

    def ask(self, *arguments: t.Any, **options: t.Any) -> t.Any:
        """Stand in for Ansible's method that asks a question."""
        return self._asked(self._ask, arguments, options)

    def ask_until(self, *arguments: t.Any, **options: t.Any) -> t.Any:
        """Stand in for Ansible's method that waits for keys."""
        return self._asked(self._ask_until, arguments, options)

    def _asked(self, method: t.Callable[..., t.Any], arguments: t.Any, options: t.Any) -> t.Any:
        if os.getpid() != self._pid:
            return method(*arguments, **options)
        with self.lock:
            self.clear()
            self._asking += 1
        try:
            return method(*arguments, **options)
        finally:
            self._asking -= 1

    def columns(self) -> int:
        """Return how wide the terminal is now; in a pipe, lines are cut where people still read them."""
        try:
            return max(20, os.get_terminal_size(sys.stdout.fileno()).columns) if self._animated else 120
        except (OSError, ValueError):
            return 80

    def paint(self, text: str, color: t.Callable[[str], str]) -> None:
        """Show the current line in the place of the last one. Past Python's buffers, which a worker would inherit."""
        with self.lock:
            if self._animated and not self._asking:
                line = color(cut(text, self.columns() - 1))
                os.write(sys.stdout.fileno(), b"\r\x1b[2K" + line.encode(sys.stdout.encoding, errors="replace"))
                self._painted = True

    def clear(self) -> None:
        """Take the current line away."""
        if self._painted:
            self._painted = False
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stdout.fileno(), b"\r\x1b[2K")


class Ticker:
    """Calls something now and then, until it is stopped; it never outlives the run."""

    def __init__(self, interval: float, action: t.Callable[[], None]) -> None:
        self._over = threading.Event()
        self._interval, self._action = interval, action
        self._thread = threading.Thread(target=self._run, name="story", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # A terminal that has gone away is noticed by the run itself.
        with contextlib.suppress(OSError, ValueError):
            while not self._over.wait(self._interval):
                self._action()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A task that failed on a host.

    `message` is all that it says, `repeated` what a later task may repeat of it. `rescuer` is the block whose rescue takes it
    up; `reacts_to` are those, innermost first, in whose rescue it stands itself.
    """

    host: str
    task: str
    name: str
    step: str
    path: str
    message: str
    repeated: str = ""
    rescuer: str = ""
    reacts_to: tuple[str, ...] = ()
    unreachable: bool = False

    def is_final(self) -> bool:
        """Return whether the host ends with it. One that cannot be reached is never rescued, though the others are."""
        return self.unreachable or not self.rescuer


@dataclasses.dataclass
class Verdict:
    """What a failed run says: why it failed, how it ended after that, and what else went wrong."""

    causes: list[Failure]
    outcome: list[Failure]
    others: list[Failure]


def verdict(failures: list[Failure], failed: bool) -> Verdict:
    """Return what went wrong. Where a rescue failed for the second time, the reason is what it was to rescue."""
    final = [failure for failure in failures if failure.is_final()]
    if not final and failed:  # Whether a handler is rescued can only be guessed.
        final = failures[-1:]
    if not final:
        return Verdict([], [], [])
    reason = root(failures, final[0])
    causes = alike(failures, reason)
    later = [failure for failure in final if failure not in causes]
    outcome = [failure for failure in later if root(failures, failure) in causes]
    return Verdict(causes, outcome, [failure for failure in later if failure not in outcome])


def root(failures: list[Failure], effect: Failure) -> Failure:
    """Return the failure that began what the one is the end of; itself, where it was to rescue none."""
    while earlier := cause(failures, effect):
        effect = earlier
    return effect


def alike(failures: list[Failure], one: Failure) -> list[Failure]:
    """Return the failures of the same task on any host."""
    return [failure for failure in failures if failure.task == one.task and failure.rescuer == one.rescuer]


def cause(failures: list[Failure], effect: Failure) -> Failure | None:
    """Return the first failure that the one was to rescue."""
    before = failures[: failures.index(effect)]
    for block in effect.reacts_to:
        for failure in before:
            if failure.rescuer == block:
                return failure
    return None


def folded(failures: list[Failure]) -> dict[str, list[Failure]]:
    """Return the failures by message: what several hosts say is said once."""
    found: dict[str, list[Failure]] = collections.defaultdict(list)
    for failure in failures:
        found[failure.message].append(failure)
    return found


def by_task(failures: list[Failure]) -> list[list[Failure]]:
    """Return the failures of each task."""
    found: dict[str, list[Failure]] = collections.defaultdict(list)
    for failure in failures:
        found[failure.task].append(failure)
    return list(found.values())


def rest(text: str, causes: list[Failure]) -> str:
    """Return what a text says beyond the causes, each of which it may repeat after its host's name."""
    for failure in sorted(causes, key=lambda failure: len(failure.message), reverse=True):
        for said in {failure.message, failure.repeated} - {""}:
            text = text.replace(f"{failure.host}: {said}", "")
            text = "" if text.strip() == said.strip() else text
    return "\n".join(line for line in text.split("\n") if line.strip())
