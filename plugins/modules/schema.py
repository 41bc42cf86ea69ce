#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring the database's schema up to date from the image of a release, in one container and to its end."""

from __future__ import annotations

DOCUMENTATION = r"""
module: schema
short_description: Bring the database's schema up to date from an image, or back
version_added: 0.1.0
description:
  - Runs Alembic in a container of the image, with the image's own migrations, and removes the container afterwards.
  - A database that is ahead of the image, because a later release has been here, is left as it is.
  - A migration says C(contract = True) at its top if it takes away what earlier releases use, and C(irreversible = True) if
    it cannot be taken back. One without C(downgrade), or whose C(downgrade) does nothing but raise, says the same. Both kinds
    are answered, so that an impossible return to an earlier release is known beforehand.
  - An advisory lock of the database is held meanwhile, so that only one run at a time works on a schema, from whatever
    control node. It ends with its connection, whatever becomes of the run.
  - The two timeouts hold for every connection that the tree's C(env.py) opens, whatever that says itself. A migration may
    still set others with C(SET LOCAL).
options:
  image:
    description: The image, by digest.
    type: str
    required: true
  network:
    description: Docker network on which the database is reached.
    type: str
    required: true
  environment:
    description: Environment variables of the container. None of them may be a secret.
    type: dict
    default: {}
  action:
    description:
      - V(upgrade) runs the migrations that are missing, V(look) only says what there is.
      - V(downgrade) takes back those that O(keep) does not name. It is refused before anything is done if one of them is
        irreversible, if the image does not know what the database has, or if the schema has branches. V(check) does no more
        than that.
    type: str
    choices: [look, upgrade, check, downgrade]
    default: upgrade
  keep:
    description: Revisions that stay after a V(downgrade), such as those that the earlier release knows.
    type: list
    elements: str
    default: []
  measure:
    description: Whether RV(lost) is counted. It reads every table before and after.
    type: bool
    default: false
  secrets:
    description: Secrets by the names of their environment variables.
    type: dict
    default: {}
  lock_timeout:
    description: How long a migration may wait for a lock, as Postgres writes it; while it waits, requests wait behind it.
    type: str
    default: 10s
  statement_timeout:
    description: How long one statement of a migration may take, as Postgres writes it; V(0) for any time.
    type: str
    default: 5min
  wait:
    description: Seconds for which another run that works on the same schema is waited for.
    type: int
    default: 120
  owner:
    description: Who does this, for others who have to wait.
    type: str
    default: ""
  timeout:
    description: Seconds that all of it may take.
    type: int
    default: 600
  gid:
    description: Numeric group of the image's user, which may read the secrets.
    type: int
    default: 10001
attributes:
  check_mode:
    support: partial
    description: Nothing is done.
    details: What the database needs is known by running the image only, so nothing is answered either.
  diff_mode:
    support: none
    description: RV(before) and RV(after) say what changed.
  idempotent:
    support: full
    description: A schema that is as it is wanted is left alone.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Bring the schema up to date
  truthgraph.platform.schema:
    image: registry.example.org/truthgraph/core@sha256:...
    network: truthgraph
    secrets:
      DATABASE_URL: "{{ database_url }}"

- name: Take back what the earlier release does not know
  truthgraph.platform.schema:
    image: registry.example.org/truthgraph/core@sha256:...
    network: truthgraph
    action: downgrade
    keep: ["0001", "0002"]
    secrets:
      DATABASE_URL: "{{ database_url }}"
"""

RETURN = r"""
image:
  description: The image that was asked.
  returned: success, not in check mode
  type: str
pending:
  description: Whether migrations are still to be run.
  returned: not in check mode
  type: bool
before:
  description: Revisions that the database had.
  returned: not in check mode
  type: list
  elements: str
after:
  description: Revisions that it has now, after a failure too, as far as that could be read.
  returned: not in check mode
  type: list
  elements: str
known:
  description: Revisions that the image knows.
  returned: not in check mode
  type: list
  elements: str
heads:
  description: Those of them that no other one stands on.
  returned: not in check mode
  type: list
  elements: str
contracts:
  description: Those of them that take away what earlier releases use.
  returned: not in check mode
  type: list
  elements: str
irreversible:
  description: Those of them that cannot be taken back.
  returned: not in check mode
  type: list
  elements: str
back:
  description: Revisions that a V(check) or V(downgrade) would take back, the newest first.
  returned: not in check mode
  type: list
  elements: str
lost:
  description:
    - What is in the database no more, with O(measure). Each has C(what) (table, with all of its rows; rows, of a table that
      is still there; column, with its values that are not null), C(name) and C(count).
    - What was renamed counts as gone.
  returned: not in check mode
  type: list
  elements: dict
  sample: [{what: column, name: public.evidence.note, count: 12}]
waited:
  description: Seconds for which another run was waited for.
  returned: success, not in check mode
  type: float
seconds:
  description: Seconds that the migrations took.
  returned: success, not in check mode
  type: float
log:
  description: What the migrations wrote.
  returned: not in check mode
  type: list
  elements: str
"""

import json
import re
import secrets
import subprocess
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import schema_program, secret_files, slots
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

NAME = "truthgraph-schema"
LOG_LINES = 30
TIMEOUT = re.compile(r"\d+ ?(us|ms|s|min|h|d)?\Z")
# Postgres keeps so much of an application's name.
OWNER_LENGTH = 63
DONE = {
    "look": "be looked at",
    "upgrade": "be brought up to date",
    "check": "be taken back",
    "downgrade": "be taken back",
}


