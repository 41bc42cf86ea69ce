# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an application tree is made of, and what is wrong with one. Everything is read, nothing is imported or run.

The images of a topology are described here once (IMAGES): which files of the tree each of them copies and which
requirement lists it installs. The module source_tree_info checks a tree against that, and image_context stages what
it says.
"""

from __future__ import annotations

import ast
import configparser
import dataclasses
import hashlib
import os
import pathlib
import re
import subprocess
import tomllib
import typing as t

from ansible_collections.truthgraph.platform.plugins.module_utils import uv_lock

PACKAGE = "truthgraph"

# The variant of torch for hosts with NVIDIA GPUs.
CUDA = "cuda"

# Modules that a core image does not have and that must therefore not be needed to import truthgraph.main.
HEAVY = ("torch", "torchvision", "torchaudio", "sentence_transformers", "transformers")

EXCLUDED_DIRECTORIES = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".venv",
        "tests",
        "node_modules",
    }
)
EXCLUDED_SUFFIXES = (".pyc", ".pyo", ".swp", "~")


class TreeError(Exception):
    """A tree cannot be staged; the text says why."""


@dataclasses.dataclass(frozen=True)
class Image:
    """What one image copies from the tree; paths are relative to it, `{torch}` stands for the torch variant."""

    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    # The first of these lists has to be there; another one adds to it where it is.
    dependencies: tuple[str, ...] = ()
    torch: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    # What the model is exported with, where it is, and the extras that a lock has for it.
    export: tuple[str, ...] = ()
    export_extras: tuple[str, ...] = ()
    # The extra of pyproject.toml that it installs, where a lock says what that is, and whether the dependencies of the
    # project are installed with it; then the extra may be missing.
    extra: str = ""
    whole: bool = False


IMAGES = {
    "core": Image(
        include=(PACKAGE, "alembic.ini", "alembic"),
        exclude=(f"{PACKAGE}/ml",),
        dependencies=("requirements/core.txt",),
    ),
    "ml": Image(
        include=(f"{PACKAGE}/__init__.py", f"{PACKAGE}/ml"),
        dependencies=("requirements/ml.txt",),
        torch=("requirements/torch-{torch}.txt",),
        model=("requirements/model.txt",),
        extra="ml",
    ),
    "ml-onnx": Image(
        include=(f"{PACKAGE}/__init__.py", f"{PACKAGE}/ml"),
        dependencies=("requirements/onnx.txt",),
        torch=("requirements/torch-cpu.txt",),
        model=("requirements/model.txt",),
        export=("requirements/ml.txt", "requirements/export.txt"),
        export_extras=("ml", "export"),
        extra="onnx",
    ),
    "api": Image(
        include=(PACKAGE, "alembic.ini", "alembic"),
        dependencies=("requirements/core.txt", "requirements/ml.txt"),
        torch=("requirements/torch-{torch}.txt",),
        model=("requirements/model.txt",),
        extra="ml",
        whole=True,
    ),
}

# The build stages that install something; each has its requirement files.
STAGES = ("dependencies", "torch", "model", "export")
# What development needs besides, in a tree with requirement files.
DEVELOPMENT = "requirements/dev.txt"

TOPOLOGIES: dict[str, tuple[str, ...]] = {"split": ("core", "ml"), "monolith": ("api",)}
# What computes the embeddings, and the images of which there is one for it.
RUNTIMES: dict[str, dict[str, str]] = {"torch": {}, "onnx": {"ml": "ml-onnx"}}


def images_of(topology: str, runtime: str = "torch") -> tuple[str, ...]:
    """Return the images of a topology, as they are built for a runtime."""
    return tuple(RUNTIMES[runtime].get(name, name) for name in TOPOLOGIES[topology])


@dataclasses.dataclass(frozen=True)
class File:
    """One regular file of a tree."""

    path: str
    source: pathlib.Path
    executable: bool

    @property
    def mode(self) -> int:
        """Return the mode it gets in an image, which depends on neither the umask nor the way the tree was copied."""
        return 0o755 if self.executable else 0o644


def files_of(root: pathlib.Path, include: t.Iterable[str], exclude: t.Iterable[str] = ()) -> list[File]:
    """Return the files below the named paths of a tree, by path.

    Links are followed as long as they stay inside the tree, since a link that works here would dangle in an image
    that copies only a part. Names that do not exist are left out.
    """
    root = root.resolve()
    excluded = frozenset(exclude)
    found: dict[str, File] = {}

    def visit(path: pathlib.Path, name: str, above: frozenset[pathlib.Path]) -> None:
        if name in excluded or path.name.endswith(EXCLUDED_SUFFIXES):
            return
        if path.is_symlink():
            target = path.resolve()
            if not target.is_relative_to(root):
                raise TreeError(
                    f"{name} is a link that leads out of the source tree {root} (to {target}). "
                    "Put the file itself there."
                )
            if not target.exists():
                raise TreeError(f"{name} is a link to nothing (to {target}). Remove it or put the file itself there.")
        if path.is_dir():
            if path.name in EXCLUDED_DIRECTORIES:
                return
            real = path.resolve()
            if real in above:
                raise TreeError(f"{name} is a link to a directory that contains it. Remove it.")
            for child in sorted(path.iterdir()):
                visit(child, f"{name}/{child.name}", above | {real})
        elif path.is_file():
            found[name] = File(name, path, bool(path.stat().st_mode & 0o100))
        elif path.exists():
            raise TreeError(f"{name} is neither a file nor a directory. Remove it from the source tree.")

    for name in include:
        path = root / name
        if path.is_symlink() or path.exists():
            visit(path, name, frozenset())
    return [found[name] for name in sorted(found)]


def has_requirements(root: pathlib.Path) -> bool:
    """Say whether a tree says itself what is installed exactly."""
    listed = (path for image in IMAGES.values() for path in image.dependencies)
    return any((root / path).is_file() for path in (uv_lock.NAME, *listed))


def lock_of(root: pathlib.Path, resolved: pathlib.Path | None) -> pathlib.Path | None:
    """Return the directory of the lock of a tree: its own, or what was resolved for it; None if there is none."""
    if (root / uv_lock.NAME).is_file():
        return root
    return None if has_requirements(root) else resolved


def requirement_texts(
    root: pathlib.Path, image: str, torch: str, resolved: pathlib.Path | None = None, dev: bool = False
) -> dict[str, dict[str, str]]:
    """Return what an image installs by the build stage that does so: requirement files, their names and contents.

    A tree with uv.lock installs what that says, another one its requirement files, and one with neither what was resolved
    for it. Where there is a requirement file for torch, it comes before a lock. Only for development (`dev`) it has test
    tools, and what development needs besides. LockError says why a lock cannot be used.
    """
    spec = IMAGES[image]
    texts: dict[str, dict[str, str]] = {stage: {} for stage in STAGES}
    for stage in STAGES:
        paths = [path.format(torch=torch) for path in getattr(spec, stage)]
        for file in files_of(root, [*paths, DEVELOPMENT] if dev and stage == "dependencies" else paths):
            text = file.source.read_text(encoding="utf-8")
            texts[stage][pathlib.PurePath(file.path).name] = text if dev else uv_lock.without_tests(text)
    place = lock_of(root, resolved)
    pin = companions = ""
    if place:
        lock = uv_lock.locked(place, spec.extra, dev, spec.whole)
        texts["dependencies"], pin, companions = {f"{image}.txt": lock.dependencies}, lock.torch, lock.cuda
        for extra in spec.export_extras:
            more = uv_lock.locked(place, extra)
            texts["export"][f"{extra}.txt"], pin = more.dependencies, pin or more.torch
    elif spec.torch:
        split = {name: uv_lock.without_torch(text) for name, text in texts["dependencies"].items()}
        texts["dependencies"] = {name: found.dependencies for name, found in split.items()}
        pin = next((found.torch for found in split.values() if found.torch), "")
    if spec.torch and not texts["torch"] and pin:
        texts["torch"] = {"torch.txt": f"torch=={pin}\n{companions if torch == CUDA else ''}"}
    return texts


def digest_of(files: t.Iterable[tuple[str, int, bytes]]) -> str:
    """Return one SHA-256 over paths, modes and contents. Times and owners do not count, and neither does the order."""
    total = hashlib.sha256()
    for path, mode, content in sorted(files):
        total.update(f"{path}\0{mode:o}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def relevant_files(root: pathlib.Path, images: t.Iterable[str], torch: str) -> list[File]:
    """Return all files of a tree that any of these images depends on."""
    include: set[str] = set()
    exclude: set[str] = set()
    names = list(images)
    for name in names:
        image = IMAGES[name]
        include.update(image.include)
        lists = image.dependencies + image.torch + image.model + image.export
        include.update(path.format(torch=torch) for path in lists)
        include.add(uv_lock.NAME)
    for name in names:
        # What one image leaves out counts if another takes it.
        exclude.update(path for path in IMAGES[name].exclude if path not in include)
    return files_of(root, sorted(include), exclude)


def revision_of(root: pathlib.Path, files: list[File]) -> tuple[str, int]:
    """Return the commit that a tree is at and its time in seconds since 1970, or a name made from the contents and 0.

    A commit is answered only if it describes what would be built: every file is tracked and unchanged. It is the last
    commit that touched the tree, so that in a larger repository commits elsewhere do not count.
    """
    content = digest_of((file.path, file.mode, file.source.read_bytes()) for file in files)
    fallback = f"content-{content[:16]}", 0
    try:
        if _git(root, "status", "--porcelain", "--", "."):
            return fallback
        tracked = set(_git(root, "ls-files", "-z", "--", ".").split("\0"))
        if any(file.path not in tracked for file in files):
            return fallback
        commit, _space, seconds = _git(root, "log", "-1", "--format=%H %ct", "--", ".").strip().partition(" ")
        return (commit, int(seconds)) if commit else fallback
    except (OSError, subprocess.CalledProcessError):
        # No git, not a repository, or one that belongs to someone else: the contents are as good a name.
        return fallback


def _git(root: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@dataclasses.dataclass
class Finding:
    """One thing that is wrong with a tree."""

    what: str
    file: str
    why: str
    remedy: str


@dataclasses.dataclass
class Report:
    """What is known about a tree."""

    version: str = ""
    revision: str = ""
    committed_at: int = 0
    requires_python: str = ""
    migrations: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def add(self, what: str, file: str, why: str, remedy: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(what, file, why, remedy))


@dataclasses.dataclass(frozen=True)
class Import:
    """A module that is imported when another one is, and where."""

    module: str
    file: str
    line: int


class Modules:
    """The modules of a tree's package and what importing them imports."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        self._parsed: dict[str, ast.Module] = {}

    def file_of(self, module: str) -> str | None:
        """Return the path of a module relative to the tree, None if the tree has no such module."""
        base = module.replace(".", "/")
        for name in (f"{base}/__init__.py", f"{base}.py"):
            if (self._root / name).is_file():
                return name
        return None

    def parse(self, file: str) -> ast.Module:
        """Parse a file; SyntaxError, UnicodeDecodeError and ValueError are the caller's."""
        if file not in self._parsed:
            self._parsed[file] = ast.parse((self._root / file).read_bytes(), filename=file)
        return self._parsed[file]

    def imports(self, module: str) -> list[Import]:
        """Return what importing one module imports directly, in absolute names."""
        file = self.file_of(module)
        if file is None:
            return []
        package = module.split(".") if file.endswith("/__init__.py") else module.split(".")[:-1]
        found: list[Import] = []
        for node in _executed_imports(self.parse(file).body):
            if isinstance(node, ast.Import):
                found.extend(Import(alias.name, file, node.lineno) for alias in node.names)
                continue
            base = node.module.split(".") if node.module else []
            if node.level:
                base = package[: len(package) - node.level + 1] + base
            found.append(Import(".".join(base), file, node.lineno))
            # What is imported from a package is a module of its own if there is a file for it.
            for alias in node.names:
                name = ".".join([*base, alias.name])
                if self.file_of(name):
                    found.append(Import(name, file, node.lineno))
        return found

    def walk(self, start: str) -> t.Iterator[tuple[Import, tuple[Import, ...]]]:
        """Yield everything that importing a module imports, with the chain of imports that leads to it.

        Modules of the package are followed; importing a module imports the packages above it first.
        """
        seen: set[str] = set()
        queue: list[tuple[str, tuple[Import, ...]]] = [(name, ()) for name in _with_parents(start)]
        while queue:
            module, chain = queue.pop(0)
            if module in seen:
                continue
            seen.add(module)
            for found in self.imports(module):
                yield found, chain
                if found.module.split(".")[0] == PACKAGE:
                    queue.extend((name, (*chain, found)) for name in _with_parents(found.module))

    def binds(self, module: str, name: str) -> bool:
        """Say whether a module has an attribute after its import, as far as can be told without running it."""
        file = self.file_of(module)
        return file is not None and any(
            bound in (name, "*", "__getattr__") for bound in _bound_names(self.parse(file).body)
        )


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _guards_imports(handler: ast.ExceptHandler) -> bool:
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        name is None or (isinstance(name, ast.Name) and name.id in ("ImportError", "ModuleNotFoundError", "Exception"))
        for name in names
    )


