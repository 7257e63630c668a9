"""Lists of jobs walk indexes that hold a job once, when it has finished, and not again after each step."""

import sqlalchemy as sa
from alembic import op

revision = "0004_lists"
down_revision = "0003_takes"
branch_labels = None
depends_on = None

UNFINISHED = sa.text("finished_at IS NULL")
FINISHED = sa.text("finished_at IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_generation_jobs_listed_by_account",
        "generation_jobs",
        ["account_id", "created_at", "id"],
        postgresql_where=FINISHED,
    )
    op.create_index("ix_generation_jobs_listed", "generation_jobs", ["created_at", "id"], postgresql_where=FINISHED)
    op.drop_index("ix_generation_jobs_unfinished", "generation_jobs")
    op.create_index(
        "ix_generation_jobs_unfinished",
        "generation_jobs",
        ["account_id", "created_at", "id"],
        postgresql_where=UNFINISHED,
    )
    # Each step of an open job added an entry to it.
    op.drop_index("ix_generation_jobs_account_id_created_at", "generation_jobs")


def downgrade() -> None:
    op.create_index("ix_generation_jobs_account_id_created_at", "generation_jobs", ["account_id", "created_at"])
    op.drop_index("ix_generation_jobs_unfinished", "generation_jobs")
    op.create_index("ix_generation_jobs_unfinished", "generation_jobs", ["account_id"], postgresql_where=UNFINISHED)
    op.drop_index("ix_generation_jobs_listed", "generation_jobs")
    op.drop_index("ix_generation_jobs_listed_by_account", "generation_jobs")
