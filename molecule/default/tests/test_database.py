# Postgres: how it is set up, and how it is reached from where the API runs.
import re

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, Fleet, Member, inspect, query, serving

CONNECT = """
import pathlib, sys
import psycopg
url = pathlib.Path("/run/secrets/truthgraph/DATABASE_URL").read_text().strip().replace("+psycopg", "", 1)
try:
    with psycopg.connect(url, connect_timeout=5, **dict(word.split("=", 1) for word in sys.argv[1:])) as connection:
        # Who works in the owner's name does not see the login's session.
        connection.execute("SET ROLE NONE")
        print(connection.execute("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()[0])
except psycopg.Error as error:
    print(error)
"""


def connect(api: Member, *words: str, **environment: str) -> str:
    options = " ".join(f"--env {name}={value}" for name, value in environment.items())
    command = f"docker exec {options} %s python3 -c %s {' '.join(words)}"
    return str(api.host.check_output(command, serving(api.host, "api"), CONNECT))


def test_the_roles_of_the_application_are_no_superusers(database: Member) -> None:
    flags = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolcanlogin"
    found = query(database.host, f"SELECT {flags} FROM pg_roles WHERE rolname LIKE 'truthgraph%'").split()
    assert found == ["f|f|f|f|f|t"] * 2


def test_application_role_owns_its_database(database: Member) -> None:
    sql = "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'truthgraph'"
    assert query(database.host, sql) == "truthgraph|UTF8"
    # What a login creates is the owner's.
    sql = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert query(database.host, sql) == "truthgraph"


def test_extension_for_vectors_is_there(database: Member) -> None:
    version = query(database.host, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    assert tuple(map(int, version.split(".")[:2])) >= (0, 7)


def test_schema_is_at_the_trees_head(database: Member) -> None:
    revisions, parents = set(), set()
    for path in (CHECKOUT / "files/app/alembic/versions").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        revisions |= set(re.findall(r'^revision(?:: str)? = "(.+)"$', text, re.MULTILINE))
        parents |= set(re.findall(r'^down_revision(?:: [^=]+)? = "(.+)"$', text, re.MULTILINE))
    assert {query(database.host, "SELECT version_num FROM alembic_version")} == revisions - parents


def test_passwords_are_kept_as_scram(database: Member) -> None:
    assert query(database.host, "SHOW password_encryption") == "scram-sha-256"
    kept = query(database.host, "SELECT left(rolpassword, 14) FROM pg_authid WHERE rolcanlogin").split()
    # The superuser, the owner and its login.
    assert kept == ["SCRAM-SHA-256$"] * 3


def test_database_has_data_checksums(database: Member) -> None:
    assert query(database.host, "SHOW data_checksums") == "on"


def test_over_the_network_comes_who_runs_the_api_by_tls_with_a_password(fleet: Fleet, database: Member) -> None:
    sql = "SELECT type, array_to_string(database, ' '), address, auth_method FROM pg_hba_file_rules WHERE address <> '127.0.0.1'"
    found = {tuple(line.split("|")) for line in query(database.host, sql).splitlines()}
    clients = [member.address for member in fleet.of_group("truthgraph_api")] + ["172.30.240.0"]
    assert found == {("hostssl", "truthgraph truthgraph_rehearsal", client, "scram-sha-256") for client in clients}
    assert query(database.host, "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL") == "0"


def test_the_api_comes_by_tls(database: Member) -> None:
    sql = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'truthgraph'"
    assert query(database.host, sql) == "t"


def test_the_api_makes_sure_that_it_talks_to_the_database(api: Member) -> None:
    assert "PGSSLMODE=verify-full" in inspect(api.host, serving(api.host, "api"))["Config"]["Env"]
    assert connect(api).startswith("TLSv1.")
    # Another authority, and a name that the certificate has not.
    found = connect(api, PGSSLROOTCERT="/etc/ssl/certs/ca-certificates.crt")
    assert "certificate verify failed" in found or "root certificate file" in found, found
    found = connect(api, "host=localhost.example", "hostaddr=10.203.77.21")
    assert "does not match host name" in found, found


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["sslmode=disable"], "no pg_hba.conf entry"),
        (["password=wrong"], "password authentication failed"),
        (["user=postgres"], "no pg_hba.conf entry"),
        (["dbname=postgres"], "no pg_hba.conf entry"),
    ],
    ids=["plain-text", "wrong-password", "superuser", "other-database"],
)
def test_who_is_refused(api: Member, words: str, why: str) -> None:
    found = connect(api, *words)
    assert why in found, found


def test_the_key_of_postgres_is_not_readable_for_all(database: Member) -> None:
    key = database.host.file("/etc/truthgraph/postgres/mounted/tls/postgres.key")
    assert (key.user, key.mode) == ("root", 0o640)
