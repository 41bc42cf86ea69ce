"""A headless browser for tests, without a package for it: Chromium is told what to do through a pair of pipes, in its DevTools
protocol. `make unit` installs it where Debian has it; a test without one is skipped and says so.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")


class Browser:
    """A page in a headless browser that reaches no network: it has a proxy that nothing listens on."""

    def __init__(self, program: str, home: Path) -> None:
        # Numbers far from 3 and 4, which are the browser's own ends.
        listens, tell = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        hear, speaks = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        self._log = (home / "browser.log").open("wb")
        self._process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
            + [
                "--remote-debugging-pipe",
                "--proxy-server=127.0.0.1:9",
                f"--user-data-dir={home / 'profile'}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # The browser's ends must have these numbers; there is one thread.
            preexec_fn=lambda: (os.dup2(listens, 3), os.dup2(speaks, 4)),  # noqa: PLW1509
            pass_fds=(3, 4),
        )
        for end in (listens, speaks):
            os.close(end)
        self._tell, self._hear = os.fdopen(tell, "wb", buffering=0), os.fdopen(hear, "rb")
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, t.Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def _next(self) -> dict[str, t.Any]:
        while b"\0" not in self._rest:
            part = os.read(self._hear.fileno(), 65536)
            assert part, f"the browser has ended: {Path(self._log.name).read_text(errors='replace')[-2000:]}"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, t.Any] = json.loads(message)
        return told

    def call(self, method: str, **parameters: t.Any) -> dict[str, t.Any]:
        """Have the browser do something, and return its answer; what happens meanwhile is kept in `events`."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        self._tell.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                told: dict[str, t.Any] = answer["result"]
                return told
            self.events.append(answer)

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a file in a window of a size in pixels, as a phone does where it is narrow."""
        self.events.clear()
        narrow = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=narrow)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def read(self, expression: str) -> t.Any:
        """Return the value of an expression of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write the whole page as a picture."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    @property
    def requests(self) -> list[str]:
        """Return what the page has asked for since it was opened."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    @property
    def complaints(self) -> list[str]:
        """Return what the browser has logged about the page since it was opened."""
        return [event["params"]["entry"]["text"] for event in self.events if event.get("method") == "Log.entryAdded"]

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)
        for file in (self._tell, self._hear, self._log):
            file.close()


def started(home: Path) -> Browser:
    """Return a browser with its files in a directory, or skip the test."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), "")
    if not program:
        pytest.skip(f"no headless browser is on this machine ({', '.join(PROGRAMS)}): 'make test-tools' installs one")
    return Browser(program, home)
