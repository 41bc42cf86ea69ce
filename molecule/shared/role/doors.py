# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody listens on a host, and others try to reach him."""

from __future__ import annotations

import contextlib
import typing as t

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.fleet import knock

LISTEN = """
import select, socket, sys
sockets = [socket.create_server(("0.0.0.0", int(port))) for port in sys.argv[1:]]
while True:
    for one in select.select(sockets, [], [])[0]:
        one.accept()[0].close()
"""


@contextlib.contextmanager
def listener(host: testinfra.host.Host, ports: t.Iterable[int]) -> t.Iterator[None]:
    """Accept connections on a host's ports."""
    unit, words = "scenario-listener", " ".join(map(str, ports))
    host.check_output(f"systemd-run --collect --unit {unit} python3 -c %s {words}", LISTEN)
    try:
        waits = "for port in $1; do until ss -Hltn \"sport = :$port\" | grep -q .; do sleep 0.1; done; done"
        host.check_output("timeout 20 sh -c %s sh %s", waits, words)
        yield
    finally:
        host.check_output(f"systemctl stop {unit}")


def found(asking: testinfra.host.Host, address: str, ports: t.Iterable[int]) -> dict[int, str]:
    """Say what comes of a connection to each port: open, dropped, or the error."""
    return {port: knock(asking, address, port) for port in ports}
