#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring the database's schema up to date from the image of a release, in one container and to its end."""

from __future__ import annotations

DOCUMENTATION = r"""
module: schema
short_description: Bring the database's schema up to date from an image
version_added: 0.1.0
description:
  - Runs Alembic in a container of the image, with the image's own migrations, and removes the container afterwards.
  - A database that is ahead of the image, because a later release has been here, is left as it is.
  - A migration says C(contract = True) at its top if it takes away what earlier releases use. Such revisions are answered,
    so that a return to an earlier release can be refused beforehand.
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
  upgrade:
    description: Whether the migrations that are missing are run. Without it the database is only looked at.
    type: bool
    default: true
  secrets:
    description: Secrets by the names of their environment variables.
    type: dict
    default: {}
  lock_timeout:
    description: How long a migration may wait for a lock; while it waits, requests wait behind it.
    type: str
    default: 10s
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
    support: none
    description: What the database needs is known by running the image only, so nothing is done and nothing answered.
  diff_mode:
    support: none
    description: RV(before) and RV(after) say what changed.
  idempotent:
    support: full
    description: A schema that is up to date is left alone.
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
"""

RETURN = r"""
pending:
  description: Whether migrations are still to be run.
  returned: success, not in check mode
  type: bool
before:
  description: Revisions that the database had.
  returned: success, not in check mode
  type: list
  elements: str
after:
  description: Revisions that it has now.
  returned: success, not in check mode
  type: list
  elements: str
known:
  description: Revisions that the image knows.
  returned: success, not in check mode
  type: list
  elements: str
contracts:
  description: Those of them that take away what earlier releases use.
  returned: success, not in check mode
  type: list
  elements: str
log:
  description: What the migrations wrote.
  returned: success, not in check mode
  type: list
  elements: str
"""

import json
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import secret_files, slots
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

NAME = "truthgraph-schema"
MARK = "truthgraph-schema: "
LOG_LINES = 30
PROGRAM = """
import json, sys
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

config = Config("alembic.ini")
script = ScriptDirectory.from_config(config)

def present():
    found = []
    def look(revisions, context):
        found.extend(revisions)
        return []
    with EnvironmentContext(config, script, fn=look):
        script.run_env()
    return sorted(found)

revisions = list(script.walk_revisions())
known = sorted(revision.revision for revision in revisions)
contracts = sorted(revision.revision for revision in revisions if getattr(revision.module, "contract", False))
before = after = present()
pending = set(before) <= set(known) and set(before) != set(script.get_heads())
if pending and sys.argv[1] == "upgrade":
    command.upgrade(config, "heads")
    after, pending = present(), False
answer = {"pending": pending, "before": before, "after": after, "known": known, "contracts": contracts}
print("%s" + json.dumps(answer))
""" % MARK


def run(module: AnsibleModule, directory: str) -> subprocess.CompletedProcess[str]:
    """Run the program in the image; TimeoutExpired leaves the container to be removed."""
    params = module.params
    container = {
        "image": params["image"],
        "environment": {**params["environment"], "PGOPTIONS": f"-c lock_timeout={params['lock_timeout']}"},
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "command": ["python3", "-c", PROGRAM, "upgrade" if params["upgrade"] else "look"],
    }
    place = {
        **{"service": "schema", "slot": "once", "fleet": "", "network": params["network"], "address": ""},
        "secrets": directory if params["secrets"] else "",
    }
    options = slots.run_options(container, place)
    # A one-off container has no address of its own, and is none of the fleet's services.
    options = options[:2] + options[4:]
    return subprocess.run(
        [module.get_bin_path("docker", required=True), "run", "--rm", "--name", NAME, *options],
        capture_output=True,
        text=True,
        timeout=params["timeout"],
        check=False,
    )


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            "upgrade": {"type": "bool", "default": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "lock_timeout": {"type": "str", "default": "10s"},
            "timeout": {"type": "int", "default": 600},
            "gid": {"type": "int", "default": 10001},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, msg="the schema is looked at when it is migrated")
    docker = DockerCli(module)
    # Left by a run that was killed.
    docker.try_run("rm", "--force", NAME)
    failure = f"The schema could not be brought up to date from {module.params['image']}, and nothing was switched."
    # In memory, and gone with this process' work.
    with tempfile.TemporaryDirectory(prefix="truthgraph-schema-", dir="/run") as base:
        directory = f"{base}/secrets"
        try:
            secret_files.write(directory, secret_files.checked(module.params["secrets"]), module.params["gid"])
            done = run(module, directory)
        except ValueError as error:
            module.fail_json(msg=str(error))
        except subprocess.TimeoutExpired:
            docker.try_run("rm", "--force", NAME)
            module.fail_json(msg=f"{failure} It was not done after {module.params['timeout']} s (api_migrate_timeout).")
    lines = (done.stdout + done.stderr).splitlines()
    answers = [line[len(MARK) :] for line in lines if line.startswith(MARK)]
    log = [line for line in lines if not line.startswith(MARK)][-LOG_LINES:]
    if done.returncode or not answers:
        text = "\n".join(log)
        module.fail_json(msg=f"{failure} The last lines that Alembic wrote:\n{text}", log=log)
    answer = json.loads(answers[0])
    module.exit_json(changed=answer["before"] != answer["after"], log=log, **answer)


if __name__ == "__main__":
    main()