def _statements(body: list[ast.stmt]) -> t.Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported and whose failure would end the import."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            if not _is_type_checking(node.test):
                yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, (ast.Try, ast.TryStar)):
            guarded = any(_guards_imports(handler) for handler in node.handlers)
            if not guarded:
                yield from _statements(node.body)
                yield from _statements(node.orelse)
            for handler in node.handlers:
                # A handler may do without the module, or import a substitute that has to be there.
                yield from _statements(handler.body)
            yield from _statements(node.finalbody)
        elif isinstance(node, (ast.With, ast.ClassDef)):
            yield from _statements(node.body)
        elif isinstance(node, (ast.For, ast.While)):
            yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Match):
            for case in node.cases:
                yield from _statements(case.body)


def _executed_imports(body: list[ast.stmt]) -> t.Iterator[ast.Import | ast.ImportFrom]:
    for node in _statements(body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def _bound_names(body: list[ast.stmt]) -> t.Iterator[str]:
    for node in ast.walk(ast.Module(body=body, type_ignores=[])):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name) for alias in node.names)


def _version(tree: ast.Module) -> str | None:
    """Return the literal text that a module assigns to __version__."""
    for node in tree.body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        is_version = any(isinstance(target, ast.Name) and target.id == "__version__" for target in targets)
        if is_version and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return node.value.value
    return None


