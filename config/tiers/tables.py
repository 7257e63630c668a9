"""The tables of the accounts' and the users' settings. The platform's are the row of `config.integrations`.

What must never be in them the database refuses too: an empty value, a name that no setting has, a value that is nested.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base
from config.tiers.merging import Tier
from config.tiers.naming import INTEGRATIONS, PARAMETERS, PLAIN
from config.tiers.schemas import settable


def _one_of(column: str, names: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(name) for name in names)})"


IS_PLAIN = "jsonb_typeof(value) IN ('string', 'number', 'boolean') AND value <> '\"\"'"
ONLY_PARAMETERS = (
    "jsonb_typeof(config) = 'object' AND config <> '{}' "
    f"AND config - ARRAY[{', '.join(repr(name) for name in sorted(PARAMETERS))}] = '{{}}' "
    'AND NOT jsonb_path_exists(config, \'strict $.* ? (@.type() == "object" || @.type() == "array" '
    '|| @.type() == "null" || @ == "")\')'
)


class AccountSetting(Base):
    """One setting that an account has set for itself and its users."""

    __tablename__ = "account_settings"
    __table_args__ = (
        CheckConstraint(_one_of("key", PLAIN), name="key"),
        CheckConstraint(IS_PLAIN, name="value"),
    )

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSONB)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IntegrationSettings(Base):
    """What an account has set of one integration: its model and its parameters, never a key."""

    __tablename__ = "integration_settings"
    __table_args__ = (
        CheckConstraint(_one_of("integration_type", tuple(INTEGRATIONS)), name="integration_type"),
        CheckConstraint(ONLY_PARAMETERS, name="config"),
    )

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, autoincrement=False)
    integration_type: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UserSetting(Base):
    """One setting that a user of an account has set, and for nobody else."""

    __tablename__ = "user_settings"
    __table_args__ = (
        ForeignKeyConstraint(["user_id", "account_id"], ["users.id", "users.account_id"]),
        CheckConstraint(_one_of("key", settable(Tier.USER)), name="key"),
        CheckConstraint(IS_PLAIN, name="value"),
        Index("ix_user_settings_account_id", "account_id"),
    )

    user_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSONB)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
