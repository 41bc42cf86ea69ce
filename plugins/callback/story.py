# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback that tells a run as a story: its steps, what they changed, and the one error that matters."""

from __future__ import annotations

DOCUMENTATION = r"""
name: story
type: stdout
short_description: A run as a story, with its steps, what they changed, and the one error that matters
version_added: 0.1.0
description:
  - Shows a line for each step of a run, with how long it took and which hosts it changed or failed on. In a terminal the
    step at work is shown in the last line, with its task, the hosts that are waited for, and for how long.
  - What tasks of M(ansible.builtin.debug) say, and differences with C(--diff), are shown whole. What is C(ok), skipped or
    included is not.
  - What failed and was rescued is said to be rescued; what may fail (C(ignore_errors), C(failed_when)) is not said at all.
  - At the end there are the warnings, each once with how often it came, and why the run failed. If a rescue failed for the
    second time, that is what it was to rescue, followed by how it ended. Ansible's own recap is the last thing printed.
  - With C(-v) and more, everything is shown as by P(ansible.builtin.default#callback).
  - A log file has everything that C(-v) shows, whether or not it was given, but nothing that is under C(no_log).
  - It loads what nearly every task needs before the first one, so that not each task has to do it anew.
  - A step of this collection is what C(steps_of) says. In other playbooks it is an outermost inclusion that has a name, or
    a task outside of any; under the strategies C(free) and C(host_pinned) it is the play.
options:
  steps_of:
    description:
      - The ends of the paths of task files whose inclusions are the steps.
    type: list
    elements: str
    default: [/release/tasks/deploy.yml, /release/tasks/change.yml, /release/tasks/rollback.yml]
    env: [{name: TRUTHGRAPH_STORY_STEPS_OF}]
    ini: [{section: callback_story, key: steps_of}]
  animation:
    description:
      - Whether the last line shows the step at work. By default it does in a terminal, unless E(CI) is set, E(TERM) is
        C(dumb), or C(--step) or the debugger asks questions there.
    type: str
    choices: [auto, never]
    default: auto
    env: [{name: TRUTHGRAPH_STORY_ANIMATION}]
    ini: [{section: callback_story, key: animation}]
  heartbeat:
    description:
      - After how many seconds, again and again, a step that is still at work says so where there is no terminal. With V(0) a
        step says nothing before its end.
    type: int
    default: 30
    env: [{name: TRUTHGRAPH_STORY_HEARTBEAT}]
    ini: [{section: callback_story, key: heartbeat}]
  log_dir:
    description:
      - The directory of the log files, C(PLAYBOOK-TIME.log) each, which only their owner may read.
    type: path
    default: ~/.local/state/truthgraph/logs
    env: [{name: TRUTHGRAPH_STORY_LOG_DIR}]
    ini: [{section: callback_story, key: log_dir}]
  log_keep:
    description:
      - How many log files of each playbook are kept. With V(0) none is written.
    type: int
    default: 20
    env: [{name: TRUTHGRAPH_STORY_LOG_KEEP}]
    ini: [{section: callback_story, key: log_keep}]
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout in configuration
author:
  - TruthGraph platform (@truthgraph)
"""

import atexit
import collections
import contextlib
import dataclasses
import itertools
import json
import os
import sys
import textwrap
import time
import typing as t
from pathlib import Path

from ansible import constants, context
from ansible.plugins.callback.default import CallbackModule as Default
from ansible.utils.color import stringc

from ansible_collections.truthgraph.platform.plugins.plugin_utils import story
from ansible_collections.truthgraph.platform.plugins.plugin_utils.preload import preload

# Its names are made when it is imported.
C: t.Any = constants
# A step that takes longer than this says that it has begun, and what it has to say does not wait for its end.
LONG = 5.0
MARKS = {"ok": "✓", "failed": "✗", "rescued": "↺", "begun": "▸"}
PLAIN_MARKS = {"ok": "+", "failed": "x", "rescued": "~", "begun": ">"}
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_SPINNER = "-\\|/"
HIDDEN = "What it said is hidden, since it may have secrets in it (no_log)."
# What Ansible's own callback leaves out of a result, too.
UNSAID = {"invocation", "diff", "exception", "warnings", "deprecations", "stdout_lines", "stderr_lines"}
SECTIONS = ("block", "rescue", "always")


