"""Queued jobs are taken in batches: a job says until when it is taken."""

import sqlalchemy as sa
from alembic import op

revision = "0003_takes"
down_revision = "0002_catalog_version"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("generation_jobs", sa.Column("taken_until", sa.DateTime(timezone=True)))
    op.create_check_constraint(
        op.f("ck_generation_jobs_taken_is_queued"), "generation_jobs", "taken_until IS NULL OR state = 'queued'"
    )
    op.create_index(
        "ix_generation_jobs_waiting",
        "generation_jobs",
        ["account_id", "created_at", "id"],
        postgresql_where=sa.text("state = 'queued' AND taken_until IS NULL AND republished = 0"),
    )
    op.create_index(
        "ix_generation_jobs_taken",
        "generation_jobs",
        ["account_id"],
        postgresql_where=sa.text("taken_until IS NOT NULL"),
    )
    # Each step of an open job added an entry to the whole index.
    op.drop_index("ix_generation_jobs_finished_at", "generation_jobs")
    op.create_index(
        "ix_generation_jobs_finished_at",
        "generation_jobs",
        ["finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_generation_jobs_finished_at", "generation_jobs")
    op.create_index("ix_generation_jobs_finished_at", "generation_jobs", ["finished_at"])
    op.drop_index("ix_generation_jobs_taken", "generation_jobs")
    op.drop_index("ix_generation_jobs_waiting", "generation_jobs")
    op.drop_column("generation_jobs", "taken_until")
