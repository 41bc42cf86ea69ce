"""A docker command for tests, with containers as files of JSON and a record of what was asked; and HAProxy's socket."""

from __future__ import annotations

import json
import os
import socketserver
import stat
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

PROGRAM = '''#!{python}
import json, os, sys
home = {home!r}
path = lambda name: os.path.join(home, name + ".json")
arguments = sys.argv[1:]
with open(os.path.join(home, "commands"), "a") as file:
    file.write(" ".join(arguments) + "\\n")
name = arguments[-1]
images = os.path.join(home, "images")
def described(kind, where, names):
    there = [open(where(name)).read() for name in names if os.path.exists(where(name))]
    print("[" + ",".join(there) + "]")
    gone = [name for name in names if not os.path.exists(where(name))]
    sys.exit("\\n".join("Error response from daemon: No such " + kind + ": " + name for name in gone) or 0)
# What is listed and gone before it is looked at.
going = os.path.join(home, "vanishing")
vanishing = open(going).read().split() if os.path.exists(going) else []
if os.path.exists(os.path.join(home, "down")):
    sys.exit("Cannot connect to the Docker daemon")
elif arguments[0] == "ps":
    names = [entry[:-5] for entry in sorted(os.listdir(home)) if entry.endswith(".json")]
    if "--all" not in arguments:
        names = [name for name in names if json.load(open(path(name)))["State"]["Status"] == "running"]
    print("\\n".join(names + vanishing))
elif arguments[:2] == ["image", "ls"]:
    print("\\n".join((os.listdir(images) if os.path.isdir(images) else []) + vanishing))
elif arguments[:2] == ["image", "inspect"]:
    described("image", lambda name: os.path.join(images, name), arguments[2:])
elif arguments[0] == "rmi":
    if os.path.exists(os.path.join(home, "stuck")) and name in open(os.path.join(home, "stuck")).read().split():
        sys.exit("Error response from daemon: conflict: unable to delete " + name)
    for entry in os.listdir(images):
        image = json.load(open(os.path.join(images, entry)))
        if name not in image["RepoTags"] + image["RepoDigests"]:
            continue
        left = {{key: [other for other in image[key] if other != name] for key in ("RepoTags", "RepoDigests")}}
        # The last tag takes the digests with it.
        if left["RepoTags"] or (left["RepoDigests"] and not image["RepoTags"]):
            json.dump({{**image, **left}}, open(os.path.join(images, entry), "w"))
        else:
            os.remove(os.path.join(images, entry))
        break
    else:
        sys.exit("Error response from daemon: No such image: " + name)
elif arguments[:2] == ["container", "inspect"] and len(arguments) > 3:
    described("container", path, arguments[2:])
elif arguments[:2] == ["container", "inspect"]:
    if not os.path.exists(path(name)):
        sys.exit("Error response from daemon: No such container: " + name)
    print("[" + open(path(name)).read() + "]")
elif arguments[:2] == ["container", "logs"]:
    log = os.path.join(home, "log")
    print(open(log).read() if os.path.exists(log) else "first line\\nlast line of " + name)
elif arguments[0] == "info":
    print(open(os.path.join(home, "info")).read() if os.path.exists(os.path.join(home, "info")) else "null")
elif arguments[0] == "rm":
    for name in arguments[2:]:
        os.remove(path(name))
elif arguments[0] == "create":
    value = lambda option: arguments[arguments.index(option) + 1]
    labels = [arguments[index + 1] for index, option in enumerate(arguments) if option == "--label"]
    image = [index for index, option in enumerate(arguments) if option == "--label"][-1] + 2
    info = {{
        "Name": "/" + value("--name"),
        "Config": {{"Labels": dict(label.split("=", 1) for label in labels), "Image": arguments[image]}},
        "State": {{"Status": "created", "ExitCode": 0}},
        "HostConfig": {{"RestartPolicy": {{"Name": value("--restart")}}}},
        "NetworkSettings": {{"Networks": {{value("--network"): {{"IPAddress": value("--ip")}}}}}},
    }}
    json.dump(info, open(path(value("--name")), "w"))
elif arguments[0] == "update":
    for name in arguments[arguments.index("--cpu-shares") + 2:]:
        info = json.load(open(path(name)))
        info.setdefault("HostConfig", {{}})["RestartPolicy"] = {{"Name": arguments[arguments.index("--restart") + 1]}}
        json.dump(info, open(path(name), "w"))
elif arguments[0] == "rename":
    os.rename(path(arguments[1]), path(arguments[2]))
elif arguments[0] in ("start", "stop"):
    for name in arguments[1:]:
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

    def add(self, name: str, status: str = "running", health: str = "", address: str = "", **more: t.Any) -> None:
        info = {
            "State": {"Status": status, "ExitCode": 3 if status == "exited" else 0},
            "NetworkSettings": {"Networks": {"truthgraph": {"IPAddress": address}}},
            **more,
        }
        if health:
            info["State"]["Health"] = {"Status": health, "Log": []}
        (self.home / f"{name}.json").write_text(json.dumps(info))

    def add_image(self, number: int, *names: str) -> str:
        """Add an image with tags and digests, or anonymous with neither, and return its id."""
        identity = f"sha256:{number:064x}"
        info = {
            "Id": identity,
            "RepoTags": [name for name in names if "@" not in name],
            "RepoDigests": [name for name in names if "@" in name],
        }
        (self.home / "images").mkdir(exist_ok=True)
        (self.home / "images" / identity).write_text(json.dumps(info))
        return identity

    @property
    def images(self) -> list[str]:
        """All names of the images that are there; the id of one that has none."""
        names: list[str] = []
        for file in (self.home / "images").glob("*"):
            info = json.loads(file.read_text())
            names += info["RepoTags"] + info["RepoDigests"] or [info["Id"]]
        return sorted(names)

    @property
    def containers(self) -> dict[str, str]:
        return {file.stem: json.loads(file.read_text())["State"]["Status"] for file in self.home.glob("*.json")}

    def run(self, module: str, **arguments: t.Any) -> dict[str, t.Any]:
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
        told: dict[str, t.Any] = json.loads(process.stdout)
        return told


class ProxyDouble(socketserver.ThreadingUnixStreamServer):
    """Stands for HAProxy's runtime socket: it keeps versions of maps as HAProxy does, and answers statistics."""

    daemon_threads = True
    FIELDS = ("scur", "stot", "econ", "eresp", "wredis", "hrsp_5xx", "status", "check_status")

    def __init__(self, path: Path, *maps: Path) -> None:
        super().__init__(str(path), ProxyRequest)
        self.path = str(path)
        self.commands: list[str] = []
        self.maps: dict[str, dict[str, str]] = {str(name): {} for name in maps}
        self.versions: dict[tuple[str, str], dict[str, str]] = {}
        self.servers: dict[tuple[str, str], dict[str, t.Any]] = {}
        # Answers to commands that begin so, instead of what is done otherwise; and what follows the change of a map.
        self.answers: dict[str, str] = {}
        self.committed: t.Callable[[], None] = lambda: None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def server(self, backend: str, name: str, **fields: t.Any) -> None:
        """Set what the statistics say of a server."""
        sound = {"scur": 0, "stot": 0, "status": "UP", "check_status": "L7OK"}
        self.servers[backend, name] = {**sound, **self.servers.get((backend, name), {}), **fields}

    def answer(self, command: str, payload: list[str]) -> str:
        self.commands.append(command)
        for beginning, text in self.answers.items():
            if command.startswith(beginning):
                return text
        words = command.split()
        if words[:2] == ["show", "version"]:
            return "3.0.11-1+deb13u1"
        if words[:2] == ["show", "stat"]:
            rows = [
                ",".join([*names, *(str(fields.get(name, "")) for name in self.FIELDS), ""])
                for names, fields in self.servers.items()
            ]
            return "\n".join(["# pxname,svname," + ",".join(self.FIELDS) + ",", *rows])
        path = words[-1] if words[-1] != "<<" else words[-2]
        if words[1] != "map" or path not in self.maps:
            return "Unknown map identifier. Please use #<id> or <file>."
        if words[0] == "show":
            return "\n".join(f"0x55d0c0de {key} {value}" for key, value in self.maps[path].items())
        if words[0] == "prepare":
            version = str(1 + len(self.versions))
            self.versions[path, version] = {}
            return f"New version created: {version}"
        version = words[2].removeprefix("@")
        if (path, version) not in self.versions:
            return "Version number out of range."
        if words[0] == "add":
            self.versions[path, version] |= dict(line.split() for line in payload)
        elif words[0] == "commit":
            self.maps[path] = self.versions[path, version]
            self.committed()
        return ""


class ProxyRequest(socketserver.StreamRequestHandler):
    """One command, with its payload up to an empty line; then the connection is closed."""

    server: ProxyDouble

    def handle(self) -> None:
        command = self.rfile.readline().decode().strip()
        payload = []
        while command.endswith("<<") and (line := self.rfile.readline().decode().strip()):
            payload.append(line)
        self.wfile.write(self.server.answer(command, payload).encode() + b"\n\n")
