# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a host's apt sources, and turning them into sources for another Debian suite."""

from __future__ import annotations

import re
import shlex
import typing as t

# Options of apt that say how the mirror is reached. Others (indexes to keep, hooks to run) are the host's own.
TRANSPORT_OPTION = re.compile(
    r"^Acquire::(https?|ftp|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|Max-FutureTime)\b"
)
SUITE = re.compile(r"^(?P<name>[a-z]+)(?P<pocket>-updates|-security)?(?P<old>/updates)?/?$")
USABLE_SCHEMES = ("http://", "https://")


def parse_one_line(text: str) -> list[dict[str, t.Any]]:
    """Parse the one-line format (sources.list) into entries."""
    entries = []
    for line in text.splitlines():
        line = line.split("#", 1)[0].strip()
        match = re.match(r"^(deb|deb-src)\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>.+)$", line)
        if not match:
            continue
        words = match["rest"].split()
        if len(words) < 2:
            continue
        options = {}
        for option in shlex.split(match["options"] or ""):
            key, _separator, value = option.partition("=")
            options[key.rstrip("+-").lower()] = value
        entries.append(
            {
                "types": [match[1]],
                "uris": [words[0]],
                "suites": [words[1]],
                "components": words[2:],
                "signed_by": options.pop("signed-by", ""),
                "options": options,
            }
        )
    return entries


def parse_deb822(text: str) -> list[dict[str, t.Any]]:
    """Parse the stanza format (*.sources) into entries; disabled stanzas are left out."""
    entries = []
    for fields in _stanzas(text):
        if fields.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off", "without", "disable"):
            continue
        known = ("types", "uris", "suites", "components", "signed-by", "enabled")
        if not fields.get("uris", "").strip() or not fields.get("suites", "").strip():
            continue
        entries.append(
            {
                "types": fields.get("types", "deb").split(),
                "uris": fields["uris"].split(),
                "suites": fields["suites"].split(),
                "components": fields.get("components", "").split(),
                "signed_by": fields.get("signed-by", "").strip(),
                "options": {key: value.strip() for key, value in fields.items() if key not in known},
            }
        )
    return entries


def _stanzas(text: str) -> t.Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, key = {}, ""
        elif line[0] in " \t" and key:
            fields[key] += "\n" + line.strip()
        elif ":" in line:
            key, _separator, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()


def release_file_prefix(uri: str, suite: str) -> str:
    """The beginning of the names that apt gives the indexes of a source in /var/lib/apt/lists."""
    rest = re.sub(r"^[a-z+]+://", "", uri.rstrip("/"))
    rest = re.sub(r"^[^/@]*@", "", rest)
    return (rest.replace("_", "%5f") + f"/dists/{suite}").replace("/", "_")


def is_debian(entry: dict[str, t.Any], origins: dict[tuple[str, str], str]) -> bool:
    """Whether an entry is Debian's own archive: by the origin apt has seen, else by its key, else by its suites.

    origins maps (uri, suite) to the Origin field of the release file, as far as apt has fetched it.
    """
    seen = {
        origins[pair]
        for pair in ((uri, suite) for uri in entry["uris"] for suite in entry["suites"])
        if pair in origins
    }
    if seen:
        return "Debian" in seen
    signer = entry["signed_by"]
    return not signer or "debian-archive" in signer


def sources_for(
    entries: list[dict[str, t.Any]], codename: str, suite: str, origins: dict[tuple[str, str], str] | None = None
) -> list[dict[str, t.Any]]:
    """Return the entries of Debian's archive as sources for the given suite.

    A host of one release can bootstrap another one: the mirror is the same, only the suite's name differs. Alternative
    names such as stable are taken for the host's own release.
    """
    found = []
    for entry in entries:
        if "deb" not in entry["types"] or "main" not in entry["components"] or not is_debian(entry, origins or {}):
            continue
        uris = [uri for uri in entry["uris"] if uri.startswith(USABLE_SCHEMES)]
        suites = []
        for name in entry["suites"]:
            match = SUITE.match(name)
            if match and match["name"] in (codename, suite, "stable", "oldstable"):
                pocket = match["pocket"] or ("-security" if match["old"] else "")
                if suite + pocket not in suites:
                    suites.append(suite + pocket)
        source = {
            "uris": uris,
            "suites": suites,
            "signed_by": entry["signed_by"],
            "trusted": entry["options"].get("trusted", ""),
        }
        if uris and suites and source not in found:
            found.append(source)
    return found


def render(sources: list[dict[str, t.Any]]) -> str:
    """Sources as a file in the stanza format, with the component main only."""
    stanzas = []
    for source in sources:
        lines = [
            "Types: deb",
            "URIs: " + " ".join(source["uris"]),
            "Suites: " + " ".join(source["suites"]),
            "Components: main",
        ]
        if source["trusted"]:
            lines.append("Trusted: " + source["trusted"])
        if source["signed_by"]:
            lines.append("Signed-By: " + source["signed_by"].replace("\n", "\n "))
        stanzas.append("\n".join(lines) + "\n")
    return "\n".join(stanzas)


def without_credentials(uri: str) -> str:
    """The address without user name and password."""
    return re.sub(r"^([a-z+]+://)[^/@]*@", r"\1", uri)


def transport_options(dump: str) -> list[str]:
    """From the output of apt-config dump, the settings that say how a mirror is reached."""
    return [line.strip() for line in dump.splitlines() if TRANSPORT_OPTION.match(line.strip()) and '""' not in line]
