"""The tables of webhooks: where an account is told, and what it is told. Triggers write what happened."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from billing.webhooks.events import EVENTS
from config.database import Base

NAMED = f"ARRAY[{', '.join(repr(name) for name in EVENTS)}]"


class WebhookEndpoint(Base):
    """An address of an app's, and the events that it is told of."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint(f"cardinality(events) > 0 AND events <@ {NAMED}", name="events"),
        CheckConstraint("balance_threshold >= 0", name="balance_threshold"),
        CheckConstraint("limit_threshold_percent BETWEEN 1 AND 100", name="limit_threshold_percent"),
        Index("ix_webhook_endpoints_account_id", "account_id"),
    )

    # Chosen by us, not counted: secrets are encrypted for the row that they stand in.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    # Below so many credits, and beyond such a share of a limit, the account is told, once a crossing.
    balance_threshold: Mapped[int | None]
    limit_threshold_percent: Mapped[int] = mapped_column(Integer, server_default="80")
    secret_encrypted: Mapped[str]
    # While apps change over, what is sent is signed with both.
    former_secret_encrypted: Mapped[str | None]
    former_until: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookMessage(Base):
    """One event for one endpoint: what is told, and how far its delivery has come."""

    __tablename__ = "webhook_messages"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
        CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_has_time"),
        Index("ix_webhook_messages_due", "next_at", "id", postgresql_where=text("state = 'pending'")),
        # What comes first of one job to one endpoint.
        Index(
            "ix_webhook_messages_of_subject",
            "endpoint_id",
            "subject",
            "id",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_webhook_messages_account_id_id", "account_id", "id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    event: Mapped[str]
    # What it is about, such as a job: messages about one subject reach an endpoint in their order.
    subject: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    state: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    next_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None]
    delivered_at: Mapped[datetime | None]
    # When somebody had it delivered again.
    replayed_at: Mapped[datetime | None]
