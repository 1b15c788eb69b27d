"""Runs the migrations on the connection that `bahi.database.migrate` opened, within its transaction."""

from alembic import context

from bahi.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
