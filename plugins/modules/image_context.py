#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage what an image copies, and give it a name made from its contents."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_context
short_description: Stage the build context of an image and compute its key
version_added: 0.1.0
description:
  - Collects on the control node what one image copies from an application tree (a fixed list of paths, without tests,
    bytecode and version control), the requirement files that it installs, the Dockerfile and the files beside it, and
    writes them to a tar archive. Order, times, owners and modes are normalised, so equal contents give equal bytes.
  - The key is a hash over all of that, the build arguments (among them the base image by digest) and the wheels of
    torch that would be installed from find-links directories. Everything else that is installed is fixed by the
    hashes in the requirement files. So the same key means the same image, and C(git clone) or C(touch) do not change
    it.
options:
  source:
    description: Directory of the application tree.
    type: path
    required: true
  image:
    description: The image.
    type: str
    choices: [core, ml, ml-onnx, api]
    required: true
  dockerfiles:
    description: Directory with C(truthgraph.Dockerfile) and the files that it copies.
    type: path
    required: true
  base:
    description: >-
      The base image by digest. While it is empty the key is not known, as it will be once the base image exists;
      everything else is answered.
    type: str
    default: ""
  build_args:
    description: Whatever else decides what the image becomes, such as the version of the installer.
    type: dict
    default: {}
  pythons:
    description: >-
      Python versions that there are base images for, the preferred one first. The first one that the torch wheel in
      O(find_links) fits is answered as RV(python).
    type: list
    elements: str
    required: true
  torch:
    description: Variant of torch.
    type: str
    default: cpu
  torch_index:
    description: Whether there is an index that offers this variant of torch.
    type: bool
    default: false
  find_links:
    description: Directories with wheels. Those whose package the requirement files name are answered as RV(wheels).
    type: list
    elements: path
    default: []
  machine:
    description: Machine name of the build host, as in C(uname -m).
    type: str
    default: x86_64
  resolved:
    description: Directory with the lock that M(truthgraph.platform.source_lock) has answered for a tree without one.
    type: path
    default: ""
  dev:
    description: >-
      Whether the image has what development needs: the group or extra C(dev) of a lock, C(requirements/dev.txt), and test
      tools.
    type: bool
    default: false
  dest:
    description: Where to put the archive. Empty to only compute the key.
    type: path
    default: ""
attributes:
  check_mode:
    support: full
    description: The key is computed, the archive is not written.
  diff_mode:
    support: none
    description: An archive has no readable difference.
  idempotent:
    support: full
    description: The archive is rewritten only if its contents differ.
requirements:
  - python >= 3.11
  - packaging
  - uv, for a tree with C(uv.lock)
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Stage the core image
  truthgraph.platform.image_context:
    source: /srv/truthgraph
    image: core
    dockerfiles: files/dockerfiles
    base: registry.example:5000/truthgraph/base/python@sha256:0123456789abcdef…
    pythons: ["3.13"]
    dest: /tmp/core.tar
  delegate_to: localhost
"""

RETURN = r"""
key:
  description: >-
    Hash over everything that decides what the image becomes, 24 hexadecimal digits; empty without a base image.
  returned: always
  type: str
content:
  description: Hash over the staged files alone, 24 hexadecimal digits.
  returned: always
  type: str
python:
  description: The Python version that the image should have.
  returned: always
  type: str
tar:
  description: Path of the archive.
  returned: always
  type: str
bytes:
  description: Size of the archive.
  returned: always
  type: int
files:
  description: What the image copies from the tree.
  returned: always
  type: list
  elements: str
wheels:
  description: Wheels from the find-links directories that the build should get.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: Path on the control node.
      type: str
    name:
      description: File name.
      type: str
