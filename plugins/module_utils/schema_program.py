# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the module schema runs in a container of a release's image, with that image's own Alembic and migrations.

Its text is given to the image's Python, so it imports nothing of this collection, and of the image only Alembic and
SQLAlchemy, which every tree with migrations has. The one argument is a JSON object (see `run`); the answer is a line that
begins with MARK.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import sys
import textwrap
import time
import traceback
import typing as t

MARK = "truthgraph-schema: "
# Any number, the same in every version: who has this advisory lock of a database is the only one to change its schema.
ADVISORY_LOCK = 8_317_604_429_150_761
POLL_SECONDS = 0.5
# What Postgres answers when somebody has waited for a lock for too long, and when a statement was ended.
LOCK_NOT_AVAILABLE, QUERY_CANCELED = "55P03", "57014"
TABLES = """
SELECT n.nspname, c.relname, (
  SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]')::text FROM pg_attribute AS a
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
ORDER BY 1, 2
"""
HOLDER = f"""
SELECT coalesce(nullif(a.application_name, ''), 'an unnamed program'), coalesce(a.usename, 'another role'),
  coalesce(host(a.client_addr), 'its own host'), to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = {ADVISORY_LOCK >> 32} AND l.objid = {ADVISORY_LOCK & 0xFFFFFFFF}
"""
Measured = dict[str, tuple[int, dict[str, int]]]


class Held(Exception):
    """Somebody else changes the schema; the text says who."""


def ask(connection: t.Any, query: str) -> list[tuple[t.Any, ...]]:
    """Return what a query answers on a connection of the driver."""
    cursor = connection.cursor()
    try:
        cursor.execute(query)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def setting(name: str, value: str) -> str:
    """Return the query that makes a setting of a session, where the server knows it."""
    text = value.replace("'", "''")
    return f"SELECT set_config('{name}', '{text}', false) FROM pg_settings WHERE name = '{name}'"


def take_lock(connection: t.Any, owner: str, wait: float) -> float:
    """Take the advisory lock for as long as the connection lasts, and return the seconds that it took; else raise Held."""
    ask(connection, setting("application_name", owner))
    # It does nothing for as long as the migrations take.
    ask(connection, setting("idle_session_timeout", "0"))
    began = time.monotonic()
    while True:
        [(taken,)] = ask(connection, f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})")
        found = [] if taken else ask(connection, HOLDER)
        connection.commit()
        waited = time.monotonic() - began
        if taken:
            return waited
        if waited >= wait:
            who = found[0] if found else ("a program", "another role", "somewhere", "a moment ago")
            raise Held("{} (role {}, from {}, since {} UTC)".format(*who))
        time.sleep(POLL_SECONDS)


