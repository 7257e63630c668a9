"""The catalogue as one frozen value: models, prices, operations, defaults. Whatever a request may cost follows from it.

Nothing here reads the database: `billing.catalog.current` does, once for each version of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from billing.catalog.pricing import ANY, ImagePrice, Price, Rule
from billing.catalog.rates import TokenRates
from billing.errors import InvalidRequest, PriceNotConfigured, UnknownThing
from billing.money import Rounding
from config.tiers.merging import OwnSettings, Settings
from config.tiers.naming import IMAGE_QUALITY

NO_SETTINGS = OwnSettings()
"""The settings of no account."""


@dataclass(frozen=True)
class Model:
    """A model that can be called: its rates, its limits and capabilities."""

    model_name: str
    model_type: str
    provider: str
    api: str
    rates: TokenRates | None
    # Whether the provider bills it by the image, and not by the token.
    bills_images: bool
    context_window: int | None
    max_output_tokens: int | None
    tokenizer: str | None
    valid_sizes: tuple[str, ...]
    # What an image request may name, the model's own default first; and what is asked for with every request.
    valid_qualities: tuple[str, ...]
    valid_styles: tuple[str, ...]
    # What becomes of a style that is not among them: "prompt" or "refuse".
    unknown_style: str
    response_format: str | None
    encoding_format: str | None
    max_images: int | None
    images_per_call: int | None
    limit_type: str | None
    supports_json_mode: bool
    supports_temperature: bool
    is_active: bool
    is_default: bool
    deprecation_date: date | None

    def makes_size(self, size: str) -> bool:
        """Whether the model makes images of this size; without a list of sizes it makes all."""
        return not self.valid_sizes or size in self.valid_sizes


@dataclass(frozen=True)
class Operation:
    """What an app asks for: what a credit of it is worth, and the plan limit that it uses."""

    operation_type: str
    model_type: str
    price_per_credit_usd: Decimal
    limit_type: str | None
    limit_unit: str
    is_active: bool


@dataclass(frozen=True)
class Defaults:
    """The platform's defaults and bounds."""

    credit_rounding_mode: Rounding
    default_credit_price_usd: Decimal
    words_per_100_tokens: int
    typical_output_percent: int
    min_margin_percent: int
    wanted_markup_percent: int
    deprecation_notice_days: int
    past_due_grace_days: int
    enable_token_based_reporting: bool
    max_open_jobs: int
    max_open_jobs_per_account: int


