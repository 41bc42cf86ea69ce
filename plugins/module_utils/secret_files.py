"""Secrets as files in a directory: written whole or not at all, and compared without being shown."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
UNFINISHED = ".unfinished-"
DIRECTORY_MODE = 0o750
FILE_MODE = 0o440


def checked(secrets: dict[str, object]) -> dict[str, bytes]:
    """Return the secrets as bytes; ValueError with the name of one that cannot be used, never with its value."""
    found = {}
    for name, value in secrets.items():
        if not NAME.match(name):
            raise ValueError(f"'{name}' cannot be the name of a secret: use letters, digits and underscores.")
        if value is None or not str(value):
            raise ValueError(f"The secret {name} is empty. Give it a value or leave it out.")
        found[name] = str(value).encode()
    return found


def holds(directory: str, secrets: dict[str, bytes], gid: int) -> bool:
    """Say whether a directory has exactly these secrets, readable by root and exactly that group."""
    if not os.path.isdir(directory):
        return False
    if not _is(directory, DIRECTORY_MODE, gid) or sorted(os.listdir(directory)) != sorted(secrets):
        return False
    for name, value in secrets.items():
        path = os.path.join(directory, name)
        if not stat.S_ISREG(os.lstat(path).st_mode) or not _is(path, FILE_MODE, gid):
            return False
        with open(path, "rb") as file:
            if file.read() != value:
                return False
    return True


def read(directory: str) -> dict[str, bytes]:
    """Return the secrets of a directory; none where it does not exist."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            with open(os.path.join(directory, name), "rb") as file:
                found[name] = file.read()
    return found


def write(directory: str, secrets: dict[str, bytes], gid: int) -> bool:
    """Make a directory hold exactly these secrets; return whether anything was to be done.

    It is written beside its place and renamed there, so a reader finds the earlier secrets or the new ones.
    """
    base = os.path.dirname(directory)
    os.makedirs(base, mode=0o700, exist_ok=True)
    earlier = f"{directory}.earlier"
    if os.path.isdir(earlier) and not os.path.isdir(directory):
        # A crash between the two renames below.
        os.rename(earlier, directory)
    for entry in os.listdir(base):
        if entry.startswith(UNFINISHED):
            shutil.rmtree(os.path.join(base, entry))
    if holds(directory, secrets, gid):
        return False
    beside = tempfile.mkdtemp(prefix=UNFINISHED, dir=base)
    for name, value in secrets.items():
        descriptor = os.open(os.path.join(beside, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            os.fchown(file.fileno(), -1, gid)
            os.fchmod(file.fileno(), FILE_MODE)
            file.flush()
            os.fsync(file.fileno())
    os.chown(beside, -1, gid)
    os.chmod(beside, DIRECTORY_MODE)
    # A container has the earlier directory mounted, or none has; a crash leaves it whole, under one name or the other.
    shutil.rmtree(earlier, ignore_errors=True)
    if os.path.isdir(directory):
        os.rename(directory, earlier)
    os.rename(beside, directory)
    shutil.rmtree(earlier, ignore_errors=True)
    return True


def _is(path: str, mode: int, gid: int) -> bool:
    found = os.lstat(path)
    return stat.S_IMODE(found.st_mode) == mode and found.st_gid == gid
