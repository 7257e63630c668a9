"""What the model is made of: sorts of requests, prices, and the records of accounts, jobs and calls.

Instants are whole seconds since `EPOCH`, credits are whole numbers, USD is Decimal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple
from uuid import UUID

EPOCH = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
WORDS_PER_100_TOKENS = 75
PROMPT = "bread"


class Kind(NamedTuple):
    """A sort of request: its operation and model, the plan limit that it uses, and the most tokens that it takes."""

    operation: str
    model: str
    limit_type: str | None
    unit: str
    input_tokens: int
    # Output tokens at most, for each unit of a request's amount: for each token asked for, or for each image.
    output_tokens: int


# The prompt is one token (or, without a tokenizer, five bytes); a request adds 16 and a message 8.
KINDS = {
    "plain": Kind("clustering", "gpt-5.1", None, "requests", 25, 1),
    "ideas": Kind("idea_generation", "gpt-5.1", "content_ideas", "requests", 25, 1),
    "words": Kind("content_generation", "gpt-5.1", "content_words", "words", 25, 1),
    "images": Kind("image_generation", "dall-e-3", "images_basic", "images", 0, 0),
    "token_images": Kind("image_generation", "gpt-image-1", "images_premium", "images", 53, 1000),
}


class Body(NamedTuple):
    """What is asked for: a sort of request, and how many output tokens or images."""

    sort: str
    amount: int

    @property
    def kind(self) -> Kind:
        return KINDS[self.sort]

    @property
    def of_images(self) -> bool:
        return self.kind.unit == "images"

    @property
    def calls(self) -> int:
        """Into how many calls its work is divided: dall-e-3 makes one image by each."""
        return self.amount if self.sort == "images" else 1

    @property
    def part(self) -> Body:
        """What one of these calls is asked for."""
        return self._replace(amount=1) if self.sort == "images" else self


class Used(NamedTuple):
    """What a provider says that it used."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    images: int = 0

    @classmethod
    def of_all(cls, used: Iterable[Used]) -> Used:
        """What several calls used together."""
        return cls(*map(sum, zip(*used, strict=True)))


@dataclass(frozen=True)
class Tariff:
    """All prices at one time; an operation may be switched off, and the image model may have no price."""

    tokens_per_credit: int = 100
    min_credits: int = 1
    rounding: str = "up"
    usd_per_credit: Decimal = Decimal("0.01")
    # USD per 1,000,000 tokens of text; those of the image model that bills by tokens never change.
    output_usd: Decimal = Decimal(10)
    image_usd: Decimal = Decimal("0.04")
    image_credits: int = 5
    image_priced: bool = True
    off: str | None = None

    def why_not(self, body: Body) -> str | None:
        if body.kind.operation == self.off:
            return "operation_inactive"
        return "price_not_configured" if body.sort == "images" and not self.image_priced else None

    def estimate(self, body: Body) -> int:
        if body.sort == "images":
            return max(self.min_credits, body.amount * self.image_credits)
        return self._credits(body.kind.input_tokens + body.amount * body.kind.output_tokens)

    def due(self, body: Body, used: Used) -> int:
        if body.of_images and not used.images:
            return 0
        if body.sort == "images":
            return max(self.min_credits, used.images * self.image_credits)
        return self._credits(used.input + used.cached + used.output + used.reasoning)

    def cost(self, body: Body, used: Used) -> Decimal:
        if body.sort == "images":
            return self.image_usd * used.images
        inp, cached, out = self._rates(body)
        return (inp * used.input + cached * used.cached + out * (used.output + used.reasoning)) / 1_000_000

    def worst_cost(self, body: Body) -> Decimal:
        most_output = body.amount * body.kind.output_tokens
        return self.cost(body, Used(input=body.kind.input_tokens, output=most_output, images=body.amount))

    def _rates(self, body: Body) -> tuple[Decimal, Decimal, Decimal]:
        if body.of_images:
            return Decimal(5), Decimal(5), Decimal(40)
        return Decimal("1.25"), Decimal("0.125"), self.output_usd

    def _credits(self, tokens: int) -> int:
        exact = Fraction(tokens, self.tokens_per_credit)
        add = {"up": 1 - Fraction(1, self.tokens_per_credit), "nearest": Fraction(1, 2), "down": Fraction(0)}
        return max(self.min_credits, int(exact + add[self.rounding]))


@dataclass
class Account:
    """A customer; `allowed` is its plan's limits by type (None: counted without a limit), None without a plan."""

    zone: str = "UTC"
    allowed: dict[str, int | None] | None = None
    balance: int = 0
    reserved: int = 0
    frozen: bool = False


@dataclass
class Call:
    """One wire call, as it must be on record."""

    claimed_by: UUID
    outcome: str | None = None
    failure: str | None = None
    finished: int | None = None
    cost: Decimal = Decimal(0)
    exposure: bool = False
    used: Used | None = None
    resolved: str | None = None
    asked: int = 0
    asked_at: int | None = None


@dataclass
class Job:
    """One request, as it must be on record."""

    id: UUID
    account: int
    body: Body
    key: str
    created: int
    next_at: int
    deadline: int
    estimated: int
    state: str = "queued"
    tariff: Tariff | None = None
    held: int = 0
    charged: int | None = None
    overrun: int = 0
    period: str | None = None
    units_held: int = 0
    units_used: int | None = None
    calls: list[Call] = field(default_factory=list)
    taken: int | None = None
    lease: int | None = None
    republished: int = 0
    error: str | None = None
    # How many words each of its calls delivered that delivered in time.
    words: list[int] = field(default_factory=list)
    parts: int = 0

    @property
    def delivered(self) -> list[Call]:
        """Its calls whose delivery is charged."""
        return [call for call in self.calls if call.outcome == "succeeded" and not call.exposure]

    @property
    def cost(self) -> Decimal:
        return sum((call.cost for call in self.calls), Decimal(0))


class Wanted(NamedTuple):
    """One request of a submission."""

    id: UUID
    account: int
    body: Body
    key: str


def units(body: Body) -> int:
    """Units of a plan limit that a request uses at most."""
    if body.kind.unit == "words":
        return -(-body.amount * WORDS_PER_100_TOKENS // 100)
    return body.amount if body.of_images else 1


def units_used(body: Body, used: Used, words: int) -> int:
    """Units of a plan limit that a delivery used."""
    return {"words": words, "images": used.images, "requests": 1}[body.kind.unit]


def usd(amount: Decimal) -> str:
    """USD as the database writes it."""
    return f"{amount:.10f}"
