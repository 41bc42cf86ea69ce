"""The module nvidia_smi_info: what it reads from the driver's answers, and what it makes of a driver that has none."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils.nvidia_smi import (
    FIELDS,
    parse_cuda_version,
    parse_list,
    parse_query,
)

MODULE = "ansible_collections.truthgraph.platform.plugins.modules.nvidia_smi_info"

PLAIN = "0, GPU-11, NVIDIA L4, 580.95.05, 23034, 12, 23022, 8.9, [N/A]\n"
DIVIDED = "1, GPU-22, NVIDIA A100-SXM4-40GB, 580.95.05, 40960, 87, 40873, 8.0, Enabled\n"
UNIFIED = "0, GPU-33, NVIDIA GB10, 580.95.05, [N/A], [Not Supported], [N/A], 12.1, [N/A]\n"
LIST = """\
GPU 0: NVIDIA L4 (UUID: GPU-11)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-22)
  MIG 3g.20gb     Device  0: (UUID: MIG-aa)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-bb)
  MIG 1g.5gb+me   Device 12: (UUID: MIG-GPU-22/1/0)
"""
HEAD = "| NVIDIA-SMI 580.95.05              Driver Version: 580.95.05      CUDA Version: 13.0     |\n"


class Driver:
    """A program in place of nvidia-smi, with an answer to each of the three questions."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "nvidia-smi"
        self.asked = directory / "asked"

    def answer(self, query: str, code: int = 0, listed: str = LIST, head: str = HEAD, error: str = "") -> None:
        self.program.write_text(
            f"#!{sys.executable}\n"
            "import sys\n"
            f"open({str(self.asked)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            "if sys.argv[1:] == ['-L']:\n"
            f"    sys.exit(print({listed!r}, end=''))\n"
            "if not sys.argv[1:]:\n"
            f"    sys.exit(print({head!r}, end=''))\n"
            f"print({query!r}, end='')\n"
            f"print({error!r}, end='', file=sys.stderr)\n"
            f"sys.exit({code})\n",
            encoding="utf-8",
        )
        self.program.chmod(0o755)

    def ask(self, **options: t.Any) -> dict[str, t.Any]:
        process = subprocess.run(
            [sys.executable, "-m", MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": {"program": str(self.program), **options}}),
            capture_output=True,
            text=True,
            check=True,
        )
        told: dict[str, t.Any] = json.loads(process.stdout)
        return told


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def test_a_card() -> None:
    cards, version = parse_query(PLAIN)
    assert version == "580.95.05"
    assert cards == [
        {
            "index": 0,
            "uuid": "GPU-11",
            "name": "NVIDIA L4",
            "memory_total": 23034,
            "memory_used": 12,
            "memory_free": 23022,
            "compute_capability": "8.9",
            "mig": False,
            "mig_devices": [],
        }
    ]


def test_fields_that_the_driver_does_not_say() -> None:
    (card,), _version = parse_query(UNIFIED)
    assert card["memory_total"] is card["memory_used"] is card["memory_free"] is None
    assert card["mig"] is False and card["compute_capability"] == "12.1"


@pytest.mark.parametrize("text", ["", "\n", "No devices were found\n", "a, b, c, d, e, f, g, h, i\n", "0, GPU-11\n"])
def test_what_is_no_card(text: str) -> None:
    assert parse_query(text) == ([], "")


def test_a_warning_beside_a_card() -> None:
    assert len(parse_query("WARNING: infoROM is corrupted at gpu 0000:01:00.0\n" + PLAIN)[0]) == 1


def test_mig_devices_belong_to_their_card() -> None:
    assert parse_list(LIST) == {
        "GPU-11": [],
        "GPU-22": [
            {"uuid": "MIG-aa", "profile": "3g.20gb"},
            {"uuid": "MIG-bb", "profile": "1c.3g.20gb"},
            {"uuid": "MIG-GPU-22/1/0", "profile": "1g.5gb+me"},
        ],
    }


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (HEAD, "13.0"),
        ("| Driver Version: 535.288.01   CUDA Version: 12.2     |", "12.2"),
        ("| KMD Version: 595.10   CUDA UMD Version: 13.2     |", "13.2"),
        ("| Driver Version: 535.288.01   CUDA Version: N/A      |", ""),
        ("", ""),
    ],
)
def test_cuda_version(text: str, version: str) -> None:
    assert parse_cuda_version(text) == version


def test_a_driver_that_works(driver: Driver) -> None:
    driver.answer(PLAIN + DIVIDED)
    result = driver.ask()
    assert result["found"] and result["working"] and result["problem"] == "" and not result["changed"]
    assert result["driver_version"] == "580.95.05" and result["cuda_version"] == "13.0" and not result["simulated"]
    assert [card["mig"] for card in result["cards"]] == [False, True]
    assert [len(card["mig_devices"]) for card in result["cards"]] == [0, 3]
    assert driver.asked.read_text(encoding="utf-8").splitlines() == [
        f"--query-gpu={','.join(FIELDS)} --format=csv,noheader,nounits",
        "-L",
        "",
    ]


def test_only_divided_cards_are_listed(driver: Driver) -> None:
    driver.answer(PLAIN)
    assert driver.ask()["working"]
    assert "-L" not in driver.asked.read_text(encoding="utf-8")


def test_a_simulated_card(driver: Driver) -> None:
    driver.answer(PLAIN.replace("NVIDIA L4", "NVIDIA L4 (Simulated)"))
    assert driver.ask()["simulated"]


def test_no_program(driver: Driver) -> None:
    result = driver.ask()
    assert not result["found"] and not result["working"] and result["problem"] and result["cards"] == []


@pytest.mark.parametrize(
    ("query", "error", "code", "problem"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\n", "", 18, "Driver/library version mismatch"),
        ("No devices were found\n", "", 6, "No devices were found"),
        ("No devices were found\n", "", 0, "No devices were found"),
        ("", "cannot open shared object file\n", 127, "cannot open shared object file"),
        ("", "", 9, "ended with status 9"),
        # One of two cards has fallen off the bus.
        (PLAIN, "Unable to determine the device handle for GPU1: Unknown Error\n", 15, "Unable to determine"),
    ],
)
def test_a_driver_that_does_not_work(driver: Driver, query: str, error: str, code: int, problem: str) -> None:
    driver.answer(query, code, error=error)
    result = driver.ask()
    assert result["found"] and not result["working"] and result["cards"] == []
    assert problem in result["problem"] and "\n" not in result["problem"]


def test_a_driver_that_hangs(driver: Driver) -> None:
    driver.program.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    driver.program.chmod(0o755)
    result = driver.ask(timeout=1)
    assert result["found"] and not result["working"] and "did not answer within 1 seconds" in result["problem"]


def test_a_program_that_cannot_be_run(driver: Driver) -> None:
    driver.program.write_text("#!/nonexistent/interpreter\n", encoding="utf-8")
    driver.program.chmod(0o755)
    result = driver.ask()
    assert result["found"] and not result["working"] and "could not be run" in result["problem"]


def test_check_mode_answers_the_same(driver: Driver) -> None:
    driver.answer(PLAIN)
    first, second = driver.ask(), driver.ask(_ansible_check_mode=True)
    assert {**first, "invocation": None} == {**second, "invocation": None}
