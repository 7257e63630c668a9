"""The table of API keys."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Identity, Index, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base


class ApiKey(Base):
    """A key that an app calls the API with: an account's, or one of its user's; without an account, the platform's.

    Of the key itself only a hash is stored, and what may be shown.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("key_hash ~ '^[0-9a-f]{64}$'", name="key_hash"),
        CheckConstraint("kind IN ('live', 'test')", name="kind"),
        CheckConstraint(
            "cardinality(scopes) > 0 AND (scopes <@ ARRAY['admin:read', 'admin:write'] = (account_id IS NULL))",
            name="scopes",
        ),
        CheckConstraint("user_id IS NULL OR account_id IS NOT NULL", name="user_has_account"),
        CheckConstraint("credit_cap IS NULL OR (credit_cap > 0 AND account_id IS NOT NULL)", name="credit_cap"),
        CheckConstraint("credit_cap IS NULL OR cap_of IS NULL", name="cap_of_one_key"),
        CheckConstraint("credits_held >= 0 AND credits_used >= 0", name="counts_not_negative"),
        Index("ix_api_keys_account_id_id", "account_id", "id"),
        ForeignKeyConstraint(["user_id", "account_id"], ["users.id", "users.account_id"]),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int | None] = mapped_column(ForeignKey("accounts.id"))
    user_id: Mapped[int | None]
    name: Mapped[str]
    kind: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    key_hash: Mapped[str] = mapped_column(unique=True)
    # What may be shown of the key: how it begins, and how it ends.
    begins_with: Mapped[str]
    ends_with: Mapped[str]
    # What its jobs may cost in all, in credits. Triggers count what they hold and were charged where there is a cap.
    credit_cap: Mapped[int | None]
    # The key whose cap this one, which takes its place, shares.
    cap_of: Mapped[int | None] = mapped_column(ForeignKey("api_keys.id"))
    credits_held: Mapped[int] = mapped_column(server_default="0")
    credits_used: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    # To within a minute.
    last_used_at: Mapped[datetime | None]
