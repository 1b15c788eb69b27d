"""Alembic's environment; `bahi.database.migrate` runs it."""
