"""A docker command for tests: containers as files of JSON, and a record of what was asked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

PROGRAM = '''#!{python}
import json, os, sys
home = {home!r}
path = lambda name: os.path.join(home, name + ".json")
arguments = sys.argv[1:]
with open(os.path.join(home, "commands"), "a") as file:
    file.write(" ".join(arguments) + "\\n")
name = arguments[-1]
if arguments[:2] == ["container", "inspect"]:
    if not os.path.exists(path(name)):
        sys.exit("Error response from daemon: No such container: " + name)
    print("[" + open(path(name)).read() + "]")
elif arguments[:2] == ["container", "logs"]:
    log = os.path.join(home, "log")
    print(open(log).read() if os.path.exists(log) else "first line\\nlast line of " + name)
elif arguments[0] == "rm":
    os.remove(path(name))
elif arguments[0] == "rename":
    os.rename(path(arguments[1]), path(arguments[2]))
elif arguments[0] in ("start", "stop"):
    info = json.load(open(path(name)))
    info["State"]["Status"] = "running" if arguments[0] == "start" else "exited"
    json.dump(info, open(path(name), "w"))
'''


class EngineDouble:
    """Stands for the engine of a host."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir(parents=True)
        program = self.bin / "docker"
        program.write_text(PROGRAM.format(python=sys.executable, home=str(home)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def add(self, name: str, status: str = "running", health: str = "", address: str = "", **more) -> None:
        info = {
            "State": {"Status": status, "ExitCode": 3 if status == "exited" else 0},
            "NetworkSettings": {"Networks": {"truthgraph": {"IPAddress": address}}},
            **more,
        }
        if health:
            info["State"]["Health"] = {"Status": health, "Log": []}
        (self.home / f"{name}.json").write_text(json.dumps(info))

    @property
    def containers(self) -> dict[str, str]:
        return {file.stem: json.loads(file.read_text())["State"]["Status"] for file in self.home.glob("*.json")}

    def run(self, module: str, **arguments) -> dict:
        """Run a module of the collection as Ansible does, on a host that has this engine."""
        process = subprocess.run(
            [sys.executable, "-m", f"ansible_collections.truthgraph.platform.plugins.modules.{module}"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.stdout, process.stderr
        return json.loads(process.stdout)
