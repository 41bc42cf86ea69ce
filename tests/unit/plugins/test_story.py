"""The callback that tells a run as a story, in runs of ansible-playbook in a terminal and in a pipe."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import os
import pty
import re
import select
import stat
import struct
import subprocess
import sys
import termios
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.plugin_utils import story

PROGRAM = Path(sys.executable).with_name("ansible-playbook")
COLOR = re.compile(r"\x1b\[[0-9;]*m")
SECRET = "correct-horse-battery"

# The structures of the product: an imported role whose entry point is a block with a rescue, with imported and included
# files as steps. What goes wrong is said by variables.
FILES = {
    "ansible.cfg": "[defaults]\nlocalhost_warning = false\n",
    "inventory.yml": """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "PYTHON", bad: ""}
  hosts: {a: , b: , c: }
""".replace("PYTHON", sys.executable),
    "deploy.yml": """
- name: Deploy
  hosts: all
  gather_facts: false
  tasks:
    - name: Plan, hosts, images
      ansible.builtin.import_role:
        name: release
        tasks_from: deploy
""",
    "roles/release/meta/argument_specs.yml": """
argument_specs:
  deploy:
    options:
      wanted: {type: int}
""",
    "roles/release/tasks/deploy.yml": """
- name: Deploy, or take it back
  any_errors_fatal: true
  block:
    - name: Step 1, plan
      ansible.builtin.import_tasks: plan.yml
    - name: Step 2, nothing to do
      ansible.builtin.include_tasks: hosts.yml
      when: false
    - name: Step 3, hosts
      ansible.builtin.include_tasks: hosts.yml
    - name: Step 4, images
      ansible.builtin.import_tasks: images.yml
  rescue:
    - name: Undo
      ansible.builtin.include_tasks: undo.yml
- name: Report
  ansible.builtin.import_tasks: report.yml
""",
    "roles/release/tasks/plan.yml": """
- name: Describe what is wanted
  ansible.builtin.set_fact: {description: everything}
- name: Say what becomes of each host
  ansible.builtin.debug:
    msg: "host  action\\n----  -------\\na     replace"
  run_once: true
""",
    "roles/release/tasks/hosts.yml": """
- name: Check the host
  ansible.builtin.assert:
    that: true
    success_msg: Everything is there.
- name: Check without a word
  ansible.builtin.assert:
    that: true
- name: Try one way
  when: bad == 'one way'
  block:
    - name: The one way
      ansible.builtin.fail: {msg: The one way is closed.}
      when: inventory_hostname == 'a'
  rescue:
    - name: The other way
      ansible.builtin.set_fact: {way: other}
- name: Nobody minds
  ansible.builtin.fail: {msg: never mind}
  ignore_errors: true
  run_once: true
- name: Nobody notices
  ansible.builtin.command: /bin/false
  failed_when: false
  changed_when: false
  run_once: true
- name: Write a secret
  ansible.builtin.set_fact: {password: SECRET}
  no_log: true
- name: Fail with a secret
  ansible.builtin.fail: {msg: SECRET}
  no_log: true
  when: bad == 'secret'
- name: Write the configuration
  ansible.builtin.copy:
    content: "slot = blue\\n"
    dest: "{{ playbook_dir }}/{{ inventory_hostname }}.cfg"
    mode: "0600"
  notify: Reload HAProxy
- name: Say what is to be done
  ansible.builtin.debug:
    msg: "{{ item }} is to be built."
  loop: [core, ml]
  when: inventory_hostname != 'c'
- name: Reload now
  ansible.builtin.meta: flush_handlers
""".replace("SECRET", SECRET),
    "roles/release/handlers/main.yml": """
- name: Reload HAProxy
  ansible.builtin.assert:
    that: bad != 'handler'
    fail_msg: |-
      The service haproxy is not there.
      Install it, and deploy again.
    quiet: true
""",
    "roles/release/tasks/images.yml": """
- name: Build each image
  ansible.builtin.assert:
    that: bad != 'loop' or item == 'core'
    fail_msg: "no room for {{ item }}"
    quiet: true
  loop: [core, ml]
  run_once: true
- name: Ask the registry
  ansible.builtin.shell: echo "It is full." >&2; exit 3
  changed_when: false
  when: bad == 'command' and inventory_hostname == 'b'
- name: Reach the host
  ansible.builtin.ping:
  vars: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}
  when: bad == 'unreachable' and inventory_hostname == 'b'
