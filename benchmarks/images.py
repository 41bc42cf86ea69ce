#!/usr/bin/env python3
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How large the images are, how long they take to build, and what a change of the source moves, on the deployed lab.

    make bench-images
    .venv/bin/python benchmarks/images.py --cuda

It builds every image of the reference application three times, as a deploy does: with an empty build cache (packages that were
downloaded before stay), after a change of one source file, and with nothing new. It writes docs/images.md and docs/images.svg.
The CUDA variant takes several GB and many minutes, so it is built only if asked for; else what the documents say of it stays.

The registry keeps what was built until a deploy that builds something prunes it. Nobody else may work on the lab meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t

import yaml

from ansible_collections.truthgraph.platform.benchmarks.document import say, write
from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, Fleet, tool, toolchain_environment
from ansible_collections.truthgraph.platform.molecule.shared.rollout import Run
from ansible_collections.truthgraph.platform.plugins.filter.size_chart import size_chart

DOCUMENT, PICTURE, FIGURES = (CHECKOUT / "docs" / name for name in ("images.md", "images.svg", "images.json"))
# The images: what builds each, and the source file of which it has a part.
MONOLITH = {"fleet_topology": "monolith"}
VARIANTS: dict[str, tuple[str, dict[str, str], str]] = {
    "core": ("core", {}, "main.py"),
    "ml": ("ml", {}, "ml/service.py"),
    "ml-onnx": ("ml", {"image_build_ml_runtime": "onnx"}, "ml/service.py"),
    "api": ("api", MONOLITH, "main.py"),
    "ml-cuda": ("ml", {"image_build_torch": "cuda"}, "ml/service.py"),
}
GROUPS = ("base", "python", "torch", "cuda", "weights", "app")
BUILD_TASK = "truthgraph.platform.image_build : Build and push the images"
TIMEOUT = 3600


def build(tree: pathlib.Path, target: str, variables: dict[str, str]) -> tuple[dict[str, t.Any], float, float]:
    """Build one image of a tree as a deploy does. Returns what was answered, and the seconds of build and push and of all."""
    with tempfile.NamedTemporaryFile(mode="r", encoding="utf-8", suffix=".json") as answer:
        wanted = {"image_build_source": str(tree), "image_build_targets": [target], "answer": answer.name, **variables}
        command = [tool("ansible-playbook"), "-i", str(LAB), "tests/integration/build.yml", "-e", json.dumps(wanted)]
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=toolchain_environment(ANSIBLE_STDOUT_CALLBACK="ansible.posix.jsonl"),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        run = Run(done.returncode, done.stdout, time.monotonic() - began)
        if run.code != 0:
            sys.exit(f"The image {target} was not built: {run}")
        return json.loads(pathlib.Path(answer.name).read_text(encoding="utf-8"))[target], building(run), run.seconds


def building(run: Run) -> float:
    """Return the seconds that the builder took, its push included; 0 if it had nothing to do."""
    times = [
        datetime.datetime.fromisoformat(event["_timestamp"])
        for event in run.events
        if event["_event"] in ("v2_playbook_on_task_start", "v2_runner_on_ok") and event["task"]["name"] == BUILD_TASK
    ]
    return (times[-1] - times[0]).total_seconds() if len(times) > 1 else 0.0


class Measurement:
    """The lab's build host, and what was measured there."""

    def __init__(self) -> None:
        # The connections go with it.
        self.fleet = Fleet(LAB)
        self.host = self.fleet.of_group("truthgraph_build")[0].host

    def layers(self, reference: str) -> dict[str, int]:
        """Return the layers of an image in the registry, compressed bytes by digest."""
        manifest = json.loads(self.host.check_output("docker manifest inspect %s", reference))
        return {layer["digest"]: layer["size"] for layer in manifest["layers"]}

    def variant(self, tree: pathlib.Path, name: str) -> dict[str, t.Any]:
        """Build one image three times."""
        target, variables, file = VARIANTS[name]
        source = tree / "truthgraph" / file
        text = source.read_text(encoding="utf-8")
        say(f"{name}: with an empty build cache ...")
        self.host.check_output("docker builder prune --all --force --filter type=regular")
        source.write_text(f"{text}\n# {time.time()}\n", encoding="utf-8")
        first, cold, _all = build(tree, target, variables)
        say(f"{name}: {cold:.0f} s; after a change of {file} ...")
        source.write_text(f"{text}\n# {time.time()}, changed\n", encoding="utf-8")
        second, warm, _all = build(tree, target, variables)
        _again, nothing, checked = build(tree, target, variables)
        assert nothing == 0, "what is there was built again"
        source.write_text(text, encoding="utf-8")
        known = self.layers(first["reference"])
        moved = {digest: size for digest, size in self.layers(second["reference"]).items() if digest not in known}
        kept = ("unpacked_bytes", "compressed_bytes", "groups")
        times = {"cold": cold, "warm": warm, "checked": checked}
        return {**{key: second[key] for key in kept}, **times, "moved": sum(moved.values()), "moved_layers": len(moved)}


def report(figures: dict[str, t.Any]) -> str:
    """Return the table that goes between the markers."""
    defaults = yaml.safe_load((CHECKOUT / "roles/image_build/defaults/main.yml").read_text(encoding="utf-8"))
    budgets = defaults["image_build_budgets"]
    lines = [
        f"| image | unpacked, MB | budget, MB | compressed, MB | {' | '.join(GROUPS)} | cold, s | source only, s | moved, KB | "
        "nothing new, s | measured |",
        "|" + " --- |" * (9 + len(GROUPS)),
    ]
    for name, one in figures.items():
        groups = " | ".join(f"{one['groups'].get(group, 0) / 1e6:.1f}" for group in GROUPS)
        lines.append(
            f"| {name} | {one['unpacked_bytes'] / 1e6:.0f} | {budgets[name]['unpacked'] / 1e6:.0f} | "
            f"{one['compressed_bytes'] / 1e6:.0f} | {groups} | {one['cold']:.0f} | {one['warm']:.1f} | "
            f"{one['moved'] / 1e3:.1f} | {one['checked']:.1f} | {one['date']}, {one['commit']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="build the CUDA variant too")
    parser.add_argument("--only", default="", help="names of images, with commas between them")
    wanted = parser.parse_args()
    names = wanted.only.split(",") if wanted.only else [name for name in VARIANTS if wanted.cuda or name != "ml-cuda"]
    unknown = sorted(set(names) - set(VARIANTS))
    if unknown:
        sys.exit(f"There is no image {', '.join(unknown)}. There are: {', '.join(VARIANTS)}.")
    git = ["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    measurement = Measurement()
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory) / "app"
        shutil.copytree(CHECKOUT / "files" / "app", tree, ignore=shutil.ignore_patterns("__pycache__"))
        for name in names:
            found = measurement.variant(tree, name)
            figures[name] = {**found, "date": f"{datetime.datetime.now().astimezone():%Y-%m-%d}", "commit": commit}
            say(f"{name}: {found['warm']:.1f} s, {found['moved'] / 1e3:.1f} KB moved")
    figures = {name: figures[name] for name in VARIANTS if name in figures}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    release = yaml.safe_load((CHECKOUT / "roles/release/defaults/main.yml").read_text(encoding="utf-8"))
    title = "The reference application's images beside the seed's: unpacked sizes, and compressed below"
    PICTURE.write_text(size_chart(figures, release["release_earlier_sizes"], title), encoding="utf-8")
    write(DOCUMENT, "images", report(figures))


if __name__ == "__main__":
    main()