def program() -> str:
    """Return the text of what is run in the image. A module's own files are in an archive when it runs."""
    loader: t.Any = schema_program.__loader__
    return str(loader.get_source(schema_program.__name__))


def request(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return what the program is asked."""
    names = ("action", "keep", "measure", "lock_timeout", "statement_timeout", "wait")
    owner = re.sub(r"[^\w@. -]", "", f"{NAME} {params['owner']}".strip(), flags=re.ASCII)[:OWNER_LENGTH]
    return {**{name: params[name] for name in names}, "owner": owner}


def run(module: AnsibleModule, name: str, directory: str) -> subprocess.CompletedProcess[str]:
    """Run the program in the image; TimeoutExpired leaves the container to be removed."""
    params = module.params
    container = {
        "image": params["image"],
        "environment": params["environment"],
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "command": ["python3", "-c", program(), json.dumps(request(params))],
    }
    place = {
        **{"service": "schema", "slot": "once", "fleet": "", "network": params["network"], "address": ""},
        "secrets": directory if params["secrets"] else "",
    }
    options = slots.run_options(container, place)
    # A one-off container has no address of its own, and is none of the fleet's services.
    options = options[:2] + options[4:]
    return subprocess.run(
        [module.get_bin_path("docker", required=True), "run", "--rm", "--name", name, *options],
        capture_output=True,
        text=True,
        timeout=params["timeout"],
        check=False,
    )


def explained(params: dict[str, t.Any], answer: dict[str, t.Any]) -> str:
    """Say why it was not done, and the way out; empty where Alembic's last lines are to say it."""
    there, back = ", ".join(answer["before"]) or "none", ", ".join(answer["back"])
    return {
        "held": f"Another run works on it, and was not done after {params['wait']} s (api_migrate_wait): {answer['holder']}. "
        "Let it finish; if nothing of it is left, end its session in the database.",
        "lock": f"A migration has waited for a lock for more than {params['lock_timeout']} (api_migrate_lock_timeout). "
        "Requests would have waited behind it, so it gave up. Try again when less is going on.",
        "statement": f"A statement took more than {params['statement_timeout']} (api_migrate_statement_timeout). "
        "Let it take longer, or do the work in smaller parts.",
        "unknown": f"The database has the revision {there}, which this image does not know.",
        "branches": f"Its history has branches ({there}), and only a straight one is taken back by itself.",
        "irreversible": f"Of {back}, which would be taken back, "
        f"{', '.join(one for one in answer['back'] if one in answer['irreversible'])} cannot be: it is irreversible.",
    }.get(answer["problem"], "")


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            "action": {"type": "str", "choices": ["look", "upgrade", "check", "downgrade"], "default": "upgrade"},
            "keep": {"type": "list", "elements": "str", "default": []},
            "measure": {"type": "bool", "default": False},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "lock_timeout": {"type": "str", "default": "10s"},
            "statement_timeout": {"type": "str", "default": "5min"},
            "wait": {"type": "int", "default": 120},
            "owner": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 600},
            "gid": {"type": "int", "default": 10001},
        },
        supports_check_mode=True,
    )
    params = module.params
    for name in ("lock_timeout", "statement_timeout"):
        if not TIMEOUT.match(params[name]):
            module.fail_json(
                msg=f"api_migrate_{name} is '{params[name]}'. Write it as Postgres does: a number with us, ms, s, min, h or d "
                "behind it, or 0 for any time."
            )
    if module.check_mode:
        module.exit_json(changed=False, msg="the schema is looked at when it is migrated")
    docker = DockerCli(module)
    # Each run has its own: one that is still at work, of whoever it is, is waited for and not ended.
    name = f"{NAME}-{secrets.token_hex(4)}"
    failure = f"The schema could not {DONE[params['action']]} from {params['image']}."
    # In memory, and gone with this process' work.
    with tempfile.TemporaryDirectory(prefix="truthgraph-schema-", dir="/run") as base:
        directory = f"{base}/secrets"
        try:
            secret_files.write(directory, secret_files.checked(params["secrets"]), params["gid"])
            done = run(module, name, directory)
        except ValueError as error:
            module.fail_json(msg=str(error))
        except subprocess.TimeoutExpired:
            docker.try_run("rm", "--force", name)
            module.fail_json(msg=f"{failure} It was not done after {params['timeout']} s (api_migrate_timeout).")
    lines = (done.stdout + done.stderr).splitlines()
    answers = [line[len(schema_program.MARK) :] for line in lines if line.startswith(schema_program.MARK)]
    log = [line for line in lines if not line.startswith(schema_program.MARK)][-LOG_LINES:]
    text = "The last lines that Alembic wrote:\n" + "\n".join(log)
    if done.returncode or not answers:
        module.fail_json(msg=f"{failure} {text}", log=log)
    answer = json.loads(answers[0])
    if answer["problem"]:
        why = explained(params, answer)
        # What a limit has ended is told from its migration's own words.
        words = " ".join(filter(None, [why, "" if why and answer["problem"] not in ("lock", "statement") else text]))
        module.fail_json(msg=f"{failure} {words}", log=log, **answer)
    module.exit_json(changed=answer["before"] != answer["after"], image=params["image"], log=log, **answer)


if __name__ == "__main__":
    main()