def watch_connections(request: dict[str, t.Any], notes: dict[str, t.Any]) -> None:
    """Limit every connection that the tree's env.py opens, whatever it says itself, and take the lock before the first.

    The lock is that of a connection of its own, opened like the first one: env.py opens and closes others as it likes.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connecting(dialect: t.Any, _record: t.Any, arguments: t.Any, options: t.Any) -> None:
        if "connection" not in notes:
            notes["connection"] = dialect.connect(*arguments, **options)
            notes["waited"] = take_lock(notes["connection"], request["owner"], request["wait"])

    def connected(connection: t.Any, _record: t.Any) -> None:
        for name in ("lock_timeout", "statement_timeout"):
            ask(connection, setting(name, request[name]))
        # A statement whose container was removed ends too, and gives its locks back.
        ask(connection, setting("client_connection_check_interval", "2s"))
        connection.commit()

    event.listen(Engine, "do_connect", connecting)
    event.listen(Engine, "connect", connected)


def reason(error: BaseException | None) -> str:
    """Say which of the limits ended a migration: lock, statement, or none (failed)."""
    while error is not None:
        for one in (error, getattr(error, "orig", None)):
            code = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
            if code in (LOCK_NOT_AVAILABLE, QUERY_CANCELED):
                return {LOCK_NOT_AVAILABLE: "lock", QUERY_CANCELED: "statement"}[code]
        error = error.__cause__ or error.__context__
    return "failed"


def is_irreversible(module: t.Any) -> bool:
    """Say whether a migration says that it cannot be taken back: by a mark, without a downgrade, or by one that raises."""
    downgrade = getattr(module, "downgrade", None)
    if getattr(module, "irreversible", False) or downgrade is None:
        return True
    try:
        [function] = ast.parse(textwrap.dedent(inspect.getsource(downgrade))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        # The rehearsal shows.
        return False
    statements: list[ast.stmt] = getattr(function, "body", [])
    body = [one for one in statements if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return bool(body) and isinstance(body[0], ast.Raise)


def as_names(value: str | t.Iterable[str] | None) -> list[str]:
    """Return what Alembic gives as one name, as several or as none."""
    return [value] if isinstance(value, str) else list(value or ())


def ancestry(script: t.Any, heads: t.Iterable[str]) -> set[str]:
    """Return revisions with all that they stand on."""
    found: set[str] = set()
    waiting = list(heads)
    while waiting:
        revision = script.get_revision(waiting.pop())
        if revision.revision not in found:
            found.add(revision.revision)
            waiting += as_names(revision.down_revision)
            waiting += [one.revision for one in script.get_revisions(as_names(revision.dependencies))]
    return found


def newest(script: t.Any, revisions: set[str]) -> list[str]:
    """Return those of some revisions that no other of them stands on."""
    return sorted(one for one in revisions if not any(one in ancestry(script, [other]) - {other} for other in revisions))


def measure(connection: t.Any) -> Measured:
    """Return the rows of every table, and how many values each column has."""
    found: Measured = {}
    for schema, table, columns in ask(connection, TABLES):
        names = json.loads(columns)
        counted = ", ".join(["count(*)", *(f"count({quoted(name)})" for name in names)])
        [(rows, *values)] = ask(connection, f"SELECT {counted} FROM ONLY {quoted(schema)}.{quoted(table)}")
        found[f"{schema}.{table}"] = (rows, dict(zip(names, values, strict=True)))
    return found


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def difference(before: Measured, after: Measured) -> list[dict[str, t.Any]]:
    """Return what has gone: tables with their rows, rows of tables that are still there, and columns with their values."""
    gone: list[dict[str, t.Any]] = []
    for table, (rows, columns) in before.items():
        if table not in after:
            gone.append({"what": "table", "name": table, "count": rows})
            continue
        fewer = max(0, rows - after[table][0])
        if fewer:
            gone.append({"what": "rows", "name": table, "count": fewer})
        for column, values in columns.items():
            left = after[table][1].get(column)
            if left is None or left < values - fewer:
                gone.append({"what": "column", "name": f"{table}.{column}", "count": values - (left or 0)})
    return gone


def run(request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Do what is asked.

    `action` is look, upgrade, check or downgrade. `lock_timeout` and `statement_timeout` are Postgres' own; `wait` is for
    how many seconds another one's work on the schema is waited for, and `owner` what others read of this one. `keep` has
    the revisions that stay after a downgrade, and `measure` has what goes counted.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    notes: dict[str, t.Any] = {}
    watch_connections(request, notes)
    config = Config("alembic.ini")
    script = ScriptDirectory.from_config(config)

    def look(measuring: bool = False) -> tuple[list[str], Measured]:
        """Return the revisions of the database, and what is in it."""
        found: list[str] = []
        measured: Measured = {}

        def visit(revisions: t.Iterable[str], context: t.Any) -> list[t.Any]:
            found.extend(revisions)
            if measuring:
                measured.update(measure(context.connection.connection))
            return []

        with EnvironmentContext(config, script, fn=visit):
            script.run_env()
        return sorted(found), measured

    revisions = list(script.walk_revisions())
    order = [one.revision for one in revisions]
    answer: dict[str, t.Any] = {
        "known": sorted(order),
        "heads": sorted(script.get_heads()),
        "contracts": sorted(one.revision for one in revisions if getattr(one.module, "contract", False)),
        "irreversible": sorted(one.revision for one in revisions if is_irreversible(one.module)),
        **{"pending": False, "back": [], "lost": [], "problem": "", "holder": ""},
    }
    try:
        before, measured = look(request["measure"])
    except Held as error:
        return {**answer, "problem": "held", "holder": str(error), "before": [], "after": []}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {**answer, "problem": reason(error), "before": [], "after": []}
    understood = set(before) <= set(order)
    answer.update(before=before, after=before, waited=round(notes.get("waited", 0), 1))
    answer["pending"] = understood and set(before) != set(answer["heads"])
    target: list[str] = []
    if request["action"] in ("check", "downgrade"):
        applied = ancestry(script, before) if understood else set()
        target = newest(script, applied & set(request["keep"]))
        answer["back"] = [one for one in order if one in applied - set(request["keep"])]
        if not understood:
            return {**answer, "problem": "unknown"}
        if answer["back"] and (len(before) != 1 or len(target) != 1):
            return {**answer, "problem": "branches"}
        if set(answer["back"]) & set(answer["irreversible"]):
            return {**answer, "problem": "irreversible"}
    began = time.monotonic()
    try:
        if request["action"] == "upgrade" and answer["pending"]:
            command.upgrade(config, "heads")
        elif request["action"] == "downgrade" and answer["back"]:
            command.downgrade(config, target[0])
        answer["seconds"] = round(time.monotonic() - began, 1)
        if request["action"] in ("upgrade", "downgrade"):
            answer["after"], now = look(request["measure"])
            answer["pending"] = answer["pending"] and request["action"] != "upgrade"
            answer["lost"] = difference(measured, now)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        answer["problem"] = reason(error)
        # Without a transaction around all of them, some may have been done.
        with contextlib.suppress(Exception, SystemExit):
            answer["after"] = look()[0]
    return answer


if __name__ == "__main__":
    sys.stdout.write(f"{MARK}{json.dumps(run(json.loads(sys.argv[1])))}\n")
