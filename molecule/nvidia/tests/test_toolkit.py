# The role nvidia_container_toolkit on a host in every state that it may meet. Packages and their repository are stand-ins
# that the lab makes; apt, its keys and its pins, systemd and the engine are real.
import json
import typing as t

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.gpu import GpuHost
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Run, play

FLOOR, EARLIER, NEWEST = "1.17.4", "1.17.8", "1.20.0"


def setup(**variables: t.Any) -> Run:
    return play("toolkit", {f"nvidia_container_toolkit_{name}": value for name, value in variables.items()})


def present(**variables: t.Any) -> Run:
    run = setup(**variables)
    assert run.code == 0, str(run)
    again = setup(**variables)
    assert (again.code, again.changed) == (0, {}), str(again)
    return run


@pytest.fixture(autouse=True)
def as_deployed(gpu1: GpuHost) -> t.Iterator[None]:
    # Whatever a test does to the engine's configuration, the next one finds it as the deploy has left it. The role has to
    # put its part there itself, or it would not know it for its own.
    before, names = json.loads(gpu1.daemon_json), gpu1.containers()
    yield
    gpu1.write("/etc/docker/daemon.json", json.dumps({name: value for name, value in before.items() if name != "features"}))
    run = setup(allow_restart=True)
    assert run.code == 0 and json.loads(gpu1.daemon_json) == before, str(run)
    # An engine that starts without live-restore ends what an earlier one has left running, for good.
    gpu1.run("docker", "start", *names)


def test_as_deployed(gpu1: GpuHost) -> None:
    assert set(gpu1.packages.values()) == {f"{NEWEST}-1"} and len(gpu1.packages) == 4, gpu1.packages
    # One signed source, which names its key.
    sources = gpu1.shell("grep -l :8091 /etc/apt/sources.list.d/*").split()
    assert len(sources) == 1 and "Signed-By:" in gpu1.read(sources[0])
    pins = gpu1.shell("apt-cache policy nvidia-container-toolkit libnvidia-container1 | grep -c 1001")
    assert int(pins) >= 2
    assert len(gpu1.specs) == 1, gpu1.specs
    settings = json.loads(gpu1.daemon_json)
    assert settings["features"] == {"cdi": True} and "default-runtime" not in settings, settings
    seen = gpu1.shell("docker run --rm --device nvidia.com/gpu=0 --entrypoint ls "
                      "$(docker inspect --format '{{.Image}}' $(docker ps -q --filter label=truthgraph.service=inference)) /dev")
    assert "nvidia0" in seen.split()
    again = setup()
    assert (again.code, again.changed) == (0, {}), str(again)


def test_a_version_with_a_known_hole_is_refused(gpu1: GpuHost) -> None:
    before = gpu1.packages
    run = setup(version=FLOOR)
    assert run.code != 0 and "CVE-2025-23266" in run.last_words and "1.17.8" in run.last_words, str(run)
    assert gpu1.packages == before


def test_an_upgrade_keeps_what_runs(gpu1: GpuHost, fleet: Fleet) -> None:
    present(version=EARLIER)
    assert set(gpu1.packages.values()) == {f"{EARLIER}-1"}, gpu1.packages
    assert len(gpu1.specs) == 1, gpu1.specs
    running, engine = fleet.hosts["gpu1"].look().running, gpu1.engine_started
    present(version=NEWEST)
    assert set(gpu1.packages.values()) == {f"{NEWEST}-1"}, gpu1.packages
    assert len(gpu1.specs) == 1, gpu1.specs
    assert fleet.hosts["gpu1"].look().running == running and gpu1.engine_started == engine


def test_old_lists_are_put_aside(gpu1: GpuHost) -> None:
    lists = [f"/etc/apt/sources.list.d/{name}.list" for name in ("nvidia-docker", "libnvidia-container")]
    for path in lists:
        gpu1.write(path, "deb http://192.0.2.1/nothing-is-here /\n")
    try:
        present()
        assert [gpu1.read(path) for path in lists] == [None, None]
        assert all("192.0.2.1" in gpu1.read(f"{path}.save") for path in lists)
    finally:
        gpu1.run("rm", "-f", *lists, *(f"{path}.save" for path in lists))


def test_a_second_specification_is_put_aside(gpu1: GpuHost) -> None:
    gpu1.shell("mkdir -p /etc/cdi && nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    try:
        present()
        assert len(gpu1.specs) == 1 and not any(path.startswith("/etc") for path in gpu1.specs), gpu1.specs
    finally:
        gpu1.shell("rm -f /etc/cdi/nvidia.yaml*")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (None, {}),
        ("{}", {}),
        ('{"live-restore": true, "max-concurrent-downloads": 5}', {"live-restore": True, "max-concurrent-downloads": 5}),
        ('{"live-restore": true, "runtimes": null}', {"live-restore": True}),
        ('{"features": {"buildkit": true}, "live-restore": true}', {"live-restore": True}),
    ],
    ids=["absent", "empty", "foreign-keys", "runtimes-null", "other-features"],
)
def test_the_engines_configuration_is_merged(gpu1: GpuHost, text: str, kept: t.Any) -> None:
    gpu1.write("/etc/docker/daemon.json", text)
    # Without live-restore a restart stops what runs, which has to be asked for.
    present(mode="cdi", allow_restart="live-restore" not in (text or ""))
    settings = json.loads(gpu1.daemon_json)
    # For people: pytest -rP shows what became of each.
    print(f"before: {text}\nafter:  {json.dumps(settings)}")
    assert settings["features"]["cdi"] is True and kept.items() <= settings.items(), settings
    if text and "buildkit" in text:
        assert settings["features"]["buildkit"] is True
    assert "default-runtime" not in settings


