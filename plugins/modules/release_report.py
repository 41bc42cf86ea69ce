#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write the report of a deploy or rollback."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_report
short_description: Write the report of a deploy or rollback
version_added: 0.1.0
description:
  - An action that works on the control node itself, whichever host the task is for. It writes a page of HTML that needs
    neither network nor script, and the same facts as JSON beside it, as C(TIME-ACTION-RELEASE.html) and C(.json).
  - The page shows the steps and what each host did when, the prober's requests over time with the switch marked, latency
    before and after, the sizes of the images beside those of the release before, migrations, and what was pruned; of a run
    that failed, what failed, what was undone, and what serves.
  - A report that cannot be written is no failure, since what was deployed is none the worse for it. RV(problem) says why.
options:
  directory:
    description: Directory on the control node for the reports. It is created with mode 0700.
    type: path
    required: true
  run:
    description: What the run knows of itself. Its shape is described in C(plugins/plugin_utils/report.py).
    type: dict
    required: true
  notes:
    description: File to which M(truthgraph.platform.slot) has appended what it did. It is removed.
    type: path
    required: true
  probe:
    description: Run directory of M(truthgraph.platform.prober).
    type: path
  probe_started:
    description: When that prober was started, as it has answered. What another run has left there is not looked at.
    type: str
    default: ""
  secrets:
    description: What must not be in the report, texts at any depth. Those of four letters and more are taken out.
    type: raw
    default: []
  kept:
    description: How many reports are kept, this one among them; 0 for all.
    type: int
    default: 50
attributes:
  check_mode:
    support: full
    description: Nothing is written.
  diff_mode:
    support: none
    description: Nothing on any host is changed.
  idempotent:
    support: none
    description: Every call writes a report of its own.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Write the report
  truthgraph.platform.release_report:
    directory: "{{ state_dir }}/reports"
    run: "{{ run }}"
    notes: "{{ state_dir }}/reports/.steps-12.jsonl"
    probe: "{{ state_dir }}/probe"
    probe_started: "{{ probed.started }}"
  run_once: true
"""

RETURN = r"""
path:
  description: The page; empty if there is none.
  returned: always
  type: str
data_path:
  description: The same facts as JSON; empty if there are none.
  returned: always
  type: str
removed:
  description: Names of the reports that were removed, since newer ones are kept, without their endings.
  returned: always
  type: list
  elements: str
problem:
  description: Why there is no report; empty if there is one.
  returned: always
  type: str
"""
