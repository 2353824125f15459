"""Alembic's entry: run the revisions that are missing, in one transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from tappass.engine.store.schema import metadata


def run() -> None:
    """Upgrade the database that the configuration names."""
    attributes = context.config.attributes
    engine = create_engine(attributes["url"], **attributes.get("options", {}))
    with engine.begin() as connection:
        context.configure(connection=connection, target_metadata=metadata)
        context.run_migrations()
    engine.dispose()


run()
