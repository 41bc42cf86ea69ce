"""The lookup that says who runs a playbook."""

from __future__ import annotations

import getpass
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

from ansible_collections.truthgraph.platform.plugins.lookup.controller import LookupModule, identity
from ansible_collections.truthgraph.platform.plugins.plugin_utils import rollout


class Lookup(LookupModule):
    """The lookup without Ansible's loader, which gives it its options."""

    def set_options(self, *arguments: t.Any, **options: t.Any) -> None:
        pass


def answer() -> dict[str, t.Any]:
    (found,) = Lookup().run([])
    return found


def answer_into(queue: t.Any) -> None:
    queue.put(answer())


def test_who_runs_it() -> None:
    found = answer()
    assert found["who"] == f"{getpass.getuser()}@{socket.gethostname()}"
    assert found["pid"] == os.getpid() and found["started"] == rollout.process_started(os.getpid()) != ""
    assert answer() == found


def test_a_worker_answers_the_run_above_it() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=answer_into, args=(queue,))
    worker.start()
    found = queue.get(timeout=30)
    worker.join()
    assert found["pid"] == os.getpid() and found == answer()


def test_ansible_answers_its_own_process() -> None:
    program = Path(sys.executable).with_name("ansible")
    expression = "msg={{ lookup('truthgraph.platform.controller') }}"
    command = [str(program), "localhost", "-c", "local", "-m", "debug", "-a", expression]
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "minimal", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        text = process.communicate(timeout=60)[0]
    found = json.loads(text.partition("=>")[2])["msg"]
    assert found["pid"] == process.pid and found["machine"] == answer()["machine"]


def test_the_owner_of_its_own_lock_is_not_gone() -> None:
    assert not rollout.owner_gone({"owner": answer()}, answer())
    assert rollout.owner_gone({"owner": {**answer(), "started": "1"}}, answer())


def test_the_identity_of_a_machine_shows_nothing_of_it(tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    file.write_text("0123456789abcdef\n")
    found = identity(str(file), "host")
    assert len(found) == 12 and found not in "0123456789abcdef" and found == identity(str(file), "another")
    file.write_text("\n")
    assert identity(str(file), "host") == identity(str(tmp_path / "none"), "host") != found
    assert identity(str(tmp_path / "none"), "another") != identity(str(tmp_path / "none"), "host")
