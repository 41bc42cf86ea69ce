#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring the rows of one database to another one that has the same tables, whatever their versions of Postgres."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_rows
short_description: Bring the rows of a database to another one with the same tables
version_added: 0.1.0
description:
  - V(exported) writes the rows of tables to a file, as they are at one moment. V(imported) makes the same tables of
    another database the same by it - adds the rows that are not there, and removes those that are not in the file - in
    one transaction. Rows that both have are not touched.
  - Tables, columns and their types must be there already. Triggers and foreign keys do not act meanwhile.
options:
  path:
    description: The file. It is made readable by root only.
    type: path
    required: true
  tables:
    description: What is exported; the columns of each table by the table's name with its schema.
    type: dict
    default: {}
  state:
    description: Which of the two is done.
    type: str
    choices: [exported, imported]
    required: true
extends_documentation_fragment:
  - truthgraph.platform.database_container
attributes:
  check_mode:
    support: partial
    description: Nothing is done.
    details: Nothing is answered either.
  diff_mode:
    support: none
    description: RV(tables) says what changed.
  idempotent:
    support: full
    description: What is the same already is left alone.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Write the rows down
  truthgraph.platform.database_rows:
    container: truthgraph-postgres
    database: truthgraph
    path: /var/lib/truthgraph/rows.sql
    tables: {public.evidence: [id, text]}
    state: exported
"""

RETURN = r"""
tables:
  description: What an import did, by table, as C(added) and C(removed).
  returned: when O(state=imported), not in check mode
  type: dict
"""

import json
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import psql

# A setting of the database that forbids to write is overridden by this; the others cannot do that by accident.
BEGIN = "BEGIN READ WRITE; SET LOCAL session_replication_role = replica;"
SEQUENCES = """
SELECT format('SELECT setval(%L, %s, %L);', format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value),
              last_value IS NOT NULL)
FROM pg_sequences WHERE schemaname || '.' || sequencename = ANY (ARRAY(
  SELECT n.nspname || '.' || s.relname FROM pg_class AS s JOIN pg_namespace AS n ON n.oid = s.relnamespace
  JOIN pg_depend AS d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  JOIN pg_class AS c ON c.oid = d.refobjid JOIN pg_namespace AS m ON m.oid = c.relnamespace
  WHERE s.relkind = 'S' AND m.nspname || '.' || c.relname = ANY (ARRAY[%s]::text[])));
"""


def echoed(text: str) -> str:
    """Return the command of psql that writes a line."""
    return "\\echo '" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def export_script(tables: dict[str, list[str]]) -> str:
    """Return the script whose answer is the script that imports: what both say is said here alone."""
    lines = [psql.SAME_TEXT, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;", echoed(psql.SAME_TEXT.replace("\n", " "))]
    lines.append(echoed(BEGIN))
    for number, (name, columns) in enumerate(sorted(tables.items())):
        schema, _dot, table = name.partition(".")
        target, source = psql.qualified({"schema": schema, "table": table}), f"pg_temp.rows_{number}"
        listed = ", ".join(map(psql.identifier, columns))
        ours, theirs = psql.row_text(columns, "o"), psql.row_text(columns, "n")
        lines += [
            echoed(f"CREATE TEMP TABLE rows_{number} ON COMMIT DROP AS SELECT {listed} FROM {target} LIMIT 0;"),
            echoed(f"COPY {source} ({listed}) FROM stdin;"),
            f"COPY (SELECT {listed} FROM ONLY {target}) TO STDOUT;",
            echoed("\\."),
            echoed(
                f"WITH gone AS (DELETE FROM ONLY {target} AS o WHERE NOT EXISTS "
                f"(SELECT FROM {source} AS n WHERE {theirs} = {ours}) RETURNING 1) "
                f"SELECT jsonb_build_array({psql.literal(name)}, 'removed', count(*)) FROM gone;"
            ),
            echoed(
                f"WITH new AS (INSERT INTO {target} ({listed}) OVERRIDING SYSTEM VALUE SELECT {listed} FROM {source} AS n "
                f"WHERE NOT EXISTS (SELECT FROM ONLY {target} AS o WHERE {ours} = {theirs}) RETURNING 1) "
                f"SELECT jsonb_build_array({psql.literal(name)}, 'added', count(*)) FROM new;"
            ),
        ]
    lines += [SEQUENCES.replace("ARRAY[%s]", f"ARRAY[{', '.join(map(psql.literal, sorted(tables)))}]")]
    return "\n".join([*lines, echoed("COMMIT;"), "COMMIT;"])


def export_rows(database: psql.Psql, path: str, tables: dict[str, list[str]]) -> None:
    """Write the script that imports, readable by root only."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        database.stream(script=export_script(tables), sink=file)
        os.fsync(file.fileno())


def import_rows(database: psql.Psql, path: str) -> dict[str, dict[str, int]]:
    """Run that script, and return what it did."""
    done: dict[str, dict[str, int]] = {}
    with open(path, encoding="utf-8") as file:
        for line in database.stream(source=file):
            if line.startswith("["):
                name, what, count = json.loads(line)
                done.setdefault(name, {})[what] = count
    return done


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            **psql.ARGUMENTS,
            "path": {"type": "path", "required": True},
            "tables": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["exported", "imported"], "required": True},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    if module.check_mode:
        module.exit_json(changed=False)
    database = psql.Psql(params, module.get_bin_path("docker", required=True))
    try:
        if params["state"] == "exported":
            export_rows(database, params["path"], params["tables"])
            module.exit_json(changed=False)
        done = import_rows(database, params["path"])
    except (psql.PsqlError, OSError) as error:
        module.fail_json(msg=f"The rows of {params['database']} in {params['container']} were not {params['state']}: {error}")
    module.exit_json(changed=any(any(counts.values()) for counts in done.values()), tables=done)


if __name__ == "__main__":
    main()
