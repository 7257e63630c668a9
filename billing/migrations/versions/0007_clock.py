"""The clock: what periodic work was done, the periods of each subscription, and what they grant."""

from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from alembic import op

from billing.periods import Period, period_containing, starts_at

revision = "0007_clock"
down_revision = "0006_revenue"
branch_labels = None
depends_on = None

COLUMNS: dict[str, list[sa.Column[Any]]] = {
    "plans": [sa.Column("billing_interval", sa.Text(), server_default="month", nullable=False)],
    "subscriptions": [
        sa.Column("next_plan_id", sa.BigInteger(), nullable=True),
        sa.Column("grace_until", sa.Date(), nullable=True),
        sa.Column("renews_at", sa.DateTime(timezone=True), nullable=True),
    ],
    "billing_configuration": [
        sa.Column("past_due_grace_days", sa.Integer(), server_default="7", nullable=False),
    ],
    "credit_transactions": [
        sa.Column("subscription_id", sa.BigInteger(), nullable=True),
        sa.Column("period_start", sa.Date(), nullable=True),
    ],
}
CHECKS = [
    ("plans", "billing_interval", "billing_interval IN ('month', 'year')"),
    ("billing_configuration", "past_due_grace_days", "past_due_grace_days BETWEEN 0 AND 366"),
    ("subscriptions", "past_due_has_grace", "(status = 'past_due') = (grace_until IS NOT NULL)"),
    ("subscriptions", "live_renews", "(status = 'cancelled') = (renews_at IS NULL)"),
    (
        "credit_transactions",
        "subscription_has_period",
        "(transaction_type = 'subscription') = (subscription_id IS NOT NULL) "
        "AND (subscription_id IS NULL) = (period_start IS NULL)",
    ),
]


def upgrade() -> None:
    # The ledger is looked through, and it may be long.
    op.execute("SET LOCAL statement_timeout = 0")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    _periods()
    _runs()
    # Subscriptions from before: their present period goes on, and nothing is granted in hindsight.
    op.execute("UPDATE subscriptions SET status = 'active' WHERE status = 'past_due'")
    _present_periods(op.get_bind())
    op.create_foreign_key("fk_subscriptions_next_plan_id", "subscriptions", "plans", ["next_plan_id"], ["id"])
    op.create_index(
        "ix_subscriptions_renews_at", "subscriptions", ["renews_at"], postgresql_where=sa.text("renews_at IS NOT NULL")
    )
    # Ledger rows of before name no period, and a ledger is never changed: where there are any, they are not asked.
    former = sa.text("SELECT EXISTS (SELECT FROM credit_transactions WHERE transaction_type = 'subscription')")
    excused = {"credit_transactions"} if op.get_bind().scalar(former) else set()
    for table, name, condition in CHECKS:
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition, postgresql_not_valid=table in excused)
    op.create_foreign_key(
        "fk_credit_transactions_subscription_id",
        "credit_transactions",
        "subscription_periods",
        ["subscription_id", "period_start"],
        ["subscription_id", "period_start"],
    )
    op.create_index(
        "uq_credit_transactions_one_grant_a_period",
        "credit_transactions",
        ["subscription_id", "period_start"],
        unique=True,
        postgresql_where=sa.text("transaction_type = 'subscription'"),
    )


def downgrade() -> None:
    op.drop_index("uq_credit_transactions_one_grant_a_period", table_name="credit_transactions")
    op.drop_constraint("fk_credit_transactions_subscription_id", "credit_transactions")
    for table, name, _ in CHECKS:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table)
    op.drop_index("ix_subscriptions_renews_at", table_name="subscriptions")
    op.drop_table("periodic_runs")
    op.drop_table("subscription_periods")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.drop_column(table, column.name)


def _present_periods(connection: sa.Connection) -> None:
    # By the code's own calendar: PostgreSQL's may know other rules of a zone, and has no first of two midnights.
    found = connection.execute(
        sa.text(
            "SELECT s.id, s.plan_id, s.status, s.anchor_date, s.current_period_start, s.current_period_end, "
            "a.time_zone, now() AS now FROM subscriptions s JOIN accounts a ON a.id = s.account_id "
            "WHERE s.status <> 'cancelled' ORDER BY s.id"
        )
    )
    rows = []
    for row in found:
        zone = ZoneInfo(row.time_zone)
        period = period_containing(row.anchor_date, row.now, zone)
        if row.current_period_end == row.anchor_date > row.now.astimezone(zone).date():
            # A trial, which ends at the anchor.
            period = Period(row.current_period_start, row.current_period_end)
        rows.append(
            {
                "id": row.id,
                "plan_id": row.plan_id,
                "status": row.status,
                "first": period.start,
                "last": period.end,
                "starts_at": starts_at(period.start, zone),
                "renews_at": starts_at(period.end, zone),
            }
        )
    if not rows:
        return
    connection.execute(
        sa.text(
            "UPDATE subscriptions SET current_period_start = :first, current_period_end = :last, "
            "renews_at = :renews_at WHERE id = :id"
        ),
        rows,
    )
    connection.execute(
        sa.text(
            "INSERT INTO subscription_periods (subscription_id, period_start, period_end, plan_id, status, starts_at, "
            "credits, limits_opened) VALUES (:id, :first, :last, :plan_id, :status, :starts_at, 0, true)"
        ),
        rows,
    )


def _periods() -> None:
    op.create_table(
        "subscription_periods",
        sa.Column("subscription_id", sa.BigInteger(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        sa.Column("plan_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("credits_withheld", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("granted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("limits_opened", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("period_start < period_end", name=op.f("ck_subscription_periods_period")),
        sa.CheckConstraint("status IN ('active', 'past_due', 'trialing')", name=op.f("ck_subscription_periods_status")),
        sa.CheckConstraint("credits >= 0 AND credits_withheld >= 0", name=op.f("ck_subscription_periods_not_negative")),
        sa.CheckConstraint("credits > 0 OR NOT granted", name=op.f("ck_subscription_periods_grants_something")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscriptions.id"], name=op.f("fk_subscription_periods_subscription_id")
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_subscription_periods_plan_id")),
        sa.PrimaryKeyConstraint("subscription_id", "period_start", name=op.f("pk_subscription_periods")),
    )
    op.create_index(
        "ix_subscription_periods_to_grant",
        "subscription_periods",
        ["starts_at"],
        postgresql_where=sa.text("credits > 0 AND NOT granted"),
    )
    op.create_index(
        "ix_subscription_periods_to_open",
        "subscription_periods",
        ["starts_at"],
        postgresql_where=sa.text("NOT limits_opened"),
    )


def _runs() -> None:
    op.create_table(
        "periodic_runs",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("worked", sa.BigInteger(), nullable=False),
        sa.Column("blocked", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("runs >= 0 AND worked >= 0 AND blocked >= 0", name=op.f("ck_periodic_runs_not_negative")),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_periodic_runs")),
    )
