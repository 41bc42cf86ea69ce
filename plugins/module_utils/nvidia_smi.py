# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's NVIDIA driver says of itself and of its cards, by its program nvidia-smi. Memory is in MiB."""

from __future__ import annotations

import os
import re
import subprocess
import typing as t

PROGRAM = "nvidia-smi"
# Seconds for one answer.
TIMEOUT = 60
FIELDS = (
    "index",
    "uuid",
    "name",
    "driver_version",
    "memory.total",
    "memory.used",
    "memory.free",
    "compute_cap",
    "mig.mode.current",
)
QUERY = [f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]


def known(text: str) -> str:
    """Text of a field; empty where the driver does not say, as in [N/A] or [Not Supported]."""
    return "" if text.startswith("[") or text == "N/A" else text


def mebibytes(text: str) -> int | None:
    """Number of a field; none where the driver does not say."""
    return int(text) if re.fullmatch(r"\d+", text) else None


def parse_query(text: str) -> tuple[list[dict[str, t.Any]], str]:
    """The cards and the driver's version, from the answer to the query; what is no line of it is left out."""
    cards, driver = [], ""
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(FIELDS) or not fields[0].isdigit():
            continue
        row = dict(zip(FIELDS, fields, strict=True))
        driver = known(row["driver_version"])
        cards.append(
            {
                "index": int(row["index"]),
                "uuid": row["uuid"],
                "name": known(row["name"]),
                "memory_total": mebibytes(row["memory.total"]),
                "memory_used": mebibytes(row["memory.used"]),
                "memory_free": mebibytes(row["memory.free"]),
                "compute_capability": known(row["compute_cap"]),
                "mig": row["mig.mode.current"] == "Enabled",
                "mig_devices": [],
            }
        )
    return cards, driver


def parse_list(text: str) -> dict[str, list[dict[str, str]]]:
    """MIG devices by the UUID of their card, from the answer to -L."""
    devices: dict[str, list[dict[str, str]]] = {}
    card = None
    for line in text.splitlines():
        found = re.match(r"GPU \d+: .*\(UUID: (\S+)\)", line)
        if found:
            card = found[1]
            devices[card] = []
            continue
        found = re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)", line)
        if found and card:
            devices[card].append({"uuid": found[2], "profile": found[1]})
    return devices


def parse_cuda_version(text: str) -> str:
    """The newest CUDA that the driver can run, from the table's head."""
    found = re.search(r"CUDA(?: UMD)? Version:\s*(\d+\.\d+)", text)
    return found[1] if found else ""


def ask(program: str, arguments: list[str], timeout: float) -> tuple[int, str, str]:
    """Exit status and output of the program; standard output first, since that is where its errors are."""
    try:
        process = subprocess.run(
            [program, *arguments],
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"It did not answer within {timeout} seconds."
    except OSError as error:
        return 126, "", f"It could not be run: {error}."
    return process.returncode, process.stdout, process.stderr


def inspect(program: str | None, timeout: float) -> dict[str, t.Any]:
    """Everything that the program says."""
    result = {
        "found": program is not None,
        "working": False,
        "problem": "",
        "driver_version": "",
        "cuda_version": "",
        "cards": [],
        "simulated": False,
    }
    if program is None:
        return {**result, "problem": "There is no nvidia-smi."}
    code, out, err = ask(program, QUERY, timeout)
    cards, driver = parse_query(out)
    if code != 0 or not cards:
        said = " ".join((out + "\n" + err).split())
        return {**result, "problem": said or f"It ended with status {code} and said nothing."}
    if any(card["mig"] for card in cards):
        devices = parse_list(ask(program, ["-L"], timeout)[1])
        for card in cards:
            card["mig_devices"] = devices.get(card["uuid"], [])
    return {
        **result,
        "working": True,
        "driver_version": driver,
        "cuda_version": parse_cuda_version(ask(program, [], timeout)[1]),
        "cards": cards,
        "simulated": any("Simulated" in card["name"] for card in cards),
    }


def processes(program: str, card: str, timeout: float = TIMEOUT) -> list[tuple[int, int]]:
    """The processes that compute on a card: the number of each, and how much of the card's memory it takes."""
    arguments = ["-i", card, "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    code, out, _err = ask(program, arguments, timeout)
    rows = [[field.strip() for field in line.split(",")] for line in out.splitlines()] if code == 0 else []
    return [(int(row[0]), mebibytes(row[1]) or 0) for row in rows if len(row) == 2 and row[0].isdigit()]
