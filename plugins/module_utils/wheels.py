# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels in find-links directories: which of them an installation would use, and for which Python there is one."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
import typing as t

from ansible_collections.truthgraph.platform.plugins.module_utils.source_tree import normalised_name


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One wheel file, by the parts of its name."""

    path: pathlib.Path
    name: str
    version: str
    pythons: frozenset[str]
    abis: frozenset[str]
    platforms: frozenset[str]

    @property
    def public_version(self) -> str:
        """Return the version without the local part behind the plus sign."""
        return self.version.split("+")[0]

    @property
    def local_version(self) -> str:
        """Return the part of the version behind the plus sign."""
        return self.version.partition("+")[2]

    def fits_python(self, python: str) -> bool:
        """Say whether the wheel can be installed for a Python version such as 3.11."""
        major, minor = (int(part) for part in python.split("."))
        for tag in self.pythons:
            if tag in (f"py{major}", f"py{major}{minor}"):
                return True
            match = re.fullmatch(r"cp(\d)(\d+)", tag)
            if match and (int(match[1]), int(match[2])) == (major, minor) and not self._is_free_threaded():
                return True
            # The stable interface works from the version that it was built for.
            if match and "abi3" in self.abis and int(match[1]) == major and int(match[2]) <= minor:
                return True
        return False

    def fits_machine(self, machine: str) -> bool:
        """Say whether the wheel can be installed on Linux with a machine name such as x86_64."""
        return any(
            tag == "any" or (tag.endswith(f"_{machine}") and tag.startswith(("manylinux", "linux")))
            for tag in self.platforms
        )

    def _is_free_threaded(self) -> bool:
        return all(re.fullmatch(r"cp\d+t", abi) for abi in self.abis)


def parse_wheel(path: pathlib.Path) -> Wheel | None:
    """Return what a file's name says, None if it is not the name of a wheel."""
    parts = path.name.removesuffix(".whl").split("-")
    if not path.name.endswith(".whl") or len(parts) not in (5, 6):
        return None
    tags = [frozenset(part.split(".")) for part in parts[-3:]]
    return Wheel(path, normalised_name(parts[0]), parts[1], *tags)


def wheels_in(directories: t.Iterable[str]) -> list[Wheel]:
    """Return all wheels of the directories, the first directory's first. Two of the same name are the same wheel."""
    found: dict[str, Wheel] = {}
    for directory in directories:
        path = pathlib.Path(directory).expanduser()
        if not path.is_dir():
            continue
        for file in sorted(path.glob("*.whl")):
            wheel = parse_wheel(file)
            if wheel:
                found.setdefault(file.name, wheel)
    return list(found.values())


def pin_of(entry: str) -> str:
    """Return the exact version that an entry of a requirement file asks for, empty if it does not ask for one."""
    match = re.match(r"[A-Za-z0-9._-]+(?:\[[^\]]*\])?\s*={2,3}\s*([A-Za-z0-9.!+_-]+)", entry)
    return match[1] if match else ""


def satisfies(wheel: Wheel, entry: str) -> bool:
    """Say whether a wheel is what an entry of a requirement file asks for."""
    pin = pin_of(entry)
    if wheel.name != normalised_name(entry) or not pin:
        return False
    # A version without a local part stands for every build of it.
    return pin == (wheel.version if "+" in pin else wheel.public_version)


def is_variant(wheel: Wheel, variant: str) -> bool:
    """Say whether a wheel of torch is a build for a kind of host; one whose name does not say counts as any."""
    local = wheel.local_version
    return not local or (local.startswith("cpu") if variant == "cpu" else local.startswith("cu"))


def torch_wheels(wheels: t.Iterable[Wheel], entries: t.Iterable[str], variant: str, machine: str) -> list[Wheel]:
    """Return the wheels of torch that a requirement file asks for and that run on a kind of host, for any Python."""
    wanted = [entry for entry in entries if normalised_name(entry) == "torch"]
    return [
        wheel
        for wheel in wheels
        if any(satisfies(wheel, entry) for entry in wanted)
        and is_variant(wheel, variant)
        and wheel.fits_machine(machine)
    ]


def choose_python(candidates: t.Sequence[str], wheels: t.Sequence[Wheel]) -> str:
    """Return the first Python version that one of the wheels fits; the first of all if there is none for any."""
    return next(
        (python for python in candidates if any(wheel.fits_python(python) for wheel in wheels)),
        candidates[0],
    )


def sha256_of(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