def requirement_entries(text: str) -> list[tuple[int, str]]:
    """Return the entries of a requirement file with their line numbers, continuation lines joined, comments removed."""
    entries: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", line)
        start = start or number
        pending += line.rstrip("\\") if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        if pending.strip():
            entries.append((start, pending.strip()))
        pending, start = "", 0
    return entries


def normalised_name(entry: str) -> str:
    """Return the name of the package that an entry of a requirement file asks for, as wheels and indexes compare it."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", entry)
    return re.sub(r"[-_.]+", "-", match.group()).lower() if match else ""


def inspect_tree(
    root: pathlib.Path,
    topology: str,
    torch: str = "cpu",
    resolved: pathlib.Path | None = None,
    runtime: str = "torch",
) -> Report:
    """Check a tree against what the images of a topology need, and answer everything that is wrong at once."""
    report = Report()
    if topology not in TOPOLOGIES:
        report.add(
            f"topology {topology!r} is unknown",
            "",
            "It decides which images are built and where they run.",
            f"Set fleet_topology to one of: {', '.join(TOPOLOGIES)}.",
        )
    if not root.is_dir():
        report.add(
            "the source tree is not there" if not root.exists() else "the source tree is not a directory",
            str(root),
            "The images are built from it.",
            "Set image_build_source to a directory on the control node that has a pyproject.toml, or to the URL of a "
            "git repository.",
        )
        return report
    modules = Modules(root)
    _check_project(root, report)
    _check_package(modules, report)
    if topology in TOPOLOGIES:
        images = images_of(topology, runtime)
        if runtime != "torch" and images == TOPOLOGIES[topology]:
            report.add(
                f"there is no {runtime} in topology {topology}",
                "",
                "Its image has torch inside.",
                "Set fleet_topology to split, or image_build_ml_runtime to torch.",
            )
        if runtime != "torch" and torch == CUDA:
            report.add(
                f"there is no {runtime} with the {torch} build of torch",
                "",
                "Its image computes on the CPU, without torch.",
                "Set image_build_torch to cpu, or image_build_ml_runtime to torch.",
            )
        parsed = all(_parses(modules, file, report) for file in sorted(_python_files(root, images, torch, report)))
        if parsed:
            for check in TOPOLOGY_CHECKS[topology]:
                check(modules, report)
            if any(IMAGES[name].export for name in images):
                _check_export(modules, report)
        _check_requirements(root, images, torch, resolved, report)
        _check_alembic(root, report)
        if not report.findings:
            report.revision, report.committed_at = revision_of(root, relevant_files(root, images, torch))
    return report


def _python_files(root: pathlib.Path, images: tuple[str, ...], torch: str, report: Report) -> list[str]:
    try:
        return [file.path for file in relevant_files(root, images, torch) if file.path.endswith(".py")]
    except TreeError as error:
        report.add("a file of the source tree cannot be used", str(error).partition(" ")[0], str(error), "Then run again.")
        return []


def _parses(modules: Modules, file: str, report: Report) -> bool:
    try:
        modules.parse(file)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", None) or str(error)
        report.add("a module is not valid Python", f"{file}:{line}", reason, "Mend the file.")
        return False
    return True


def _check_project(root: pathlib.Path, report: Report) -> None:
    path = root / "pyproject.toml"
    if not path.is_file():
        report.add(
            "pyproject.toml is missing",
            str(path),
            "It says what the application is called and which Python it needs.",
            "Point image_build_source at the top directory of the application, the one with pyproject.toml.",
        )
        return
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        report.add("pyproject.toml cannot be read", "pyproject.toml", str(error), "Mend the file.")
        return
    if isinstance(project, dict):
        report.requires_python = str(project.get("requires-python", ""))


def _check_package(modules: Modules, report: Report) -> None:
    init = f"{PACKAGE}/__init__.py"
    if modules.file_of(PACKAGE) != init:
        report.add(
            f"the package {PACKAGE} is missing",
            init,
            "The images run it.",
            "Point image_build_source at the directory that contains the package.",
        )
        return
    if _parses(modules, init, Report()):
        report.version = _version(modules.parse(init)) or ""
        if not report.version:
            report.add(
                "__version__ is missing",
                init,
                "It names the release; it is read without running the module, so it has to be a literal text.",
                'Add a line such as __version__ = "1.0.0".',
            )
    if modules.file_of(f"{PACKAGE}.main") is None:
        report.add(
            f"{PACKAGE}.main is missing",
            f"{PACKAGE}/main.py",
            f"The API is started as {PACKAGE}.main:app.",
            f"Put the application object into {PACKAGE}/main.py as app.",
        )


def _check_app(modules: Modules, module: str, report: Report) -> None:
    if modules.file_of(module) and not modules.binds(module, "app"):
        report.add(
            f"{module} has no app",
            str(modules.file_of(module)),
            f"The service is started as {module}:app.",
            f"Bind the application object to the name app in {module}.",
        )


def _chain(chain: tuple[Import, ...]) -> str:
    return "".join(f" (reached by {step.file}:{step.line}, which imports {step.module})" for step in chain[-1:])


def _or_monolith() -> str:
    """Return the other way out for a tree that does not split, where there is one."""
    return ", or deploy with fleet_topology: monolith" if "monolith" in TOPOLOGIES else ""


def _check_core(modules: Modules, report: Report) -> None:
    """The core image has neither the ML libraries nor truthgraph.ml, and has to start without them."""
    main, ml = f"{PACKAGE}.main", f"{PACKAGE}.ml"
    _check_app(modules, main, report)
    reported: set[tuple[str, int]] = set()
    for found, chain in modules.walk(main) if modules.file_of(main) else ():
        if (found.file, found.line) in reported or found.file.startswith(f"{PACKAGE}/ml/"):
            continue
        if found.module.split(".")[0] in HEAVY:
            report.add(
                f"{main} needs {found.module.split('.')[0]}",
                f"{found.file}:{found.line}",
                f"It imports {found.module} when it is loaded{_chain(chain)}, and in topology split "
                "the core image has no ML libraries.",
                f"Import it inside the function that uses it or under {ml}{_or_monolith()}.",
            )
        elif found.module == ml or found.module.startswith(f"{ml}."):
            report.add(
                f"{main} needs {ml}",
                f"{found.file}:{found.line}",
                f"It imports {found.module} when it is loaded{_chain(chain)}, and in topology split "
                "the core image does not have it.",
                f"Ask the ML service over ML_SERVICE_URL instead{_or_monolith()}.",
            )
        else:
            continue
        reported.add((found.file, found.line))


def _check_ml(modules: Modules, report: Report) -> None:
    """The ml image has truthgraph/__init__.py and truthgraph/ml, and has to start with them."""
    ml = f"{PACKAGE}.ml"
    if modules.file_of(ml) != f"{PACKAGE}/ml/__init__.py":
        report.add(
            f"the package {ml} is missing",
            f"{PACKAGE}/ml/__init__.py",
            f"In topology split the inference hosts run {ml}:app.",
            f"Add the package with an application object app{_or_monolith()}.",
        )
        return
    _check_app(modules, ml, report)
    reported: set[tuple[str, int]] = set()
    for found, chain in modules.walk(ml):
        outside = found.module.startswith(f"{PACKAGE}.") and not f"{found.module}.".startswith(f"{ml}.")
        # Names that are no modules of the tree are attributes of the package itself.
        if outside and modules.file_of(found.module) and (found.file, found.line) not in reported:
            reported.add((found.file, found.line))
            report.add(
                f"{ml} needs {found.module}",
                f"{found.file}:{found.line}",
                f"It imports {found.module} when it is loaded{_chain(chain)}, and the ml image has only "
                f"{PACKAGE}/__init__.py and {PACKAGE}/ml.",
                f"Move what the ML service needs under {PACKAGE}/ml{_or_monolith()}.",
            )


def _check_export(modules: Modules, report: Report) -> None:
    """The image on ONNX Runtime gets a model that the tree exports at the build."""
    export = f"{PACKAGE}.ml.export"
    if modules.file_of(export) is None:
        report.add(
            f"{export} is missing",
            f"{PACKAGE}/ml/export.py",
            f"For ONNX Runtime the build runs `python -m {export} DIRECTORY`, which writes the model there.",
            "Add it, or set image_build_ml_runtime to torch.",
        )


def _check_api(modules: Modules, report: Report) -> None:
    """The api image has all of the package, and everything that it may import."""
    _check_app(modules, f"{PACKAGE}.main", report)


TOPOLOGY_CHECKS: dict[str, tuple[t.Callable[[Modules, Report], None], ...]] = {
    "split": (_check_core, _check_ml),
    "monolith": (_check_api,),
}

# How a tree makes its lists.
COMPILE = {
    "requirements/core.txt": "uv pip compile --universal --generate-hashes pyproject.toml -o requirements/core.txt",
    "requirements/ml.txt": (
        "uv pip compile --universal --generate-hashes --extra ml --no-emit-package torch pyproject.toml "
        "-o requirements/ml.txt"
    ),
    "requirements/onnx.txt": (
        "uv pip compile --universal --generate-hashes --extra onnx pyproject.toml -o requirements/onnx.txt"
    ),
    "requirements/export.txt": (
        "uv pip compile --universal --generate-hashes --extra export --constraint requirements/ml.txt pyproject.toml "
        "-o requirements/export.txt"
    ),
}

# Without these an image builds but does not start.
NEEDED = {
    **{"core": ("uvicorn", "alembic"), "api": ("uvicorn", "alembic")},
    **{"ml": ("uvicorn",), "ml-onnx": ("uvicorn", "onnxruntime")},
}


def _check_requirements(
    root: pathlib.Path, images: tuple[str, ...], torch: str, resolved: pathlib.Path | None, report: Report
) -> None:
    place = lock_of(root, resolved)
    if place and place != root:
        report.warnings.append(
            f"The tree has neither {uv_lock.NAME} nor requirement files. What was resolved for it is kept in {place}; "
            "another control node would install what is newest there. Commit a lock: uv lock"
        )
    for name in images:
        image = IMAGES[name]
        pinned = [entry for path in image.torch for entry in _entries_in(root / path.format(torch=torch))]
        if place:
            try:
                lock = uv_lock.locked(place, image.extra, whole=image.whole)
                exporting = [uv_lock.locked(place, extra) for extra in image.export_extras]
            except uv_lock.LockError as error:
                # It is the same for the other images.
                report.add(error.what, uv_lock.NAME, error.why, error.remedy)
                return
            _check_needed(name, [normalised_name(entry) for entry in uv_lock.entries(lock.dependencies)], report)
            if torch == CUDA and image.torch and not image.export and not pinned and not lock.cuda:
                report.add(
                    "the lock has no CUDA build of torch",
                    uv_lock.NAME,
                    "So it does not say which libraries of CUDA belong to it.",
                    "Lock the build of the usual index, or list torch and them, with hashes, in "
                    f"{image.torch[0].format(torch=torch)}.",
                )
            pinned = pinned or [f"{uv_lock.TORCH}=={one.torch}" for one in (lock, *exporting) if one.torch]
        else:
            _check_lists(root, name, report)
            pinned = pinned or [entry for path in image.dependencies for entry in _entries_in(root / path)]
        _warn_of_tests(root, name, place is not None, report)
        if image.torch and not any(normalised_name(entry) == uv_lock.TORCH and "==" in entry for entry in pinned):
            path = image.torch[0].format(torch=torch)
            report.add(
                f"the torch of the {name} image is not pinned",
                path,
                "Torch is chosen per kind of host, so it has a requirement file of its own.",
                f"Write one line such as torch==2.13.0 to {path}.",
            )
        for path in image.model:
            if (root / path).is_file():
                _check_hashes(root, path, report)
        for path in image.export if not place else ():
            if not (root / path).is_file():
                why = "With it the build exports the model."
                report.add(f"the {name} image has no locked {path}", path, why, f"Run in the source tree: {COMPILE[path]}")
            else:
                _check_hashes(root, path, report)


def _entries_in(file: pathlib.Path) -> list[str]:
    return [entry for _line, entry in requirement_entries(file.read_text(encoding="utf-8"))] if file.is_file() else []


def _warn_of_tests(root: pathlib.Path, name: str, has_lock: bool, report: Report) -> None:
    """Say which test tools a tree lists for an image, with their lines; the image does not get them."""
    image = IMAGES[name]
    listed = _project_entries(root, image.extra) if has_lock else _file_entries(root, image.dependencies)
    for path, line, entry in listed:
        tool = normalised_name(entry)
        warning = f"{path}:{line} lists {tool}, which no service needs. The images do not get it."
        if uv_lock.TEST_TOOLS.match(tool) and warning not in report.warnings:
            report.warnings.append(warning)


def _file_entries(root: pathlib.Path, paths: t.Iterable[str]) -> list[tuple[str, int, str]]:
    files = [(path, root / path) for path in paths if (root / path).is_file()]
    return [
        (path, line, entry)
        for path, file in files
        for line, entry in requirement_entries(file.read_text(encoding="utf-8"))
    ]


def _project_entries(root: pathlib.Path, extra: str) -> list[tuple[str, int, str]]:
    """Return what pyproject.toml lists for the project and one of its extras, with the lines in which it stands."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text).get("project", {})
    entries = [*project.get("dependencies", []), *project.get("optional-dependencies", {}).get(extra, [])]
    lines = text.splitlines()
    return [
        ("pyproject.toml", next((number for number, line in enumerate(lines, 1) if entry in line), 1), entry)
        for entry in entries
    ]


