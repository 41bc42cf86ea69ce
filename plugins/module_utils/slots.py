"""The two slots of a service on a host: how their containers are run, and what is known of them.

A slot is a container with a fixed name and a fixed address on the host's bridge, or several of them, its copies: one for
each card that the inference service uses. One slot serves, the other is idle: it gets the next release, and keeps the
earlier one, stopped, once a release has settled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

SERVICES = ("inference", "api")
SECRETS_TARGET = "/run/secrets/truthgraph"
# Where the processor is short, what serves comes before what only starts, and before what a run does on its host.
STARTING = ("--restart", "no", "--cpu-shares", "512")
SERVING = ("--restart", "unless-stopped", "--cpu-shares", "4096")
# An earlier slot that goes on running; the restart policy is also the mark by which it is known.
STANDBY_POLICY = "on-failure"
STANDBY = ("--restart", STANDBY_POLICY, "--cpu-shares", "512")
LABELS = ("fleet", "service", "slot", "copy", "identity", "run")
# How a container gets its card: by the engine's own injection of a CDI device, or by NVIDIA's runtime, which reads these.
# With auto the host says which, when it makes the container.
CARD_OPTIONS = {
    "auto": lambda card: [f"card={card}"],
    "cdi": lambda card: ["--device", f"nvidia.com/gpu={card}"],
    "runtime": lambda card: [
        *("--runtime", "nvidia"),
        *("--env", f"NVIDIA_VISIBLE_DEVICES={card}"),
        *("--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
    ],
}


def container_name(service: str, slot: str, copy: int = 0) -> str:
    """Return the name of a slot's container, or of one of its further copies."""
    return f"truthgraph-{service}-{slot}" + (f"-{copy}" if copy else "")


def container_of(place: dict[str, t.Any]) -> str:
    """Return the name of the container in a place."""
    return container_name(place["service"], place["slot"], place.get("copy", 0))


def copy_of(name: str, service: str, slot: str) -> int | None:
    """Return which copy of a slot a container's name says it is; None if it belongs elsewhere."""
    found = re.fullmatch(re.escape(container_name(service, slot)) + r"(?:-([1-9]\d*))?", name)
    return int(found[1] or 0) if found else None


def secrets_directory(config: str, service: str, slot: str) -> str:
    """Return the directory on the host that a slot's container has mounted."""
    return os.path.join(config, "slots", f"{service}-{slot}")


def release_secrets_directory(config: str, release: str, service: str) -> str:
    """Return the directory in which the host keeps a release's own secrets."""
    return os.path.join(config, "releases", release, service)


def digest(value: t.Any) -> str:
    """Return twelve hexadecimal digits that stand for a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_options(container: dict[str, t.Any], place: dict[str, t.Any]) -> list[str]:
    """Return the options of `docker create` for a container in its place.

    `container` is what a release says of it: image, environment, volumes, tmpfs, extra_hosts, memory, pids_limit,
    stop_timeout, command. `place` is what the slot says: service, slot, copy (none where there is one only), fleet,
    network, address, environment, secrets (the directory to mount, or nothing), card (as NVIDIA's tools name it, or
    nothing) and how the container gets it (cdi or runtime).
    """
    options = [
        *("--network", place["network"]),
        *("--ip", place["address"]),
        "--read-only",
        *("--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges:true"),
        *("--pids-limit", str(container.get("pids_limit") or 512)),
        *("--stop-timeout", str(container.get("stop_timeout") or 30)),
    ]
    environment = {**container.get("environment", {}), **place.get("environment", {})}
    for name in sorted(environment):
        options += ["--env", f"{name}={environment[name]}"]
    if place.get("secrets"):
        options += ["--mount", f"type=bind,source={place['secrets']},target={SECRETS_TARGET},readonly"]
    for volume in container.get("volumes", []):
        options += ["--volume", volume]
    for path in container.get("tmpfs", []):
        options += ["--tmpfs", path]
    for name, address in sorted(container.get("extra_hosts", {}).items()):
        options += ["--add-host", f"{name}:{address}"]
    if container.get("memory"):
        options += ["--memory", container["memory"]]
    if place.get("card"):
        options += CARD_OPTIONS[place["card_access"]](place["card"])
    for name in ("fleet", "service", "slot", "copy"):
        if place.get(name):
            options += ["--label", f"truthgraph.{name}={place[name]}"]
    return [*options, container["image"], *container.get("command", [])]


def run_digest(container: dict[str, t.Any], place: dict[str, t.Any]) -> str:
    """Return what changes whenever a slot's container would be run in another way."""
    return digest(run_options(container, place))


def card_access(docker: DockerCli) -> str:
    """Return how this host's containers get their card: as a CDI device wherever the engine knows of those."""
    directories = docker.run("info", "--format", "{{json .CDISpecDirs}}")
    return "cdi" if json.loads(directories or "null") else "runtime"


def create_command(
    container: dict[str, t.Any], place: dict[str, t.Any], identity: str, card_access: str = ""
) -> list[str]:
    """Return the `docker create` of a slot's container. Until it is to serve, it is not restarted by itself."""
    own = {**place, "card_access": card_access} if place.get("card_access") == "auto" else place
    return [
        "create",
        *("--name", container_of(place)),
        *STARTING,
        *("--label", f"truthgraph.identity={identity}"),
        *("--label", f"truthgraph.run={run_digest(container, place)}"),
        *run_options(container, own),
    ]


def describe(info: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return what matters of a container as the engine describes it."""
    labels = info["Config"].get("Labels") or {}
    state = info["State"]
    health = state.get("Health") or {}
    failed = [check.get("Output", "").strip() for check in health.get("Log") or [] if check.get("ExitCode")]
    return {
        "name": info["Name"].lstrip("/"),
        "id": info.get("Id", ""),
        **{name: labels.get(f"truthgraph.{name}", "") for name in LABELS},
        "state": state["Status"],
        "standby": info["HostConfig"]["RestartPolicy"]["Name"] == STANDBY_POLICY,
        "health": health.get("Status", ""),
        "problem": failed[-1] if failed and (state["Status"], health["Status"]) == ("running", "unhealthy") else "",
        "started_at": state.get("StartedAt", ""),
        "image": info["Config"]["Image"],
        "revision": labels.get("org.opencontainers.image.revision", ""),
        "version": labels.get("org.opencontainers.image.version", ""),
        "simulated": "TRUTHGRAPH_DEVICE=simulated" in (info["Config"].get("Env") or []),
    }


def containers(docker: DockerCli, fleet: str) -> list[dict[str, t.Any]]:
    """Return the fleet's containers on this host."""
    return described(docker, docker.run(*listing(fleet)).split())


def listing(fleet: str) -> list[str]:
    """Return the `docker ps` that answers the numbers of the fleet's containers."""
    return ["ps", "--all", "--quiet", "--filter", f"label=truthgraph.fleet={fleet}"]


def described(docker: DockerCli, numbers: list[str]) -> list[dict[str, t.Any]]:
    """Return what matters of containers, by their numbers."""
    return [describe(info) for info in json.loads(docker.run("container", "inspect", *numbers))] if numbers else []


def without_slots(found: list[dict[str, t.Any]]) -> dict[str, str]:
    """Return the ids of the running containers that have no slots, such as the database's, by name."""
    return {one["name"]: one["id"] for one in found if not one["slot"] and one["state"] == "running"}
