# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a deploy or rollback: from what a run knows of itself to one document, and from that to a page.

What comes in:

run      what the role release says of the run (roles/release/vars/main/report.yml, __release_report). Times in seconds since the
         epoch: fleet, action, result, who, release, earlier, revision, version, topology, steps ([{name, at}], each lasts until
         the next), plan ([[host, service, release, image, slot, what is done]]), failures ([text]), outcome (text), images and
         earlier_images ({name: reference by digest}), sizes ({digest: {unpacked_bytes, compressed_bytes}}), schema ({before,
         after: [revision], seconds}), backup (name), data (what a rollback did with the data), pruned ({host: answer of
         release_prune}), registry ([repository@digest])
notes    one entry for each phase and host, as the action slot writes them: host, phase, services, began, ended (seconds since
         the epoch, by the clock of the control node), failed, actions, watched, serves
probe    the prober's result.json (plugins/plugin_utils/prober.py); nothing where it did not run. With left_out, the
         samples are not all that there are
samples  its samples.jsonl: [seconds since its start, target, status (0 for none), milliseconds, release]

What comes out of `document` is what the JSON file holds. In it, `at`, `began` and `ended` of anything are seconds since the
run began, latencies are milliseconds, and sizes are bytes. All of it is plain data, so the page needs nothing else.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import typing as t

import jinja2

