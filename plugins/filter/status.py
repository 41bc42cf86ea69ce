"""Filters that say what there is on each host. Each has its documentation beside this file."""

from __future__ import annotations

import typing as t

from ansible_collections.truthgraph.platform.plugins.plugin_utils import status


class FilterModule:
    """What Ansible asks a filter file for."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters of this file by name."""
        return {
            "status_overview": status.overview,
            "status_rows": status.host_rows,
            "status_problems": status.problems,
        }
