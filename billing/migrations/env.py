"""Alembic's entry: runs the migrations on the connection that `billing.migrating` hands over."""

from alembic import context

from billing import schema
from config.database import Base

# Imported for the tables, which Base.metadata then holds.
assert schema.TABLES

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=False)
with context.begin_transaction():
    context.run_migrations()
