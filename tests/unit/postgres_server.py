"""A Postgres of the machine's own packages for tests, which nobody else reaches."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t
from pathlib import Path

TOOLS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def psql(home: Path, query: str, database: str = "postgres") -> str:
    """Return what the server answers to its superuser."""
    command = [f"{TOOLS[-1]}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", f"{home}/socket", "-U", "postgres", "-d", database]
    done = subprocess.run([*command, "-c", query], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def postgres() -> t.Iterator[Path]:
    """Run a server, and give the directory that has its socket in `socket`."""
    # Postgres refuses to run as root.
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    home = Path(tempfile.mkdtemp(prefix="tg-pg-"))
    home.chmod(0o755)
    (home / "socket").mkdir()
    if user:
        shutil.chown(home, "postgres", "postgres")
        shutil.chown(home / "socket", "postgres", "postgres")
    settings = {"fsync": "off", "listen_addresses": "", "shared_buffers": "16MB"}
    settings["unix_socket_directories"] = f"{home}/socket"
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    initdb = [f"{TOOLS[-1]}/initdb", "--pgdata", f"{home}/data", "--username=postgres", "--auth=trust", "--no-sync"]
    subprocess.run([*user, *initdb, "--encoding=UTF8", "--locale=C"], check=True, capture_output=True, cwd="/")
    command = [*user, f"{TOOLS[-1]}/postgres", "-D", f"{home}/data", *options]
    with (home / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd="/") as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    psql(home, "SELECT 1")
                    break
                except AssertionError:
                    assert time.monotonic() < deadline and process.poll() is None, (home / "log").read_text()
                    time.sleep(0.1)
            yield home
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
            shutil.rmtree(home)
