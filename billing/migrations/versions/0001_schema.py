"""The tables, the rows that an installation starts with, and the triggers."""

from billing.migrations.first import catalog, jobs, ledger, plans, reports, seeds, settings, triggers, upkeep

revision = "0001_schema"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # In this order: a table comes after those that it refers to.
    ledger.accounts()
    catalog.tables()
    plans.tables()
    jobs.tables()
    ledger.transactions()
    reports.tables()
    upkeep.tables()
    settings.tables()
    # Before the triggers: what an installation starts with is no change that somebody made.
    seeds.rows()
    triggers.create()


def downgrade() -> None:
    raise RuntimeError("Nothing comes before the first migration: to throw away all that it made, drop the database.")