@dataclass(frozen=True)
class Catalog:
    """Everything that operators set about models and prices, as it was at one version.

    Models stand in the order in which they are offered, operations by name, image prices by (model, size, quality),
    rules by (operation, model), where the model is `*` for the operation's own.
    """

    version: str
    models: Mapping[str, Model]
    operations: Mapping[str, Operation]
    rules: Mapping[tuple[str, str], Rule]
    image_prices: Mapping[tuple[str, str, str], ImagePrice]
    defaults: Defaults
    limit_types: tuple[str, ...]
    # The platform's settings, but for the models, which `default_model` and the order of the models say.
    settings: Settings

    def operation_named(self, operation_type: str) -> Operation:
        """The active operation; raises UnknownThing when there is none of that name, InvalidRequest when it is off."""
        found = self.operations.get(operation_type)
        if found is None:
            known = tuple(each.operation_type for each in self.operations.values() if each.is_active)
            raise UnknownThing("operation", operation_type, choices=known)
        if not found.is_active:
            raise InvalidRequest(f"The operation {operation_type} is switched off.", code="operation_inactive")
        return found

    def model_for(self, operation: Operation, name: str | None, *, today: date) -> Model:
        """The model to use for an operation: the one asked for, or the default of the operation's type.

        Raises UnknownThing, or InvalidRequest when the model is inactive, of another type, or past its deprecation
        date.
        """
        found = self.models.get(name) if name else self.default_model(operation.model_type)
        if found is None and name is None:
            raise InvalidRequest(f"No default {operation.model_type} model is set.", code="no_default_model")
        if found is None:
            raise UnknownThing("model", name, choices=self._fitting(operation))
        if not found.is_active:
            raise InvalidRequest(f"The model {found.model_name} is switched off.", code="model_inactive")
        if found.model_type != operation.model_type:
            raise InvalidRequest(
                f"{operation.operation_type} needs a model for {operation.model_type}; {found.model_name} is for "
                f"{found.model_type}. Known: {', '.join(self._fitting(operation))}.",
                code="model_type_mismatch",
            )
        if found.deprecation_date is not None and found.deprecation_date <= today:
            raise InvalidRequest(
                f"The provider has taken {found.model_name} away on {found.deprecation_date}. Use another model.",
                code="model_deprecated",
            )
        return found

    def default_model(self, model_type: str) -> Model | None:
        """The default model of this type; None when none is set."""
        return next((each for each in self.models.values() if each.is_default and each.model_type == model_type), None)

    def active_models(self) -> list[Model]:
        """Every active model, in the order in which it is offered."""
        return [model for model in self.models.values() if model.is_active]

    def types_without_default(self) -> list[str]:
        """The types of the active operations for which no model is the default."""
        wanted = {operation.model_type for operation in self.operations.values() if operation.is_active}
        return sorted(kind for kind in wanted if self.default_model(kind) is None)

    def price_of(self, operation: Operation, model: Model, *, size: str = "", quality: str = "") -> Price:
        """The price of this operation on this model, and for images of this size and quality.

        Raises PriceNotConfigured when there is none: a request without a price is refused, never given away.
        """
        image = self.image_price_of(model, size, quality) if model.bills_images else None
        if image is None and model.rates is None:
            raise PriceNotConfigured(f"{model.model_name} has no token rates.")
        return self.price_at(operation, model, image)

    def price_at(self, operation: Operation, model: Model, image: ImagePrice | None) -> Price:
        """The price made of these: the image's price or the model's token rates, and the rule for credits."""
        rule = self.rule_of(operation.operation_type, model.model_name)
        return Price(
            model_name=model.model_name,
            kind=model.model_type,
            rounding=self.defaults.credit_rounding_mode,
            price_per_credit_usd=operation.price_per_credit_usd,
            rates=model.rates if image is None else None,
            image=image,
            **vars(rule),
        )

    def rule_of(self, operation_type: str, model_name: str) -> Rule:
        """The rule by which this operation on this model is charged: that of the two, else the operation's own."""
        own = self.rules[operation_type, ANY]
        return self.rules.get((operation_type, model_name), own)

    def price_of_past(self, operation_type: str, model_name: str, size: str, quality: str) -> Price | None:
        """The price of past usage, even if its operation or model is inactive by now; None when it has no price."""
        operation, model = self.operations.get(operation_type), self.models.get(model_name)
        if operation is None or model is None:
            return None
        try:
            return self.price_of(operation, model, size=size, quality=quality)
        except PriceNotConfigured:
            return None

    def image_price_of(self, model: Model, size: str, quality: str) -> ImagePrice:
        """The price of one image of this size and quality; raises PriceNotConfigured when none covers it.

        The most specific price wins; an exact size counts for more than an exact quality. An image of no named quality
        has the price of the platform's quality.
        """
        quality = quality or self.settings[IMAGE_QUALITY].value
        for asked in ((size, quality), (size, ANY), (ANY, quality), (ANY, ANY)):
            found = self.image_prices.get((model.model_name, *asked))
            if found is not None:
                return ImagePrice(size, quality, cost_usd=found.cost_usd, credits=found.credits)
        raise PriceNotConfigured(f"{model.model_name} has no price for images of {size} in {quality} quality.")

    def deprecation_warning(self, model: Model, *, today: date) -> str | None:
        """One sentence when the model's deprecation date is near or past, else None."""
        day = model.deprecation_date
        if day is None or (day - today).days > self.defaults.deprecation_notice_days:
            return None
        gone = day <= today
        return f"The provider {'has taken' if gone else 'takes'} {model.model_name} away on {day}: use another model."

    def _fitting(self, operation: Operation) -> tuple[str, ...]:
        return tuple(m.model_name for m in self.active_models() if m.model_type == operation.model_type)


@dataclass(frozen=True)
class Moment:
    """An instant by the database's clock, and the catalogue that holds at it.

    `version` is the catalogue's, or None where the transaction itself has changed it: what it reads is nobody else's.
    """

    now: datetime
    catalog: Catalog
    version: str | None = None
    own: OwnSettings = NO_SETTINGS

    def settings_of(self, account_id: int, user_id: int | None) -> Settings:
        """The settings that hold for a user of an account, whose own were read at this instant."""
        return self.own.over(self.catalog.settings, account_id, user_id)

    @property
    def today(self) -> date:
        """The day (UTC)."""
        return self.now.date()
