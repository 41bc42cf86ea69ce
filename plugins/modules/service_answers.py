#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask services over HTTP, as their clients would, until each has answered well."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_answers
short_description: Ask services over HTTP until each has answered well
version_added: 0.1.0
description:
  - Sends one request after another from this host. Each is repeated until its answer is 200 with the fields that are
    expected, so the others wait for it.
  - Fails with the request that was not answered well, and what came instead.
options:
  requests:
    description: What to ask, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      address:
        description: Address or name of the host that is asked.
        type: str
        required: true
      port:
        description: And its port.
        type: int
        required: true
      path:
        description: Path of the request.
        type: str
        required: true
      body:
        description: What to send as JSON with a POST; without it the request is a GET.
        type: raw
      expect:
        description: Fields that the answer, a JSON object, must have with these values.
        type: dict
        default: {}
      tls:
        description:
          - How to ask by TLS; without it the request goes as plain text.
          - C(name) is the name that the server's certificate must have, C(ca) the file with the authorities that are trusted,
            empty for those of the system, C(certificate) and C(key) are the files with which the client shows who it is.
        type: dict
  timeout:
    description: Seconds that one answer may take.
    type: float
    default: 15
  retries:
    description: How often a request is repeated, a second later, before the module fails.
    type: int
    default: 10
attributes:
  check_mode:
    support: full
    description: Asks in check mode, too.
  diff_mode:
    support: none
    description: Nothing is changed.
  idempotent:
    support: full
    description: Nothing is changed, unless a request does so.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Ask the API whether all that it needs answers
  truthgraph.platform.service_answers:
    requests:
      - {address: 127.0.0.1, port: 8000, path: /ready, expect: {status: ready}}
"""

RETURN = r"""
seen:
  description: What each request was answered, in words.
  returned: always
  type: list
  elements: str
  sample: [GET /ready answered 200]
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.readiness import ask

DELAY = 1.0


def answered(request: dict[str, t.Any], timeout: float, retries: int) -> tuple[bool, str]:
    """Send one request until its answer is good; return whether it was in the end, and what it was."""
    while True:
        good, seen = ask(
            *(request["address"], request["port"], request["path"], timeout, request["expect"], request["body"]),
            request["tls"],
        )
        if good or retries <= 0:
            return good, seen
        retries -= 1
        time.sleep(DELAY)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "requests": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "address": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "path": {"type": "str", "required": True},
                    "body": {"type": "raw"},
                    "expect": {"type": "dict", "default": {}},
                    "tls": {"type": "dict"},
                },
            },
            "timeout": {"type": "float", "default": 15},
            "retries": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    params = module.params
    seen: list[str] = []
    for request in params["requests"]:
        good, words = answered(request, params["timeout"], params["retries"])
        seen.append(words)
        if not good:
            where, times = f"{request['address']}:{request['port']}", params["retries"] + 1
            module.fail_json(
                msg=f"{where} was asked {times} times and did not answer well: {words}. Look at the log of that service "
                "(docker logs on its host) and, where it is asked from another host, at what lies between them.",
                seen=seen,
            )
    module.exit_json(changed=False, seen=seen)


if __name__ == "__main__":
    main()
