"""Runs the migrations on the database of DATABASE_URL."""

import logging.config
import os

from alembic import context
from sqlalchemy import create_engine, pool

from truthgraph.database import engine_url

# A migration that waits for a lock holds up every query behind it, so it gives up early and may be run again.
LOCK_TIMEOUT = os.environ.get("MIGRATION_LOCK_TIMEOUT", "5s")
STATEMENT_TIMEOUT = os.environ.get("MIGRATION_STATEMENT_TIMEOUT", "10min")
# Any number, the same in every run: two runs at once take turns.
ADVISORY_LOCK = 7410218533

logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    database_url = os.environ.get("DATABASE_URL", "").strip()
    if not database_url:
        raise SystemExit("DATABASE_URL is not set: it says which database to migrate")
    engine = create_engine(
        engine_url(database_url),
        poolclass=pool.NullPool,
        connect_args={
            "connect_timeout": 10,
            "application_name": "truthgraph-migrations",
            "options": f"-c lock_timeout={LOCK_TIMEOUT} -c statement_timeout={STATEMENT_TIMEOUT}",
        },
    )
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            # lock_timeout holds for this lock too.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
            context.run_migrations()
