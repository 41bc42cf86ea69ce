# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What uv.lock says that an image installs, as a requirement file with hashes. uv reads it; no network is needed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import typing as t

NAME = "uv.lock"
TORCH = "torch"
# Torch is installed by itself, as the build for the kind of host; what only its CUDA build needs goes with it.
CUDA = re.compile(r"(nvidia|cuda)-|triton$")
# Of it, what only compilers use: torch.compile, and Python's own way to CUDA.
COMPILERS = re.compile(r"triton$|cuda-(bindings|pathfinder|python)$")
# No service needs them, wherever a tree lists them.
TEST_TOOLS = re.compile(r"pytest($|-)")
# An extra with a server of its own is all that its image needs; another one adds to the dependencies of the project.
SERVER = "uvicorn"
DEV = "dev"
SECONDS = 300
NO_PYTHON = re.compile(r"[Nn]o interpreter found|incompatible with the project's Python requirement")

# A package, with one of its extras or without.
Node = tuple[str, str]


class LockError(Exception):
    """The lock cannot be used: what is wrong, why, and the way out."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{what}. {why} {remedy}")
        self.what, self.why, self.remedy = what, why, remedy


@dataclasses.dataclass(frozen=True)
class Locked:
    """What an image installs."""

    # A requirement file with hashes, without torch.
    dependencies: str
    # The locked version of torch, if it is among them.
    torch: str
    # What its CUDA build needs at run time, as entries with hashes; nothing where the lock has another build.
    cuda: str = ""


class Lock:
    """The packages of a lock and what each of them needs."""

    def __init__(self, text: str) -> None:
        self._packages: dict[str, list[dict[str, t.Any]]] = {}
        self.project = ""
        for package in tomllib.loads(text).get("package", []):
            self._packages.setdefault(package["name"], []).append(package)
            if {"editable", "virtual", "directory"} & set(package.get("source", {})):
                place = next(iter(package["source"].values()))
                self.project = package["name"] if place == "." else self.project

    def version(self, name: str) -> str:
        """Return the version of a package, without the part that names a build; empty if it is not locked."""
        found = self._packages.get(name, [])
        return found[0].get("version", "").partition("+")[0] if found else ""

    def needs(self, node: Node) -> list[Node]:
        """Return what a package needs by itself, or for one of its extras."""
        name, extra = node
        found: list[Node] = []
        for package in self._packages.get(name, []):
            listed = package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
            for entry in listed:
                found.append((entry["name"], ""))
                found += [(entry["name"], one) for one in entry.get("extra", [])]
        return found

    def has(self, kind: str, name: str) -> bool:
        """Say whether the project has an extra (optional-dependencies) or a group (dev-dependencies) of a name."""
        return any(name in package.get(kind, {}) for package in self._packages.get(self.project, []))

    def development(self) -> list[Node]:
        """Return what development needs: the group dev, and the extra of that name."""
        groups = [package.get("dev-dependencies", {}).get(DEV, []) for package in self._packages.get(self.project, [])]
        entries = [entry for group in groups for entry in group]
        extras = [(entry["name"], extra) for entry in entries for extra in entry.get("extra", [])]
        return [(entry["name"], "") for entry in entries] + extras + self.needs((self.project, DEV))

    def outside(self) -> list[str]:
        """Return the packages that are no releases from an index: files, directories and repositories."""
        return sorted(
            name
            for name, found in self._packages.items()
            if name != self.project and any("registry" not in package.get("source", {}) for package in found)
        )

    def closure(self, roots: t.Iterable[Node], dev: bool = False) -> set[str]:
        """Return the names of everything that is needed, without what only CUDA builds of torch need.

        Test tools are needed for development alone.
        """
        seen: set[Node] = set()
        queue = list(roots)
        while queue:
            node = queue.pop()
            if node in seen or (TEST_TOOLS.match(node[0]) and not dev):
                continue
            seen.add(node)
            queue += [one for one in self.needs(node) if node[0] != TORCH or not CUDA.match(one[0])]
        return {name for name, _extra in seen}


def uv_path() -> str:
    """Return the uv of this Python's environment, or of the search path."""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    found = beside if os.access(beside, os.X_OK) else shutil.which("uv")
    if not found:
        raise LockError(
            f"{NAME} cannot be read", "There is no uv on the control node.", "Install it there: pip install uv"
        )
    return found


