# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup: where the control node takes Python packages from."""

from __future__ import annotations

DOCUMENTATION = r"""
name: package_index
short_description: The package index settings of the control node
version_added: 0.1.0
description:
  - Answers what pip and uv on the control node are set to, so that a build elsewhere can use the same index, find-links
    directories and CA bundle.
  - Read are the environment variables of uv (C(UV_DEFAULT_INDEX), C(UV_INDEX_URL), C(UV_INDEX), C(UV_EXTRA_INDEX_URL),
    C(UV_FIND_LINKS)) and of pip (C(PIP_INDEX_URL), C(PIP_EXTRA_INDEX_URL), C(PIP_FIND_LINKS), C(PIP_CERT),
    C(PIP_DEFAULT_TIMEOUT)), pip's configuration files (the section C(global), and C(install) over it), and for the CA
    bundle also C(SSL_CERT_FILE), C(REQUESTS_CA_BUNDLE) and C(CURL_CA_BUNDLE).
  - The environment counts before the files, and uv's variables before pip's. The user's file counts before the
    machine's.
  - A URL may contain a password. Use the answer only in tasks with C(no_log).
notes:
  - It takes no term.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Write the settings for the build
  ansible.builtin.copy:
    dest: /run/build/index
    content: "UV_DEFAULT_INDEX={{ lookup('truthgraph.platform.package_index').index_url | quote }}"
    mode: "0600"
  no_log: true
"""

RETURN = r"""
_raw:
  description: One dictionary.
  type: list
  elements: dict
  contains:
    index_url:
      description: The index, empty if it is the public one.
      type: str
    extra_index_urls:
      description: Further indexes reached over HTTP or HTTPS.
      type: list
      elements: str
    find_links:
      description: Directories on the control node with wheels; those that exist, absolute.
      type: list
      elements: str
    find_links_urls:
      description: Pages with links to wheels, reached over HTTP or HTTPS.
      type: list
      elements: str
    ca_bundle:
      description: File with the certificates to trust, empty if there is none.
      type: str
    timeout:
      description: Seconds after which a silent connection is given up; 0 if not set.
      type: int
    dropped:
      description: Settings that mean nothing on another machine, such as indexes in the control node's files.
      type: list
      elements: str
"""

import configparser
import os
import pathlib
import typing as t
import urllib.parse

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

Settings = dict[str, str]


def pip_files(environment: t.Mapping[str, str]) -> list[pathlib.Path]:
    """Return pip's configuration files, the strongest last."""
    named = environment.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home = pathlib.Path(environment.get("HOME") or pathlib.Path.home())
    config = pathlib.Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    shared = [pathlib.Path(part) for part in (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if part]
    files = [part / "pip" / "pip.conf" for part in reversed(shared)]
    files += [pathlib.Path("/etc/pip.conf"), home / ".pip" / "pip.conf", config / "pip" / "pip.conf"]
    return [*files, pathlib.Path(named)] if named else files


def pip_settings(files: t.Iterable[pathlib.Path]) -> Settings:
    """Return what pip's configuration files set for an installation."""
    merged: Settings = {}
    for section in ("global", "install"):
        for file in files:
            parser = configparser.RawConfigParser()
            try:
                parser.read(file, encoding="utf-8")
            except configparser.Error as error:
                raise AnsibleError(f"pip's configuration file {file} cannot be read: {error}") from error
            if parser.has_section(section):
                merged.update({name.lower().replace("_", "-"): value for name, value in parser.items(section)})
    return merged


def _first(*values: str | None) -> str:
    return next((value.strip() for value in values if value and value.strip()), "")


def _split(value: str) -> list[str]:
    return value.replace(",", " ").split() if "://" not in value else value.split()


def _without_name(index: str) -> str:
    """Return the URL of an index that uv may have given a name, as in name=https://…"""
    name, separator, url = index.partition("=")
    return url if separator and "/" not in name and ":" not in name else index


def package_index(environment: t.Mapping[str, str], files: t.Sequence[pathlib.Path] | None = None) -> dict[str, t.Any]:
    """Return the settings for an environment and pip's configuration files."""
    pip = pip_settings(pip_files(environment) if files is None else files)
    env = environment.get
    index = _first(env("UV_DEFAULT_INDEX"), env("UV_INDEX_URL"), env("PIP_INDEX_URL"), pip.get("index-url"))
    index = _without_name(index)
    extra = _first(env("UV_INDEX"), env("UV_EXTRA_INDEX_URL"), env("PIP_EXTRA_INDEX_URL"), pip.get("extra-index-url"))
    links = _first(env("UV_FIND_LINKS"), env("PIP_FIND_LINKS"), pip.get("find-links"))
    bundle = _first(
        env("PIP_CERT"), env("SSL_CERT_FILE"), pip.get("cert"), env("REQUESTS_CA_BUNDLE"), env("CURL_CA_BUNDLE")
    )
    timeout = _first(env("UV_HTTP_TIMEOUT"), env("PIP_DEFAULT_TIMEOUT"), env("PIP_TIMEOUT"), pip.get("timeout"))
    result: dict[str, t.Any] = {
        "index_url": "",
        "extra_index_urls": [],
        "find_links": [],
        "find_links_urls": [],
        "ca_bundle": "",
        "timeout": int(float(timeout)) if timeout.replace(".", "", 1).isdigit() else 0,
        "dropped": [],
    }
    if index.startswith(("http://", "https://")):
        result["index_url"] = index
    elif index:
        result["dropped"].append(index)
    for url in map(_without_name, _split(extra)):
        kind = "extra_index_urls" if url.startswith(("http://", "https://")) else "dropped"
        result[kind].append(url)
    for link in _split(links):
        if link.startswith(("http://", "https://")):
            result["find_links_urls"].append(link)
            continue
        path = pathlib.Path(
            urllib.parse.unquote(urllib.parse.urlsplit(link).path) if link.startswith("file:") else link
        )
        path = path.expanduser()
        if path.is_dir():
            result["find_links"].append(str(path.absolute()))
        else:
            result["dropped"].append(link)
    if bundle:
        path = pathlib.Path(bundle).expanduser()
        if path.is_file():
            result["ca_bundle"] = str(path.absolute())
        else:
            result["dropped"].append(bundle)
    return result


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[t.Any], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        """Return the settings of the control node as a list of one dictionary."""
        self.set_options(var_options=variables, direct=kwargs)
        if terms:
            raise AnsibleError("The lookup package_index takes no term.")
        return [package_index(os.environ)]
