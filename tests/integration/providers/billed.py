"""One job from its request to the end of its hold, its provider called over real HTTP; and what the books then say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from billing.jobs import calling, settling
from billing.jobs.policy import RetryBudget, Verdict
from config.database import transaction
from config.providers import Connection
from tasks.providers.base import ProviderError
from tasks.providers.openai import OpenAIProvider
from tests.factories import HOUR, MINUTE, NOON, a_claim, a_reserved_job, an_account, rows, the_account, the_job
from tests.integration.providers.fake_provider import FakeProvider

BUDGET = RetryBudget(attempts=2, wait_max=timedelta(seconds=1))


@dataclass(frozen=True)
class Billed:
    """What became of a job: its state and why, its charge in credits, its cost in USD, the note, the wire calls."""

    state: str
    code: str | None
    held: int
    credits: int | None
    cost_usd: Decimal
    note: str | None
    calls: int
    message: str | None
    content: dict[str, Any] | None
    description: str | None


def bill(provider: FakeProvider, operation: str = "clustering", **request: Any) -> Billed:
    """Bill one request against this provider, with one retry at most; whatever was held is free again at the end."""
    account_id = an_account(10_000)
    job_id = a_reserved_job(account_id, operation, **request)
    held = the_account(account_id).reserved
    adapter, again = OpenAIProvider(), None
    while True:
        claim = a_claim(job_id, again=again)
        verdict = None
        try:
            delivery = adapter.call(claim, Connection("openai", "sk-test", provider.url), timeout_s=10)
            with transaction() as session:
                assert calling.succeed(session, claim, delivery, now=NOON, publish_by=MINUTE)
        except ProviderError as error:
            with transaction() as session:
                verdict = calling.fail(session, claim, error.refusal, now=NOON, budget=BUDGET, look_after=HOUR)
        if verdict is not Verdict.RETRY:
            break
        again = claim.attempt
    with transaction() as session:
        settling.settle(session, [job_id], now=NOON)
        settling.refund(session, [job_id], now=NOON)
    job = the_job(job_id)
    if job.state != "unknown":
        assert the_account(account_id).reserved == 0
    found = rows("SELECT usage_note FROM provider_calls WHERE job_id = :j ORDER BY attempt DESC LIMIT 1", j=job_id)
    kept = rows("SELECT content FROM generation_results WHERE job_id = :j", j=job_id)
    booked = rows("SELECT description FROM credit_transactions WHERE job_id = :j", j=job_id)
    return Billed(
        state=job.state,
        code=job.error_code,
        held=held,
        credits=job.credits_charged,
        cost_usd=job.cost_usd,
        note=found[0][0],
        calls=job.attempts,
        message=job.error_message,
        content=kept[0][0] if kept else None,
        description=booked[0][0] if booked else None,
    )
