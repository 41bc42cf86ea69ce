#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module: which Debian mirror the host's apt uses, and how."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_mirror_info
short_description: Tell which Debian mirror, keys and proxy a host's apt uses
description:
  - Reads C(sources.list), C(sources.list.d) (one-line and stanza format) and C(apt-config dump), and picks the sources
    that are Debian's own archive, the security suite included. Those of third parties are left out.
  - So a root file system for the same or another suite can be made from the very mirror that the host uses, be it a
    company's mirror, behind a proxy or with a key of its own.
options:
  suites:
    description: Debian suites that sources are wanted for, by codename.
    type: list
    elements: str
    required: true
  etc:
    description: Directory with apt's configuration.
    type: path
    default: /etc/apt
  lists:
    description: Directory where apt keeps the indexes that it has fetched; tells Debian's archive from others.
    type: path
    default: /var/lib/apt/lists
  os_release:
    description: File that names the host's own release.
    type: path
    default: /etc/os-release
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Read which mirror the host uses
  truthgraph.platform.apt_mirror_info:
    suites: [trixie, bookworm]
  register: mirror
"""

RETURN = r"""
codename:
  description: The host's own release.
  returned: always
  type: str
suites:
  description: By suite, the sources. Empty C(sources) if the host's apt knows no mirror of Debian.
  returned: always
  type: dict
  contains:
    sources:
      description: Contents of a C(.sources) file. May hold credentials.
      type: str
    mirrors:
      description: The mirrors, each with the suites that it has for us, without credentials.
      type: list
      elements: str
apt_options:
  description: The settings of apt that say how a mirror is reached (proxy, certificates, checks of dates).
  returned: always
  type: list
  elements: str
"""

import glob
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import apt_sources


def read(path: str) -> str:
    """Contents of a file as text."""
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()


def read_entries(etc: str) -> list[dict[str, t.Any]]:
    """All entries of the host's sources, in apt's order."""
    entries = []
    main_list = os.path.join(etc, "sources.list")
    if os.path.exists(main_list):
        entries += apt_sources.parse_one_line(read(main_list))
    for path in sorted(glob.glob(os.path.join(etc, "sources.list.d", "*"))):
        if path.endswith(".list"):
            entries += apt_sources.parse_one_line(read(path))
        elif path.endswith(".sources"):
            entries += apt_sources.parse_deb822(read(path))
    return entries


def read_origins(entries: list[dict[str, t.Any]], lists: str) -> dict[tuple[str, str], str]:
    """The Origin fields of the release files that apt has fetched."""
    origins = {}
    for entry in entries:
        for uri in entry["uris"]:
            for suite in entry["suites"]:
                prefix = os.path.join(lists, apt_sources.release_file_prefix(uri, suite))
                for path in (prefix + "_InRelease", prefix + "_Release"):
                    if os.path.exists(path):
                        for line in read(path).splitlines():
                            if line.startswith("Origin:"):
                                origins[(uri, suite)] = line.split(":", 1)[1].strip()
                                break
                        break
    return origins


def read_codename(path: str) -> str:
    """VERSION_CODENAME of the host."""
    for line in read(path).splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip().strip('"')
    return ""


def main() -> None:
    """Read, and answer."""
    module = AnsibleModule(
        argument_spec={
            "suites": {"type": "list", "elements": "str", "required": True},
            "etc": {"type": "path", "default": "/etc/apt"},
            "lists": {"type": "path", "default": "/var/lib/apt/lists"},
            "os_release": {"type": "path", "default": "/etc/os-release"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        codename = read_codename(params["os_release"])
        entries = read_entries(params["etc"])
        origins = read_origins(entries, params["lists"])
    except OSError as error:
        module.fail_json(msg=f"apt's configuration cannot be read: {error}")
    suites = {}
    for suite in params["suites"]:
        sources = apt_sources.sources_for(entries, codename, suite, origins)
        suites[suite] = {
            "sources": apt_sources.render(sources),
            "mirrors": [
                f"{apt_sources.without_credentials(uri)} {' '.join(source['suites'])}"
                for source in sources
                for uri in source["uris"]
            ],
        }
    _rc, dump, _err = module.run_command(["apt-config", "dump"], check_rc=True)
    module.exit_json(changed=False, codename=codename, suites=suites, apt_options=apt_sources.transport_options(dump))


if __name__ == "__main__":
    main()
