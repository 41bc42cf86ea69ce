#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module: a small, reproducible root file system from the Debian archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: debian_rootfs
short_description: Make a small, reproducible root file system from the Debian archive
description:
  - Runs C(mmdebstrap) with the essential packages and those asked for, without documentation, and packs the result.
  - The same state of the archive gives the same bytes. All times are at most that of the archive's newest release file.
options:
  suite:
    description: Debian suite.
    type: str
    required: true
  packages:
    description: Packages besides the essential ones.
    type: list
    elements: str
    required: true
  sources:
    description: Contents of a C(.sources) file, such as M(truthgraph.platform.apt_mirror_info) answers.
    type: str
    required: true
  apt_options:
    description: Settings of apt that say how the mirror is reached.
    type: list
    elements: str
    default: []
  path_exclude:
    description: Patterns of files that are not unpacked at all.
    type: list
    elements: str
    default: []
  path_include:
    description: Exceptions from O(path_exclude).
    type: list
    elements: str
    default: []
  setup_scripts:
    description: Shell scripts to run with the new root as their argument before O(packages) are installed.
    type: list
    elements: path
    default: []
  finish_scripts:
    description: Shell scripts to run with the new root as their argument afterwards.
    type: list
    elements: path
    default: []
  work_dir:
    description: Directory to work in; it needs room for the root file system, and must not be mounted C(nodev).
    type: path
    required: true
  dest:
    description: The archive to write.
    type: path
    required: true
attributes:
  check_mode:
    description: Does nothing and answers that it would make the archive.
    support: full
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Make the root file system
  truthgraph.platform.debian_rootfs:
    suite: trixie
    packages: [python3, ca-certificates]
    sources: "{{ mirror.suites.trixie.sources }}"
    work_dir: /var/tmp/work
    dest: /var/tmp/work/rootfs.tar
"""

RETURN = r"""
epoch:
  description: The date of the archive's newest release file, in seconds since 1970.
  returned: when made
  type: int
sha256:
  description: Hash of the archive.
  returned: when made
  type: str
bytes:
  description: Size of the archive.
  returned: when made
  type: int
packages:
  description: What is installed, as V(name=version).
  returned: when made
  type: list
  elements: str
"""

import calendar
import email.utils
import hashlib
import os
import shutil
import subprocess
import typing as t

from ansible.module_utils.basic import AnsibleModule

LOG_LINES = 25
# In these suites /usr is merged by a package in Perl, 50 MB with what it needs, unless mmdebstrap has merged it before.
MERGED_LATER = ("bookworm",)
MERGE_HOOKS = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"


def release_epoch(text: str) -> int | None:
    """The latest of the Date fields of release files, in seconds since 1970; None if there is none."""
    dates = [email.utils.parsedate(line.split(":", 1)[1]) for line in text.splitlines() if line.startswith("Date:")]
    return max((calendar.timegm(date) for date in dates if date), default=None)


def mmdebstrap_command(params: dict[str, t.Any], root: str, dates: str) -> list[str]:
    """The arguments that make the root file system in a directory and save the dates of the release files."""
    command = ["mmdebstrap", "--mode=root", "--variant=essential", "--format=directory", "--verbose"]
    command += [f"--include={','.join(sorted(params['packages']))}"]
    if params["suite"] in MERGED_LATER:
        command.append(f"--hook-dir={MERGE_HOOKS}")
    command += [f"--aptopt={option}" for option in params["apt_options"]]
    # apt finds the mirror's password where the host's own apt does.
    command += [
        '--aptopt=Dir::Etc::netrc "/etc/apt/auth.conf";',
        '--aptopt=Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
    ]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in params["path_exclude"]]
    command += [f"--dpkgopt=path-include={pattern}" for pattern in params["path_include"]]
    command += [f'--essential-hook=sh {script} "$1"' for script in params["setup_scripts"]]
    command += [f"--customize-hook=grep -h '^Date:' \"$1\"/var/lib/apt/lists/*Release > {dates}"]
    return command + [params["suite"], root, "-"]


def file_hash(path: str) -> str:
    """SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for piece in iter(lambda: handle.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def tail(text: str) -> str:
    """The last lines of a log."""
    return "\n".join(text.strip().splitlines()[-LOG_LINES:])


def main() -> None:
    """Make it."""
    module = AnsibleModule(
        argument_spec={
            "suite": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            # May hold the password of a private mirror.
            "sources": {"type": "str", "required": True, "no_log": True},
            "apt_options": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "path_exclude": {"type": "list", "elements": "str", "default": []},
            "path_include": {"type": "list", "elements": "str", "default": []},
            "setup_scripts": {"type": "list", "elements": "path", "default": []},
            "finish_scripts": {"type": "list", "elements": "path", "default": []},
            "work_dir": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=True)
    root = os.path.join(params["work_dir"], "rootfs")
    dates = os.path.join(params["work_dir"], "release-dates")
    environment = dict(os.environ, TMPDIR=params["work_dir"], LC_ALL="C.UTF-8", DEBIAN_FRONTEND="noninteractive")
    try:
        made = subprocess.run(
            mmdebstrap_command(params, root, dates),
            input=params["sources"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
        if made.returncode != 0:
            module.fail_json(
                msg=f"mmdebstrap ended with status {made.returncode}. Its last lines:\n{tail(made.stdout)}"
            )
        for script in params["finish_scripts"]:
            module.run_command(["sh", script, root], check_rc=True)
        with open(dates, encoding="ascii", errors="replace") as handle:
            epoch = release_epoch(handle.read())
        if epoch is None:
            module.fail_json(msg="The mirror's release files have no date, so the image cannot be made reproducible.")
        packages = module.run_command(
            ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package}=${Version}\\n"], check_rc=True
        )[1].split()
        module.run_command(
            ["tar", "--create", "--file", params["dest"], "--directory", root, "--sort=name", "--format=gnu"]
            + ["--numeric-owner", "--one-file-system", f"--mtime=@{epoch}", "--clamp-mtime", "."],
            check_rc=True,
        )
    except FileNotFoundError as error:
        module.fail_json(msg=f"{error.filename} is missing on this host.")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    module.exit_json(
        changed=True,
        epoch=epoch,
        sha256=file_hash(params["dest"]),
        bytes=os.path.getsize(params["dest"]),
        packages=packages,
    )


if __name__ == "__main__":
    main()
