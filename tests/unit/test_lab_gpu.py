"""What the lab's simulated NVIDIA programs answer, run as they are installed, with a state file of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "lab_gpu"
REPOSITORY = ROLE / "files" / "repository"
BASE = REPOSITORY / "packages" / "nvidia-container-toolkit-base" / "usr" / "bin"
SMI = ROLE / "files" / "host" / "nvidia-smi"
NODES = ROLE / "files" / "host" / "nvidia-simulated-nodes"
CTK = BASE / "nvidia-ctk"
RUNTIME = BASE / "nvidia-container-runtime"
CLI = REPOSITORY / "packages" / "libnvidia-container-tools" / "usr" / "bin" / "nvidia-container-cli"

DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
SMALL = DEFAULTS["lab_gpu_cards"][0]["uuid"]
LARGE = "GPU-00000000-0000-4000-8000-00000000000a"
MIG = ["MIG-00000000-0000-5000-8000-000000000001", "MIG-00000000-0000-5000-8000-000000000002"]
DIVIDED = {
    "uuid": LARGE,
    "name": "NVIDIA Simulated 80GB",
    "memory_total": 81920,
    "memory_reserved": 600,
    "memory_per_process": 2000,
    "compute_capability": "9.0",
    "mig": [{"profile": "1g.10gb", "uuid": uuid} for uuid in MIG],
}


class Host:
    """A host with the card that the lab has by default and a larger one that is divided by MIG."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dev = path / "dev"
        (self.dev / "nvidia-caps").mkdir(parents=True)
        # Another name of a character device, as the nodes on a lab host are.
        for node in ("nvidiactl", "nvidia0", "nvidia1", "nvidia-caps/nvidia-cap100", "nvidia-caps/nvidia-cap101"):
            (self.dev / node).symlink_to("/dev/full")
        self.state = {
            "driver_version": DEFAULTS["lab_gpu_driver_version"],
            "cuda_version": DEFAULTS["lab_gpu_cuda_version"],
            "working": True,
            "cards": [*DEFAULTS["lab_gpu_cards"], DIVIDED],
        }
        self.write()

    def write(self, **changes: object) -> None:
        """Write the state file, as a test on the lab edits it."""
        self.state.update(changes)
        (self.path / "state.json").write_text(json.dumps(self.state), encoding="utf-8")

    def run(self, program: Path, *arguments: str, status: int = 0, path: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program, which is to end with a status."""
        environment = {
            "PATH": f"{path}:{os.environ['PATH']}",
            "NVIDIA_SIMULATED_STATE": str(self.path / "state.json"),
            "NVIDIA_SIMULATED_DEV": str(self.dev),
        }
        done = subprocess.run(
            [sys.executable, str(program), *arguments],
            env=environment,
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def query(self, fields: str, *arguments: str) -> list[list[str]]:
        """Ask nvidia-smi for fields of the cards, without header and units."""
        answer = self.run(SMI, f"--query-gpu={fields}", "--format=csv,noheader,nounits", *arguments)
        return [line.split(", ") for line in answer.stdout.splitlines()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# nvidia-smi


def test_fields_have_a_header_and_units(host: Host) -> None:
    answer = host.run(SMI, "--query-gpu=index,uuid,name,memory.total,memory.free,compute_cap", "--format=csv")
    assert answer.stdout.splitlines() == [
        "index, uuid, name, memory.total [MiB], memory.free [MiB], compute_cap",
        f"0, {SMALL}, NVIDIA Simulated 24GB, 24576 MiB, 24276 MiB, 8.9",
        f"1, {LARGE}, NVIDIA Simulated 80GB, 81920 MiB, 81320 MiB, 9.0",
    ]


def test_fields_without_header_and_units(host: Host) -> None:
    assert host.query("driver_version, gpu_name,count,memory.used,mig.mode.current") == [
        ["580.95.05", "NVIDIA Simulated 24GB", "2", "300", "[N/A]"],
        ["580.95.05", "NVIDIA Simulated 80GB", "2", "600", "Enabled"],
    ]


@pytest.mark.parametrize("name", ["1", LARGE])
def test_one_card_is_asked_for_by_index_or_uuid(host: Host, name: str) -> None:
    assert host.query("index,memory.total", "-i", name) == [["1", "81920"]]
    assert host.query("index,memory.total", f"--id={name}") == [["1", "81920"]]


def test_a_card_that_there_is_not_is_not_found(host: Host) -> None:
    assert "No devices were found" in host.run(SMI, "-L", "-i", "0,7", status=6).stdout


def test_an_unknown_field_is_named(host: Host) -> None:
    answer = host.run(SMI, "--query-gpu=index,cuda_version", "--format=csv", status=2)
    assert answer.stdout == 'Field "cuda_version" is not a valid field to query.\n\n'


def test_options_that_are_not_known_are_refused(host: Host) -> None:
    assert "--query-nothing=x" in host.run(SMI, "--query-nothing=x", status=1).stdout
    assert "--format" in host.run(SMI, "--query-gpu=index", status=1).stdout


def test_the_list_has_cards_and_their_parts(host: Host) -> None:
    assert host.run(SMI, "-L").stdout.splitlines() == [
        f"GPU 0: NVIDIA Simulated 24GB (UUID: {SMALL})",
        f"GPU 1: NVIDIA Simulated 80GB (UUID: {LARGE})",
        f"  MIG 1g.10gb     Device  0: (UUID: {MIG[0]})",
        f"  MIG 1g.10gb     Device  1: (UUID: {MIG[1]})",
    ]


def test_the_table_says_that_it_is_simulated_and_keeps_its_width(host: Host) -> None:
    node = host.dev / "nvidia0"
    node.unlink()
    node.touch()
    with node.open():
        text = host.run(SMI).stdout
    assert "SIMULATED" in text
    assert "Driver Version: 580.95.05 " in text and "CUDA Version: 13.0 " in text
    assert "1800MiB / 24576MiB" in text and "600MiB / 81920MiB" in text
    assert str(os.getpid()) in text
    assert {len(line) for line in text.splitlines()[1:] if line} == {91}


def test_a_driver_that_does_not_work_is_reported(host: Host) -> None:
    host.write(working=False)
    for arguments in ([], ["-L"], ["--query-gpu=index", "--format=csv"]):
        answer = host.run(SMI, *arguments, status=9).stdout
        assert answer.startswith("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cards": [{}]}'])
def test_a_state_that_cannot_be_read_is_a_driver_that_does_not_work(host: Host, text: str) -> None:
    (host.path / "state.json").write_text(text, encoding="utf-8")
    answer = host.run(SMI, "-L", status=9)
    assert "state.json" in answer.stderr and "has failed" in answer.stdout


def test_memory_is_used_by_processes_that_hold_the_node_open(host: Host) -> None:
    node = host.dev / "nvidia0"
    node.unlink()
    node.touch()
    # The node is held twice by one of the processes, which counts once.
    program = "import sys; held = [open(sys.argv[1]), open(sys.argv[1])]; print('holds', flush=True); sys.stdin.read()"
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(node)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for holder in holders:
            assert holder.stdout and holder.stdout.readline() == "holds\n"
        assert host.query("memory.used,memory.free") == [["3300", "21276"], ["600", "81320"]]
        answer = host.run(SMI, "--query-compute-apps=pid,used_memory,gpu_uuid", "--format=csv")
        assert answer.stdout.splitlines() == [
            "pid, used_gpu_memory [MiB], gpu_uuid",
            *(f"{pid}, 1500 MiB, {SMALL}" for pid in sorted(holder.pid for holder in holders)),
        ]
    finally:
        for holder in holders:
            holder.communicate()
    assert host.query("memory.used") == [["300"], ["600"]]


def test_more_than_a_card_has_cannot_be_used(host: Host) -> None:
    host.write(cards=[{**host.state["cards"][0], "memory_reserved": 30000}])
    assert host.query("memory.used,memory.free") == [["24576", "0"]]


def test_a_container_sees_the_cards_whose_nodes_it_has(host: Host) -> None:
    (host.dev / "nvidia0").unlink()
    (host.dev / "nvidia-caps/nvidia-cap100").unlink()
    assert host.run(SMI, "-L").stdout.splitlines() == [
        f"GPU 0: NVIDIA Simulated 80GB (UUID: {LARGE})",
        f"  MIG 1g.10gb     Device  0: (UUID: {MIG[1]})",
    ]


def test_without_nodes_there_is_no_card(host: Host) -> None:
    for node in ("nvidia0", "nvidia1"):
        (host.dev / node).unlink()
    assert host.run(SMI, "--query-gpu=index", "--format=csv", status=6).stdout == "No devices were found\n"


# Device nodes


def test_missing_nodes_are_told(host: Host) -> None:
    answer = host.run(NODES, "--check", status=1)
    # Links are no device nodes.
    assert "nvidia0 is not as" in answer.stderr and "nvidia-cap101" in answer.stderr


def test_nodes_follow_the_state(host: Host) -> None:
    shutil.rmtree(host.dev)
    host.dev.mkdir()
    try:
        os.mknod(host.dev / "trial", 0o20666, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("device nodes may not be made here")
    host.run(NODES)
    assert host.run(NODES, "--check").stderr == ""
    assert (host.dev / "nvidia1").stat().st_rdev == os.makedev(1, 7)
    assert (host.dev / "nvidia1").stat().st_mode == 0o20666
    host.write(cards=host.state["cards"][:1])
    host.run(NODES, "--check", status=1)
    host.run(NODES)
    found = sorted(str(path.relative_to(host.dev)) for path in host.dev.rglob("*") if not path.is_dir())
    assert found == ["nvidia0", "nvidiactl", "trial"]


# nvidia-ctk and nvidia-container-cli


def nodes_of(specification: dict[str, t.Any]) -> dict[str, list[str]]:
    return {
        device["name"]: [node["path"].removeprefix("/dev/") for node in device["containerEdits"]["deviceNodes"]]
        for device in specification["devices"]
    }


def test_a_specification_has_every_card_by_every_name(host: Host) -> None:
    text = host.run(CTK, "cdi", "generate").stdout
    specification = yaml.safe_load(text)
    assert (specification["cdiVersion"], specification["kind"]) == ("0.5.0", "nvidia.com/gpu")
    caps = ["nvidia-caps/nvidia-cap100", "nvidia-caps/nvidia-cap101"]
    assert nodes_of(specification) == {
        "0": ["nvidia0"],
        SMALL: ["nvidia0"],
        "1": ["nvidia1", *caps],
        LARGE: ["nvidia1", *caps],
        "1:0": ["nvidia1", caps[0]],
        MIG[0]: ["nvidia1", caps[0]],
        "1:1": ["nvidia1", caps[1]],
        MIG[1]: ["nvidia1", caps[1]],
        "all": ["nvidia0", "nvidia1", *caps],
    }
    edits = specification["containerEdits"]
    assert edits["deviceNodes"] == [{"path": "/dev/nvidiactl", "hostPath": str(host.dev / "nvidiactl")}]
    assert [(mount["hostPath"], mount["containerPath"]) for mount in edits["mounts"]] == [
        ("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
        (str(host.path / "state.json"), "/etc/nvidia-simulated/state.json"),
    ]
    assert all("ro" in mount["options"] for mount in edits["mounts"])
    assert edits["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert "simulated" in text.lower()


@pytest.mark.parametrize("words", [["--output={}"], ["--output", "{}"]])
def test_a_specification_is_written_whole_and_listed(host: Host, words: list[str]) -> None:
    target = host.path / "cdi" / "nvidia.yaml"
    answer = host.run(CTK, "cdi", "generate", *(word.format(target) for word in words))
    assert answer.stdout == ""
    assert target.read_text(encoding="utf-8") == host.run(CTK, "cdi", "generate").stdout
    assert target.stat().st_mode & 0o777 == 0o644
    assert os.listdir(target.parent) == ["nvidia.yaml"]
    listed = host.run(CTK, "cdi", "list", "--spec-dir", str(target.parent), "--spec-dir", str(host.path / "none"))
    assert listed.stdout.splitlines() == sorted(
        f"nvidia.com/gpu={name}" for name in ("0", "1", "1:0", "1:1", "all", SMALL, LARGE, *MIG)
    )


def test_a_specification_that_cannot_be_made_leaves_the_earlier_one(host: Host) -> None:
    target = host.path / "nvidia.yaml"
    target.write_text("earlier", encoding="utf-8")
    host.write(working=False)
    answer = host.run(CTK, "cdi", "generate", f"--output={target}", status=1)
    assert "Driver Not Loaded" in answer.stderr and target.read_text(encoding="utf-8") == "earlier"
    host.write(working=True, cards=[])
    assert "no NVIDIA device found" in host.run(CTK, "cdi", "generate", status=1).stderr


@pytest.mark.parametrize("words", [[], ["runtime"], ["cdi"], ["cdi", "transform"], ["cdi", "generate", "--mode=auto"]])
def test_commands_that_are_not_simulated_are_refused(host: Host, words: list[str]) -> None:
    assert "nvidia-ctk" in host.run(CTK, *words, status=2).stderr


def test_the_cli_names_driver_and_cards(host: Host) -> None:
    text = host.run(CLI, "info").stdout
    assert "NVRM version:   580.95.05" in text and text.count("Device Index:") == 2 and LARGE in text
    host.write(working=False)
    assert "driver not loaded" in host.run(CLI, "info", status=1).stderr


# nvidia-container-runtime


@pytest.fixture
def runtime(host: Host) -> t.Callable[..., t.Any]:
    """Have a bundle created by the runtime, with a runc that only notes what it was called with; answer both."""
    bundle = host.path / "bundle"
    bundle.mkdir()
    tools = host.path / "tools"
    tools.mkdir()
    runc = tools / "runc"
    runc.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{host.path}/called"\nexit 3\n', encoding="utf-8")
    runc.chmod(0o755)

    def create(*environment: str, verb: str = "create", status: int = 3, **config: object) -> tuple[dict[str, t.Any], list[str]]:
        before = {
            "ociVersion": "1.2.0",
            "process": {"env": ["PATH=/usr/bin", *environment]},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"resources": {"devices": [{"allow": False, "access": "rwm"}]}},
            **config,
        }
        (bundle / "config.json").write_text(json.dumps(before), encoding="utf-8")
        called = host.path / "called"
        called.unlink(missing_ok=True)
        log = host.path / "log.json"
        words = ["--root", "/run/x", "--log", str(log), verb, "--bundle", str(bundle), "name"]
        host.run(RUNTIME, *words, status=status, path=str(tools))
        after = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
        if status == 3:
            assert called.read_text(encoding="utf-8").splitlines() == words
            return after, [device["path"] for device in after["linux"].get("devices", [])]
        assert not called.exists() and after == before
        return after, [json.loads(log.read_text(encoding="utf-8"))["msg"]]

    return create


@pytest.mark.parametrize(
    ("asked", "nodes"),
    [
        ("all", ["nvidia0", "nvidia1", "nvidia-caps/nvidia-cap100", "nvidia-caps/nvidia-cap101"]),
        ("0", ["nvidia0"]),
        (f"0, {MIG[1]}", ["nvidia0", "nvidia1", "nvidia-caps/nvidia-cap101"]),
        ("1:0,1:1", ["nvidia1", "nvidia-caps/nvidia-cap100", "nvidia-caps/nvidia-cap101"]),
        (f"nvidia.com/gpu={SMALL}", ["nvidia0"]),
    ],
)
def test_a_container_gets_the_cards_that_it_asks_for(runtime: t.Callable[..., t.Any], asked: str, nodes: list[str]) -> None:
    config, paths = runtime("NVIDIA_VISIBLE_DEVICES=void", f"NVIDIA_VISIBLE_DEVICES={asked}")
    assert paths == [f"/dev/{node}" for node in ("nvidiactl", *nodes)]
    devices = config["linux"]["devices"]
    assert {(device["type"], device["major"], device["minor"]) for device in devices} == {("c", 1, 7)}
    rules = config["linux"]["resources"]["devices"]
    assert rules == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
    ]
    assert [mount["destination"] for mount in config["mounts"]] == [
        "/proc",
        "/usr/bin/nvidia-smi",
        "/etc/nvidia-simulated/state.json",
    ]


@pytest.mark.parametrize("asked", [[], ["void"], ["none"], [""]])
def test_a_container_that_asks_for_nothing_gets_nothing(runtime: t.Callable[..., t.Any], asked: list[str]) -> None:
    config, paths = runtime(*(f"NVIDIA_VISIBLE_DEVICES={name}" for name in asked))
    assert paths == [] and len(config["mounts"]) == 1


def test_only_what_is_created_is_edited(runtime: t.Callable[..., t.Any]) -> None:
    assert runtime("NVIDIA_VISIBLE_DEVICES=all", verb="start")[1] == []


def test_what_a_container_has_already_is_not_added_again(runtime: t.Callable[..., t.Any]) -> None:
    device = {"path": "/dev/nvidia0", "type": "c", "major": 1, "minor": 7}
    config, paths = runtime("NVIDIA_VISIBLE_DEVICES=0", linux={"devices": [device], "resources": {"devices": None}})
    assert paths == ["/dev/nvidia0", "/dev/nvidiactl"] and config["linux"]["devices"][0] == device


def test_an_unknown_card_is_refused_where_the_engine_reads_it(runtime: t.Callable[..., t.Any]) -> None:
    assert "unknown device: 7" in runtime("NVIDIA_VISIBLE_DEVICES=0,7", status=1)[1][0]


def test_a_card_without_node_is_refused_with_the_way_out(host: Host, runtime: t.Callable[..., t.Any]) -> None:
    (host.dev / "nvidia1").unlink()
    assert "nvidia-simulated.service" in runtime("NVIDIA_VISIBLE_DEVICES=all", status=1)[1][0]


# Packages


def fields(package: Path) -> dict[str, str]:
    text = subprocess.run(["dpkg-deb", "--field", package], capture_output=True, text=True, check=True).stdout
    return dict(line.split(": ", 1) for line in text.replace(",\n ", ", ").splitlines() if not line.startswith(" "))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages in every version, built as on the build host."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("there is no dpkg-deb here")
    target = tmp_path_factory.mktemp("packages")
    subprocess.run([REPOSITORY / "build-packages", target, *DEFAULTS["lab_gpu_versions"]], check=True)
    return target


def test_every_package_is_there_in_every_version_and_says_what_it_is(packages: Path) -> None:
    wanted = {
        (name, version)
        for name in (
            "libnvidia-container-tools",
            "libnvidia-container1",
            "nvidia-container-toolkit",
            "nvidia-container-toolkit-base",
        )
        for version in DEFAULTS["lab_gpu_versions"]
    }
    found = [fields(path) for path in packages.glob("*.deb")]
    assert {(package["Package"], package["Version"]) for package in found} == wanted and len(found) == len(wanted)
    for package in found:
        assert package["Architecture"] == "amd64" and package["Description"].startswith("Simulated stand-in ")


def test_packages_need_each_other_as_those_of_nvidia_do(packages: Path) -> None:
    needed = {path.name.split("_")[0]: fields(path).get("Depends", "") for path in packages.glob("*_1.17.8-1_*")}
    assert "nvidia-container-toolkit-base (= 1.17.8-1)" in needed["nvidia-container-toolkit"]
    assert "libnvidia-container-tools (>= 1.17.8-1)" in needed["nvidia-container-toolkit"]
    assert "libnvidia-container1 (>= 1.17.8-1)" in needed["libnvidia-container-tools"]
    assert "nvidia" not in needed["nvidia-container-toolkit-base"] + needed["libnvidia-container1"]


@pytest.mark.parametrize("version", DEFAULTS["lab_gpu_versions"])
def test_installed_programs_run_and_know_their_version(host: Host, packages: Path, version: str) -> None:
    root = host.path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    for package in packages.glob(f"*_{version}_amd64.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
        subprocess.run(["dpkg-deb", "--control", package, root / "DEBIAN" / package.name], check=True)
    assert host.run(root / "usr/bin/nvidia-ctk", "--version").stdout == (
        f"NVIDIA Container Toolkit CLI version {version.removesuffix('-1')} (simulated)\n"
    )
    assert len(yaml.safe_load(host.run(root / "usr/bin/nvidia-ctk", "cdi", "generate").stdout)["devices"]) == 9
    hook = subprocess.run([root / "usr/bin/nvidia-container-runtime-hook"], capture_output=True, text=True, check=False)
    assert hook.returncode == 1 and "simulated" in hook.stderr
    assert all(os.access(program, os.X_OK) for program in (root / "usr/bin").iterdir())
    texts = {path: path.read_text(encoding="utf-8") for path in root.rglob("*") if path.is_file()}
    assert not [path for path, text in texts.items() if "@VERSION@" in text or "@UPSTREAM@" in text]
    units = {path.name for path in root.rglob("nvidia-cdi-refresh.*")}
    scripts = {path.name for path in root.rglob("DEBIAN/*/p*")}
    if version.startswith("1.17."):
        assert (units, scripts) == (set(), set())
    else:
        assert units == {"nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path"}
        assert scripts == {"postinst", "prerm", "postrm"}


def test_the_same_files_give_the_same_packages(packages: Path, tmp_path: Path) -> None:
    subprocess.run([REPOSITORY / "build-packages", tmp_path, "1.20.0-1"], check=True)
    built = sorted(tmp_path.glob("*.deb"))
    assert len(built) == 4
    for package in built:
        assert package.read_bytes() == (packages / package.name).read_bytes()


# The lab


def test_the_lab_s_inventory_names_the_port_of_the_repository() -> None:
    path = ROLE.parents[1] / "inventories" / "lab" / "group_vars" / "truthgraph" / "vars.yml"
    url = yaml.safe_load(path.read_text(encoding="utf-8"))["nvidia_container_toolkit_repository_url"]
    assert url.endswith(f":{DEFAULTS['lab_gpu_repository_port']}")
