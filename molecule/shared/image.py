# What an image holds and can do, found out in two containers: one as root that lists all files, one as the image runs.
import json
import time
import typing as t

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Member, inspect, serving

# Lists every file with its size, which text files hold one of the given words, what runs with the rights of its owner or
# group, and what everybody may write.
LIST_FILES = """
import json, os, stat, sys
words = [word.encode() for word in json.loads(sys.argv[1])]
files, directories, holders, privileged, open_to_all = {}, [], [], [], []
device = os.stat("/").st_dev
for parent, names, leaves in os.walk("/"):
    names[:] = [name for name in names if os.lstat(os.path.join(parent, name)).st_dev == device]
    directories += [os.path.join(parent, name) for name in names]
    for path in (os.path.join(parent, name) for name in names + leaves):
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            privileged.append(path)
        if mode & stat.S_IWOTH and not stat.S_ISLNK(mode):
            open_to_all.append(path)
    for path in (os.path.join(parent, leaf) for leaf in leaves):
        found = os.lstat(path)
        files[path] = found.st_size
        if stat.S_ISREG(found.st_mode) and 0 < found.st_size < 300000:
            with open(path, "rb") as file:
                content = file.read()
            if any(word in content for word in words):
                holders.append(path)
print(json.dumps({"files": files, "directories": directories, "holders": holders, "privileged": privileged,
                  "open_to_all": open_to_all}))
"""

# Says which modules can be found, without importing them, and then imports some.
TRY_PYTHON = """
import importlib, importlib.util, json, os, sys
wanted = json.loads(sys.argv[1])
found = {name: importlib.util.find_spec(name) is not None for name in wanted["find"]}
imported = {}
for name in wanted["import"]:
    module, _, attribute = name.partition(":")
    try:
        value = importlib.import_module(module)
        imported[name] = type(getattr(value, attribute)).__name__ if attribute else "module"
    except Exception as error:
        imported[name] = f"{type(error).__name__}: {error}"
import truthgraph
import importlib.metadata
installed = sorted({(one.metadata["Name"], one.version) for one in importlib.metadata.distributions()})
print(json.dumps({"found": found, "imported": imported, "installed": installed, "uid": os.getuid(), "gid": os.getgid(),
                  "version": truthgraph.__version__, "package": truthgraph.__file__}))
"""

ONE_OFF = "docker run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"


class Image:
    """The image of a running service."""

    def __init__(self, member: Member, service: str, imports: list[str], words: list[str]) -> None:
        self.host = member.host
        self.reference = inspect(member.host, serving(member.host, service))["Config"]["Image"]
        self.facts = json.loads(self.host.check_output("docker image inspect %s", self.reference))[0]
        self.history = self.host.check_output(
            "docker history --no-trunc --format %s %s", "{{.CreatedBy}}", self.reference
        )
        listed = self._run("--user 0:0 --entrypoint python3", "-c %s %s", LIST_FILES, json.dumps(words))
        self.files, self.directories, self.holders = listed["files"], listed["directories"], listed["holders"]
        self.privileged, self.open_to_all = listed["privileged"], listed["open_to_all"]
        wanted = {
            "find": ["pytest", "torch", "sentence_transformers", "transformers", "pip", "uv", "tests", "scripts"],
            "import": imports,
        }
        self.python = self._run("", "python3 -c %s %s", TRY_PYTHON, json.dumps(wanted))

    def _run(self, options: str, command: str, *arguments: str) -> t.Any:
        return json.loads(self.host.check_output(f"{ONE_OFF} {options} %s {command}", self.reference, *arguments))

    def stopped(self) -> tuple[int, float]:
        # How a container of the image ends that is told to: its exit code, and how long that took.
        name = f"truthgraph-test-{self.facts['Id'][7:19]}"
        options = ONE_OFF.removeprefix("docker run --rm ")
        self.host.run("docker rm --force %s", name)
        try:
            self.host.check_output(f"docker run --detach --name %s {options} %s", name, self.reference)
            self.host.check_output(
                "timeout 120 sh -c %s", f"until docker logs {name} 2>&1 | grep -q 'Uvicorn running'; do sleep 0.5; done"
            )
            began = time.monotonic()
            self.host.check_output("docker stop --time 60 %s", name)
            took = time.monotonic() - began
            return json.loads(self.host.check_output("docker inspect %s", name))[0]["State"]["ExitCode"], took
        finally:
            self.host.run("docker rm --force %s", name)

    def programs(self, names: t.Iterable[str]) -> list[str]:
        # A compiler is also there as x86_64-linux-gnu-gcc-14, and pip as pip3.13.
        endings = tuple(f"-{name}" for name in names)
        found = []
        for path in self.files:
            name = path.rpartition("/")[2].rstrip("0123456789.").rstrip("-")
            is_program = "/bin/" in path or "/sbin/" in path or "/libexec/" in path
            if is_program and (name in names or name.endswith(endings)):
                found.append(path)
        return found

    def bytes_below(self, *parents: str) -> int:
        return sum(size for path, size in self.files.items() if path.startswith(tuple(f"{p}/" for p in parents)))
