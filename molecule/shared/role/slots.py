# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in for the services in their slots, so that a proxy alone has something to lead to."""

from __future__ import annotations

import contextlib
import json
import typing as t

import testinfra.host

# Answers who it is and what it was sent. /slow waits, /broken fails, and of the two health paths it has only its own.
SERVE = """
import http.server, json, sys, time
address, port, health = sys.argv[1], int(sys.argv[2]), sys.argv[3]
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/slow"):
            time.sleep(30)
        said = {"slot": address, "path": self.path, "length": len(body)}
        said["headers"] = {name.lower(): self.headers.get_all(name) for name in self.headers}
        text = json.dumps(said).encode()
        missing = self.path in ("/health", "/well") and self.path != health
        self.send_response(404 if missing else 500 if self.path.startswith("/broken") else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_POST = answer
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((address, port), Answer).serve_forever()
"""

# Gives a slot a network of its own, as its container has one: the proxy itself may listen on its port on all addresses.
PLACE = """
set -- %s
ip netns add scenario &&
ip link add scenario type veth peer name eth0 netns scenario &&
ip link set scenario up &&
ip route add "$1/32" dev scenario &&
ip -n scenario address add "$1/32" dev eth0 &&
ip -n scenario link set eth0 up &&
ip -n scenario route add default dev eth0
"""


@contextlib.contextmanager
def slot(
    host: testinfra.host.Host, address: str, port: int, traffic: dict[str, str], config: str, health: str = "/health"
) -> t.Iterator[None]:
    """Let something answer at a slot's address, and the traffic go there, as a map in a configuration directory says."""
    path, unit = f"{config}/proxy/traffic.map", f"scenario-slot-{port}"
    before = host.check_output("cat %s", path)
    host.check_output(PLACE, address)
    try:
        run = "systemd-run --collect --property NetworkNamespacePath=/run/netns/scenario"
        host.check_output(f"{run} --unit {unit} python3 -c %s {address} {port} {health}", SERVE)
        up = f"curl --silent --fail http://{address}:{port}{health}"
        host.check_output("timeout 20 sh -c %s", f"until {up}; do sleep 0.2; done >/dev/null")
        lines = "".join(f"{name} {value}\n" for name, value in traffic.items())
        host.check_output("printf %s >%s; systemctl reload haproxy", lines, path)
        yield
    finally:
        host.run(f"systemctl stop {unit}")
        host.run("ip netns delete scenario; ip link delete scenario")
        host.check_output("printf %s >%s; systemctl reload haproxy", before, path)


@contextlib.contextmanager
def egress(host: testinfra.host.Host, gateway: str) -> t.Iterator[str]:
    """Return where the blue slot of an API host asks for embeddings, once somebody answers there."""
    url = f"http://{gateway}:8101"
    host.check_output(f"ip address add {gateway}/32 dev lo")
    try:
        host.check_output("timeout 20 sh -c %s", f"until curl --silent --fail {url}/some; do sleep 0.2; done >/dev/null")
        yield url
    finally:
        host.check_output(f"ip address del {gateway}/32 dev lo")


def ask(host: testinfra.host.Host, url: str, *options: str) -> tuple[int, dict[str, str], str]:
    """Ask by curl; return status, headers and body. Status 0 is no answer."""
    words = " ".join(["%s"] * len(options))
    command = f"curl --silent --noproxy '*' --max-time 20 --include {words} %s"
    done = host.run(command, *options, url)
    head, _, body = done.stdout.replace("\r", "").partition("\n\n")
    if not head:
        return 0, {}, done.stderr
    first, *lines = head.splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def asked(host: testinfra.host.Host, url: str, *options: str) -> dict[str, t.Any]:
    """Return what the slot says that it was asked."""
    status, _, body = ask(host, url, *options)
    assert status == 200, (status, body)
    found: dict[str, t.Any] = json.loads(body)
    return found