- name: Try three times
  ansible.builtin.command: /bin/false
  retries: 2
  delay: 0
  register: tried
  until: tried.rc == 0
  changed_when: false
  when: bad == 'retries' and inventory_hostname == 'b'
- name: Pull
  ansible.builtin.command: "sleep {{ slow | default(0) }}"
  changed_when: false
  when: slow is defined and inventory_hostname == 'c'
""",
    "roles/release/tasks/undo.yml": """
- name: Note what failed here
  ansible.builtin.set_fact:
    failure: "{{ inventory_hostname ~ ': ' ~ ansible_failed_result.msg
      if ansible_failed_result is defined and bad != 'secret' else '' }}"
- name: Say what failed, and what serves
  ansible.builtin.fail:
    msg: "{{ (failures + ['Nothing was changed.']) | join('\\n') }}"
  vars:
    failures: >-
      {{ ansible_play_hosts | map('extract', hostvars) | selectattr('failure', 'defined') | map(attribute='failure')
         | select | list }}
  run_once: true
""",
    "roles/release/tasks/report.yml": """
- name: Say what runs where
  ansible.builtin.debug:
    msg: "host  health\\n----  -------\\na     healthy"
  run_once: true
""",
    "other.yml": """
- name: Nobody's
  hosts: nowhere
  gather_facts: false
  tasks: []
- name: Somebody else's
  hosts: all
  gather_facts: false
  tasks:
    - name: First
      ansible.builtin.set_fact: {x: 1}
    - ansible.builtin.debug: {var: x}
    - name: Warn
      warner:
    - name: Break
      ansible.builtin.fail: {msg: "broken on {{ inventory_hostname }}"}
      when: inventory_hostname == 'b'
    - name: Break later
      ansible.builtin.fail: {msg: "later"}
      when: inventory_hostname == 'c'
- name: At will
  hosts: a
  strategy: free
  gather_facts: false
  tasks:
    - name: One
      ansible.builtin.set_fact: {y: 1}
    - name: Two
      ansible.builtin.command: /bin/true
""",
    "library/warner.py": """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({})
module.warn("The disk is nearly full.")
module.exit_json()
""",
    "short.yml": """
- name: Short
  hosts: a
  gather_facts: false
  tasks:
    - name: One
      ansible.builtin.set_fact: {x: 1}
""",
    "ask.yml": """
- name: Ask
  hosts: a
  gather_facts: false
  tasks:
    - name: Wait for the operator
      ansible.builtin.pause: {prompt: Is it safe}
    - name: Go on
      ansible.builtin.set_fact: {x: 1}
