# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the value of a role's variable has to be: by the type and the choices of its specification, and by its name."""

from __future__ import annotations

import ipaddress
import math
import re
import typing as t
from collections.abc import Mapping

from ansible.module_utils.common.validation import check_type_bool, check_type_float, check_type_int

# What a value has to be, by the type that its specification names.
KINDS = {
    "bool": "true or false",
    "dict": "a dictionary",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "path": "an absolute path without spaces, which begins with /",
    "str": "a text",
}

WEEK = 7 * 86400

# Numbers, by the name of the variable: the least and the most that one may be. The first that fits counts.
RANGES: tuple[tuple[str, float, float], ...] = (
    ("^fleet_metrics_port$", 0, 65535),
    ("_port$", 1, 65535),
    ("_[ug]id$", 1, 2**31 - 1),
    ("_percent$", 0, 100),
    ("_agreement$", 0, 1),
    # What the prober takes.
    ("_probe_rate$", 0, 50),
    # Seconds: nobody waits for longer than a week. To wait for no time is to give up at once, except for an end.
    ("_(stop_timeout|drain_timeout|drain|wait|bake)$", 0, WEEK),
    ("_(timeout|lease|undo_after)$", 1, WEEK),
    ("_valid_days$", 1, 36500),
    # What Postgres takes.
    ("_max_connections$", 1, 262143),
    ("_(passes|keep|keep_last|pids_limit|log_lines)$", 1, math.inf),
)
# Images are no smaller, and the engine starts no container with less.
LEAST_MEMORY = 6 * 1024**2
UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def matches(pattern: str) -> t.Callable[[str], bool]:
    """Return what says whether a text is wholly of a pattern."""
    return lambda text: re.fullmatch(pattern, text) is not None


def bytes_of(size: str) -> float:
    """Return how many bytes a size as the engine knows it is, -1 if it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmg]?)b?", size.lower())
    return float(found[1]) * UNITS[found[2]] if found else -1


def taken_by(parse: t.Callable[[str], object]) -> t.Callable[[str], bool]:
    """Return what says whether a parser takes a text."""

    def is_taken(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return is_taken


is_address = taken_by(ipaddress.ip_address)
# An address or a network.
is_source = taken_by(ipaddress.ip_network)


def is_wide(text: str) -> bool:
    """Say whether it is a network that has room for the slots of a host, which have fixed addresses in its lower half."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        return False
    return "/" in text and network.num_addresses >= 64


HOST = r"[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?"
REGISTRY = rf"({HOST}|\[[0-9A-Fa-f:]+\])(:\d+)?"
BELOW = r"(/[0-9a-z][0-9a-z._-]*)"
# What the engine calls a container, a volume or a network.
OBJECT = r"[0-9A-Za-z][0-9A-Za-z_.-]*"
POSTGRES_SIZE = r"\d+ *(B|kB|MB|GB|TB)?"
POSTGRES_TIME = r"\d+ *(us|ms|s|min|h|d)?"

# Texts, by the name of the variable: what they have to be, and in words.
TEXTS: tuple[tuple[str, t.Callable[[str], bool], str], ...] = (
    ("_memory$", lambda text: bytes_of(text) >= LEAST_MEMORY, "a size such as 512m or 4g, and 6m or more"),
    ("_shm_size$", lambda text: bytes_of(text) > 0, "a size such as 512m or 4g"),
    ("_subnet$", is_wide, "an IPv4 network of 64 addresses or more, such as 172.30.240.0/24"),
    ("_url$", matches(r"https?://\S+"), "a URL that begins with https:// or http://"),
    ("_path$", matches(r"/\S*"), "a path that begins with /"),
    ("_(bind|listen)_address$", is_address, "an IP address of the host, or 0.0.0.0 for all of them"),
    ("_(registry|promote)_address$", matches(REGISTRY), "host and port of a registry, such as 192.0.2.11:5000"),
    ("_mirror_registry$", matches(rf"{REGISTRY}{BELOW}*"), "a registry, such as mirror.example.org/library"),
    ("_(image|promote)_prefix$", matches(rf"{REGISTRY}{BELOW}+"), "a registry and a path, such as 192.0.2.11:5000/truthgraph"),
    ("_(registry|promote)_username$", matches(r"[^\s:]+"), "a name without spaces and colons"),
    ("_database_(name|user)$|_migrate_database$", matches(r"[^\s\"'\\/]{1,63}"), "a name without spaces and quotes"),
    ("_database_driver$", matches(r"[a-z]\w*(\+\w+)?"), "a driver as SQLAlchemy knows it, such as postgresql+psycopg"),
    ("^fleet_(private_address|database_host)$", matches(rf"{HOST}|[0-9A-Fa-f:]+"), "an address or a host name"),
    ("^fleet_api_name$", matches(HOST), "a host name, such as claims.example.org"),
    ("^fleet_name$", matches(OBJECT), "a name of letters, digits, '_', '.' and '-', since a directory is called so"),
    ("_(network|container|volume)(_name)?$", matches(OBJECT), "a name of letters, digits, '_', '.' and '-'"),
    ("_sha256$", matches("[0-9A-Fa-f]{64}"), "a SHA-256, 64 digits and letters from a to f"),
    ("^postgres_(shared_buffers|effective_cache_size)$", matches(POSTGRES_SIZE), "a size as Postgres knows it, such as 256MB"),
    ("_(lock|statement)_timeout$", matches(POSTGRES_TIME), "a time as Postgres knows it, such as 10s or 5min"),
    # The one of a single run may be given as one types it.
    ("(?<!_status)_file$|_dir$", matches(r"/.*"), "an absolute path, which begins with /"),
)
# Lists of addresses and networks.
SOURCES = re.compile(r"_trusted_proxies$|^postgres_clients$|^firewall_further_sources\.")
# Requests, which are none if nothing is said of them: what is needed otherwise.
REQUESTS = {"api_smoke": "path", "release_embedding_probe": "body"}
# Dictionaries of single values: environment variables, and Postgres' settings, which alone may be true or false.
SINGLE = re.compile(r"_(environment|secrets)$|^postgres_settings$")


