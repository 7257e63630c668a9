"""Alembic's entry: runs the migrations on the connection that `billing.store.schema` hands over."""

from alembic import context

from billing.store import catalog_tables, operator_tables, revenue_tables, subscription_tables, tables
from config import integrations
from config.database import Base

# Imported for their tables, which Base.metadata then holds.
assert all((tables, catalog_tables, operator_tables, revenue_tables, subscription_tables, integrations))

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=False)
with context.begin_transaction():
    context.run_migrations()
