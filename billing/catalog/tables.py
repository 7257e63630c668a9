"""The tables of the catalogue: models, image prices, operations and the platform's billing defaults.

Columns take the names of the product's specification. Every rate and limit of the system is a row here.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    FetchedValue,
    ForeignKey,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from billing.catalog.pricing import ANY
from billing.catalog.rates import RATE_COLUMNS, TokenRates, cost_of_tokens, token_rates
from billing.catalog.usage import Usage
from billing.sql import in_list
from config.database import Base
from config.providers import KnownProvider

SEEDED = FetchedValue()
"""A default that the migrations set in the database, and that the code does not repeat."""


def priced(column: str) -> str:
    """The CHECK of a price in USD: 0.0001 or more (the specification), six decimals, ten digits in all.

    NaN and infinity are larger than any number to PostgreSQL, so the upper bound refuses them too.
    """
    return f"{column} >= 0.0001 AND {column} < 10000 AND scale(trim_scale({column})) <= 6"


def _rule_checks() -> tuple[CheckConstraint, ...]:
    """The CHECKs of a rule for credits: by tokens, where an output token may weigh more, or by cost and markup."""
    return (
        CheckConstraint("priced_by IN ('tokens', 'cost')", name="priced_by"),
        CheckConstraint("output_weight > 0 AND output_weight <= 1000", name="output_weight"),
        CheckConstraint("markup_percent >= 0 AND markup_percent <= 100000", name="markup_percent"),
        CheckConstraint("priced_by <> 'cost' OR markup_percent IS NOT NULL", name="cost_has_markup"),
    )


class PlanLimitType(Base):
    """A kind of allowance that plans may limit; an operation or a model names the one that it consumes."""

    __tablename__ = "plan_limit_types"

    limit_type: Mapped[str] = mapped_column(primary_key=True)
    display_name: Mapped[str]


class ImagePriceRow(Base):
    """The price of one image of a model by size and quality; `*` means any, and the most specific row wins."""

    __tablename__ = "image_prices"
    __table_args__ = (
        UniqueConstraint("model_name", "size", "quality"),
        CheckConstraint(priced("cost_per_image_usd"), name="cost"),
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


class AIModelConfig(Base):
    """A model that can be called: its provider, its rates, its limits and capabilities."""

    __tablename__ = "ai_model_config"
    __table_args__ = (
        CheckConstraint("model_type IN ('text', 'image', 'embedding')", name="model_type"),
        CheckConstraint(in_list("provider", KnownProvider), name="provider"),
        CheckConstraint("api IN ('responses', 'chat_completions', 'images', 'embeddings')", name="api"),
        CheckConstraint(
            " AND ".join(
                f"({column} IS NULL OR ({priced(column)}))"
                for column in (
                    "input_cost_per_1m",
                    "cached_input_cost_per_1m",
                    "output_cost_per_1m",
                    "reasoning_cost_per_1m",
                )
            ),
            name="rates",
        ),
        CheckConstraint(
            " AND ".join(
                f"({column} IS NULL OR ({priced(column)}))" for column in RATE_COLUMNS if column.endswith("_per_1m")
            ),
            name="further_rates",
        ),
        CheckConstraint(
            "(long_context_above IS NULL) = (long_context_input_cost_per_1m IS NULL) "
            "AND (long_context_above IS NULL) = (long_context_output_cost_per_1m IS NULL) "
            "AND (long_context_above IS NOT NULL OR long_context_cached_input_cost_per_1m IS NULL) "
            "AND long_context_above >= 1",
            name="long_context_is_whole",
        ),
        CheckConstraint("jsonb_typeof(service_tier_factors) = 'object'", name="service_tier_factors"),
        CheckConstraint("is_active OR NOT is_default", name="default_is_active"),
        CheckConstraint(
            "(model_type = 'text' AND api IN ('responses', 'chat_completions')) OR (model_type = 'image' AND "
            "api = 'images') OR (model_type = 'embedding' AND api = 'embeddings')",
            name="api_fits_type",
        ),
        CheckConstraint("context_window >= 1 AND max_output_tokens >= 1 AND max_images >= 1", name="limits"),
        CheckConstraint(
            "response_format IN ('url', 'b64_json') AND encoding_format IN ('float', 'base64')", name="formats"
        ),
        CheckConstraint(
            "(model_type = 'image' OR (valid_qualities IS NULL AND valid_styles IS NULL AND response_format IS NULL)) "
            "AND (model_type = 'embedding' OR encoding_format IS NULL)",
            name="parameters_fit_type",
        ),
        CheckConstraint("images_per_call >= 1", name="images_per_call"),
        CheckConstraint("unknown_style IN ('prompt', 'refuse')", name="unknown_style"),
        CheckConstraint(
            "model_type <> 'text' OR (input_cost_per_1m IS NOT NULL AND output_cost_per_1m IS NOT NULL "
            "AND context_window IS NOT NULL AND max_output_tokens IS NOT NULL)",
            name="text_has_rates_and_limits",
        ),
        CheckConstraint(
            "model_type <> 'image' OR output_cost_per_1m IS NULL "
            "OR (input_cost_per_1m IS NOT NULL AND max_output_tokens IS NOT NULL)",
            name="token_images_have_rates",
        ),
        CheckConstraint(
            "model_type <> 'embedding' OR (input_cost_per_1m IS NOT NULL AND context_window IS NOT NULL)",
            name="embedding_has_rate_and_limit",
        ),
        Index("uq_ai_model_config_one_default_a_type", "model_type", unique=True, postgresql_where=text("is_default")),
        Index("ix_ai_model_config_model_type_is_active", "model_type", "is_active"),
        Index("ix_ai_model_config_provider_is_active", "provider", "is_active"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_name: Mapped[str] = mapped_column(unique=True)
    display_name: Mapped[str]
    model_type: Mapped[str]
    provider: Mapped[str]
    # Which of the provider's interfaces to use: compatible servers offer chat_completions only.
    api: Mapped[str]
    # USD per 1,000,000 tokens. A missing cached rate is the input rate, a missing reasoning rate the output rate.
    input_cost_per_1m: Mapped[Decimal | None]
    cached_input_cost_per_1m: Mapped[Decimal | None]
    output_cost_per_1m: Mapped[Decimal | None]
    reasoning_cost_per_1m: Mapped[Decimal | None]
    cache_write_cost_per_1m: Mapped[Decimal | None]
    cache_write_1h_cost_per_1m: Mapped[Decimal | None]
    image_input_cost_per_1m: Mapped[Decimal | None]
    image_output_cost_per_1m: Mapped[Decimal | None]
    audio_input_cost_per_1m: Mapped[Decimal | None]
    audio_output_cost_per_1m: Mapped[Decimal | None]
    # Above so many input tokens, the whole request costs these rates.
    long_context_above: Mapped[int | None] = mapped_column(Integer)
    long_context_input_cost_per_1m: Mapped[Decimal | None]
    long_context_cached_input_cost_per_1m: Mapped[Decimal | None]
    long_context_output_cost_per_1m: Mapped[Decimal | None]
    # By what a service tier multiplies every rate, as text: {"priority": "2", "flex": "0.5"}.
    service_tier_factors: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    context_window: Mapped[int | None] = mapped_column(Integer)
    # For text, the longest answer; for an image model that bills by tokens, the most tokens of one image.
    max_output_tokens: Mapped[int | None] = mapped_column(Integer)
    tokenizer: Mapped[str | None]
    valid_sizes: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    # What an image request may name, and what is asked for with every request; where this is NULL, nothing is sent.
    valid_qualities: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    valid_styles: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    # What becomes of a style that the model does not know: it goes into the prompt, or the request is refused.
    unknown_style: Mapped[str] = mapped_column(server_default="prompt")
    response_format: Mapped[str | None]
    encoding_format: Mapped[str | None]
    max_images: Mapped[int | None] = mapped_column(Integer)
    # How many of them one call makes; the others are made by further calls. All, where it is not set.
    images_per_call: Mapped[int | None] = mapped_column(Integer)
    # The plan limit that this model's images consume, basic or premium; for text, the operation's own applies.
    limit_type: Mapped[str | None] = mapped_column(ForeignKey("plan_limit_types.limit_type"))
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
    # USD. The specification's single price of an image, read from the row for any size and quality: it is stored once.
    cost_per_image: Mapped[Decimal | None] = column_property(
        select(ImagePriceRow.cost_per_image_usd)
        .where(ImagePriceRow.model_name == model_name, ImagePriceRow.size == ANY, ImagePriceRow.quality == ANY)
        .correlate_except(ImagePriceRow)
        .scalar_subquery()
    )
    image_prices: Mapped[list[ImagePriceRow]] = relationship(viewonly=True)

    @property
    def rates(self) -> TokenRates | None:
        """The token rates, or None for a model without any."""
        return token_rates({column.name: getattr(self, column.name) for column in self.__table__.columns})

    @property
    def bills_images(self) -> bool:
        """Whether the provider bills this model by the image, and not by the token."""
        return self.model_type == "image" and self.output_cost_per_1m is None

    def get_cost_for_tokens(self, input_tokens: int, output_tokens: int) -> Decimal:
        """What the provider is paid for these tokens, in USD; raises ValueError for a model without token rates."""
        if self.rates is None:
            raise ValueError(f"{self.model_name} has no token rates")
        return cost_of_tokens(Usage(input_tokens=input_tokens, output_tokens=output_tokens), self.rates)

    def get_cost_for_images(self, num_images: int) -> Decimal:
        """What the provider is paid for images of any size, in USD; raises ValueError without such a price."""
        if not self.bills_images or self.cost_per_image is None:
            raise ValueError(f"{self.model_name} has no price for images of any size")
        return self.cost_per_image * num_images

    def validate_size(self, size: str) -> bool:
        """Whether the model makes images of this size; without a list of sizes it makes all."""
        return not self.valid_sizes or size in self.valid_sizes

    def is_deprecated(self, today: date) -> bool:
        """Whether the provider has taken the model away by this day."""
        return self.deprecation_date is not None and self.deprecation_date <= today

    def get_display_with_pricing(self) -> str:
        """The name with its price, for lists to choose from."""
        if self.rates is not None and not self.bills_images:
            costs = [self.rates.input] if self.output_cost_per_1m is None else [self.rates.input, self.rates.output]
            rates = (format(rate.normalize(), "f") for rate in costs)
            return f"{self.display_name} - ${'/$'.join(rates)} per 1M"
        costs = sorted({row.cost_per_image_usd for row in self.image_prices})
        if not costs:
            return f"{self.display_name} - no price"
        ends = (f"${format(cost.normalize(), 'f')}" for cost in dict.fromkeys((costs[0], costs[-1])))
        return f"{self.display_name} - {' to '.join(ends)} per image"


class CreditCostConfig(Base):
    """An operation: how many tokens make a credit, its minimum, its price per credit, and which limit it consumes."""

    __tablename__ = "credit_cost_config"
    __table_args__ = (
        CheckConstraint("tokens_per_credit >= 1", name="tokens_per_credit"),
        CheckConstraint("min_credits >= 0", name="min_credits"),
        CheckConstraint(priced("price_per_credit_usd"), name="price_per_credit"),
        *_rule_checks(),
        CheckConstraint("model_type IN ('text', 'image', 'embedding')", name="model_type"),
        CheckConstraint("limit_unit IN ('requests', 'words', 'images')", name="limit_unit"),
        # A unit that the operation's requests never use would switch its limit off.
        CheckConstraint(
            "limit_unit = 'requests' OR (limit_unit = 'words' AND model_type = 'text') "
            "OR (limit_unit = 'images' AND model_type = 'image')",
            name="limit_unit_fits_type",
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    operation_type: Mapped[str] = mapped_column(unique=True)
    model_type: Mapped[str]
    # NULL takes the platform's default from billing_configuration.
    tokens_per_credit: Mapped[int | None] = mapped_column(Integer)
    min_credits: Mapped[int] = mapped_column(Integer, server_default="1")
    priced_by: Mapped[str] = mapped_column(server_default="tokens")
    output_weight: Mapped[Decimal] = mapped_column(server_default="1")
    markup_percent: Mapped[Decimal | None]
    price_per_credit_usd: Mapped[Decimal | None]
    limit_type: Mapped[str | None] = mapped_column(ForeignKey("plan_limit_types.limit_type"))
    limit_unit: Mapped[str] = mapped_column(server_default="requests")
    display_name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    previous_tokens_per_credit: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    updated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))


class CreditCostOverride(Base):
    """How an operation is charged on one model: it takes the place of the operation's own rule, as a whole."""

    __tablename__ = "credit_cost_overrides"
    __table_args__ = (
        CheckConstraint("tokens_per_credit >= 1", name="tokens_per_credit"),
        CheckConstraint("min_credits >= 0", name="min_credits"),
        *_rule_checks(),
    )

    operation_type: Mapped[str] = mapped_column(ForeignKey("credit_cost_config.operation_type"), primary_key=True)
    model_name: Mapped[str] = mapped_column(ForeignKey("ai_model_config.model_name"), primary_key=True)
    priced_by: Mapped[str]
    tokens_per_credit: Mapped[int] = mapped_column(Integer)
    output_weight: Mapped[Decimal]
    markup_percent: Mapped[Decimal | None]
    min_credits: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class BillingConfiguration(Base):
    """The platform's defaults, one row: tokens per credit, price per credit, and how fractions of a credit round."""

    __tablename__ = "billing_configuration"
    __table_args__ = (
        CheckConstraint("id = 1", name="singleton"),
        CheckConstraint("default_tokens_per_credit >= 1", name="tokens_per_credit"),
        CheckConstraint(priced("default_credit_price_usd"), name="price_per_credit"),
        CheckConstraint("credit_rounding_mode IN ('up', 'down', 'nearest')", name="rounding"),
        CheckConstraint("words_per_100_tokens >= 1", name="words_per_100_tokens"),
        CheckConstraint("typical_output_percent BETWEEN 1 AND 100", name="typical_output_percent"),
        CheckConstraint("min_margin_percent BETWEEN 0 AND 99", name="min_margin_percent"),
        CheckConstraint("wanted_markup_percent BETWEEN 0 AND 100000", name="wanted_markup_percent"),
        CheckConstraint("deprecation_notice_days >= 0", name="deprecation_notice_days"),
        CheckConstraint("past_due_grace_days BETWEEN 0 AND 366", name="past_due_grace_days"),
        CheckConstraint("max_open_jobs >= 1", name="max_open_jobs"),
        CheckConstraint("max_open_jobs_per_account >= 1", name="max_open_jobs_per_account"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default="1")
    default_tokens_per_credit: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    default_credit_price_usd: Mapped[Decimal] = mapped_column(server_default=SEEDED)
    enable_token_based_reporting: Mapped[bool] = mapped_column(server_default=SEEDED)
    credit_rounding_mode: Mapped[str] = mapped_column(server_default=SEEDED)
    # English prose has about 75 words to 100 tokens (OpenAI's help pages); words are reserved before they are written.
    words_per_100_tokens: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    # How much of its longest answer a text typically takes, until its operation has a history on the model.
    typical_output_percent: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    # `creditmill models check` reports a price that earns less than this share of what the customer pays.
    min_margin_percent: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    # A price that adds less than this to what it costs us is a warning there (the specification: about 150 %).
    wanted_markup_percent: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    # How long before its deprecation date a model begins to warn.
    deprecation_notice_days: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    # How long an account is served after its payment failed.
    past_due_grace_days: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    # How many unfinished jobs there may be, of one account and of all; a request beyond that is refused.
    max_open_jobs_per_account: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    max_open_jobs: Mapped[int] = mapped_column(Integer, server_default=SEEDED)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    updated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))


class CatalogVersion(Base):
    """The version of the catalogue, one row: triggers give it a new random one with each change of these tables.

    A counter would come to the same number again, after a rollback or a restore, for another catalogue.
    """

    __tablename__ = "catalog_version"
    __table_args__ = (CheckConstraint("id = 1", name="singleton"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default="1")
    version: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ChangeHistory(Base):
    """One change of a price, an operation, a plan or a default: the row before and after, when, and by whom.

    A trigger writes it, so that a change made by hand is kept too; another refuses to change what was written.
    """

    __tablename__ = "change_history"
    __table_args__ = (
        CheckConstraint("action IN ('insert', 'update', 'delete')", name="action"),
        Index("ix_change_history_table_name_row_name_id", "table_name", "row_name", "id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    table_name: Mapped[str]
    row_name: Mapped[str]
    action: Mapped[str]
    old: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    new: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    actor: Mapped[str]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
