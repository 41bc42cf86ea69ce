"""What the API has done, as Prometheus reads it. By hand, since so little of it is worth no further package in the image."""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds in seconds, those that Prometheus' own libraries have.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STATES = {"ok": 1, "unavailable": 0}


class Durations:
    """How many requests took how long, by route and status code: a histogram for each."""

    def __init__(self) -> None:
        # Of each, how many fell into each bucket, with one more for what took longer, and the sum of the seconds.
        self._counts: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        self._sums: dict[tuple[str, int], float] = defaultdict(float)

    def observe(self, handler: str, code: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._counts[handler, code][bisect_left(BUCKETS, seconds)] += 1
        self._sums[handler, code] += seconds

    def lines(self) -> list[str]:
        """The histograms as text. Each bucket counts those below it, too."""
        name = "http_request_duration_seconds"
        lines = [f"# HELP {name} Seconds from a request to the end of its answer.", f"# TYPE {name} histogram"]
        for (handler, code), counts in sorted(self._counts.items()):
            labels, total = f'handler="{handler}",code="{code}"', 0
            for bound, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
                total += count
                lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{labels}}} {self._sums[handler, code]:.6f}")
            lines.append(f"{name}_count{{{labels}}} {total}")
        return lines


class Measured:
    """Middleware that observes every request by its route, so that no client can invent further names."""

    def __init__(self, app: ASGIApp, durations: Durations) -> None:
        self._app = app
        self._durations = durations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code = 500

        async def note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        begun = time.perf_counter()
        try:
            await self._app(scope, receive, note)
        finally:
            handler = getattr(scope.get("route"), "path", "none")
            self._durations.observe(handler, code, time.perf_counter() - begun)


def component_lines(states: Mapping[str, str]) -> list[str]:
    """Whether each part answered when it was last checked. One that was not checked yet is left out."""
    name = "truthgraph_component_up"
    lines = [f"# HELP {name} Whether a part that the API needs answers (1) or not (0).", f"# TYPE {name} gauge"]
    return lines + [f'{name}{{component="{part}"}} {STATES[state]}' for part, state in states.items() if state in STATES]
