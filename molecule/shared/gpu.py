# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's host with simulated cards, as tests look at it and change it."""

from __future__ import annotations

import contextlib
import json
import typing as t

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Host, play

# The inventory of a second inference host, to be given beside the lab's.
TWO_HOSTS = ("-i", str(CHECKOUT / "molecule" / "nvidia" / "two_hosts.yml"))

CARDS_FILE = "/etc/nvidia-simulated/state.json"
DAEMON_JSON = "/etc/docker/daemon.json"
PACKAGES = (
    "libnvidia-container-tools", "libnvidia-container1", "nvidia-container-toolkit", "nvidia-container-toolkit-base"
)
# What the role may have put on a host, besides packages and daemon.json.
TRACES = (
    "find /etc/apt/sources.list.d /etc/apt/preferences.d /etc/apt/keyrings /etc/cdi /run/cdi /etc/systemd/system "
    "/var/lib/truthgraph-nvidia -iname '*nvidia*' -printf '%p\\n' 2>/dev/null | grep -v nvidia-simulated | sort; true"
)


class GpuHost(Host):
    """A host of the lab with simulated cards."""

    def shell(self, text: str, check: bool = True) -> str:
        """Run a line of shell on it and return what it writes."""
        return self.run("sh", "-c", text, check=check)

    def write(self, path: str, text: str | None) -> None:
        """Write a file, or remove it."""
        if text is None:
            self.run("rm", "-f", path)
        else:
            self.run("python3", "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", path, text)

    def read(self, path: str) -> t.Any:
        """Return the text of a file, or None where there is none."""
        return self.run("cat", path) if self.shell(f"test -e {path} && echo there", check=False) else None

    @property
    def cards_file(self) -> str:
        """What the simulated driver says of itself and its cards."""
        return self.run("cat", CARDS_FILE)

    def set_cards_file(self, text: str) -> None:
        """Have other cards, and tell what makes their nodes and their CDI devices."""
        self.write(CARDS_FILE, text)
        self.run("systemctl", "restart", "nvidia-simulated.service")
        self.shell("systemctl restart nvidia-cdi-refresh.service 2>/dev/null || true")  # Before 1.18 there is none.

    @contextlib.contextmanager
    def cards(self, number: int = 1, driver: dict[str, t.Any] | None = None, **fields: t.Any) -> t.Iterator[None]:
        """Have a number of cards that differ from the documented one."""
        before = self.cards_file
        state = json.loads(before)
        first = state["cards"][0]
        state["cards"] = [
            {**first, "uuid": f"{first['uuid'][:-1]}{index + 1}", **fields} for index in range(number)
        ]
        self.set_cards_file(json.dumps({**state, **(driver or {})}))
        try:
            yield
        finally:
            self.set_cards_file(before)

    @property
    def packages(self) -> dict[str, str]:
        """The toolkit's packages that are installed, with their versions."""
        names = " ".join(PACKAGES)
        text = self.shell(f"dpkg-query -W -f '${{Package}} ${{Version}} ${{db:Status-Status}}\\n' {names} 2>/dev/null; true")
        rows = [line.split() for line in text.splitlines()]
        return {row[0]: row[1] for row in rows if row[-1] == "installed"}

    @property
    def daemon_json(self) -> t.Any:
        """The text of the engine's configuration, or None where there is none."""
        return self.read(DAEMON_JSON)

    @property
    def specs(self) -> list[str]:
        """Where a CDI specification for NVIDIA's cards lies."""
        return self.shell("grep -ls nvidia.com/gpu /etc/cdi/*.yaml /etc/cdi/*.json /run/cdi/*.yaml; true").split()

    @property
    def traces(self) -> list[str]:
        """What of the toolkit's setting up is there."""
        return self.shell(TRACES).split()

    @property
    def engine_started(self) -> str:
        """When the engine was started."""
        return self.run("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "docker.service").strip()

    def containers(self) -> list[str]:
        """The running containers of the inference service."""
        names = self.run("docker", "ps", "--format", "{{.Names}}", "--filter", "label=truthgraph.service=inference").split()
        return sorted(names)

    def sees_cards(self, container: str) -> list[str]:
        """The device nodes that a container can open."""
        text = (
            "import glob, os\n"
            "for node in sorted(glob.glob('/dev/nvidia[0-9]*')): os.close(os.open(node, os.O_RDWR)); print(node)"
        )
        return self.run("docker", "exec", container, "python3", "-c", text).split()

    def health(self, container: str) -> dict[str, t.Any]:
        """What a container's service says of itself, with the status of the answer as `code`."""
        text = (
            "import json, urllib.request, urllib.error\n"
            "try: answer = urllib.request.urlopen('http://127.0.0.1:8001/health', timeout=5)\n"
            "except urllib.error.HTTPError as error: answer = error\n"
            "print(json.dumps({**json.loads(answer.read()), 'code': answer.status}))"
        )
        said: dict[str, t.Any] = json.loads(self.run("docker", "exec", container, "python3", "-c", text))
        return said


@contextlib.contextmanager
def second_host() -> t.Iterator[GpuHost]:
    """Let the lab have a second inference host, with a card like that of the first."""
    hosts = {"lab_hosts": {"gpu2": {"address": "10.203.77.32", "published_ports": []}}}
    run = play("lab", hosts, *TWO_HOSTS)
    try:
        assert run.code == 0, str(run)
        yield GpuHost("gpu2")
    finally:
        run = play("remove_host", {**hosts, "host": "gpu2"})
        assert run.code == 0, str(run)
