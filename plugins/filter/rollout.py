"""Filters that decide what a rollout does, from what the hosts have answered. Each has its documentation beside this file."""

from __future__ import annotations

import typing as t

from ansible_collections.truthgraph.platform.plugins.plugin_utils import plan, rollout


class FilterModule:
    """What Ansible asks a filter file for."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters of this file by name."""
        return {
            "release_target": rollout.target,
            "release_target_of": rollout.target_of,
            "release_plan": rollout.plan,
            "release_plan_rows": plan.rows,
            "release_plan_settings": plan.configuration,
            "release_plan_migrations": plan.migrations,
            "release_leftovers": rollout.leftovers,
            "release_records": rollout.known_records,
            "release_live": rollout.live_release,
            "release_serving": rollout.serving_release,
            "release_unsealed": rollout.unsealed,
            "rollback_targets": rollout.rollback_targets,
            "rollback_choice": rollout.rollback_choice,
            "schema_marked": rollout.schema_marked,
            "owner_gone": rollout.owner_gone,
        }
