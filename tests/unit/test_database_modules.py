"""The modules that read a database and bring rows back, on a real Postgres where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.modules import database_rows
from ansible_collections.truthgraph.platform.tests.unit.test_backup_program import Server, config, databases, live, run, server

__all__ = ["config", "live", "server"]

ODD = r"""
CREATE TABLE other (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text, at timestamptz, part float8, raw bytea,
                    doc json, twice int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO other (note, at, part, raw, doc) VALUES
  ('a''b\c' || E'\n\t' || '\.', '2026-01-01 00:00+00', 0.1, '\x00ff', '{"a": 1}'), (NULL, NULL, 1e300, NULL, NULL);
CREATE TABLE child (other int REFERENCES other (id));
INSERT INTO child VALUES (1);
"""


def module(server: Server, name: str, **arguments: t.Any) -> dict[str, t.Any]:
    process = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.truthgraph.platform.plugins.modules.{name}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"container": "x", **arguments}}),
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{server.home}:{os.environ['PATH']}"},
        check=False,
    )
    told: dict[str, t.Any] = json.loads(process.stdout)
    return told


@pytest.fixture
def two(server: Server, live: dict[str, t.Any]) -> tuple[str, str]:
    """Two databases with the same in them."""
    server.sql(ODD, "truthgraph")
    server.sql("CREATE DATABASE truthgraph_two TEMPLATE truthgraph")
    return "truthgraph", "truthgraph_two"


def content(server: Server, database: str, **more: t.Any) -> dict[str, t.Any]:
    found = module(server, "database_content", database=database, **more)
    assert not found.get("failed"), found
    return found


def test_the_same_is_the_same_in_any_order_and_with_any_settings(server: Server, two: tuple[str, str]) -> None:
    server.sql("CREATE TABLE again AS TABLE other ORDER BY id DESC", two[1])
    for setting in ("timezone = 'Asia/Tokyo'", "extra_float_digits = 0", "bytea_output = 'escape'"):
        server.sql(f"ALTER DATABASE truthgraph_two SET {setting}")
    first, second = content(server, two[0]), content(server, two[1])
    assert second["tables"].pop("public.again")["rows"] == 2
    assert first["tables"] == second["tables"]
    assert first["revision"] == ["0001"] and first["owner"] == "truthgraph" and first["superuser"] is True
    assert first["tables"]["public.evidence"]["rows"] == 100 and "Odd one.it's" in first["tables"]
    assert first["tables"]["public.other"]["columns"][0] == ["id", "integer"]
    assert "twice" not in [name for name, _ in first["tables"]["public.other"]["columns"]]


def test_one_changed_value_is_seen(server: Server, two: tuple[str, str]) -> None:
    server.sql("UPDATE evidence SET text = 'text 8' WHERE id = 7", two[1])
    first, second = (content(server, name)["tables"] for name in two)
    assert {name for name in first if first[name] != second[name]} == {"public.evidence"}
    assert first["public.evidence"]["rows"] == second["public.evidence"]["rows"]


def test_a_schema_can_be_left_out(server: Server, live: dict[str, t.Any]) -> None:
    assert "Odd one.it's" not in content(server, "truthgraph", without=["Odd one"])["tables"]


def test_a_database_that_is_not_there_is_said(server: Server) -> None:
    failed = module(server, "database_content", database="nowhere")
    assert failed["failed"] and 'database "nowhere" does not exist' in failed["msg"]


def columns(server: Server, database: str) -> dict[str, list[str]]:
    return {
        name: [column for column, _ in table["columns"]]
        for name, table in content(server, database)["tables"].items()
        if not name.endswith(".alembic_version")
    }


def test_rows_come_back(server: Server, two: tuple[str, str], tmp_path: Path) -> None:
    old, new = two
    server.sql("INSERT INTO evidence VALUES (101, 'new'); DELETE FROM evidence WHERE id = 1", new)
    server.sql("UPDATE evidence SET text = 'other' WHERE id = 2; INSERT INTO other (note) VALUES ('third')", new)
    server.sql("DELETE FROM child; UPDATE alembic_version SET version_num = '0002'", new)
    # As it is while it is handed over: nobody else may write.
    server.sql(f"ALTER DATABASE {old} SET default_transaction_read_only = on")
    path = str(tmp_path / "rows.sql")
    exported = module(server, "database_rows", database=new, path=path, tables=columns(server, new), state="exported")
    assert not exported.get("failed"), exported
    assert Path(path).stat().st_mode & 0o777 == 0o600
    imported = module(server, "database_rows", database=old, path=path, state="imported")
    assert imported["changed"] and imported["tables"]["public.evidence"] == {"removed": 2, "added": 2}, imported
    assert imported["tables"]["public.other"] == {"removed": 0, "added": 1}
    assert imported["tables"]["public.child"] == {"removed": 1, "added": 0}
    first, second = content(server, old), content(server, new)
    assert (first["revision"], second["revision"]) == (["0001"], ["0002"])
    for found in (first, second):
        del found["tables"]["public.alembic_version"]
    assert first["tables"] == second["tables"]
    # What is stored next gets a number of its own.
    server.sql(f"ALTER DATABASE {old} RESET default_transaction_read_only")
    assert server.sql("INSERT INTO other (note) VALUES ('fourth') RETURNING id", old) == "4"
    again = module(server, "database_rows", database=new, path=path, tables=columns(server, new), state="exported")
    assert not again.get("failed")
    server.sql("DELETE FROM other WHERE id = 4", old)
    assert module(server, "database_rows", database=old, path=path, state="imported")["changed"] is False


def test_an_import_that_fails_changes_nothing(server: Server, two: tuple[str, str], tmp_path: Path) -> None:
    old, new = two
    server.sql("INSERT INTO evidence VALUES (101, 'new'); INSERT INTO other (note) VALUES ('third')", new)
    server.sql("ALTER TABLE other ADD CHECK (note <> 'third')", old)
    before = content(server, old)["tables"]
    path = str(tmp_path / "rows.sql")
    module(server, "database_rows", database=new, path=path, tables=columns(server, new), state="exported")
    failed = module(server, "database_rows", database=old, path=path, state="imported")
    assert failed["failed"] and "check constraint" in failed["msg"], failed
    assert content(server, old)["tables"] == before


def test_what_psql_writes_for_others_is_what_was_meant() -> None:
    assert database_rows.echoed("\\. it's") == "\\echo '\\\\. it''s'"


def test_another_database_gets_the_name_and_the_present_one_is_kept(server: Server, live: dict[str, t.Any]) -> None:
    server.sql("CREATE DATABASE truthgraph_adopting OWNER truthgraph")
    code, answer, errors = run(live, "exchange", "truthgraph_adopting", "--keep-as", "truthgraph_before")
    assert code == 0 and answer["kept"] == "truthgraph_before", errors
    assert server.sql("SELECT count(*) FROM evidence", "truthgraph_before") == "100"
    for wrong in (("truthgraph_adopting", "x"), ("truthgraph_before", "postgres")):
        code, _, errors = run(live, "exchange", wrong[0], "--keep-as", wrong[1])
        assert code == 1 and "Nothing was changed" in errors
    # Only what a restore has kept goes back without a name for what is there.
    code, _, errors = run(live, "exchange", "truthgraph_before")
    assert code == 1 and "that a restore of truthgraph has kept" in errors
    assert run(live, "exchange", "truthgraph_before", "--keep-as", "truthgraph_not")[0] == 0
    assert server.sql("SELECT count(*) FROM evidence", "truthgraph") == "100"
    assert {"truthgraph", "truthgraph_not"} <= set(databases(server))
