"""The module composition_info on an engine's answers."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.tests.unit.plugins.engine_double import EngineDouble

SERVICES = {"api": "api-core", "inference": "ml-inference", "postgres": "postgres"}


@pytest.fixture
def engine(tmp_path: Path) -> EngineDouble:
    return EngineDouble(tmp_path)


def add(engine: EngineDouble, service: str, name: str, **more: t.Any) -> None:
    labels = {
        "com.docker.compose.service": service,
        "com.docker.compose.project.working_dir": "/srv/seed",
        "com.docker.compose.oneoff": more.pop("oneoff", "False"),
    }
    info = {
        "Name": f"/{name}",
        "Config": {"Labels": labels, "Image": "image", "Env": more.pop("Env", [])},
        "HostConfig": {"RestartPolicy": {"Name": "no"}},
        "Mounts": [],
        **more,
    }
    engine.add(name, health=info.pop("health", ""), address="172.18.0.2", **info)


def look(engine: EngineDouble) -> dict[str, t.Any]:
    return engine.run("composition_info", project="truthgraph", services=SERVICES)


def test_there_is_none(engine: EngineDouble) -> None:
    found = look(engine)
    assert found["found"] is False and found["services"] == {}


def test_what_is_answered_of_the_seeds(engine: EngineDouble) -> None:
    ports = {"PortBindings": {"8000/tcp": [{"HostIp": "", "HostPort": "8000"}], "9/udp": [{"HostPort": "9"}]}}
    policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 7}}
    add(engine, "api-core", "truthgraph-api-core", HostConfig={**ports, **policy}, health="healthy")
    add(engine, "ml-inference", "truthgraph-ml-inference", Mounts=[{"Name": "cache", "Destination": "/c"}])
    secret = ["POSTGRES_USER=me", "POSTGRES_PASSWORD=hidden=word"]
    add(engine, "postgres", "truthgraph-postgres", Env=secret)
    add(engine, "postgres", "truthgraph-run-1", oneoff="True")
    add(engine, "mail", "truthgraph-mail")
    found = look(engine)
    assert "hidden" not in json.dumps(found)
    assert found["directory"] == "/srv/seed" and found["others"] == ["truthgraph-mail"] and found["several"] == []
    assert found["database"] == {"name": "me", "user": "me"}
    api = found["services"]["api"]
    assert api["published"] == [{"address": "0.0.0.0", "port": 8000, "container_port": 8000}]
    assert (api["restart"], api["health"], api["address"]) == ("on-failure:7", "healthy", "172.18.0.2")
    assert found["services"]["inference"]["mounts"] == [{"volume": "cache", "path": "/c"}]
    assert found["services"]["postgres"]["restart"] == "no"


def test_two_of_a_service_are_told(engine: EngineDouble) -> None:
    add(engine, "api-core", "one")
    add(engine, "api-core", "two")
    assert look(engine)["several"] == ["api"]