""",
}


@dataclasses.dataclass
class Run:
    """What a run has printed, and how it ended."""

    code: int
    raw: str
    log: Path

    @property
    def said(self) -> str:
        """What stands on the screen in the end."""
        lines = self.raw.replace("\r\n", "\n").split("\n")
        return "\n".join(COLOR.sub("", line.rpartition("\r\x1b[2K")[2] or line) for line in lines)

    @property
    def story(self) -> str:
        """The same, up to the recap, without how long it took."""
        return re.sub(r" +(\d+\.\d s|\d+ min \d\d s)", "", self.said.partition("\nPLAY RECAP")[0])

    @property
    def steps(self) -> list[str]:
        """The lines of the steps that ended."""
        return [" ".join(line.split()) for line in self.story.split("\n") if re.match(r"  [✓✗↺+x~] ", line)]


class Place:
    """A directory with the playbooks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name, text in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)

    def command(self, playbook: str, *options: str, **variables: object) -> list[str]:
        given = [f"-e{name}={value}" for name, value in variables.items()]
        return [str(PROGRAM), "-i", "inventory.yml", f"{playbook}.yml", *given, *options]

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "CI", "NO_COLOR"))}
        return {
            **kept,
            "ANSIBLE_STDOUT_CALLBACK": "truthgraph.platform.story",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
            "ANSIBLE_LIBRARY": "library",
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
            "TRUTHGRAPH_STORY_LOG_DIR": str(self.path / "logs"),
            **more,
        }

    def log(self) -> Path:
        found = sorted((self.path / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else self.path / "no log"

    def pipe(self, playbook: str, *options: str, more: dict[str, str] | None = None, **variables: object) -> Run:
        """Run a playbook as a pipeline does."""
        done = subprocess.run(
            self.command(playbook, *options, **variables),
            cwd=self.path,
            env=self.environment(more or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        return Run(done.returncode, done.stdout, self.log())

    def terminal(
        self,
        playbook: str,
        *options: str,
        keys: tuple[str, bytes] | None = None,
        columns: int = 100,
        more: dict[str, str] | None = None,
        **variables: object,
    ) -> Run:
        """Run a playbook in a terminal, and press keys once something stands there."""
        command, environment = self.command(playbook, *options, **variables), self.environment(more or {})
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.path)
            os.execvpe(command[0], command, environment)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        raw, end = b"", time.monotonic() + 240
        while time.monotonic() < end:
            if select.select([terminal], [], [], 1.0)[0]:
                try:
                    raw += os.read(terminal, 65536)
                except OSError:  # Nobody writes there any more.
                    break
            if keys and keys[0].encode() in raw:
                time.sleep(0.5)
                os.write(terminal, keys[1])
                keys = None
        os.close(terminal)
        return Run(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), raw.decode(), self.log())


@pytest.fixture(name="place")
def fixture_place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(name="good", scope="module")
def fixture_good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which nothing goes wrong, in a pipe that hears of a step at its end."""
    place = Place(tmp_path_factory.mktemp("good"))
    more = {"TRUTHGRAPH_STORY_HEARTBEAT": "0", "ANSIBLE_LOG_PATH": str(place.path / "ansible.log")}
    run = place.pipe("deploy", more=more)
    assert run.code == 0, run.raw
    return run


RECAP = re.compile(r"PLAY RECAP \*+\n(\S+ +: ok=\d+ .*\n)+\n?\Z")


def test_a_good_run_is_its_steps_and_what_is_said_on_purpose(good: Run) -> None:
    run = good
    told = [line for line in run.story.split("\n") if line.strip()]
    assert told == [
        "Deploy",
        "  ✓ Step 1, plan",
        "      host  action",
        "      ----  -------",
        "      a     replace",
        "  ✓ Step 3, hosts   changed: a, b, c",
        "      a, b, c: Everything is there.",
        "      a, b: core is to be built.",
        "      a, b: ml is to be built.",
        "  ✓ Step 4, images",
        "  ✓ Report",
        "      host  health",
        "      ----  -------",
        "      a     healthy",
        "✓ Done after",
    ], run.raw
    assert RECAP.search(run.said), run.raw
    assert "\x1b" not in run.raw and "\r" not in run.raw
    for noise in ("included:", "ok: [", "TASK [", "never mind", "Nothing was said", "logs/"):
        assert noise not in run.raw
    assert "Step 2" not in run.raw


def test_the_log_has_everything_but_secrets_and_is_private(good: Run, place: Place) -> None:
    run = good
    text, own = run.log.read_text(), (run.log.parents[1] / "ansible.log").read_text()
    assert "TASK [release : Describe what is wanted]" in own
    assert stat.S_IMODE(run.log.stat().st_mode) == 0o600 and stat.S_IMODE(run.log.parent.stat().st_mode) == 0o700
    assert re.fullmatch(r"deploy-\d{8}T\d{6}\.log", run.log.name)
    for line in (
        "TASK [release : Describe what is wanted]",
        'ok: [a] => {"ansible_facts": {"description": "everything"}, "changed": false}',
        "included: ",
        "...ignoring",
        "never mind",
        "RUNNING HANDLER [release : Reload HAProxy]",
        "PLAY RECAP",
        "✓ Step 3, hosts",
    ):
        assert line in text, line
    assert text.count("PLAY RECAP") == 1 and len(re.findall(r"^\S+ a +: ok=", text, re.MULTILINE)) == 1
    failed = place.pipe("deploy", "-vv", bad="secret")
    for one in (text, own, run.raw, failed.raw, failed.log.read_text()):
        assert SECRET not in one
    assert "a, b, c failed in Step 3, hosts: Fail with a secret" in failed.said
    assert "What it said is hidden" in failed.said and "Nothing was changed." in failed.said


def test_logs_are_kept_by_number_and_of_each_playbook(place: Place) -> None:
    logs = place.path / "logs"
    logs.mkdir()
    for name in ("short-20200101T000000.log", "ask-20200101T000000.log", "short-notes.log"):
        (logs / name).write_text("old")
        os.utime(logs / name, (1, 1))
    place.pipe("short", more={"TRUTHGRAPH_STORY_LOG_KEEP": "1"})
    assert len(list(logs.glob("short-2*.log"))) == 1 and not (logs / "short-20200101T000000.log").exists()
    assert (logs / "ask-20200101T000000.log").exists() and (logs / "short-notes.log").exists()
    before = set(logs.iterdir())
    run = place.pipe("short", more={"TRUTHGRAPH_STORY_LOG_KEEP": "0"})
    assert set(logs.iterdir()) == before and "Everything that was said" not in run.said


def test_without_a_place_for_the_log_the_run_goes_on(place: Place) -> None:
    (place.path / "file").write_text("")
    run = place.pipe("short", more={"TRUTHGRAPH_STORY_LOG_DIR": str(place.path / "file" / "logs")})
    assert run.code == 0 and "This run writes no log" in run.said and "TRUTHGRAPH_STORY_LOG_DIR" in run.said


def ending(run: Run) -> list[str]:
    """What is said between the end of the run and the recap."""
    text = run.story.partition("✗ Failed after")[2].partition("\n")[2]
    return [line for line in text.split("\n") if line.strip()]


@pytest.mark.parametrize(
    ("bad", "code", "expected"),
    [
        (
            "handler",
            2,
            [
                "a, b, c failed in Step 3, hosts: Reload HAProxy (roles/release/handlers/main.yml:2)",
                "  The service haproxy is not there.",
                "  Install it, and deploy again.",
                "Then a failed in Undo: Say what failed, and what serves",
                "  Nothing was changed.",
            ],
        ),
        (
            "loop",
            2,
            [
                "a failed in Step 4, images: Build each image (roles/release/tasks/images.yml:2)",
                "  ml: no room for ml",
                "Then a failed in Undo: Say what failed, and what serves",
                "  Nothing was changed.",
            ],
        ),
        (
            "command",
            2,
            [
                "b failed in Step 4, images: Ask the registry (roles/release/tasks/images.yml:9)",
                "  non-zero return code",
                "  It is full.",
                "Then a failed in Undo: Say what failed, and what serves",
                "  Nothing was changed.",
            ],
        ),
        (
            "unreachable",
            4,
            [
                "b cannot be reached in Step 4, images: Reach the host (roles/release/tasks/images.yml:13)",
                "  Failed to connect to the host via ssh: ssh: connect to host 127.0.0.1 port 1: Connection refused",
                "Then a failed in Undo: Say what failed, and what serves",
                "  Nothing was changed.",
            ],
        ),
        (
            "retries",
            2,
            [
                "b failed in Step 4, images: Try three times (roles/release/tasks/images.yml:17)",
                "  non-zero return code",
                "Then a failed in Undo: Say what failed, and what serves",
                "  Nothing was changed.",
            ],
        ),
    ],
)
def test_the_error_is_what_was_to_be_rescued_and_then_how_it_ended(
    place: Place, bad: str, code: int, expected: list[str]
) -> None:
    run = place.pipe("deploy", bad=bad)
    assert run.code == code, run.raw
    # So says ansible-core 2.21 what a command has failed with.
    said = [line.replace("The command exited with a non-zero return code.", "non-zero return code") for line in ending(run)]
    assert said == [*expected, f"Everything that was said is in {run.log}"], run.raw
    assert RECAP.search(run.said) and f"{run.log}" in run.raw
    step = "Step 3, hosts" if bad == "handler" else "Step 4, images"
    word = "unreachable" if bad == "unreachable" else "failed"
    hosts = {"handler": "a, b, c", "loop": "a"}.get(bad, "b")
    assert any(line.startswith(f"✗ {step} {word}: {hosts}") for line in run.steps), run.raw
    assert any(line.startswith("✗ Undo failed: a") for line in run.steps), run.raw


def test_what_was_rescued_is_no_failure(place: Place) -> None:
    run = place.pipe("deploy", bad="'one way'")
    assert run.code == 0, run.raw
    assert "↺ Step 3, hosts rescued: a; changed: a, b, c" in run.steps, run.raw
    assert "↺ Rescued: a: The one way: The one way is closed." in run.story and "✗" not in run.story


def test_wrong_arguments_of_the_role_are_said(place: Place) -> None:
    run = place.pipe("deploy", wanted="many")
    assert run.code == 2 and "a, b, c failed in Validating arguments against arg spec 'deploy'" in run.said, run.raw
    assert "argument 'wanted' is of type" in run.said


def test_other_playbooks_have_their_tasks_as_steps(place: Place) -> None:
    run = place.pipe("other")
    assert run.code == 2, run.raw
    assert run.steps == [
        "✓ First",
        "✓ ansible.builtin.debug",
        "✓ Warn",
        "✗ Break failed: b",
        "✗ Break later failed: c",
        "✓ At will changed: a",
    ]
    assert "\nNobody's\n  no hosts matched\n" in run.story and "a, b, c: x: 1" in run.story
    said = ending(run)
    assert said[0] == "[WARNING]: Could not match supplied host pattern, ignoring: nowhere"
    assert said[1] == "[WARNING, 3 times]: The disk is nearly full."
    assert said[2:6] == ["b failed in Break (other.yml:15)", "  broken on b", "Also c failed in Break later", "  later"]
    assert run.said.count("nearly full") == 1


def test_check_and_diff(place: Place) -> None:
    run = place.pipe("deploy", "--check", "--diff")
    assert run.code == 0, run.raw
    assert "\nDeploy (check mode)\n" in run.said and "(check mode)" in run.said.rpartition("✓ Done after")[2]
    assert "      +slot = blue" in run.said.split("\n") and not (place.path / "a.cfg").exists()
    assert SECRET not in run.raw


def times_aside(text: str) -> str:
    return re.sub(r"'?\d+:\d\d:\d\d\.\d+'?|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", "TIME", text)


def test_with_v_everything_is_shown_as_ansible_does(place: Place) -> None:
    usual = {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"}
    options = ("-v", "--limit", "a", "--check")
    assert times_aside(place.pipe("deploy", *options).raw) == times_aside(place.pipe("deploy", *options, more=usual).raw)
    run = place.pipe("deploy", "-v", "--limit", "a,b", bad="loop")
    assert "TASK [release : Build each image]" in run.raw and "failed: [a] (item=ml)" in run.raw
    assert "a failed in Step 4, images: Build each image" in run.raw and RECAP.search(run.raw)
    assert "failed: [a] (item=ml)" in run.log.read_text()


def test_another_callback_is_not_disturbed(place: Place) -> None:
    run = place.pipe("short", more={"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"})
    assert run.code == 0 and '"plays": [' in run.raw and not (place.path / "logs").exists()


@pytest.mark.parametrize(("callback", "loaded_in"), [("truthgraph.platform.story", "controller"), ("default", "task")])
def test_what_each_task_needs_is_loaded_before_the_first(place: Place, callback: str, loaded_in: str) -> None:
    """A filter knows in which process it was loaded: by itself it is that of the task, which is another for each."""
    (place.path / "filter_plugins").mkdir()
    (place.path / "filter_plugins" / "loaded.py").write_text(
        "import os\n\nPID = os.getpid()\n\n\nclass FilterModule:\n    def filters(self):\n"
        "        return {'loaded_in': lambda _value: 'task' if os.getpid() == PID else 'controller'}\n"
    )
    (place.path / "ask.yml").write_text(
        "- hosts: a\n  gather_facts: false\n  tasks:\n"
        "    - ansible.builtin.debug: {msg: \"loaded in the {{ '' | loaded_in }}\"}\n"
    )
    run = place.pipe("ask", more={"ANSIBLE_STDOUT_CALLBACK": callback})
    assert run.code == 0, run.raw
    assert f"loaded in the {loaded_in}" in run.raw


def test_a_terminal_shows_the_step_at_work_in_its_last_line(place: Place) -> None:
    run = place.terminal("deploy", slow=7, columns=100)
    assert run.code == 0, run.raw
    assert "✓ Step 4, images" in run.steps and RECAP.search(run.said), run.said
    painted = [COLOR.sub("", line) for line in re.findall(r"\r\x1b\[2K([^\r\n]+)", run.raw)]
    waits = [line for line in painted if re.match(r"  [⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] Step 4, images +\d+\.\d s   Pull: c", line)]
    assert len(waits) > 20 and any(re.search(r"Pull: c, [56]\.\d s$", line) for line in waits), painted[-50:]
    # Nothing of it is left over, and colors are there.
    assert not re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", run.said) and COLOR.search(run.raw)


def test_a_narrow_terminal_and_no_color(place: Place) -> None:
    run = place.terminal("deploy", slow=2, columns=50, more={"NO_COLOR": "1"})
    assert run.code == 0, run.raw
    painted = re.findall(r"\r\x1b\[2K(  [⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏][^\r\n]*)", run.raw)
    assert painted and max(map(len, painted)) <= 49
    assert not COLOR.search(run.raw)


@pytest.mark.parametrize("more", [{"CI": "true"}, {"TERM": "dumb"}, {"TRUTHGRAPH_STORY_ANIMATION": "never"}])
def test_a_terminal_that_is_none(place: Place, more: dict[str, str]) -> None:
    run = place.terminal("short", more=more)
    assert run.code == 0 and "\x1b[2K" not in run.raw and run.steps == ["✓ One"], run.raw


def test_without_unicode(place: Place) -> None:
    run = place.pipe("short", more={"PYTHONIOENCODING": "ascii"})
    assert run.code == 0 and run.steps == ["+ One"] and run.raw.isascii(), run.raw


def test_a_pipe_hears_of_a_long_step(place: Place) -> None:
    run = place.pipe("deploy", slow=9, more={"TRUTHGRAPH_STORY_HEARTBEAT": "2"})
    beats = [float(found) for found in re.findall(r"^  ▸ Step 4, images +(\d+\.\d) s   Pull: c", run.said, re.MULTILINE)]
    assert len(beats) >= 3 and all(later - one > 1.8 for one, later in itertools.pairwise(beats)), run.raw


def test_an_interrupted_run_says_where_it_ended(place: Place) -> None:
    run = place.terminal("deploy", slow=120, keys=("Pull: c", b"\x03"))
    assert run.code != 0
    assert "User interrupted execution" in run.said, run.raw
    assert any("✗ Step 4, images" in line and "ended here: Pull: c" in line for line in run.said.split("\n")), run.said
    assert f"Everything that was said is in {run.log}" in run.said
    assert "ended here: Pull: c" in run.log.read_text()


def test_a_question_is_not_painted_over(place: Place) -> None:
    run = place.terminal("ask", keys=("Is it safe", b"\r"))
    assert run.code == 0, run.raw
    asked = run.raw.partition("Is it safe")[2].partition("Wait for the operator")[0]
    assert not re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", asked), asked
    assert "✓ Go on" in run.steps


def failure(host: str, task: str, message: str = "", **more: t.Any) -> story.Failure:
    return story.Failure(host=host, task=task, name=task, step="", path="", message=message or task, **more)


def test_the_verdict_follows_rescues_that_failed() -> None:
    tried = failure("a", "tried", rescuer="elsewhere")
    first = failure("a", "first", rescuer="inner")
    second = failure("a", "second", rescuer="outer", reacts_to=("inner",))
    last = failure("b", "last", reacts_to=("outer",))
    alone = failure("c", "alone")
    found = story.verdict([tried, first, second, last, alone], True)
    lost = failure("a", "lost", rescuer="outer", unreachable=True)
    assert story.verdict([lost, last], True) == story.Verdict([lost], [last], [])
    assert (found.causes, found.outcome, found.others) == ([first], [last], [alone])
    assert story.verdict([tried], False) == story.Verdict([], [], [])
    # What rescues a handler is a guess; a run that has failed has a reason.
    assert story.verdict([tried], True).causes == [tried]


def test_what_stands_beyond_the_causes() -> None:
    causes = [failure("a", "x", "no room\nmake some"), failure("b", "x", "no room\nmake some")]
    text = "a: no room\nmake some\nb: no room\nmake some\nNothing was changed."
    assert story.rest(text, causes) == "Nothing was changed."
    assert story.rest("no room\nmake some", causes) == "" and story.rest("else", causes) == "else"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (947.6, "15 min 48 s"), (3700, "1 h 01 min")],
)
def test_how_long_it_took(seconds: float, text: str) -> None:
    assert story.took(seconds) == text


def test_texts_are_cut_and_names_are_counted() -> None:
    assert story.cut("short", 10) == "short" and story.cut("a long line", 10) == "a long ..."
    assert story.cut("first\nsecond", 40) == "first ..." and story.cut("日本語日本語", 8) == "日本 ..."
    assert story.names(["b", "a", "b"]) == "a, b"
    assert story.names(f"host{number:02d}.example" for number in range(12)) == "12 hosts"
    assert story.shown("\x1b[31mred\x1b[0m\x07\r\nline\x1b[2J\n") == "red\nline[2J"
