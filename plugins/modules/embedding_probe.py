#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask an inference service for the vector of a text, by which its model is known again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: embedding_probe
short_description: Ask an inference service for the vector of a text
version_added: 0.1.0
description:
  - Vectors of different models cannot be compared, so what is in a database can only be searched with the model that
    made it. The vector of a text that is always the same tells one model from another, whatever it is called.
options:
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
    default: /embed
  body:
    description: What to send as JSON.
    type: dict
    required: true
  field:
    description: Field of the answer, a JSON object, that has the list of vectors. The first one counts.
    type: str
    default: embeddings
  timeout:
    description: Seconds that the answer may take.
    type: float
    default: 30
extends_documentation_fragment:
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Ask for a vector
  truthgraph.platform.embedding_probe:
    address: 127.0.0.1
    port: 8001
    body: {texts: [The Eiffel Tower stands in Paris.]}
"""

RETURN = r"""
vector:
  description: The vector.
  returned: success
  type: list
  elements: float
model:
  description: What the service calls its model, if it says so in the field C(model).
  returned: success
  type: str
"""

import http.client
import json
import math
import typing as t

from ansible.module_utils.basic import AnsibleModule

SHOWN = 300


class NoVector(Exception):
    """There is no vector to be had; the text says why."""


def ask(address: str, port: int, path: str, body: t.Any, timeout: float) -> str:
    """Send the request, and return the text of its answer."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise NoVector(f"it did not answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise NoVector(f"it answered {answer.status}: {text[:SHOWN].strip()}")
    return text


def read(text: str, field: str) -> tuple[list[float], str]:
    """Return the first vector of an answer, and what the model is called."""
    try:
        answer = json.loads(text)
        vector = [float(number) for number in answer[field][0]]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise NoVector(f"its answer has no list of vectors in the field '{field}': {text[:SHOWN]}") from error
    if not vector or not all(map(math.isfinite, vector)) or not any(vector):
        raise NoVector(f"its answer has something else than a vector in the field '{field}': {text[:SHOWN]}")
    return vector, str(answer.get("model", ""))


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "path": {"type": "str", "default": "/embed"},
            "body": {"type": "dict", "required": True},
            "field": {"type": "str", "default": "embeddings"},
            "timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        text = ask(params["address"], params["port"], params["path"], params["body"], params["timeout"])
        vector, model = read(text, params["field"])
    except NoVector as error:
        module.fail_json(
            msg=f"The inference service was asked for a vector (POST {params['path']}), and {error}. If it is asked in "
            "another way, say so in release_embedding_probe; an empty one leaves the question out."
        )
    module.exit_json(changed=False, vector=vector, model=model)


if __name__ == "__main__":
    main()
