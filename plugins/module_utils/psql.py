# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the modules of this collection ask of a Postgres in a container, with the tools in it and over its socket."""

from __future__ import annotations

import json
import subprocess
import typing as t

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "container": {"type": "str", "required": True},
    "database": {"type": "str", "required": True},
    "user": {"type": "str", "default": "postgres"},
}

# Tables that belong to an extension are its own business.
TABLES = """
SELECT coalesce(jsonb_agg(jsonb_build_object('schema', n.nspname, 'table', c.relname, 'columns', (
  SELECT coalesce(jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum), '[]')
  FROM pg_attribute AS a
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''))
  ORDER BY n.nspname, c.relname), '[]')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (
  SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
# Whatever the server's or the role's own settings are, the same value is the same text everywhere.
SAME_TEXT = """
SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex';
SET extra_float_digits = 1; SET lc_monetary = 'C'; SET search_path = pg_catalog, public; SET statement_timeout = 0;
"""


class PsqlError(Exception):
    """Postgres did not do what it was asked; the text says why."""


def identifier(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def qualified(table: dict[str, t.Any]) -> str:
    """Return the name of a table, as TABLES answers it, as SQL writes it."""
    return f"{identifier(table['schema'])}.{identifier(table['table'])}"


def row_text(columns: t.Iterable[str], alias: str) -> str:
    """Return the expression for the text of a row."""
    return f"ROW({', '.join(f'{alias}.{identifier(column)}' for column in columns)})::text"


class Psql:
    """The psql in a container."""

    def __init__(self, params: dict[str, t.Any], docker: str) -> None:
        self._command = [
            *(docker, "exec", "--interactive", params["container"], "psql", "--no-psqlrc", "--quiet", "--tuples-only"),
            *("--no-align", "--set=ON_ERROR_STOP=1"),
            *(f"--username={params['user']}", f"--dbname={params['database']}"),
        ]

    def ask(self, script: str) -> list[str]:
        """Run a script in a session of its own, and return the lines that it answers."""
        done = subprocess.run(self._command, input=script, capture_output=True, text=True, check=False)
        return _checked(done).splitlines()

    def stream(self, source: t.IO[str] | None = None, script: str = "", sink: t.IO[str] | None = None) -> list[str]:
        """Do the same with a script in a file, or with an answer that goes into one."""
        given: dict[str, t.Any] = {"stdin": source} if source else {"input": script}
        done = subprocess.run(
            self._command, stdout=sink or subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **given
        )
        return (_checked(done) or "").splitlines()

    def tables(self) -> list[dict[str, t.Any]]:
        """Return the ordinary tables, each with its columns and their types."""
        found: list[dict[str, t.Any]] = json.loads(self.ask(f"{TABLES};")[0])
        return found


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if "ERROR" in line or "FATAL" in line]
        raise PsqlError((telling or lines or ["psql ended without a word"])[0])
    return done.stdout