def _check_lists(root: pathlib.Path, name: str, report: Report) -> None:
    """Check the requirement files of an image, each for itself and all together."""
    first, *others = IMAGES[name].dependencies
    if not (root / first).is_file():
        report.add(
            f"the {name} image has no locked requirements",
            first,
            "What is installed has to be the same in every build.",
            f"Run in the source tree: {COMPILE[first]} (or uv lock)",
        )
        return
    there = [path for path in (first, *others) if (root / path).is_file()]
    packages = [package for path in there for package in _check_hashes(root, path, report)]
    _check_needed(name, packages, report, first)
    for path in there[1:]:
        _check_agreement(root, first, path, report)


def _check_agreement(root: pathlib.Path, first: str, other: str, report: Report) -> None:
    """Report the first package of which two lists that are installed together want different versions."""
    one, two = (_versions(root / path) for path in (first, other))
    for package in sorted(set(one) & set(two)):
        if one[package] != two[package]:
            report.add(
                f"{package} is {' and '.join(sorted(one[package]))} in {first}, and {' and '.join(sorted(two[package]))} here",
                other,
                "The api image installs both lists.",
                f"Run in the source tree: {COMPILE[other]} --constraint {first}",
            )
            return


def _versions(file: pathlib.Path) -> dict[str, set[str]]:
    """Return the versions that a requirement file pins, by package; there may be several, for several systems."""
    found: dict[str, set[str]] = {}
    for entry in _entries_in(file):
        version = re.search(r"==\s*([^\s;]+)", entry.partition(";")[0])
        if version and not entry.startswith("-"):
            found.setdefault(normalised_name(entry), set()).add(version[1])
    return found