def test_a_restart_that_would_stop_containers_is_refused(gpu1: GpuHost) -> None:
    image = gpu1.run("docker", "inspect", "--format", "{{.Image}}", *gpu1.containers()).strip()
    # An engine that knows no CDI devices, and stops its containers with itself.
    gpu1.write("/etc/docker/daemon.json", "{}")
    gpu1.run("systemctl", "restart", "docker.service")
    gpu1.run("docker", "run", "--detach", "--name=bystander", "--restart=always", "--entrypoint=sleep", image, "600")
    started = "{{.State.Running}} {{.State.StartedAt}}"
    try:
        before = gpu1.run("docker", "inspect", "--format", started, "bystander")
        # The second time the configuration is written already, and still not taken up.
        for _ in range(2):
            run = setup(mode="cdi")
            assert run.code != 0 and "nvidia_container_toolkit_allow_restart" in run.last_words, str(run)
            assert gpu1.run("docker", "inspect", "--format", started, "bystander") == before
        present(mode="cdi", allow_restart=True)
        after = gpu1.run("docker", "inspect", "--format", started, "bystander")
        assert after.startswith("true") and after != before
    finally:
        gpu1.run("docker", "rm", "--force", "bystander")


@pytest.mark.parametrize("text", ['{"live-restore": true,}', '{ // a comment\n}', "[]"], ids=["comma", "comment", "list"])
def test_a_malformed_configuration_is_left_alone(gpu1: GpuHost, text: str) -> None:
    gpu1.write("/etc/docker/daemon.json", text)
    engine = gpu1.engine_started
    run = setup(mode="runtime")
    assert run.code != 0 and "/etc/docker/daemon.json" in run.last_words and "left untouched" in run.last_words, str(run)
    assert gpu1.daemon_json == text and gpu1.engine_started == engine


def test_the_runtime_instead_of_cdi_and_back(gpu1: GpuHost, fleet: Fleet) -> None:
    running = fleet.hosts["gpu1"].look().running
    present(mode="runtime")
    settings = json.loads(gpu1.daemon_json)
    assert settings["runtimes"]["nvidia"]["path"].endswith("nvidia-container-runtime") and "default-runtime" not in settings
    assert "cdi" not in settings.get("features", {}), settings
    seen = gpu1.shell("docker run --rm --runtime nvidia --env NVIDIA_VISIBLE_DEVICES=0 --entrypoint ls "
                      "$(docker inspect --format '{{.Image}}' $(docker ps -q --filter label=truthgraph.service=inference)) /dev")
    assert "nvidia0" in seen.split()
    present(mode="cdi")
    settings = json.loads(gpu1.daemon_json)
    assert settings["features"]["cdi"] is True and "nvidia" not in settings.get("runtimes", {}), settings
    assert fleet.hosts["gpu1"].look().running == running


def test_what_was_put_there_is_taken_back(gpu1: GpuHost, fleet: Fleet) -> None:
    run = setup(state="absent")
    assert run.code == 0, str(run)
    assert gpu1.packages == {} and gpu1.traces == [], gpu1.traces
    bare = gpu1.daemon_json
    assert "cdi" not in bare and "nvidia" not in bare, bare
    again = setup(state="absent")
    assert (again.code, again.changed) == (0, {}), str(again)
    present()
    assert setup(state="absent").code == 0
    assert json.loads(gpu1.daemon_json) == json.loads(bare) and gpu1.traces == []
    # What ran has gone on.
    assert gpu1.containers() and gpu1.health(gpu1.containers()[0])["code"] == 200


@pytest.mark.parametrize("broken", ["missing", "not working"])
def test_a_host_without_a_driver_is_told_what_to_do(gpu1: GpuHost, broken: str) -> None:
    before = gpu1.packages
    if broken == "missing":
        gpu1.run("mv", "/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi.away")
    else:
        state = json.loads(gpu1.cards_file)
        gpu1.write("/etc/nvidia-simulated/state.json", json.dumps({**state, "working": False}))
    try:
        run = setup()
    finally:
        if broken == "missing":
            gpu1.run("mv", "/usr/bin/nvidia-smi.away", "/usr/bin/nvidia-smi")
        else:
            gpu1.set_cards_file(json.dumps(state))
    assert run.code != 0 and "gpu1" in run.last_words and "inference_device: cpu" in run.last_words, str(run)
    assert gpu1.packages == before