@dataclasses.dataclass
class Message:
    """What a task says, and the hosts that say so; of hosts, only where one of them may say something else."""

    task: str
    text: str
    hosts: list[str]
    plain: bool = True


@dataclasses.dataclass
class Step:
    """A step at work."""

    name: str
    began: float = dataclasses.field(default_factory=time.monotonic)
    task: str = ""
    uuid: str = ""
    # By host, since when it has been at work on the task.
    running: dict[str, float] = dataclasses.field(default_factory=dict)
    retries: dict[str, str] = dataclasses.field(default_factory=dict)
    done: int = 0
    changed: dict[str, None] = dataclasses.field(default_factory=dict)
    failures: list[story.Failure] = dataclasses.field(default_factory=list)
    rescues: set[str] = dataclasses.field(default_factory=set)
    messages: list[Message] = dataclasses.field(default_factory=list)
    opened: bool = False
    beat: float = 0.0

    def lasted(self) -> float:
        """Return for how many seconds it has been at work."""
        return time.monotonic() - self.began

    def waits_for(self) -> str:
        """Return its task, and the hosts that have not done it yet."""
        if not self.running:
            return self.task
        since = time.monotonic() - min(self.running.values())
        hosts = story.names(f"{host}{self.retries.get(host, '')}" for host in self.running)
        return f"{self.task}: {hosts}" + (f", {story.took(since)}" if since >= LONG else "")


def logged(event: t.Callable[..., None]) -> t.Callable[..., None]:
    """Return an event as Ansible's own callback shows it, for the log alone."""

    def handler(self: CallbackModule, *arguments: t.Any, **options: t.Any) -> None:
        with self.default_output():
            event(self, *arguments, **options)

    return handler


