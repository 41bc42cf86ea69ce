# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `playbooks/status.yml` says of each host: as a table for people, and as JSON for programs."""

from __future__ import annotations

import datetime
import typing as t

State = dict[str, t.Any]

DAY = 86400

SHOWN_OF_A_CONTAINER = (
    *("name", "service", "slot", "copy", "identity", "image", "revision", "state", "health", "problem"),
    *("started_at", "simulated"),
)


def overview(states: dict[str, State], hosts: list[str]) -> dict[str, dict[str, t.Any]]:
    """Return what matters of each host, by its name; of one that has not answered, only that.

    `states` are what the module release_state has answered. Times are in seconds since the epoch, sizes in bytes.
    """
    return {host: _host(states[host]) if host in states else {"reachable": False} for host in hosts}


def _host(state: State) -> dict[str, t.Any]:
    traffic = state["traffic"]
    return {
        "reachable": True,
        "engine": state["engine"],
        "proxy": state["proxy"],
        "live": {service: traffic[service].partition("_")[0] for service in ("api", "inference") if traffic.get(service)},
        "containers": [{name: found[name] for name in SHOWN_OF_A_CONTAINER} for found in state["containers"]],
        "certificates": state["certificates"],
        "backups": state["backups"],
        "disk": state["disk"],
        "prepared": bool(state["seal"]["fingerprint"]),
        "changed": state["seal"]["drift"],
        "now": state["now"],
    }


def host_rows(hosts: dict[str, dict[str, t.Any]]) -> list[list[t.Any]]:
    """Return of each host its name, GB free and in all, when the first certificate ends, backups, and what has changed."""
    rows = []
    for name, host in hosts.items():
        if not host["reachable"]:
            rows.append([name, "-", "-", "-", "-", "-", "-", "cannot be reached"])
            continue
        least = min(host["disk"].values(), key=lambda disk: disk["free"])
        ends = list(host["certificates"].values())
        first = "unreadable" if None in ends else in_words(min(ends) - host["now"]) if ends else "-"
        ages = [host["backups"][which].get("begun") for which in ("newest", "proven")]
        changed = "not prepared yet" if not host["prepared"] else ", ".join(host["changed"]) or "nothing"
        rows.append(
            [
                name,
                round(least["free"] / 1e9, 1),
                round(least["total"] / 1e9, 1),
                first,
                host["backups"]["count"] or "-",
                *(in_words(host["now"] - begun) + " ago" if begun else "-" for begun in ages),
                changed,
            ]
        )
    return rows


def in_words(seconds: float) -> str:
    """Return a span of time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def problems(hosts: dict[str, dict[str, t.Any]], limits: dict[str, t.Any]) -> list[str]:
    """Return a line for all that needs attention on hosts that have answered, with the way out.

    `limits` has `certificate_days`, `backup_days` and `proof_days`, the days before and after which a certificate and a
    backup are mentioned (0 for never), `backups`, the hosts that ought to have some, `free`, the bytes that a deploy needs,
    and `free_build`, those that it needs on the hosts of `builds`.
    """
    found = []
    for name, host in hosts.items():
        if not host["reachable"]:
            continue
        found += [f"{name}: {one['name']}: {one['problem']}" for one in host["containers"] if one["problem"]]
        for path, ends in host["certificates"].items():
            renewed = "The next deploy replaces it, unless it is one that you bring."
            if ends is None:
                found.append(f"{name}: {path} cannot be read. {renewed}")
            elif ends - host["now"] < limits["certificate_days"] * DAY:
                found.append(f"{name}: {path} ends at {at(ends)}, in {int((ends - host['now']) // DAY)} days. {renewed}")
        # Of a host that was not prepared yet there is nothing to be backed up.
        if name in limits["backups"] and host["prepared"]:
            found += _old_backups(name, host, limits)
        least = limits["free_build" if name in limits["builds"] else "free"]
        for path, disk in host["disk"].items():
            if disk["free"] < least:
                found.append(
                    f"{name}: {path} has {disk['free'] / 1e9:.1f} GB free, and a deploy needs {least / 1e9:.1f} GB. "
                    f"'docker system df' there says what takes it."
                )
    return found


def _old_backups(name: str, host: dict[str, t.Any], limits: dict[str, t.Any]) -> list[str]:
    found = []
    for which, done, days in (("newest", "taken", limits["backup_days"]), ("proven", "proven", limits["proof_days"])):
        begun = host["backups"][which].get("begun")
        if days and host["now"] - (begun or host["backups"]["since"]) > days * DAY:
            last = f"the last is of {at(begun)}" if begun else "there is none"
            found.append(
                f"{name}: no backup of the database was {done} in {days:g} days; {last}. Run playbooks/backup.yml; "
                f"'systemctl list-timers truthgraph*' there says when it is done by itself."
            )
    return found


def at(seconds: float) -> str:
    """Return a moment as people read it."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M} UTC"