def _check_needed(name: str, packages: list[str], report: Report, path: str = uv_lock.NAME) -> None:
    missing = [package for package in NEEDED[name] if package not in packages]
    if missing:
        mend = "uv lock" if path == uv_lock.NAME else COMPILE[path]
        report.add(
            f"{' and '.join(missing)} missing in the {name} image",
            path,
            "The image would not start without.",
            f"Add it to the dependencies in pyproject.toml and run: {mend}",
        )


def _check_hashes(root: pathlib.Path, path: str, report: Report) -> list[str]:
    """Report the first entry without a hash, and return the names of all packages."""
    names = []
    reported = False
    for line, entry in requirement_entries((root / path).read_text(encoding="utf-8")):
        if entry.startswith("-"):
            continue
        names.append(normalised_name(entry))
        if "--hash=" not in entry and not reported:
            reported = True
            report.add(
                f"{names[-1] or entry} has no hash",
                f"{path}:{line}",
                "A package without one may be replaced on its way.",
                "Write the file anew with uv pip compile --generate-hashes.",
            )
    return names


def _check_alembic(root: pathlib.Path, report: Report) -> None:
    if not (root / "alembic.ini").is_file():
        report.add(
            "alembic.ini is missing",
            "alembic.ini",
            "Every deploy runs `alembic upgrade head` in the image of the API before the API starts.",
            "Run `alembic init alembic` in the source tree.",
        )
        return
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string((root / "alembic.ini").read_text(encoding="utf-8"))
        location = parser.get("alembic", "script_location", fallback="alembic")
    except (configparser.Error, UnicodeDecodeError) as error:
        report.add("alembic.ini cannot be read", "alembic.ini", str(error), "Mend the file.")
        return
    location = os.path.normpath(location.replace("%(here)s/", "").replace("%(here)s", "."))
    if ":" in location:
        location = location.replace(":", "/").replace(".", "/")
    if not (location == "alembic" or f"{location}/".startswith(("alembic/", f"{PACKAGE}/"))):
        report.add(
            "the migrations lie outside of what is copied",
            "alembic.ini",
            f"script_location is {location}; the image of the API gets alembic/ and {PACKAGE}/.",
            "Move the directory to alembic/ and set script_location = alembic.",
        )
    elif not (root / location / "env.py").is_file():
        report.add(
            "the migrations are missing",
            f"{location}/env.py",
            "Every deploy runs `alembic upgrade head` in the image of the API before the API starts.",
            "Commit the directory that `alembic init` made, or set script_location to where it is.",
        )
    else:
        report.migrations = migrations(root / location / "versions")