FORMAT = 1
# Widths of the intervals in which requests are counted, in seconds; the narrowest that is enough for a whole run is taken.
WIDTHS = (0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
MOST_BUCKETS = 300
# On average, so that a percentile of an interval means something.
FEWEST_REQUESTS = 5
# Of the samples, about 200 000 requests, which takes a second: what was before is counted in the totals and not drawn.
MOST_BYTES = 8_000_000
MOST_SWITCHES = 20
# Shorter values would be found in ordinary words.
SHORTEST_SECRET = 4
HIDDEN = "(hidden)"
TEMPLATE = "report.html.j2"
# How modules end the line before the log of a container.
LOG_FOLLOWS = "Last lines of its log:"
# At the end everything is pulled, so how much that was going to be is left out.
PLAN = ("host", "service", "release", "image", "slot", "done")
PHASES = {"prepared": "prepare", "committed": "switch and watch", "settled": "settle", "undone": "undo"}

Sample = tuple[float, str, int, float, str]
Data = dict[str, t.Any]


def read_lines(path: str, most: int = MOST_BYTES) -> tuple[list[t.Any], bool]:
    """Return the JSON values of a file's lines, and whether its beginning was left out because it has more bytes than `most`.

    A file that is missing has none, and a line that is not whole is left out: its writer may have been killed.
    """
    try:
        with open(path, "rb") as file:
            left_out = os.fstat(file.fileno()).st_size > most
            if left_out:
                file.seek(-most, os.SEEK_END)
                file.readline()
            lines = file.read().splitlines()
    except FileNotFoundError:
        return [], False
    values = []
    for line in lines:
        try:
            values.append(json.loads(line))
        except ValueError:
            continue
    return values, left_out


def hidden(value: t.Any, secrets: list[str]) -> t.Any:
    """Return a value without what is secret in its texts; `secrets` as `texts` answers them."""
    if isinstance(value, dict):
        return {name: hidden(entry, secrets) for name, entry in value.items()}
    if isinstance(value, list):
        return [hidden(entry, secrets) for entry in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, HIDDEN)
    return value


def texts(value: t.Any) -> list[str]:
    """Return every text in a value that is long enough to be looked for, the longest first."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return sorted({text for entry in value for text in texts(entry)}, key=len, reverse=True)
    text = str(value).strip() if isinstance(value, str) else ""
    return [text] if len(text) >= SHORTEST_SECRET else []


def percentile(values: list[float], share: float) -> float | None:
    """Return the value at or below which a share of all lies (nearest rank); None if there are none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def width(span: float, requests: int) -> float:
    """Return the narrowest interval that cuts a span of seconds into few enough parts, each with requests enough."""
    return next(
        (w for w in WIDTHS if span / w <= MOST_BUCKETS and requests * w >= FEWEST_REQUESTS * span),
        next((w for w in WIDTHS if span / w <= MOST_BUCKETS), WIDTHS[-1]),
    )


def latency(values: list[float]) -> Data:
    """Return what there is to say of the latencies of good answers, in milliseconds."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {"requests": len(values), **{name: percentile(values, share) for name, share in shares.items()}}


def is_good(sample: Sample) -> bool:
    """Say whether a request had a good answer, as the prober counts them."""
    return 0 < sample[2] < 500


def measured(samples: list[Sample], seconds: float, offset: float) -> Data:
    """Return what the requests to one target were like: buckets of some seconds, latency by release, and its switches.

    `offset` is how long after the run's beginning the prober's was. Failures before the first good answer are unanswered: there
    was nothing yet that could have answered.
    """
    buckets: dict[int, Data] = {}
    values: dict[int, list[float]] = {}
    releases: dict[str, list[float]] = {}
    switches: list[Data] = []
    release, answered = "", False
    for sample in samples:
        place = int(sample[0] // seconds)
        empty = {"at": round(place * seconds + offset, 3), "requests": 0, "failures": 0, "unanswered": 0}
        bucket = buckets.setdefault(place, empty)
        bucket["requests"] += 1
        if not is_good(sample):
            bucket["failures" if answered else "unanswered"] += 1
            continue
        values.setdefault(place, []).append(sample[3])
        releases.setdefault(sample[4], []).append(sample[3])
        if answered and sample[4] != release and len(switches) < MOST_SWITCHES:
            switches.append({"at": round(sample[0] + offset, 3), "before": release, "after": sample[4]})
        release, answered = sample[4], True
    for place, bucket in buckets.items():
        seen = latency(values.get(place, []))
        bucket.update({name: seen[name] for name in ("p50", "p99", "max")})
    return {
        "latency": [{"release": name, **latency(found)} for name, found in releases.items()],
        "switches": switches,
        "buckets": [buckets[place] for place in sorted(buckets)],
    }


def probed(probe: Data, samples: list[Sample], began: float) -> Data:
    """Return what the prober saw: totals of the targets that have ever answered, and each target over time."""
    targets = probe.get("targets") or {}
    if not targets:
        return {"measured": False, "left_out": False, "targets": {}}
    offset = datetime.datetime.fromisoformat(probe["started"]).timestamp() - began
    by_target: dict[str, list[Sample]] = {name: [] for name in targets}
    for sample in samples:
        by_target.setdefault(sample[1], []).append(sample)
    span = max((sample[0] for sample in samples), default=0.0) - min((sample[0] for sample in samples), default=0.0)
    seconds = width(span, max(map(len, by_target.values())))
    found = {}
    for name, counts in targets.items():
        early = counts["failures_before_first"]
        found[name] = {
            "requests": counts["requests"],
            "failures": counts["failures"] - early,
            "unanswered": early,
            "longest_gap": counts["longest_gap"],
            "reconnects": counts["reconnects"],
            "never_answered": counts["never_answered"],
            "first_failures": counts["first_failures"],
            **measured(sorted(by_target[name]), seconds, offset),
        }
    counted = [target for target in found.values() if not target["never_answered"]]
    return {
        "measured": bool(counted),
        "left_out": bool(probe.get("left_out")),
        **{name: sum(target[name] for target in counted) for name in ("requests", "failures", "unanswered")},
        "longest_gap": max((target["longest_gap"] for target in counted), default=0.0),
        "bucket_seconds": seconds,
        "targets": found,
    }


def steps(marks: list[Data], began: float, ended: float) -> list[Data]:
    """Return the steps of the run, each as long as until the next one."""
    ends = [mark["at"] for mark in marks[1:]] + [ended]
    return [lasted({"name": mark["name"]}, mark["at"] - began, end - began) for mark, end in zip(marks, ends, strict=False)]


def lasted(entry: Data, began: float, ended: float) -> Data:
    """Return an entry with when it was, in seconds since the run began."""
    return {**entry, "began": round(began, 2), "ended": round(ended, 2), "seconds": round(ended - began, 2)}


def phases(notes: list[Data], began: float) -> list[Data]:
    """Return what was done on each host, in the order of hosts and time."""
    found = [
        lasted(
            {
                "host": note["host"],
                "phase": PHASES.get(note["phase"], note["phase"]),
                "services": note["services"],
                "failed": note["failed"],
                "actions": note.get("actions", []),
                "watched": note.get("watched", {}),
            },
            note["began"] - began,
            note["ended"] - began,
        )
        for note in notes
    ]
    return sorted(found, key=lambda entry: (entry["host"], entry["began"]))


def serving(notes: list[Data]) -> list[Data]:
    """Return which slot served each service at the end, as the hosts' own maps said it last."""
    last: dict[tuple[str, str], Data] = {}
    for note in sorted(notes, key=lambda entry: entry["ended"]):
        for service, seen in (note.get("serves") or {}).items():
            last[note["host"], service] = seen
    return [{"host": host, "service": service, **last[host, service]} for host, service in sorted(last)]


def images(run: Data) -> list[Data]:
    """Return the release's images beside those of the release before, with their sizes where they are known."""

    def sized(reference: str) -> Data | None:
        digest = reference.rpartition("@")[2]
        sizes = (run.get("sizes") or {}).get(digest, {})
        both = {name: sizes.get(name) for name in ("unpacked_bytes", "compressed_bytes")}
        return {"digest": digest, **both} if reference else None

    now, before = run.get("images") or {}, run.get("earlier_images") or {}
    names = sorted({*now, *before})
    return [{"name": name, "now": sized(now.get(name, "")), "before": sized(before.get(name, ""))} for name in names]


def document(run: Data, notes: list[Data], probe: Data, samples: list[Sample], ended: float) -> Data:
    """Return the report as plain data. `ended` is now, in seconds since the epoch.

    KeyError or TypeError mean that what came in has not the shape that is described above.
    """
    marks = run.get("steps") or []
    began = marks[0]["at"] if marks else ended
    notes = [note for note in notes if note["began"] >= began]
    pruned = run.get("pruned") or {}
    return {
        "format": FORMAT,
        **{
            name: run.get(name) or "" for name in ("fleet", "action", "result", "who", "release", "earlier", "revision")
        },
        **{name: run.get(name) or "" for name in ("version", "topology", "outcome", "backup")},
        "started": moment(began),
        "ended": moment(ended),
        "seconds": round(ended - began, 2),
        "failures": [without_log(str(text)) for text in run.get("failures") or []],
        "plan": [dict(zip(PLAN, map(str, row), strict=False)) for row in run.get("plan") or []],
        "serves": serving(notes),
        "steps": steps(marks, began, ended),
        "phases": phases(notes, began),
        "probe": probed(probe, samples, began),
        "images": images(run),
        "schema": run.get("schema") or {},
        "data": run.get("data") or {},
        "pruned": [
            {"host": host, **{name: pruned[host].get(name, []) for name in ("images", "records", "problems")}}
            for host in sorted(pruned)
        ],
        "registry": run.get("registry") or [],
    }


def without_log(text: str) -> str:
    """Return the first line of a failure: what follows is the log of a container, which may say anything."""
    return text.strip().partition("\n")[0].removesuffix(LOG_FOLLOWS).rstrip()


def moment(when: float) -> str:
    """Return a time of the clock in UTC, to the second."""
    return datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ticks(seconds: float) -> list[float]:
    """Return about five round places on an axis of some seconds."""
    rough = max(seconds, 0.001) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(place * step, 6) for place in range(int(seconds / step) + 1)]


def share(value: float, whole: float) -> str:
    """Return which part of a whole a value is, in percent for an attribute of SVG."""
    return f"{min(100.0, max(0.0, 100 * value / whole)) if whole else 0.0:.3f}%"


def size(count: float | None) -> str:
    """Return a size for people, in powers of ten."""
    if count is None:
        return "-"
    return f"{count / 1e9:.2f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.1f} MB"


def page(facts: Data) -> str:
    """Return a document as a page of HTML that needs nothing else: no network, no script, no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(share=share, size=size, ticks=ticks)
    return environment.get_template(TEMPLATE).render(facts)
