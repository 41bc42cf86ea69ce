"""Whether a container has proved itself: it runs, answers well several times in a row, and does not call itself unhealthy.

Who is asked nothing proves itself by calling itself healthy.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import ssl
import time
import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

MOST_RESTARTS = 3
# Seconds for which an answer of the engine counts; to ask it costs more than to ask the service.
LOOK_AGAIN = 1.0
BODY_LIMIT = 8 * 1024 * 1024
QUESTIONS = 2000
SHOWN = 300


def ask(
    address: str,
    port: int,
    path: str,
    timeout: float,
    expect: dict[str, t.Any],
    body: t.Any = None,
    tls: dict[str, str] | None = None,
) -> tuple[bool, str]:
    """Send one request, a POST if there is a body; return whether the answer was good, and what it was in words.

    `tls` says how: `ca`, the file with the authorities that are trusted, `name`, the name that the server's certificate has
    to have, and, where the client shows one of its own, `certificate` and `key`.
    """
    method = "GET" if body is None else "POST"
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        if tls:
            connection.sock = _secured(socket.create_connection((address, port), timeout), tls)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Connection": "close", "Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read(BODY_LIMIT).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return False, f"{method} {path} on {address}:{port} failed: {error or type(error).__name__}"
    finally:
        connection.close()
    seen = f"{method} {path} answered {response.status}"
    if response.status != 200:
        return False, f"{seen}: {answer[:SHOWN].strip()}"
    for field, wanted in expect.items():
        found = _field(answer, field)
        if found != wanted:
            return False, f"{seen}, but its {field} is {found!r} and not {wanted!r}"
    return True, seen


def _secured(sock: socket.socket, tls: dict[str, str]) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=tls["ca"] or None)
    if tls.get("certificate"):
        context.load_cert_chain(tls["certificate"], tls["key"])
    return context.wrap_socket(sock, server_hostname=tls["name"])


def condition(info: dict[str, t.Any]) -> tuple[str, str]:
    """Return what the engine says of a container's health, empty if it does not run, and its condition in words."""
    state = info["State"]
    words = state["Status"]
    if words == "exited":
        words = f"exited with code {state.get('ExitCode')}"
        if state.get("OOMKilled"):
            words += ", killed for its memory"
        if state.get("Error"):
            words += f" ({state['Error']})"
    health = state.get("Health") or {}
    status = health.get("Status", "none")
    if status != "none":
        words += f", {status}"
        checks = [check for check in health.get("Log") or [] if check.get("ExitCode")]
        if status != "healthy" and checks:
            words += f" ({checks[-1].get('Output', '').strip()[:SHOWN]})"
    return status if state["Status"] == "running" else "", words


def lost(info: dict[str, t.Any], restarts: int) -> bool:
    """Say whether waiting on is of no use: the container has ended or keeps ending."""
    return info["State"]["Status"] in ("exited", "dead") or info.get("RestartCount", 0) - restarts >= MOST_RESTARTS


def folded(lines: list[str]) -> list[str]:
    """Return the lines with those that repeat the one before counted instead of shown."""
    groups = [(line, len(list(group))) for line, group in itertools.groupby(lines)]
    return [line if times == 1 else f"{line} ({times} times)" for line, times in groups]


def _field(body: str, field: str) -> t.Any:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer.get(field) if isinstance(answer, dict) else None


def _address(info: dict[str, t.Any], network: str) -> str:
    address: str = (info["NetworkSettings"]["Networks"].get(network) or {}).get("IPAddress", "")
    return address


def watch(docker: DockerCli, wanted: dict[str, t.Any]) -> tuple[bool, dict[str, t.Any]]:
    """Ask until the container has passed or cannot pass any more; return which, and what was seen."""
    start = time.monotonic()
    result: dict[str, t.Any] = {"seen": "no answer", "address": ""}
    passes = 0
    restarts: int | None = None
    # What answers well need not wait for the engine, which looks at its leisure.
    accepted = ("none", "healthy", "starting") if wanted["path"] else ("none", "healthy")
    answer = ""
    looked = -LOOK_AGAIN
    while True:
        if time.monotonic() - looked >= LOOK_AGAIN:
            info, looked = docker.inspect(wanted["name"]), time.monotonic()
        left = wanted["timeout"] - (time.monotonic() - start)
        if info is None:
            result["seen"] = "there is no container of that name"
            break
        restarts = info.get("RestartCount", 0) if restarts is None else restarts
        health, words = condition(info)
        healthy = health in accepted
        address = _address(info, wanted["network"])
        good, seen = False, ""
        if not wanted["path"]:
            good, seen = healthy, "its health check"
        elif address and info["State"]["Status"] == "running":
            result["address"] = address
            request_timeout = max(0.1, min(wanted["request_timeout"], left))
            good, seen = ask(address, wanted["port"], wanted["path"], request_timeout, wanted["expect"])
        elif info["State"]["Status"] == "running":
            seen = f"it has no address on the network {wanted['network']}"
        result["seen"] = seen or result["seen"]
        result["condition"] = words
        answer = seen if " answered " in seen else answer
        passes = passes + 1 if good else 0
        if passes >= wanted["passes"] and healthy:
            break
        if lost(info, restarts):
            # What a container answered before it ended says more than that it answers no more.
            result["seen"] = answer or result["seen"]
            break
        if time.monotonic() - start >= wanted["timeout"]:
            break
        time.sleep(wanted["interval"])
    result["seconds"] = round(time.monotonic() - start, 2)
    return passes >= wanted["passes"] and healthy, result


def log_without_questions(docker: DockerCli, name: str, path: str, count: int) -> list[str]:
    """Return the last lines of a container's log, repeated ones counted and those about the questions asked left out."""
    lines = docker.last_log_lines(name, count + QUESTIONS)
    # Many services log each of the questions asked here, which would leave no place for what matters.
    lines = [line for line in lines if not any(f"GET {asked} " in line for asked in (path, "/health"))]
    return folded(lines)[-count:]


def failure(docker: DockerCli, wanted: dict[str, t.Any], result: dict[str, t.Any]) -> tuple[str, list[str]]:
    """Return why a container has not proved itself, for the operator, and the last lines of its log."""
    name, count = wanted["name"], wanted["log_lines"]
    lines = log_without_questions(docker, name, wanted["path"], count) if "condition" in result else []
    text = "\n".join(lines) if lines else "(it wrote nothing)"
    message = (
        f"The container {name} was not ready after {result['seconds']} s. "
        f"Seen last: {result['seen']}; the container: {result.get('condition', 'missing')}. "
        f"Last lines of its log:\n{text}"
    )
    return message, lines