def migrations(directory: pathlib.Path) -> list[dict[str, t.Any]]:
    """Return the migrations of a directory in the order of their files, without running any.

    Each has `revision`, `file`, and `contract`, whether it says that it takes away what earlier releases use. A file that
    cannot be read as one is left to Alembic, which says what is wrong with it.
    """
    found = []
    for path in sorted(directory.glob("*.py")):
        try:
            body = ast.parse(path.read_text(encoding="utf-8")).body
        except (SyntaxError, ValueError):
            continue
        said: dict[str, t.Any] = {}
        for node in body:
            if not isinstance(node, (ast.Assign, ast.AnnAssign)):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(node.value, ast.Constant):
                said.update({target.id: node.value.value for target in targets if isinstance(target, ast.Name)})
        if isinstance(said.get("revision"), str):
            found.append(
                {"revision": said["revision"], "file": path.name, "contract": said.get("contract") is True}
            )
    return found


def message(root: str, findings: list[Finding]) -> str:
    """Return all findings as one text for a person."""
    lines = [f"The source tree {root} cannot be deployed. Nothing was changed."]
    for finding in findings:
        where = f"{finding.file}: " if finding.file else ""
        lines.append(f"- {where}{finding.what}. {finding.why.rstrip('.')}. {finding.remedy}")
    return "\n".join(lines)
