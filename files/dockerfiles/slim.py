#!/usr/bin/env python3
"""Take from an installed Python environment what a running service never uses, and make what remains reproducible.

Run in the same build step as the installation: a removal in a later layer frees nothing. Three things are done:

1. Remove test suites, headers, static libraries and what the installer leaves behind.
2. Compile bytecode once. Images run with a read-only root, so an interpreter without it would compile on every start.
   It is checked by nothing at run time (the files cannot change), so it does not depend on file times.
3. Set all times to one value, so that the same packages give the same layer, and let nobody but root write.
"""

from __future__ import annotations

import compileall
import os
import pathlib
import re
import shutil
import sys
from py_compile import PycInvalidationMode

EPOCH = 315532800  # 1980-01-01, the oldest time that every archive format can hold

TEST_DIRECTORIES = ("tests", "test")

# Files that only a compiler or a linker reads. Type stubs stay: a few packages read their own at run time.
UNUSED_SUFFIXES = (".a", ".cuh", ".h", ".hpp", ".lib", ".pxd", ".pyx")

# Parts of single packages, by path below site-packages.
UNUSED_PATHS = (
    # Of CUDA: for compilers, for profilers, for the matrices of several GPUs together, and what takes other libraries' places.
    "nvidia/*/bin",
    "nvidia/*/include",
    "nvidia/*/lib/libcufftw.so*",
    "nvidia/*/lib/libcusolverMg.so*",
    "nvidia/*/lib/libnvblas.so*",
    "nvidia/*/lib/libnvperf_*.so*",
    "nvidia/*/lib/libnvrtc*.alt.so*",
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/bin/*_test",
    "torch/include",
    "torch/share",
    "torch/test",
)

# What the installer leaves: a lock, notes for itself (with the time of a wheel), and scripts for shells.
LEFTOVERS = (".gitignore", ".lock", "CACHEDIR.TAG", "bin/activate*", "bin/*.bat", "**/*.dist-info/uv_cache.json")

IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>[.\w]+)[ \t]+import[ \t]+(?P<names>[^#\n]+)|import[ \t]+(?P<plain>[^#\n]+))",
    re.MULTILINE,
)


def imported_modules(source: str, package: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return the modules that a source text imports, each as the parts of its absolute name.

    What is imported from a module is listed too, since it may be a module itself.
    """
    found = set()
    for match in IMPORT.finditer(source):
        if match["plain"]:
            found.update(tuple(part.split(" as ")[0].strip().split(".")) for part in match["plain"].split(","))
            continue
        base = match["base"]
        dots = len(base) - len(base.lstrip("."))
        parts = tuple(part for part in base.lstrip(".").split(".") if part)
        if dots:
            parts = package[: len(package) - dots + 1] + parts
        found.add(parts)
        found.update(parts + (name.split(" as ")[0].strip(" ()\\\t"),) for name in match["names"].split(","))
    return found


def unused_tests(site: pathlib.Path) -> list[pathlib.Path]:
    """Return the test directories that no module outside of them imports.

    Some libraries import helpers from their own test suite; such a directory is kept.
    """
    candidates = {}
    sources = []
    for directory, names, files in os.walk(site):
        here = pathlib.Path(directory)
        for name in [name for name in names if name in TEST_DIRECTORIES]:
            if here != site and (here / "__init__.py").exists():
                candidates[(here / name).relative_to(site).parts] = here / name
                names.remove(name)
        sources.extend(here / name for name in files if name.endswith(".py"))
    kept = set()
    for path in sources:
        text = path.read_text(encoding="utf-8", errors="replace")
        if "test" not in text:
            continue
        for module in imported_modules(text, path.parent.relative_to(site).parts):
            kept.update(module[:length] for length in range(1, len(module) + 1) if module[:length] in candidates)
    return [path for parts, path in sorted(candidates.items()) if parts not in kept]


def remove(site: pathlib.Path) -> None:
    """Remove from one site-packages directory what is not used."""
    for path in unused_tests(site):
        shutil.rmtree(path)
    for pattern in UNUSED_PATHS:
        for path in site.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in site.rglob("*"):
        if path.suffix in UNUSED_SUFFIXES and path.is_file():
            path.unlink()


def forget_installation(root: pathlib.Path) -> None:
    """Remove what the installer leaves, and its mention in the packages' lists of files."""
    for pattern in LEFTOVERS:
        for path in root.glob(pattern):
            path.unlink()
    for path in root.glob("**/*.dist-info/RECORD"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "/uv_cache.json," not in line), encoding="utf-8")


def main(root: pathlib.Path, keep: bool = False) -> None:
    """Treat a virtual environment, or a directory that packages were installed into; keep all of it if so wanted."""
    if not keep:
        forget_installation(root)
    for site in list(root.glob("lib/python*/site-packages")) or [root]:
        if not keep:
            remove(site)
        # A file for another Python version, of which some packages carry a few, does not compile; nothing imports it.
        compileall.compile_dir(
            site, quiet=2, workers=0, maxlevels=100, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
        )
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o022)
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[-1]), keep="--keep" in sys.argv)
