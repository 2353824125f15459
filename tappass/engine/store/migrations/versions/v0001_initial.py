"""Everything the first release and the next need: tenants, sessions, the log, policy, people."""

from __future__ import annotations

from alembic import op

from tappass.engine.store.migrate import revision_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        for part in ("postgresql", "postgresql_security"):
            connection.exec_driver_sql(revision_sql(revision, part))
        return
    for statement in revision_sql(revision, connection.dialect.name).split(";\n"):
        if statement.strip():
            op.execute(statement)
