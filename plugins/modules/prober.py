#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Send requests to every API host in the background, and say how many were answered."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prober
short_description: Measure from outside what a deploy does to the clients of the API
version_added: 0.1.0
description:
  - An action that works on the control node itself, whichever host the task is for. A process in the background asks
    every target at a constant rate, over a connection that is kept alive, as long as the deploy works; it notes
    failures, gaps, latencies and the releases that answered.
  - No answer and a status of 500 or more are failures. A connection that the server closes between two requests is
    none, the request is sent once more on a new one.
  - A target that has never answered is not measured, since the control node may not reach the hosts at all. It counts
    neither as requests nor as failures.
  - The process ends when it is stopped, after its limit, or when its owner is gone, whichever is first.
options:
  state:
    description:
      - V(started) starts it. One that still runs in the same directory is ended first, unless it does the same for the
        same owner; that one goes on.
      - V(read) returns the counts so far, of the last run if none runs now.
      - V(stopped) ends it and returns the final counts.
    type: str
    choices: [started, read, stopped]
    default: started
  path:
    description: Run directory on the control node. It is created with mode 0700.
    type: path
    required: true
  targets:
    description: Names of the targets with their URLs. Only http is spoken. For O(state=started).
    type: dict
    default: {}
  tls:
    description:
      - How targets of https are known again. C(name) is the name that their certificate must have, by default that of the URL;
        C(ca) the file with the authorities that are trusted, by default those of the system.
    type: dict
    default: {}
  rate:
    description: Requests per second for each target, at most 50.
    type: float
    default: 10
  timeout:
    description: Seconds that one answer may take.
    type: float
    default: 5
  limit:
    description: Seconds after which it ends by itself.
    type: float
    default: 3600
  owner:
    description: Process without which it ends within a second. Without an owner, only the limit ends it.
    type: int
attributes:
  check_mode:
    support: full
    description: Nothing is started, read or stopped, and nothing is measured.
  diff_mode:
    support: none
    description: Nothing on any host is changed.
  idempotent:
    support: full
    description: Nothing on any host is changed. Started again for another owner, it begins to count anew.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Start the prober
  truthgraph.platform.prober:
    path: "{{ state_dir }}/probe"
    targets:
      cpu1: http://10.0.0.1:8000/health
      cpu2: http://10.0.0.2:8000/health
    owner: "{{ deploy_pid }}"
  delegate_to: localhost

- name: Stop the prober
  truthgraph.platform.prober:
    state: stopped
    path: "{{ state_dir }}/probe"
  delegate_to: localhost
  register: probed
"""

RETURN = r"""
measured:
  description: That at least one target has answered at least once.
  returned: always
  type: bool
reason:
  description: Why nothing was measured; empty if something was.
  returned: always
  type: str
running:
  description: That the process runs now.
  returned: always
  type: bool
requests:
  description: Requests sent to those targets that have ever answered.
  returned: always
  type: int
failures:
  description: How many of them had no answer, or one of 500 or more.
  returned: always
  type: int
longest_gap:
  description: Longest time in seconds between the ends of two successive good answers of one target.
  returned: always
  type: float
started:
  description: When it began, in UTC.
  returned: when there are counts
  type: str
  sample: "2026-01-31T12:00:00.000Z"
written:
  description: When these counts were written, in UTC.
  returned: when there are counts
  type: str
ended:
  description: Why it ended; empty if it runs, or was killed before it could say so.
  returned: when there are counts
  type: str
  sample: it was stopped
targets:
  description: The counts of each target.
  returned: always
  type: dict
  contains:
    requests:
      description: Requests sent.
      type: int
    failures:
      description: How many had no answer, or one of 500 or more.
      type: int
    failures_before_first:
      description: How many of the failures were before the first good answer.
      type: int
    first_failures:
      description: The first 20 failures, each with its time and what it was.
      type: list
      elements: dict
    never_answered:
      description: That there was no good answer at all, so that nothing was measured.
      type: bool
    reconnects:
      description: How often the server had closed the connection between two requests.
      type: int
    longest_gap:
      description: Longest time in seconds between the ends of two successive good answers.
      type: float
    since_last:
      description: >-
        Seconds from the last good answer to the time of these counts, null if there was none. A target that does not
        come back has a long one, and no gap.
      type: float
    latency:
      description: C(p50), C(p95) and C(p99) of the good answers in milliseconds.
      type: dict
    releases:
      description: >-
        Each release that answered, in order of appearance, with the time of its first and last answer and the number
        of answers (C(release), C(first), C(last), C(requests)).
      type: list
      elements: dict
"""
