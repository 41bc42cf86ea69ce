# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests do with the engine of a role's host. It reaches no registry, so images are made on the spot."""

from __future__ import annotations

import contextlib
import json
import pathlib
import typing as t

import testinfra.host

MAKE_TINY = pathlib.Path(__file__).with_name("host-image").read_text(encoding="utf-8")
TINY = "scenario/tiny:1"


def info(host: testinfra.host.Host) -> dict[str, t.Any]:
    """Return what the engine says about itself."""
    found: dict[str, t.Any] = json.loads(host.check_output("docker info --format '{{json .}}'"))
    return found


def inspect(host: testinfra.host.Host, kind: str, name: str) -> dict[str, t.Any]:
    """Return what the engine says about something that it has."""
    found: dict[str, t.Any] = json.loads(host.check_output("docker %s inspect %s", kind, name))[0]
    return found


def image(host: testinfra.host.Host) -> str:
    """Return the name of an image that waits, which is made where it is not there."""
    if host.run("docker image inspect %s", TINY).rc:
        host.check_output("sh -c %s host-image %s", MAKE_TINY, TINY)
    return TINY


@contextlib.contextmanager
def container(host: testinfra.host.Host, *options: str) -> t.Iterator[dict[str, t.Any]]:
    """Run a container that waits, and return what the engine says about it."""
    name = host.check_output(f"docker run --detach {' '.join(['%s'] * len(options))} %s", *options, image(host))
    try:
        yield inspect(host, "container", name)
    finally:
        host.check_output("docker rm --force %s", name)
