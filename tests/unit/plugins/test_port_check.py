"""The module port_check on real sockets."""

from __future__ import annotations

import os
import socket
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble


@pytest.fixture
def engine(tmp_path: Path) -> EngineDouble:
    return EngineDouble(tmp_path)


@pytest.fixture
def taken() -> t.Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def check(engine: EngineDouble, port: int) -> dict[str, t.Any]:
    return engine.run("port_check", address="127.0.0.1", port=port, containers=["truthgraph-api"], option="api_port")


def bindings(port: int) -> dict[str, t.Any]:
    return {"HostConfig": {"PortBindings": {"8000/tcp": [{"HostIp": "", "HostPort": str(port)}]}}}


def test_a_free_port(engine: EngineDouble) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert check(engine, port)["holder"] == ""


def test_a_port_of_ours(engine: EngineDouble, taken: int) -> None:
    engine.add("truthgraph-api", **bindings(taken))
    assert check(engine, taken)["holder"] == "truthgraph-api"


def test_a_port_of_something_else_names_it(engine: EngineDouble, taken: int) -> None:
    message = check(engine, taken)["msg"]
    assert f"(process {os.getpid()}), which is not ours" in message
    assert "choose another port with api_port" in message


def test_a_stopped_container_of_ours_does_not_hold_it(engine: EngineDouble, taken: int) -> None:
    engine.add("truthgraph-api", status="exited", **bindings(taken))
    assert check(engine, taken)["failed"]


def test_an_address_of_another_host(engine: EngineDouble) -> None:
    result = engine.run("port_check", address="192.0.2.1", port=8000)
    assert "Set fleet_private_address to an address of this host." in result["msg"]
