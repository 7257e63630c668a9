"""What requests and answers of the API look like. Amounts are in credits, instants are ISO 8601 with their zone."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

BATCH_MAX = 500
"""Requests of one submission."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobRequest(_Request):
    """What is to be generated: an operation, its parameters, and a model unless the settings' one is to be used."""

    operation: Annotated[str, StringConstraints(min_length=1, max_length=50)]
    params: dict[str, Any] = Field(examples=[{"prompt": "Three names for a bakery", "max_output_tokens": 500}])
    model: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None


class BatchRequest(_Request):
    """Several of them: all are taken, or none."""

    jobs: Annotated[list[JobRequest], Field(min_length=1, max_length=BATCH_MAX)]


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Accepted(_Answer):
    """A job that was taken; `url` tells how it goes on."""

    job_id: UUID
    url: str


class AcceptedBatch(_Answer):
    """The jobs that were taken, in the order of their requests."""

    jobs: list[Accepted]


class Fault(_Answer):
    """Why a job was not charged, or not done."""

    code: str
    message: str | None


class Job(_Answer):
    """A job as it is now. What it holds and was charged is in credits; it is finished when `finished_at` is set."""

    job_id: UUID
    operation: str
    model: str
    state: Literal[
        "queued", "reserved", "calling", "unknown", "generated", "settled", "refunded", "rejected", "cancelled"
    ]
    credits_estimated: int | None
    credits_held: int
    credits_charged: int | None
    idempotency_key: str
    error: Fault | None
    created_at: datetime
    finished_at: datetime | None


class Jobs(_Answer):
    """A page of jobs, the newest first; `next` is the cursor of the next page, null at the end."""

    jobs: list[Job]
    next: str | None


class Result(_Answer):
    """What was generated: a `text`, `images` with their addresses or data, or `embeddings`."""

    job_id: UUID
    content: dict[str, Any]


class Receipt(_Answer):
    """How a charge follows from what was used; `sentence` has the arithmetic in words."""

    job_id: UUID
    state: str
    asked: dict[str, Any]
    settings_used: dict[str, str]
    used: dict[str, Any]
    priced: dict[str, Any]
    credits_held: int
    credits_charged: int
    credits_released: int
    credits_recomputed: int | None
    sentence: str


class QuotedLimit(_Answer):
    """The plan limit that a request uses, in its units; null where the plan does not limit it."""

    limit_type: str
    unit: str
    needed: int
    allowed: int | None
    remaining: int | None


class Quote(_Answer):
    """What a request would hold at most and probably be charged, and whether it would be accepted now."""

    model_config = ConfigDict(extra="allow")
    model: str
    credits: int
    typical_credits: int
    typical_basis: str
    limit: QuotedLimit | None
    balance: int
    held: int
    available: int
    accepted: bool


class KeyCap(_Answer):
    """What the key's jobs may cost in all, and what of it they hold and have used."""

    cap: int
    held: int
    used: int


class Balance(_Answer):
    """What the account has, what its open jobs hold, and what a new job may use."""

    balance: int
    held: int
    available: int
    frozen: bool
    key: KeyCap | None


class Entry(_Answer):
    """A change of the balance: why, and the balance that it left."""

    id: int
    created_at: datetime
    type: str
    reason: str
    credits: int
    balance_after: int
    description: str
    job_id: UUID | None


class Ledger(_Answer):
    """A page of the ledger, the newest changes first; `next` is the cursor of the next page, null at the end."""

    entries: list[Entry]
    next: str | None


class Used(_Answer):
    """What the jobs of a day, a model or an operation used; tokens only where the platform reports them."""

    model_config = ConfigDict(extra="allow")
    key: str
    jobs: int
    credits: int
    images: int


class Usage(_Answer):
    """The use of some days (UTC), both included."""

    first: date
    last: date
    by: str
    rows: list[Used]


class PlanLimit(_Answer):
    """What is used and left of a limit of the plan in its current period, in its units."""

    limit_type: str
    allowed: int
    used: int
    held: int
    remaining: int


class Limits(_Answer):
    """The plan and its limits; `renews_at` is when the next period begins."""

    plan: str | None
    period_start: date | None
    period_end: date | None
    renews_at: datetime | None
    limits: list[PlanLimit]


class Setting(_Answer):
    """A setting that holds: its value, which tier set it (`platform`, `account` or `user`), and since when."""

    value: Any
    tier: str
    since: datetime | None


class SettingValue(_Request):
    """The new value of a setting."""

    value: Any


class UserSetting(_Request):
    """A setting of a user, by its name (`key`)."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(examples=["image_style"])
    value: Any = Field(examples=["illustration"])


class SavedSetting(_Answer):
    """A setting as it holds now, after a change of the account's or the user's."""

    key: str
    account_id: int
    user_id: int | None
    value: Any = None
    tier: str | None = None
    since: datetime | None = None


class SavedIntegration(_Answer):
    """What holds of an integration now; `stripped` is how much looked like a key and was not saved."""

    settings: dict[str, Setting]
    stripped: int


class EndpointRequest(_Request):
    """Where to tell an account, and of what; without events, of all."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(examples=["https://app.example/hook"])
    events: Annotated[list[str], Field(max_length=20)] = []
    balance_threshold: Annotated[int | None, Field(ge=0, description="Credits.")] = None
    limit_threshold_percent: Annotated[int, Field(ge=1, le=100)] = 80


class Endpoint(_Answer):
    """Where an account is told, and of what; `disabled_reason` says why no more."""

    id: UUID
    url: str
    events: list[str]
    balance_threshold: int | None
    limit_threshold_percent: int
    disabled_reason: str | None
    created_at: datetime


class Endpoints(_Answer):
    """The endpoints of an account."""

    endpoints: list[Endpoint]


class NewEndpoint(_Answer):
    """An endpoint with its secret, the only time that it is told."""

    secret: str
    endpoint: Endpoint


class Message(_Answer):
    """One event for one endpoint, and how far its delivery has come."""

    id: int
    endpoint_id: UUID
    event: str
    subject: str
    state: str
    attempts: int
    created_at: datetime
    next_at: datetime | None
    delivered_at: datetime | None
    last_status: int | None
    last_error: str | None


class Messages(_Answer):
    """A page of messages, the newest first; `next` is the cursor of the next page, null at the end."""

    messages: list[Message]
    next: str | None


class Replayed(_Answer):
    """The message that is delivered again."""

    id: int
