#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Say what is in a database: its tables, with the number of their rows and a checksum of their contents."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_content
short_description: Say what is in a database, such that two can be compared
version_added: 0.1.0
description:
  - Reads a Postgres that runs in a container of this host, in one transaction that sees one moment.
  - The checksum of a table does not depend on the order of its rows, on the version of Postgres, or on settings.
options:
  without:
    description: Schemas that are left out.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - truthgraph.platform.database_container
  - truthgraph.platform.reads
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: See what is in the database
  truthgraph.platform.database_content:
    container: truthgraph-postgres
    database: truthgraph
"""

RETURN = r"""
tables:
  description: >-
    Every ordinary table by its name with its schema: C(rows), C(checksum), and C(columns) as a list of name and type.
  returned: success
  type: dict
rows:
  description: How many rows all of them have.
  returned: success
  type: int
revision:
  description: Revisions of the schema, if Alembic keeps them in the database.
  returned: success
  type: list
  elements: str
server:
  description: Version of Postgres.
  returned: success
  type: str
owner:
  description: Role that owns the database.
  returned: success
  type: str
owners:
  description: Roles that own its tables.
  returned: success
  type: list
  elements: str
superuser:
  description: Whether O(user) is one.
  returned: success
  type: bool
bytes:
  description: Size of the database.
  returned: success
  type: int
extensions:
  description: Its extensions by name, with their versions.
  returned: success
  type: dict
large_objects:
  description: How many large objects it has.
  returned: success
  type: int
"""

import json
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import psql

PROPERTIES = """
SELECT jsonb_build_object(
  'server', split_part(current_setting('server_version'), ' ', 1),
  'owner', pg_get_userbyid(datdba), 'bytes', pg_database_size(oid),
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'large_objects', (SELECT count(*) FROM pg_largeobject_metadata),
  'owners', (SELECT coalesce(jsonb_agg(DISTINCT tableowner), '[]') FROM pg_tables
             WHERE schemaname !~ '^pg_' AND schemaname <> 'information_schema'),
  'extensions', (SELECT coalesce(jsonb_object_agg(extname, extversion), '{}') FROM pg_extension))
FROM pg_database WHERE datname = current_database();
"""


def question(tables: list[dict[str, t.Any]]) -> str:
    """Return the script that reads all tables as they are at one moment: a line for each, then the properties."""
    lines = [psql.SAME_TEXT, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"]
    for table in tables:
        text = psql.row_text([name for name, _type in table["columns"]], "r")
        # Half of each row's MD5 as a number, and the sum of those: rows may come in any order.
        number = f"('x' || left(md5({text}), 16))::bit(64)::bigint::numeric"
        lines.append(
            "SELECT jsonb_build_object('rows', count(*), 'checksum', coalesce(sum("
            f"{number}), 0)::text) FROM ONLY {psql.qualified(table)} AS r;"
        )
    lines.append(PROPERTIES)
    for table in tables:
        if table["table"] == "alembic_version":
            versions = "coalesce(jsonb_agg(version_num ORDER BY version_num), '[]')"
            lines.append(f"SELECT {versions} FROM {psql.qualified(table)};")
            break
    return "\n".join([*lines, "COMMIT;"])


def look(database: psql.Psql, without: list[str]) -> dict[str, t.Any]:
    """Return what is in the database."""
    tables = [table for table in database.tables() if table["schema"] not in without]
    answers = [json.loads(line) for line in database.ask(question(tables)) if line]
    found = {
        f"{table['schema']}.{table['table']}": {**answer, "columns": table["columns"]}
        for table, answer in zip(tables, answers, strict=False)
    }
    rest = answers[len(tables) :]
    return {
        **rest[0],
        "tables": found,
        "rows": sum(table["rows"] for table in found.values()),
        "revision": rest[1] if len(rest) > 1 else [],
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={**psql.ARGUMENTS, "without": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    params = module.params
    try:
        found = look(psql.Psql(params, module.get_bin_path("docker", required=True)), params["without"])
    except psql.PsqlError as error:
        module.fail_json(msg=f"The database {params['database']} in {params['container']} cannot be read: {error}")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