class CallbackModule(Default):
    """The callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "truthgraph.platform.story"

    # What is no part of the story.
    v2_playbook_on_include = logged(Default.v2_playbook_on_include)
    v2_playbook_on_no_hosts_remaining = logged(Default.v2_playbook_on_no_hosts_remaining)
    v2_playbook_on_notify = logged(Default.v2_playbook_on_notify)
    v2_runner_item_on_skipped = logged(Default.v2_runner_item_on_skipped)
    v2_runner_on_async_failed = logged(Default.v2_runner_on_async_failed)
    v2_runner_on_async_ok = logged(Default.v2_runner_on_async_ok)
    v2_runner_on_async_poll = logged(Default.v2_runner_on_async_poll)

    def __init__(self) -> None:
        super().__init__()
        self._verbose = self._display.verbosity > 0
        self._brief = False
        self._animated = False
        self._output: story.Screen | None = None
        self._ticker: story.Ticker | None = None
        self._step: Step | None = None
        self._began = 0.0
        self._failures: list[story.Failure] = []
        self._warned: collections.Counter[str] = collections.Counter()
        # The names of inclusions as they were said, and by block what stands in which of its sections.
        self._said: dict[str, str] = {}
        self._sections: dict[str, dict[str, str]] = {}
        self._rescuing: set[str] = set()
        self._around: dict[str, list[tuple[str, str]]] = {}
        self._last: list[tuple[str, str]] = []
        self._frames = itertools.cycle("")
        self._marks = MARKS

    # How a run begins and ends.

    def set_options(self, task_keys: t.Any = None, var_options: t.Any = None, direct: t.Any = None) -> None:
        """Take the options, and from here on all output."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        if self._output is None:
            self._animated = bool(
                not self._verbose
                and self.get_option("animation") == "auto"
                and sys.stdout.isatty()
                and os.environ.get("TERM", "") not in ("", "dumb")
                and not os.environ.get("CI")
                and not context.CLIARGS.get("step")
                and not C.ENABLE_TASK_DEBUGGER
            )
            unicode = (sys.stdout.encoding or "").lower().startswith("utf")
            self._marks = MARKS if unicode else PLAIN_MARKS
            self._frames = itertools.cycle(SPINNER if unicode else PLAIN_SPINNER)
            self._output = story.Screen(self._display, self._animated)
            self._screen.collects = not self._verbose
            atexit.register(self._ended_early)

    @property
    def _screen(self) -> story.Screen:
        """What is written to; it is there as soon as the options are."""
        return t.cast(story.Screen, self._output)

    @contextlib.contextmanager
    def default_output(self, brief: bool = False) -> t.Iterator[None]:
        """Let Ansible's own callback write to the log, and with -v to the screen."""
        if self._verbose:
            yield
        else:
            with self._screen.quiet():
                self._brief = brief
                try:
                    yield
                finally:
                    self._brief = False

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        """Open the log, and begin to count the time."""
        self._failures, self._began = [], time.monotonic()
        # This is the process that forks one for each task.
        preload()
        path = Path(playbook._file_name)
        self._screen.log.close()
        try:
            keep = self.get_option("log_keep")
            self._screen.log = story.Log(Path(self.get_option("log_dir")) if keep > 0 else None, path.stem, keep)
        except OSError as error:
            self._display.warning(f"This run writes no log: {error}. Name another directory (TRUTHGRAPH_STORY_LOG_DIR).")
        self._screen.log.write(f"{path.resolve()}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}{self._mode()}")
        with self.default_output():
            super().v2_playbook_on_start(playbook)
        if not self._verbose and self._ticker is None:
            self._ticker = story.Ticker(0.12 if self._animated else 1.0, self._tick)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """End the story: warnings, the error, and Ansible's recap."""
        self._end_step()
        self._stop()
        failed = bool(stats.failures or stats.dark)
        verdict = story.verdict(self._failures, failed)
        mark, color = ("failed", C.COLOR_ERROR) if failed else ("ok", C.COLOR_OK)
        if not self._verbose:
            word = "Failed" if failed else "Done"
            self._tell(f"\n{self._marks[mark]} {word} after {story.took(time.monotonic() - self._began)}{self._mode()}", color)
            self._tell_rescued(verdict)
            self._tell_warnings()
        if failed:
            self._tell_verdict(verdict)
            self._tell_log()
        self._began = 0.0
        super().v2_playbook_on_stats(stats)

    def _ended_early(self) -> None:
        """Say where a run ended that had no end: it was interrupted, or Ansible gave up."""
        if os.getpid() != self._screen._pid:
            return
        self._stop()
        if self._began:
            step, self._step = self._step, None
            if step is not None and not self._verbose:
                self._close("failed", step, f"ended here: {step.waits_for()}".rstrip(": "), C.COLOR_ERROR)
            if not self._verbose:
                self._tell_warnings()
            self._tell_verdict(story.verdict(self._failures, False))
            self._tell_log()
        self._screen.log.close()

    def _stop(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        self._screen.clear()

    # What runs.

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        """Say the name of the play, and learn what its blocks rescue."""
        with self.default_output():
            super().v2_playbook_on_play_start(play)
        self._end_step()
        self._around, self._last = {}, []
        roles = (block for role in play.roles for block in role.get_task_blocks())
        for block in itertools.chain(play.pre_tasks, roles, play.tasks, play.post_tasks):
            self._learn(block)
        if not self._verbose:
            self._tell(f"\n{play.get_name().strip()}{self._mode()}", C.COLOR_HIGHLIGHT)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say that a play has no hosts."""
        with self.default_output():
            super().v2_playbook_on_no_hosts_matched()
        if not self._verbose:
            self._tell("  no hosts matched", C.COLOR_SKIP)

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        """Begin another step, if the task is of another one."""
        with self.default_output():
            super().v2_playbook_on_task_start(task, is_conditional)
        self._begin_task(task, self._step_of(task))

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        """Count a handler to the step that it comes in."""
        with self.default_output():
            super().v2_playbook_on_handler_task_start(task)
        self._begin_task(task, self._step.name if self._step else self._name(task), handler=True)

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        """Note that a host is at work."""
        with self.default_output():
            super().v2_runner_on_start(host, task)
        if self._step is not None:
            self._step.running[host.get_name()] = time.monotonic()

    def _begin_task(self, task: t.Any, step: str, handler: bool = False) -> None:
        with self._screen.lock:
            self._said[task._uuid] = self._name(task)
            if self._step is None or self._step.name != step:
                self._end_step()
                self._step = Step(step)
            elif self._step.opened:
                self._tell_messages(self._step)
            self._step.task = "" if self._name(task) == step else self._name(task)
            self._step.uuid = task._uuid
            self._step.retries.clear()
            # A handler has no place among the blocks; what rescues it is what is around the task before it.
            if not handler:
                self._last = self._blocks(task)
            self._around[task._uuid] = self._last
            self._step.rescues |= {block for block, section in self._last if section != "block"}

    def _step_of(self, task: t.Any) -> str:
        """Return the name of the step that a task is part of."""
        play: t.Any = self._play
        if play.strategy.rpartition(".")[2] in ("free", "host_pinned"):
            return str(play.get_name())
        if task.action.rpartition(".")[2] == "validate_argument_spec":
            return self._step.name if self._step else ""
        ends = tuple(self.get_option("steps_of"))
        around = [task]
        while (parent := around[-1].get_first_parent_include()) is not None:
            around.append(parent)
        for one in around:
            if one.get_path().rpartition(":")[0].endswith(ends):
                return self._name(one)
        return self._name(next((one for one in reversed(around) if one.name), task))

    def _name(self, task: t.Any) -> str:
        return self._said.get(task._uuid) or (task.name or task.action).strip()

    # What is around a task. The objects around it may lack what stands in them, so that is learned when it is seen.

    def _learn(self, block: t.Any) -> None:
        if not all(hasattr(block, section) for section in SECTIONS):
            return
        known = self._sections.setdefault(block._uuid, {})
        for section in SECTIONS:
            for one in getattr(block, section):
                known[one._uuid] = section
                self._learn(one)
        if block.rescue:
            self._rescuing.add(block._uuid)

    def _blocks(self, task: t.Any) -> list[tuple[str, str]]:
        """Return the blocks around a task, innermost first, and in which section of each it stands."""
        found, below, parent = [], [task._uuid], task._parent
        while parent is not None:
            self._learn(parent)
            known = self._sections.get(parent._uuid, {})
            section = next((known[one] for one in below if one in known), None)
            if section:
                found.append((parent._uuid, section))
            below.append(parent._uuid)
            parent = parent._parent
        return found

    # What comes of it.

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """Note that a host has done its task."""
        step = self._came(result)
        if "include" not in result.task.action and step is not None:
            step.done += 1
            if result.is_changed():
                step.changed[result.host.get_name()] = None
        if not result.task.loop:
            self._hear(result)
        with self.default_output(brief=True):
            super().v2_runner_on_ok(result)

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        """Take what a debug task says of an item."""
        self._take(result)
        self._hear(result)
        with self.default_output(brief=True):
            super().v2_runner_item_on_ok(result)

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        """Leave an item to the result of all of them."""
        self._take(result)
        with self.default_output():
            super().v2_runner_item_on_failed(result)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        """Note that a host has nothing to do."""
        self._came(result)
        with self.default_output():
            super().v2_runner_on_skipped(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """Note what failed, unless nobody minds."""
        step = self._came(result)
        if ignore_errors and step is not None:
            step.done += 1
        if not ignore_errors:
            self._failed(result, self._complaint(result))
        with self.default_output():
            super().v2_runner_on_failed(result, ignore_errors=ignore_errors)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        """Note that a host cannot be reached, unless nobody minds."""
        self._came(result)
        if not result.task.ignore_unreachable:
            self._failed(result, self._complaint(result), unreachable=True)
        with self.default_output():
            super().v2_runner_on_unreachable(result)

    def v2_runner_retry(self, result: t.Any) -> None:
        """Note that a host tries again."""
        if self._step is not None:
            self._step.retries[result.host.get_name()] = f" (try {result.result['attempts'] + 1} of {result.result['retries']})"
        with self.default_output():
            super().v2_runner_retry(result)

    def v2_on_file_diff(self, result: t.Any) -> None:
        """Take a difference."""
        results = result.result["results"] if result.task.loop and "results" in result.result else [result.result]
        for one in results:
            shown = one.get("diff") and one.get("changed") and not self._verbose
            if shown and (difference := self._get_diff(one["diff"])):
                self._say(result, difference.strip("\n"), plain=False)
        with self.default_output():
            super().v2_on_file_diff(result)

    def _dump_results(self, result: t.Any, *arguments: t.Any, **options: t.Any) -> str:
        """Have the log say what went well in one line: to make it pretty would take longer than many a task."""
        if not self._brief or result.get("_ansible_verbose_always"):
            return super()._dump_results(result, *arguments, **options)
        kept = {key: value for key, value in result.items() if not key.startswith("_ansible_") and key not in UNSAID}
        return json.dumps(kept, ensure_ascii=False, default=str, sort_keys=True)

    def _run_is_verbose(self, result: t.Any, verbosity: int = 0) -> bool:
        """Have the log say what -v would."""
        quiet = not self._verbose and verbosity == 0 and not result.result.get("_ansible_verbose_override", False)
        return quiet or super()._run_is_verbose(result, verbosity)

    def _came(self, result: t.Any) -> Step | None:
        self._take(result)
        with self._screen.lock:
            if self._step is not None:
                self._step.running.pop(result.host.get_name(), None)
            return self._step

    def _take(self, result: t.Any) -> None:
        """Count the warnings of a result. Ansible leaves the message of what is hidden in the exception."""
        if "censored" in result.result:
            result.result.pop("exception", None)
        for warning in (*result.warnings, *result.deprecations):
            self._warned[warning.event.msg] += 1

    def _failed(self, result: t.Any, message: str, unreachable: bool = False) -> None:
        around = self._around.get(result.task._uuid, [])
        rescuer = next((block for block, section in around if section == "block" and block in self._rescuing), "")
        failure = story.Failure(
            host=self.host_label(result),
            task=result.task._uuid,
            name=self._name(result.task),
            step=self._step.name if self._step else "",
            path=nearby(result.task.get_path()),
            message=message,
            repeated=str(result.result.get("msg", "")),
            rescuer=rescuer,
            reacts_to=tuple(block for block, section in around if section != "block"),
            unreachable=unreachable,
        )
        self._failures.append(failure)
        if self._step is not None:
            self._step.failures.append(failure)

    def _complaint(self, result: t.Any) -> str:
        """Return what a failed result says: its message, that of each item, and what a command wrote."""
        data = result.result
        items = [item for item in data.get("results") or [] if isinstance(item, dict)]
        # ansible-core 2.21 says of an item no more that it failed; it has an exception then, as in 2.19.
        bad = [item for item in items if any(item.get(name) for name in ("failed", "unreachable", "exception"))]
        if result.task.loop and bad:
            said = collections.defaultdict(list)
            for item in bad:
                said[self._complaint_of(item)].append(str(self._get_item_label(item)))
            return "\n".join(f"{story.names(labels)}: {text}" for text, labels in said.items())
        return self._complaint_of(data)

    def _complaint_of(self, data: dict[str, t.Any]) -> str:
        if data.get("_ansible_no_log") or "censored" in data:
            return HIDDEN
        text = data.get("msg") or data.get("reason") or ""
        text = ("\n".join(map(str, text)) if isinstance(text, list) else str(text)).removeprefix("Task failed: ")
        streams = [str(data[name]) for name in ("stderr", "stdout", "module_stderr") if data.get(name)]
        # Of a command that says both, the reason stands in what it wrote as errors.
        text = "\n".join(one for one in (text, *streams[:1]) if one.strip())
        return story.shown(text) or "It says nothing; -v shows the whole result."

    # What is told.

    def _hear(self, result: t.Any) -> None:
        """Take what a task says on purpose."""
        action, data = result.task.action.rpartition(".")[2], result.result
        if self._verbose or data.get("_ansible_verbose_always") is not True or action not in ("debug", "assert"):
            return
        if action == "assert" and data.get("msg") in (None, "All assertions passed"):
            return
        text = data.get("msg")
        if isinstance(text, list) and all(isinstance(line, str) for line in text):
            text = "\n".join(text)
        if not isinstance(text, str):
            said = dict(data)
            self._clean_results(said, "debug")
            text = textwrap.dedent(self._dump_results(said).strip("\n"))
        self._say(result, story.shown(text))

    def _say(self, result: t.Any, text: str, plain: bool = True) -> None:
        """Keep a message until its step ends or is long, so that it stands below the step's name."""
        with self._screen.lock:
            host = "" if result.task.run_once and plain else self.host_label(result)
            for message in self._step.messages if self._step else []:
                if (message.task, message.text) == (result.task._uuid, text):
                    if host and host not in message.hosts:
                        message.hosts.append(host)
                    return
            if self._step is not None:
                self._step.messages.append(Message(result.task._uuid, text, [host] if host else [], plain))

    def _tell(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        self._screen.log.write(text)
        self._screen.tell(text, color, stderr)

    def _mode(self) -> str:
        return " (check mode)" if context.CLIARGS.get("check") else ""

    def _line(self, mark: str, step: Step, text: str, color: str) -> None:
        """Print the line of a step."""
        line = f"  {self._marks[mark]} {step.name or step.task:<40} {story.took(step.lasted()):>12}   {text}"
        self._tell(line.rstrip(), color)

    def _tell_messages(self, step: Step, but: str = "") -> None:
        """Print what a step has said, but not what a task is still saying; the step's name comes first."""
        ready = [message for message in step.messages if message.task != but]
        step.messages = [message for message in step.messages if message.task == but]
        if ready and not step.opened:
            self._tell(f"  {self._marks['begun']} {step.name or step.task}")
            step.opened = True
        for message in ready:
            hosts = f"{story.names(message.hosts)}: " if message.hosts else ""
            text = message.text
            if not message.plain or "\n" in text:
                text = f"{hosts.strip()}\n{text}" if hosts else text
            else:
                text = self._wrapped(f"{hosts}{text}", 6)
            self._tell(textwrap.indent(text, "      "))

    def _wrapped(self, text: str, indent: int) -> str:
        """Return a text with its own line breaks, and others only where a terminal is too narrow."""
        if not self._animated:
            return text
        columns = self._screen.columns() - indent
        lines = [
            line if line.startswith(" ") else textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
            for line in text.split("\n")
        ]
        return "\n".join(lines)

    def _end_step(self) -> None:
        """Print what has become of a step, unless it had nothing to do."""
        with self._screen.lock:
            step, self._step = self._step, None
            if step is None or self._verbose:
                return
            if not (step.done or step.failures or step.messages):
                return
            failed = [one for one in step.failures if one.is_final() or one.rescuer not in step.rescues]
            rescued = [failure for failure in step.failures if failure not in failed]
            said = []
            for word, hosts in (
                ("failed", [failure.host for failure in failed if not failure.unreachable]),
                ("unreachable", [failure.host for failure in failed if failure.unreachable]),
                ("rescued", [failure.host for failure in rescued]),
                ("changed", list(step.changed)),
            ):
                if hosts:
                    said.append(f"{word}: {story.names(dict.fromkeys(hosts))}")
            mark, color = "ok", C.COLOR_CHANGED if step.changed else C.COLOR_OK
            if failed:
                mark, color = "failed", C.COLOR_ERROR
            elif rescued:
                mark, color = "rescued", C.COLOR_WARN
            # The arguments of a role are checked before its first step; that is a line only if they are wrong.
            if not (step.name or step.failures):
                return
            self._close(mark, step, "; ".join(said), color)
            for text, same in story.folded(failed).items():
                line = f"      {story.names(one.host for one in same)}: {text}"
                self._tell(story.cut(line, self._screen.columns() - 1), C.COLOR_ERROR)

    def _close(self, mark: str, step: Step, text: str, color: str) -> None:
        """Print the last line of a step, and what it has said: below its name, whether that stands there already or not."""
        if step.opened:
            self._tell_messages(step)
        self._line(mark, step, text, color)
        step.opened = True
        self._tell_messages(step)

    def _tick(self) -> None:
        """Show what is at work: in the last line of a terminal, or now and then in another line."""
        with self._screen.lock:
            step = self._step
            if step is None:
                return
            lasted, waits = step.lasted(), step.waits_for()
            heartbeat = 0 if self._animated else self.get_option("heartbeat")
            if heartbeat and lasted - step.beat >= (heartbeat if step.beat else min(LONG, heartbeat)):
                step.beat = lasted
                step.opened = True
                self._line("begun", step, waits, C.COLOR_VERBOSE)
            if lasted >= LONG and (self._animated or heartbeat):
                self._tell_messages(step, step.uuid)
            if self._animated:
                text = f"  {next(self._frames)} {step.name:<40} {story.took(lasted):>12}   {waits}"
                self._screen.paint(text, lambda line: stringc(line, C.COLOR_HIGHLIGHT))

    def _tell_warnings(self) -> None:
        """Print every warning once, and how often it came."""
        for text, color in self._screen.warnings.items():
            kind, _end, said = text.partition("]: ")
            times = max((count for message, count in self._warned.items() if said.startswith(message)), default=1)
            # The lines around the place stand in the log.
            said, place, where = said.rstrip("\n").partition("\nOrigin: ")
            often = f", {times} times" if times > 1 else ""
            self._tell(f"{kind}{often}]: {said}{place}{where.partition(chr(10))[0]}", color or None, stderr=True)
        self._screen.warnings.clear()

    def _tell_rescued(self, verdict: story.Verdict) -> None:
        """Say what failed and was rescued, which is no reason for a failure."""
        rescued = [one for one in self._failures if not one.is_final() and one not in verdict.causes + verdict.outcome]
        for text, same in story.folded(rescued).items():
            hosts = story.names(one.host for one in same)
            line = f"{self._marks['rescued']} Rescued: {hosts}: {same[0].name}: {text}"
            self._tell(story.cut(line, self._screen.columns() - 1), C.COLOR_WARN)

    def _tell_verdict(self, verdict: story.Verdict) -> None:
        """Print why the run failed, how it ended then, and what else failed."""
        told: set[str] = set()
        for title, failures in (("", verdict.causes), ("Then ", verdict.outcome), ("Also ", verdict.others)):
            for same in story.by_task(failures):
                said = {}
                for text, found in story.folded(same).items():
                    more = story.rest(text, verdict.causes) if failures is verdict.outcome else text
                    # Where hosts come to a rescue one after the other, it fails for each of them.
                    if more and not (failures is verdict.outcome and more in told):
                        told.add(more)
                        said[more] = story.names(one.host for one in found)
                if not said:
                    continue
                failure, hosts = same[0], story.names(one.host for one in same)
                place = f"{failure.step}: {failure.name}" if failure.step not in ("", failure.name) else failure.name
                verb = "cannot be reached" if failure.unreachable else "failed"
                path = f" ({failure.path})" if failures is verdict.causes and failure.path else ""
                self._tell(f"\n{title}{hosts} {verb} in {place}{path}", C.COLOR_ERROR, self._to_stderr())
                for text, who in said.items():
                    shown = text if len(said) == 1 else f"{who}: {text}"
                    self._tell(textwrap.indent(self._wrapped(shown, 2), "  "), C.COLOR_ERROR, self._to_stderr())

    def _tell_log(self) -> None:
        if self._screen.log.path is not None:
            self._tell(f"\nEverything that was said is in {self._screen.log.path}")

    def _to_stderr(self) -> bool:
        return bool(self.get_option("display_failed_stderr"))


def nearby(path: str) -> str:
    """Return where a task stands, from here if that is shorter."""
    file, _colon, line = path.rpartition(":")
    if not file:
        return path
    relative = os.path.relpath(os.path.realpath(file))
    return f"{file if relative.startswith('..') else relative}:{line}"