def number(value: t.Any, kind: str) -> float | None:
    """Return a number, which may be written as a text; None if it is none."""
    if isinstance(value, bool):
        return None
    try:
        found = float(check_type_int(value) if kind == "int" else check_type_float(value))
    except TypeError:
        return None
    return found if math.isfinite(found) else None


def wrong_number(name: str, value: t.Any, kind: str, default: t.Any) -> str:
    """Return what a number has to be that this one is not."""
    found = number(value, kind)
    if found is None:
        return KINDS[kind]
    if isinstance(default, int | float) and default < 0:
        return ""
    least, most = next(((least, most) for pattern, least, most in RANGES if re.search(pattern, name)), (0.0, math.inf))
    if least <= found <= most:
        return ""
    what = "a port" if name.endswith("_port") else KINDS[kind]
    return f"{what} from {least:g} to {most:.0f}" if math.isfinite(most) else f"{what}, {least:g} or more"


def wrong_text(name: str, value: t.Any, kind: str, may_be_empty: bool) -> str:
    """Return what a text has to be that this one is not."""
    if not isinstance(value, str):
        return f"{KINDS[kind]}{': put it in quotes' if isinstance(value, bool | int | float) else ''}"
    if not value:
        return "" if may_be_empty else f"{KINDS[kind]} that is not empty"
    if "\n" in value or "\r" in value:
        return f"{KINDS[kind]} of one line"
    if kind == "path":
        return "" if re.fullmatch(r"/\S*", value) else KINDS[kind]
    return next((words for pattern, fits, words in TEXTS if re.search(pattern, name) and not fits(value)), "")


def wrong_list(name: str, value: t.Any, specification: dict[str, t.Any]) -> str:
    """Return what a list has to be that this one is not."""
    elements, choices, options = (specification.get(key) for key in ("elements", "choices", "options"))
    if not isinstance(value, list):
        return KINDS["list"]
    for entry in value:
        if choices and entry not in choices:
            return f"a list, each one of {', '.join(repr(choice) for choice in choices)}"
        if elements == "str" and not isinstance(entry, str):
            return "a list of texts: put each in quotes" if isinstance(entry, bool | int | float) else "a list of texts"
        if elements == "dict" and (wanted := wrong_dict(name, entry, options)):
            return f"a list, each one {wanted}"
        if SOURCES.search(name) and not is_source(entry):
            return "a list of addresses and networks, such as 10.0.0.9 and 10.0.0.0/24"
    return ""


def wrong_values(value: t.Mapping[str, t.Any], may_be_bool: bool) -> str:
    """Return what a dictionary of single values has to be that this one is not."""
    for name, one in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return f"a dictionary by names of letters, digits and '_', and not {name!r}"
        if not isinstance(one, str | int | float) or (isinstance(one, bool) and not may_be_bool):
            return f"a dictionary of texts and numbers, and {name} is none: put it in quotes"
    return ""


def wrong_dict(name: str, value: t.Any, options: dict[str, t.Any] | None) -> str:
    """Return what a dictionary has to be that this one is not."""
    if not isinstance(value, Mapping):
        return KINDS["dict"]
    if SINGLE.search(name):
        return wrong_values(value, name == "postgres_settings")
    for key, below in value.items():
        if options and key not in options:
            return f"a dictionary with nothing but {', '.join(options)}, and not {key!r}"
        wanted = wrong(f"{name}.{key}", below, options[key], None) if options else ""
        if wanted:
            return f"a dictionary in which {key} is {wanted}"
    needed = REQUESTS.get(name, "")
    return f"a dictionary with {needed}, or {{}}" if value and needed and needed not in value else ""


def wrong_cards(value: t.Any) -> str:
    """Return what a choice of cards has to be that this one is not."""
    cards = value if isinstance(value, list) else []
    named = all(isinstance(card, int | str) and not isinstance(card, bool) for card in cards)
    count = number(value, "int") if isinstance(value, int | str) else None
    return "" if (cards and named) or (count or 0) >= 1 else "how many, 1 or more, or a list of indexes or UUIDs"


def wrong(name: str, value: t.Any, specification: dict[str, t.Any], default: t.Any) -> str:
    """Return what a value has to be that it is not, in words; nothing if it is right."""
    kind = specification.get("type", "str")
    choices = specification.get("choices")
    if choices and kind != "list":
        same = number(value, kind) in choices if kind == "int" else isinstance(value, str) and value in choices
        return "" if same else f"one of {', '.join(repr(choice) for choice in choices)}"
    if kind in ("int", "float"):
        return wrong_number(name, value, kind, default)
    if kind in ("str", "path"):
        # Where an empty one means something, the description says so.
        return wrong_text(name, value, kind, default == "" or "empty" in str(specification.get("description")))
    if kind == "list":
        return wrong_list(name, value, specification)
    if kind == "dict":
        return wrong_dict(name, value, specification.get("options"))
    if kind == "bool":
        return "" if is_bool(value) else KINDS["bool"]
    return wrong_cards(value) if name == "inference_cards" else ""


def is_bool(value: t.Any) -> bool:
    """Say whether it is true or false, which may be written as a text."""
    try:
        check_type_bool(value)
    except TypeError:
        return False
    return True
