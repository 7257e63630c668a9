"""The tables of the catalogue: models, image prices, operations and the platform's billing defaults.

Columns take the names of the product's specification. Every rate and limit of the system is a row here.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Integer, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base

ANY = "*"
"""In an image price: any size, or any quality."""


class AIModelConfig(Base):
    """A model that can be called: its provider, its rates, its limits and capabilities."""

    __tablename__ = "ai_model_config"
    __table_args__ = (
        CheckConstraint("model_type IN ('text', 'image', 'embedding')", name="model_type"),
        CheckConstraint("provider IN ('openai', 'anthropic', 'runware', 'google')", name="provider"),
        CheckConstraint("api IN ('responses', 'chat_completions', 'images', 'embeddings')", name="api"),
        # The specification allows no rate under 0.0001; NaN is greater than any number to PostgreSQL, so it is named.
        CheckConstraint(
            " AND ".join(
                f"({column} IS NULL OR ({column} >= 0.0001 AND {column} <> 'NaN'))"
                for column in (
                    "input_cost_per_1m",
                    "cached_input_cost_per_1m",
                    "output_cost_per_1m",
                    "reasoning_cost_per_1m",
                )
            ),
            name="rates",
        ),
        CheckConstraint("context_window >= 1 AND max_output_tokens >= 1 AND max_images >= 1", name="limits"),
        CheckConstraint(
            "model_type <> 'text' OR (input_cost_per_1m IS NOT NULL AND output_cost_per_1m IS NOT NULL "
            "AND context_window IS NOT NULL AND max_output_tokens IS NOT NULL)",
            name="text_has_rates_and_limits",
        ),
        Index(
            "uq_ai_model_config_one_default_a_type",
            "model_type",
            unique=True,
            postgresql_where=text("is_default"),
        ),
        Index("ix_ai_model_config_model_type_is_active", "model_type", "is_active"),
        Index("ix_ai_model_config_provider_is_active", "provider", "is_active"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_name: Mapped[str] = mapped_column(unique=True)
    display_name: Mapped[str]
    model_type: Mapped[str]
    provider: Mapped[str]
    # Which of the provider's interfaces to speak: compatible servers know chat_completions only.
    api: Mapped[str]
    # USD per 1,000,000 tokens. A missing cached rate is the input rate, a missing reasoning rate the output rate.
    input_cost_per_1m: Mapped[Decimal | None]
    cached_input_cost_per_1m: Mapped[Decimal | None]
    output_cost_per_1m: Mapped[Decimal | None]
    reasoning_cost_per_1m: Mapped[Decimal | None]
    context_window: Mapped[int | None] = mapped_column(Integer)
    max_output_tokens: Mapped[int | None] = mapped_column(Integer)
    tokenizer: Mapped[str | None]
    valid_sizes: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    max_images: Mapped[int | None] = mapped_column(Integer)
    # The plan limit that this model's images consume; for text, the operation's own applies.
    limit_type: Mapped[str | None]
    supports_json_mode: Mapped[bool] = mapped_column(server_default=text("false"))
    supports_vision: Mapped[bool] = mapped_column(server_default=text("false"))
    supports_function_calling: Mapped[bool] = mapped_column(server_default=text("false"))
    supports_temperature: Mapped[bool] = mapped_column(server_default=text("false"))
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    sort_order: Mapped[int] = mapped_column(Integer, server_default="0")
    description: Mapped[str] = mapped_column(server_default="")
    release_date: Mapped[date | None]
    deprecation_date: Mapped[date | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    updated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))


class ImagePriceRow(Base):
    """The price of one image of a model by size and quality; `*` means any, and the most specific row wins."""

    __tablename__ = "image_prices"
    __table_args__ = (
        UniqueConstraint("model_name", "size", "quality"),
        CheckConstraint("cost_per_image_usd >= 0.0001 AND cost_per_image_usd <> 'NaN'", name="cost"),
        CheckConstraint("credits_per_image >= 1", name="credits"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_name: Mapped[str] = mapped_column(ForeignKey("ai_model_config.model_name"))
    size: Mapped[str] = mapped_column(server_default=ANY)
    quality: Mapped[str] = mapped_column(server_default=ANY)
    cost_per_image_usd: Mapped[Decimal]
    credits_per_image: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class CreditCostConfig(Base):
    """An operation: how many tokens make a credit, its minimum, its price per credit, and which limit it consumes."""

    __tablename__ = "credit_cost_config"
    __table_args__ = (
        CheckConstraint("tokens_per_credit >= 1", name="tokens_per_credit"),
        CheckConstraint("min_credits >= 0", name="min_credits"),
        CheckConstraint("price_per_credit_usd >= 0.0001 AND price_per_credit_usd <> 'NaN'", name="price_per_credit"),
        CheckConstraint("model_type IN ('text', 'image', 'embedding')", name="model_type"),
        CheckConstraint("limit_unit IN ('requests', 'words', 'images')", name="limit_unit"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    operation_type: Mapped[str] = mapped_column(unique=True)
    model_type: Mapped[str]
    # NULL takes the platform's default from billing_configuration.
    tokens_per_credit: Mapped[int | None] = mapped_column(Integer)
    min_credits: Mapped[int] = mapped_column(Integer, server_default="1")
    price_per_credit_usd: Mapped[Decimal | None]
    limit_type: Mapped[str | None]
    limit_unit: Mapped[str] = mapped_column(server_default="requests")
    display_name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    previous_tokens_per_credit: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    updated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))


class BillingConfiguration(Base):
    """The platform's defaults, one row: tokens per credit, price per credit, and how fractions of a credit round."""

    __tablename__ = "billing_configuration"
    __table_args__ = (
        CheckConstraint("id = 1", name="singleton"),
        CheckConstraint("default_tokens_per_credit >= 1", name="tokens_per_credit"),
        CheckConstraint(
            "default_credit_price_usd >= 0.0001 AND default_credit_price_usd <> 'NaN'", name="price_per_credit"
        ),
        CheckConstraint("credit_rounding_mode IN ('up', 'down', 'nearest')", name="rounding"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default="1")
    default_tokens_per_credit: Mapped[int] = mapped_column(Integer, server_default="100")
    default_credit_price_usd: Mapped[Decimal] = mapped_column(server_default="0.01")
    enable_token_based_reporting: Mapped[bool] = mapped_column(server_default=text("true"))
    credit_rounding_mode: Mapped[str] = mapped_column(server_default="up")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    updated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