def export(root: pathlib.Path, choices: list[str]) -> str:
    """Return everything that the lock says, with extras and groups as uv's options; LockError if it is not up to date."""
    with tempfile.TemporaryDirectory() as directory:
        # In a copy, and offline: a lock that fits needs nothing else, and nothing of the tree is run.
        for name in ("pyproject.toml", NAME):
            shutil.copyfile(root / name, pathlib.Path(directory) / name)
        arguments = ["export", "--locked", "--offline", "--no-emit-project", "--no-header"]
        arguments += ["--no-annotate", "--format", "requirements-txt", "--quiet"]
        answer = _run([*arguments, *choices], directory, {})
    if answer.returncode:
        said = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        if any(NO_PYTHON.search(line) for line in said):
            raise LockError(
                f"{NAME} cannot be read",
                "uv needs a Python that fits requires-python to do so, and the control node has none.",
                "Install one there, such as: uv python install 3.13",
            )
        raise LockError(
            f"{NAME} does not fit pyproject.toml",
            f"What is installed has to be what was locked, and uv says: {said[0] if said else 'nothing'}.",
            "Run in the source tree: uv lock",
        )
    return answer.stdout


def project_text(root: pathlib.Path) -> str:
    """Return a pyproject.toml with only what a resolution needs; what a build would compute is not in it."""
    try:
        text = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        project, groups = text.get("project", {}), text.get("dependency-groups", {}).items()
        extras = project.get("optional-dependencies", {}).items()
        # A text or list of texts in JSON is one in TOML, too.
        lines = [
            "[project]",
            f"name = {json.dumps(project['name'])}",
            'version = "0"',
            f"requires-python = {json.dumps(project.get('requires-python', '>=3.11'))}",
            f"dependencies = {json.dumps(project.get('dependencies', []))}",
            "[project.optional-dependencies]",
            *(f"{json.dumps(name)} = {json.dumps(listed)}" for name, listed in extras),
            "[dependency-groups]",
            *(f"{json.dumps(name)} = [{', '.join(map(_toml, listed))}]" for name, listed in groups),
        ]
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise LockError("pyproject.toml cannot be read", f"{error!r}.", "Mend the file.") from error
    return "\n".join(lines) + "\n"


def resolve(root: pathlib.Path, kept: pathlib.Path, settings: dict[str, str]) -> tuple[pathlib.Path, bool]:
    """Return a directory with a lock for a tree that has none, and whether it was made now.

    It is made once for all trees with the same needs and kept below `kept`, so that what is installed stays the same.
    `settings` are the environment variables of uv and of TLS by which the package index is reached.
    """
    text = project_text(root)
    place = kept / hashlib.sha256(text.encode()).hexdigest()[:16]
    if (place / NAME).is_file():
        return place, False
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept, prefix=".unfinished-") as directory:
        (pathlib.Path(directory) / "pyproject.toml").write_text(text, encoding="utf-8")
        answer = _run(["lock", "--quiet"], directory, settings)
        if answer.returncode:
            said = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
            raise LockError(
                "the dependencies cannot be resolved",
                f"The tree has neither {NAME} nor requirement files, and uv says: {' '.join(said[:3]) or 'nothing'}.",
                f"Mend pyproject.toml or the package index's settings, or commit a {NAME}.",
            )
        made = pathlib.Path(directory).with_name(f".made-{os.getpid()}")
        shutil.copytree(directory, made)
        try:
            made.rename(place)
        except OSError:
            # Another run has made it meanwhile.
            shutil.rmtree(made)
    return place, True


