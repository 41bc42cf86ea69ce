"""What the modules of this collection ask of a host's Docker engine, through its command line.

The command line is used instead of the engine's HTTP interface because it is on every host that has the engine,
follows the host's own context and socket settings, and does not change with the version of another collection.
"""

from __future__ import annotations

import json
import typing as t

NO_SUCH = ("no such object", "no such container")


class DockerCli:
    """The docker command of the host on which a module runs."""

    def __init__(self, module: t.Any) -> None:
        self._module = module
        self._binary = module.get_bin_path("docker")

    @property
    def present(self) -> bool:
        """Say whether the host has a docker command at all."""
        return self._binary is not None

    def run(self, *arguments: str) -> str:
        """Run one docker command and return its standard output; end the module if it fails."""
        code, out, err = self._call(*arguments)
        if code != 0:
            self._module.fail_json(msg=f"docker {arguments[0]} failed: {(err or out).strip()}", rc=code)
        return out

    def try_run(self, *arguments: str) -> tuple[int, str, str]:
        """Run one docker command and return its exit status, output and error output, whatever they are."""
        return self._call(*arguments)

    def inspect(self, name: str) -> dict[str, t.Any] | None:
        """Return what the engine knows of one container, or None where there is none of that name."""
        code, out, err = self._call("container", "inspect", name)
        if code == 0:
            found: dict[str, t.Any] = json.loads(out)[0]
            return found
        if not any(text in err.lower() for text in NO_SUCH):
            self._module.fail_json(msg=f"docker inspect {name} failed: {err.strip()}", rc=code)
        return None

    def last_log_lines(self, name: str, count: int) -> list[str]:
        """Return the last lines that a container wrote, standard output and error together."""
        code, out, err = self._call("container", "logs", "--tail", str(count), name)
        if code != 0:
            return [f"(its log cannot be read: {err.strip()})"]
        # The engine answers the two streams apart; their order within each is kept.
        return (out + err).splitlines()[-count:]

    def _call(self, *arguments: str) -> tuple[int, str, str]:
        if self._binary is None:
            self._module.fail_json(msg="There is no docker command on this host; run the role docker_engine first.")
        code, out, err = self._module.run_command([self._binary, *arguments])
        return code, out, err
