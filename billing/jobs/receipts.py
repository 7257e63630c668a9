"""The receipt of a job: what was asked, used, priced and charged, computed again from what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import explaining
from billing.catalog.pricing import PricedBy
from billing.errors import UnknownThing
from billing.jobs import call_queries, job_queries
from billing.jobs.charging import Computed, compute
from billing.jobs.states import OPEN, State
from billing.jobs.tables import GenerationJob, ProviderCall

PRIVATE = frozenset({"prompt", "messages", "system", "input"})
"""Parameters that hold content, which a receipt does not show."""


@dataclass(frozen=True)
class Receipt:
    """What a job was charged and why. Credits are whole; USD is ours, and in the operator's version only."""

    job_id: UUID
    account_id: int
    state: str
    asked: dict[str, Any]
    # What the request left open, and the tier of settings that filled it in.
    settings_used: dict[str, str]
    used: dict[str, Any]
    priced: dict[str, Any]
    credits_held: int
    credits_charged: int
    credits_released: int
    # The charge that follows from the stored price and usage; None where nothing was to be charged.
    credits_recomputed: int | None
    sentence: str
    cost_usd: Decimal | None = None
    revenue_usd: Decimal | None = None

    @property
    def follows(self) -> bool:
        """Whether the charge is the one that follows from what is stored."""
        return self.credits_recomputed in (None, self.credits_charged)

    def facts(self) -> dict[str, Any]:
        """The receipt as plain data, without what is not told."""
        told = {name: value for name, value in vars(self).items() if value is not None}
        return told | {"follows": self.follows}


def receipt(session: Session, job_id: UUID, *, for_customer: bool = False) -> Receipt:
    """The receipt of a job, for operators or, without our costs, for the customer; raises UnknownThing."""
    found = receipts(session, [job_id], for_customer=for_customer)
    if not found:
        raise UnknownThing("job", job_id)
    return found[0]


def receipts(session: Session, job_ids: Sequence[UUID], *, for_customer: bool = False) -> list[Receipt]:
    """The receipts of these jobs; an id that no job has is left out."""
    jobs = job_queries.find(session, job_ids)
    delivered = call_queries.delivered(session, [job.id for job in jobs if job.state == State.SETTLED])
    return [_receipt(job, delivered.get(job.id, ()), for_customer=for_customer) for job in jobs]


def _receipt(job: GenerationJob, delivered: Sequence[ProviderCall], *, for_customer: bool) -> Receipt:
    held = job.credits_reserved if job.price is not None else 0
    computed = None
    if job.state == State.SETTLED:
        computed = compute(job.price or {}, [call.usage or {} for call in delivered], held=held)
    charged = job.credits_charged or 0
    ours = {} if for_customer else {"cost_usd": job.cost_usd, "revenue_usd": _revenue(computed, charged)}
    return Receipt(
        job_id=job.id,
        account_id=job.account_id,
        state=job.state,
        asked=_asked(job),
        settings_used=job.settings_used or {},
        used={} if computed is None else {name: n for name, n in computed.usage.to_json().items() if n},
        priced={} if computed is None else _priced(computed, for_customer=for_customer),
        credits_held=held,
        credits_charged=charged,
        credits_released=0 if job.state in OPEN else held - charged,
        credits_recomputed=None if computed is None else computed.charge.credits,
        sentence=_sentence(job, computed, held, for_customer=for_customer),
        **ours,
    )


def _asked(job: GenerationJob) -> dict[str, Any]:
    parameters = {name: value for name, value in job.params.items() if name not in PRIVATE}
    return {"operation": job.operation_type, "model": job.model_name, **parameters}


def _priced(computed: Computed, *, for_customer: bool) -> dict[str, Any]:
    """By which rule, of which row, and at what amounts."""
    price = computed.price
    told: dict[str, Any] = {"priced_by": str(price.priced_by), "row": price.row or None}
    if price.priced_by is PricedBy.TOKENS and price.image is not None:
        told |= {"credits_per_image": price.image.credits}
    elif price.priced_by is PricedBy.TOKENS:
        told |= {"tokens_per_credit": price.tokens_per_credit, "output_weight": price.output_weight}
    elif not for_customer:
        told |= {"markup_percent": price.markup_percent}
    told |= {"min_credits": price.min_credits, "rounding": str(price.rounding)}
    if not for_customer:
        told |= {"price_per_credit_usd": price.price_per_credit_usd, "delivered_cost_usd": computed.cost_usd}
    return {name: value for name, value in told.items() if value is not None}


def _sentence(job: GenerationJob, computed: Computed | None, held: int, *, for_customer: bool) -> str:
    if computed is not None:
        told = explaining.arithmetic(
            computed.usage,
            computed.price,
            computed.charge,
            cost_usd=computed.cost_usd,
            held=held,
            of_costs=not for_customer,
        )
        charged = job.credits_charged or 0
        return told if charged == computed.charge.credits else f"{told} But {charged:,} credits were charged."
    if job.state in OPEN:
        return f"{held:,} credits are held; nothing is charged yet."
    if job.state == State.QUEUED:
        return "Nothing is held or charged yet."
    why = f"{job.error_message} " if job.error_message else ""
    return f"{why}Nothing was charged{f'; {held:,} credits were held, and all were released' if held else ''}."


def _revenue(computed: Computed | None, charged: int) -> Decimal | None:
    return None if computed is None else charged * computed.price.price_per_credit_usd