def _toml(entry: str | dict[str, str]) -> str:
    """Return an entry of a dependency group as TOML: a requirement, or the inclusion of another group."""
    if isinstance(entry, str):
        return json.dumps(entry)
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in entry.items()) + " }"


def _run(arguments: list[str], directory: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run uv in a directory, with these settings and the project's, and none of the caller's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV"))}
    # Where there is no configuration of a user or of the machine.
    environment |= {"XDG_CONFIG_HOME": os.path.join(directory, ".none"), "XDG_CONFIG_DIRS": os.path.join(directory, ".none")}
    try:
        return subprocess.run(
            [uv_path(), *arguments],
            cwd=directory,
            env={**environment, **settings},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LockError(f"{NAME} cannot be read", f"uv cannot be run: {error}.", "Install it anew.") from error


def locked(root: pathlib.Path, extra: str = "", dev: bool = False, whole: bool = False) -> Locked:
    """Return what a tree with a lock installs for the project or one of its extras, and for development if `dev`.

    With `whole` it is the project together with its extra, where it has that.
    """
    try:
        lock = Lock((root / NAME).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise LockError(f"{NAME} cannot be read", f"{error}.", "Run in the source tree: uv lock") from error
    if whole and not lock.has("optional-dependencies", extra):
        extra = ""
    if extra and not lock.has("optional-dependencies", extra):
        raise LockError(
            f"pyproject.toml has no extra {extra}",
            f"It says what the {extra} image installs.",
            f"Add {extra} to [project.optional-dependencies], and run in the source tree: uv lock",
        )
    if lock.outside():
        raise LockError(
            f"{NAME} names what no package index has: {', '.join(lock.outside())}",
            "A build takes packages from indexes and find-links directories alone, by their hashes.",
            "Publish a wheel of it there, and run in the source tree: uv lock",
        )
    # In this order: a lock that is not up to date is not looked into.
    choices = ["--extra", extra] if extra else []
    choices += ["--group", DEV] if dev and lock.has("dev-dependencies", DEV) else ["--no-dev"]
    choices += ["--extra", DEV] if dev and lock.has("optional-dependencies", DEV) else []
    text = export(root, choices)
    listed = lock.needs((lock.project, extra)) if extra else []
    alone = extra and not whole and any(name == SERVER for name, _extra in listed)
    roots = listed if alone else [(lock.project, ""), *listed]
    kept = lock.closure([*roots, *lock.development()], dev) if dev else lock.closure(roots)
    found = [entry for entry in entries(text) if _name(entry) in kept and _name(entry) != TORCH]
    if TORCH not in kept:
        return Locked("".join(found), "")
    cuda = [entry for entry in entries(text) if CUDA.match(_name(entry)) and _name(entry) not in kept]
    return Locked("".join(found), lock.version(TORCH), "".join(one for one in cuda if not COMPILERS.match(_name(one))))


def without_torch(text: str) -> Locked:
    """Return what a requirement file says, without torch and what only its CUDA build needs; one without it stays as it is."""
    found = entries(text)
    pins = [entry for entry in found if _name(entry) == TORCH]
    if not pins:
        return Locked(text, "")
    left = [entry for entry in found if _name(entry) != TORCH and not CUDA.match(_name(entry))]
    pin = re.match(r"[^=;]*==\s*([^\s;+\\]+)", pins[0])
    return Locked("".join(left), pin[1] if pin else "")


def without_tests(text: str) -> str:
    """Return a requirement file without the test tools in it; one that has none stays as it is."""
    found = entries(text)
    left = [entry for entry in found if not TEST_TOOLS.match(_name(entry))]
    return text if len(left) == len(found) else "".join(left)


def entries(text: str) -> list[str]:
    """Return the entries of a requirement file, each with its continuation lines."""
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith((" ", "\t")) and found:
            found[-1] += line
        elif line.strip() and not line.startswith("#"):
            found.append(line)
    return found


def _name(entry: str) -> str:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", entry)
    return re.sub(r"[-_.]+", "-", match.group()).lower() if match else ""