"""

import hashlib
import io
import json
import os
import pathlib
import tarfile
import tempfile
import tomllib
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
except ImportError:
    HAS_PACKAGING = False
else:
    HAS_PACKAGING = True

from ansible_collections.truthgraph.platform.plugins.module_utils import source_tree, uv_lock, wheels

DOCKERFILE = "truthgraph.Dockerfile"
# The files beside it: where they go in the archive, and their modes.
HELPERS = {
    "entrypoint.sh": ("runtime/entrypoint.sh", 0o755),
    "healthcheck.py": ("runtime/healthcheck.py", 0o644),
    "slim.py": ("slim.py", 0o755),
    "with-index.sh": ("with-index.sh", 0o755),
}

# 1980-01-01, the oldest time that every archive format can hold. Times of files become part of a layer.
EPOCH = 315532800
DIGITS = 24

Staged = tuple[str, int, bytes]


class ContextError(Exception):
    """An image cannot be staged; the text says why."""


def stage(
    source: pathlib.Path,
    image: str,
    dockerfiles: pathlib.Path,
    torch: str,
    resolved: pathlib.Path | None = None,
    dev: bool = False,
) -> list[Staged]:
    """Return everything that goes into the archive: path, mode and contents, by path."""
    spec = source_tree.IMAGES[image]
    staged: list[Staged] = [("Dockerfile", 0o644, (dockerfiles / DOCKERFILE).read_bytes())]
    staged += [(path, mode, (dockerfiles / name).read_bytes()) for name, (path, mode) in HELPERS.items()]
    for file in source_tree.files_of(source, spec.include, spec.exclude):
        staged.append((f"source/{file.path}", file.mode, file.source.read_bytes()))
    for stage_name, texts in source_tree.requirement_texts(source, image, torch, resolved, dev).items():
        staged += [(f"{stage_name}/{name}", 0o644, text.encode()) for name, text in texts.items()]
    return sorted(staged)


def archive(staged: t.Iterable[Staged]) -> bytes:
    """Return a tar archive of the staged files in which nothing depends on where and when it was made."""
    buffer = io.BytesIO()
    directories: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def add(name: str, mode: int, kind: bytes, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.type, entry.size, entry.mtime = mode, kind, len(content), EPOCH
            tar.addfile(entry, io.BytesIO(content))

        # A stage that has no requirement file still mounts its directory.
        names = [*(f"{stage}/x" for stage in source_tree.STAGES), "source/x"]
        for name in names + [path for path, _mode, _content in staged]:
            for parent in reversed(pathlib.PurePosixPath(name).parents[:-1]):
                if str(parent) not in directories:
                    directories.add(str(parent))
                    add(str(parent), 0o755, tarfile.DIRTYPE, b"")
        for path, mode, content in staged:
            add(path, mode, tarfile.REGTYPE, content)
    return buffer.getvalue()


def entries_of(texts: t.Iterable[str]) -> list[str]:
    """Return the entries of requirement files."""
    return [entry for text in texts for _line, entry in source_tree.requirement_entries(text)]


def choose_wheels(
    source: pathlib.Path,
    image: str,
    variant: str,
    find_links: t.Iterable[str],
    pythons: t.Sequence[str],
    machine: str,
    torch_index: bool,
    resolved: pathlib.Path | None = None,
) -> tuple[str, list[wheels.Wheel], list[wheels.Wheel]]:
    """Return the Python version to use, the torch wheels that fit it and the other wheels that the build may use."""
    lists = source_tree.requirement_texts(source, image, variant, resolved)
    available = wheels.wheels_in(find_links)
    torch_entries = entries_of(lists["torch"].values())
    fitting = wheels.torch_wheels(available, torch_entries, variant, machine)
    python = wheels.choose_python(pythons, fitting)
    torch = [wheel for wheel in fitting if wheel.fits_python(python)]
    pins = [wheels.pin_of(entry) for entry in torch_entries if source_tree.normalised_name(entry) == "torch"]
    if pins and variant == "cpu" and not torch and not torch_index and not any("+cpu" in pin for pin in pins):
        where = ", ".join(str(directory) for directory in find_links) or "none are set"
        raise ContextError(
            f"There is no CPU build of torch {', '.join(pins)} for {image}: the control node's find-links directories "
            f"({where}) hold no wheel of it for Python {' or '.join(pythons)} on {machine}, and the usual "
            f"index has the CUDA "
            f"build, which is several GB larger. Put such a wheel there (PIP_FIND_LINKS), set "
            f"image_build_torch_index_url to an index of CPU builds, or pin the version that you have in "
            f"requirements/torch-{variant}.txt of the tree."
        )
    others = entries_of(text for texts in lists.values() for text in texts.values())
    more = [
        wheel
        for wheel in available
        if wheel.name != "torch"
        and wheel.fits_python(python)
        and wheel.fits_machine(machine)
        and any(wheels.satisfies(wheel, entry) for entry in others)
    ]
    return python, torch, more


def pythons_for(source: pathlib.Path, pythons: t.Sequence[str]) -> list[str]:
    """Return those Python versions that the tree says it runs on."""
    file = source / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}) if file.is_file() else {}
    wanted = str(project.get("requires-python", ""))
    try:
        specifier = SpecifierSet(wanted)
    except InvalidSpecifier as error:
        raise ContextError(f"pyproject.toml: requires-python is {wanted!r}, which says nothing. Mend it.") from error
    # A base image has the newest patch release of its version.
    fits = [python for python in pythons if specifier.contains(f"{python}.99", prereleases=True)]
    if not fits:
        would = [f"3.{minor}" for minor in range(8, 21) if specifier.contains(f"3.{minor}.99", prereleases=True)]
        way_out = (
            f"These would do: {', '.join(would[:4])}. Set image_build_core_python and image_build_ml_python to one of them, "
            "and name an image of it in image_build_bases by digest where the role base_images has none."
        )
        raise ContextError(
            f"pyproject.toml: requires-python is {wanted}, and the base image has Python {' or '.join(pythons)}. "
            f"{way_out if would else 'No Python does. Mend it.'}"
        )
    return fits


def key_of(content: str, base: str, build_args: dict[str, t.Any], torch: t.Iterable[wheels.Wheel]) -> str:
    """Return the key of an image."""
    parts = {
        "content": content,
        # Where the base image is stored does not matter, only what it is.
        "base": base.rpartition("@")[2],
        "build_args": {name: str(value) for name, value in build_args.items()},
        "torch": {wheel.path.name: wheels.sha256_of(wheel.path) for wheel in torch},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def write(dest: pathlib.Path, content: bytes) -> bool:
    """Write a file in one step, unless it has these contents, and say whether it was written."""
    if dest.is_file() and dest.read_bytes() == content:
        return False
    dest.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=dest.parent, prefix=f".{dest.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, dest)
    except BaseException:
        os.unlink(name)
        raise
    return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "image": {"type": "str", "choices": ["core", "ml", "ml-onnx", "api"], "required": True},
            "dockerfiles": {"type": "path", "required": True},
            "base": {"type": "str", "default": ""},
            "build_args": {"type": "dict", "default": {}},
            "pythons": {"type": "list", "elements": "str", "required": True},
            "torch": {"type": "str", "default": "cpu"},
            "torch_index": {"type": "bool", "default": False},
            "find_links": {"type": "list", "elements": "path", "default": []},
            "machine": {"type": "str", "default": "x86_64"},
            "resolved": {"type": "path", "default": ""},
            "dev": {"type": "bool", "default": False},
            "dest": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    if not HAS_PACKAGING:
        module.fail_json(msg=missing_required_lib("packaging"))
    want = module.params
    source, base = pathlib.Path(want["source"]), want["base"]
    resolved = pathlib.Path(want["resolved"]) if want["resolved"] else None
    if not want["pythons"]:
        module.fail_json(msg="pythons names no Python version; give at least one, such as 3.13.")
    if base and "@sha256:" not in base:
        module.fail_json(
            msg=f"The base image {base!r} is not given by digest (name@sha256:…), so the key would not say what it is"
        )
    try:
        staged = stage(source, want["image"], pathlib.Path(want["dockerfiles"]), want["torch"], resolved, want["dev"])
        python, torch, more = choose_wheels(
            source,
            want["image"],
            want["torch"],
            want["find_links"],
            pythons_for(source, want["pythons"]),
            want["machine"],
            want["torch_index"],
            resolved,
        )
        content = source_tree.digest_of(staged)
        key = key_of(content, base, want["build_args"], torch) if base else ""
        tar = archive(staged)
        changed = False
        if want["dest"] and not module.check_mode:
            changed = write(pathlib.Path(want["dest"]), tar)
    except (source_tree.TreeError, uv_lock.LockError, ContextError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"The image {want['image']} cannot be staged from {source}: {error}")
    module.exit_json(
        changed=changed,
        key=key,
        content=content[:DIGITS],
        python=python,
        tar=want["dest"],
        bytes=len(tar),
        files=[path.removeprefix("source/") for path, _mode, _content in staged if path.startswith("source/")],
        wheels=[{"path": str(wheel.path.resolve()), "name": wheel.path.name} for wheel in torch + more],
    )


if __name__ == "__main__":
    main()
