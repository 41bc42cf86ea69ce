"""How the containers of the two slots are run."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import slots

CONTAINER = {
    "image": "registry/core@sha256:abc",
    "environment": {"B": "2", "A": "1"},
    "volumes": ["models:/models:ro"],
    "tmpfs": ["/tmp"],
    "extra_hosts": {"db": "10.0.0.9"},
    "memory": "2g",
    "pids_limit": 100,
    "stop_timeout": 20,
    "command": ["serve", "--fast"],
}
PLACE = {
    "service": "api",
    "slot": "green",
    "fleet": "prod",
    "network": "truthgraph",
    "address": "172.30.240.11",
    "environment": {"B": "place"},
    "secrets": "/etc/truthgraph/slots/api-green",
}


def pairs(options: list[str], name: str) -> list[str]:
    """Return the values of an option."""
    return [options[index + 1] for index, option in enumerate(options) if option == name]


def test_the_options_of_a_container() -> None:
    options = slots.run_options(CONTAINER, PLACE)
    assert options[:4] == ["--network", "truthgraph", "--ip", "172.30.240.11"]
    assert options[-3:] == ["registry/core@sha256:abc", "serve", "--fast"]
    assert "--read-only" in options and pairs(options, "--cap-drop") == ["ALL"]
    assert pairs(options, "--security-opt") == ["no-new-privileges:true"]
    # Sorted, so that the digest is the same; what the slot says goes before what the release says.
    assert pairs(options, "--env") == ["A=1", "B=place"]
    mount = "type=bind,source=/etc/truthgraph/slots/api-green,target=/run/secrets/truthgraph,readonly"
    assert pairs(options, "--mount") == [mount]
    assert pairs(options, "--volume") == ["models:/models:ro"] and pairs(options, "--tmpfs") == ["/tmp"]
    assert pairs(options, "--add-host") == ["db:10.0.0.9"] and pairs(options, "--memory") == ["2g"]
    assert pairs(options, "--pids-limit") == ["100"] and pairs(options, "--stop-timeout") == ["20"]
    labels = ["truthgraph.fleet=prod", "truthgraph.service=api", "truthgraph.slot=green"]
    assert pairs(options, "--label") == labels


@pytest.mark.parametrize(
    ("access", "options"),
    [
        ("cdi", "--device nvidia.com/gpu=GPU-1"),
        ("runtime", "--runtime nvidia --env NVIDIA_VISIBLE_DEVICES=GPU-1 --env NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
    ],
)
def test_a_card_is_given_to_a_container(access: str, options: str) -> None:
    place = {**PLACE, "card": "GPU-1", "copy": 2}
    assert options in " ".join(slots.run_options(CONTAINER, {**place, "card_access": access}))
    # Where the host decides, its decision is no part of the digest: a change of it replaces nothing.
    auto = {**place, "card_access": "auto"}
    command = slots.create_command(CONTAINER, auto, "r1", access)
    assert options in " ".join(command) and command[2] == "truthgraph-api-green-2"
    assert f"truthgraph.run={slots.run_digest(CONTAINER, auto)}" in command
    assert "nvidia" not in " ".join(slots.run_options(CONTAINER, PLACE))


def test_the_name_of_a_copy() -> None:
    for copy in (0, 1, 12):
        assert slots.copy_of(slots.container_name("api", "blue", copy), "api", "blue") == copy
    others = ["truthgraph-api-green", "truthgraph-api-blue-", "truthgraph-api-blue-0", "truthgraph-api-blue-x"]
    assert [slots.copy_of(name, "api", "blue") for name in others] == [None] * 4


def test_what_is_not_said_is_left_out_or_safe() -> None:
    place = {name: PLACE[name] for name in ("service", "slot", "fleet", "network", "address")}
    options = slots.run_options({"image": "i"}, place)
    assert options[-1] == "i"
    assert pairs(options, "--pids-limit") == ["512"] and pairs(options, "--stop-timeout") == ["30"]
    assert not {"--env", "--mount", "--volume", "--tmpfs", "--add-host", "--memory"} & set(options)


def test_secrets_are_mounted_and_in_no_option(tmp_path: t.Any) -> None:
    (tmp_path / "TOKEN").write_text("s3cr3t")
    options = slots.create_command(CONTAINER, {**PLACE, "secrets": str(tmp_path)}, "r1")
    text = " ".join(options)
    assert f"source={tmp_path}," in text and "s3cr3t" not in text and "TOKEN" not in text


def test_the_digest_is_stable() -> None:
    turned = {name: CONTAINER[name] for name in reversed(CONTAINER)}
    turned["environment"] = {"A": "1", "B": "2"}
    assert slots.run_digest(turned, PLACE) == slots.run_digest(CONTAINER, PLACE)
    assert len(slots.run_digest(CONTAINER, PLACE)) == 12
    # The same in every process and version; a host compares it with what an earlier run has written.
    assert slots.digest({"b": 1, "a": [True, None]}) == "51705a2c9eb3"


OTHERS: dict[str, t.Any] = {
    "image": "other",
    "environment": {"A": "9"},
    "volumes": [],
    "tmpfs": ["/run"],
    "extra_hosts": {},
    "memory": "3g",
    "pids_limit": 101,
    "stop_timeout": 21,
    "command": ["serve"],
}


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *[("container", name, value) for name, value in OTHERS.items()],
        *[("place", name, f"{PLACE[name]}x") for name in PLACE if name != "environment"],
        ("place", "environment", {"B": "other"}),
    ],
)
def test_the_digest_changes_with_each_field(part: str, name: str, value: t.Any) -> None:
    container = {**CONTAINER, name: value} if part == "container" else CONTAINER
    place = {**PLACE, name: value} if part == "place" else PLACE
    assert slots.run_digest(container, place) != slots.run_digest(CONTAINER, PLACE)


def test_a_created_container_does_not_restart_by_itself() -> None:
    command = slots.create_command(CONTAINER, PLACE, "0123456789ab")
    assert command[:5] == ["create", "--name", "truthgraph-api-green", "--restart", "no"]
    assert command.count("--restart") == 1
    labels = pairs(command, "--label")
    assert labels[:2] == ["truthgraph.identity=0123456789ab", f"truthgraph.run={slots.run_digest(CONTAINER, PLACE)}"]
    assert command[-len(slots.run_options(CONTAINER, PLACE)) :] == slots.run_options(CONTAINER, PLACE)


def test_the_identity_is_no_part_of_the_digest() -> None:
    one, other = (slots.create_command(CONTAINER, PLACE, identity) for identity in ("r1", "r2"))
    assert [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]] == [
        ("truthgraph.identity=r1", "truthgraph.identity=r2")
    ]


@pytest.mark.parametrize(("policy", "standby"), [("on-failure", True), ("no", False), ("unless-stopped", False)])
def test_a_container_is_described(policy: str, standby: bool) -> None:
    labels = {f"truthgraph.{name}": name for name in slots.LABELS}
    labels |= {"org.opencontainers.image.revision": "0123", "other": "thing"}
    info: dict[str, t.Any] = {
        "Id": "0f3a",
        "Name": "/truthgraph-api-green",
        "Config": {"Labels": labels, "Image": "registry/core@sha256:abc"},
        "State": {"Status": "running", "Health": {"Status": "healthy"}, "StartedAt": "2026-01-01T00:00:00Z"},
        "HostConfig": {"RestartPolicy": {"Name": policy}},
    }
    assert slots.describe(info) == {
        **{"id": "0f3a", "name": "truthgraph-api-green", "image": "registry/core@sha256:abc"},
        **{"revision": "0123", "version": "", "standby": standby},
        **{"state": "running", "health": "healthy", "started_at": "2026-01-01T00:00:00Z"},
        **{"simulated": False, "problem": ""},
        **{name: name for name in slots.LABELS},
    }


def test_what_a_container_says_of_its_health_is_answered() -> None:
    checks = [{"ExitCode": 1, "Output": "HTTP/1.1 503: the card is lost\n"}, {"ExitCode": 0, "Output": "ignored"}]
    info: dict[str, t.Any] = {
        "Name": "/x",
        "Config": {"Labels": None, "Image": "i", "Env": ["A=1", "TRUTHGRAPH_DEVICE=simulated"]},
        "State": {"Status": "running", "Health": {"Status": "unhealthy", "Log": checks}},
        "HostConfig": {"RestartPolicy": {"Name": "no"}},
    }
    found = slots.describe(info)
    assert found["problem"] == "HTTP/1.1 503: the card is lost" and found["simulated"]
    # One that failed and is well again has no problem.
    info["State"]["Health"]["Status"] = "healthy"
    assert slots.describe(info)["problem"] == ""
    # Nor has one that was stopped while it was not.
    info["State"] |= {"Status": "exited", "Health": {"Status": "unhealthy", "Log": checks}}
    assert slots.describe(info)["problem"] == ""


def test_a_container_that_is_not_ours_is_described_too() -> None:
    info: dict[str, t.Any] = {
        "Name": "/x",
        "Config": {"Labels": None, "Image": "i"},
        "State": {"Status": "created", "Health": None},
    }
    info["HostConfig"] = {"RestartPolicy": {"Name": "no"}}
    found = slots.describe(info)
    assert found["service"] == found["run"] == found["health"] == "" and found["state"] == "created"


def test_names_and_directories() -> None:
    assert slots.secrets_directory("/etc/t", "api", "blue") == "/etc/t/slots/api-blue"
    assert slots.release_secrets_directory("/etc/t", "r1", "api") == "/etc/t/releases/r1/api"
