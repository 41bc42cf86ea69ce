"""Evidence with its embedding, searched by cosine distance."""

from alembic import context, op

revision = "0001"
down_revision = None

# pgvector's extension is not marked as trusted, so only a superuser can create it; others must find it there.
HAS_EXTENSION = "SELECT count(*) FROM pg_extension WHERE extname = 'vector'"
MAY_CREATE_IT = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"


def upgrade() -> None:
    """Create the table and its index."""
    provide_extension()
    op.execute("""
        CREATE TABLE evidence (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            content_sha256 bytea NOT NULL CONSTRAINT evidence_content_sha256_key UNIQUE,
            text text NOT NULL,
            source text,
            embedding vector(384) NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX evidence_embedding_hnsw ON evidence USING hnsw (embedding vector_cosine_ops)")


def downgrade() -> None:
    """Drop the table. The extension stays: it may have been there before."""
    op.execute("DROP TABLE evidence")


def provide_extension() -> None:
    """Create the extension if need be, or say who must."""
    if context.is_offline_mode():
        op.execute("CREATE EXTENSION IF NOT EXISTS vector")
        return
    connection = op.get_bind()
    if connection.exec_driver_sql(HAS_EXTENSION).scalar_one():
        return
    if not connection.exec_driver_sql(MAY_CREATE_IT).scalar_one():
        raise SystemExit(
            "the extension vector is not in this database and this user may not create it; "
            "as a superuser, run in this database: CREATE EXTENSION vector"
        )
    op.execute("CREATE EXTENSION vector")
