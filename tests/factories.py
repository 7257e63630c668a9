"""What tests start from: accounts with credits, and jobs that stand at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from billing.catalog.snapshot import Moment
from billing.catalog.usage import Usage, Work
from billing.jobs import calling, parts, requests, reserving, submitting
from billing.jobs.admitting import Source
from billing.jobs.calling import Claim, Delivery
from billing.jobs.requests import Submission
from billing.jobs.states import State
from billing.jobs.tables import GenerationJob
from billing.ledger import accounts, by_hand
from billing.ledger.tables import Account, User
from billing.periods import starts_at
from billing.plans import subscriptions
from billing.plans.tables import Plan
from billing.settings import own
from config.database import transaction

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def moment(session: Session, now: datetime = NOON, *, of: Sequence[Submission] = ()) -> Moment:
    """This instant, the catalogue as it is, and what the accounts and users of these requests have set themselves."""
    return replace(own.moment(session, {(each.account_id, each.user_id) for each in of}), now=now)


def an_account(credits: int = 1000, *, name: str = "Corner Bakery", time_zone: str = "UTC") -> int:
    """An account with this many credits; returns its id."""
    with transaction() as session:
        account = accounts.create(session, name, time_zone=time_zone)
        if credits:
            by_hand.top_up(
                session, account.id, credits, idempotency_key="opening", description="Opening", now=NOON, force=True
            )
        return account.id


def a_user(account_id: int, email: str = "a@example.com") -> int:
    """A user of the account; returns the user's id."""
    with transaction() as session:
        user = User(account_id=account_id, email=email)
        session.add(user)
        session.flush()
        return user.id


def a_subscription(account_id: int, limits: dict[str, int], *, anchor: date = date(2026, 11, 1)) -> None:
    """A plan with these limits, and the account's subscription to it."""
    with transaction() as session:
        plan = Plan(slug=f"plan-{uuid4().hex[:8]}", name="Plan", limits=limits)
        session.add(plan)
        session.flush()
        began = starts_at(anchor, accounts.zone(accounts.get(session, account_id)))
        subscriptions.subscribe(session, account_id, plan.slug, anchor=anchor, now=began)


def a_queued_job(account_id: int, operation: str = "clustering", *, now: datetime = NOON, **given: Any) -> UUID:
    """A job that was just submitted. By default a text job of up to 1,000 output tokens (11 credits at most)."""
    default = (
        {"prompt": "Two dogs."} if operation == "image_generation" else {"prompt": "bread", "max_output_tokens": 1000}
    )
    api_key_id = given.pop("api_key_id", None)
    data = {"account_id": account_id, "operation": operation, "params": given.pop("params", default), **given}
    parsed = [requests.parse(data)]
    with transaction() as session:
        at = moment(session, now, of=parsed)
        source = None if api_key_id is None else Source(api_key_id, str(uuid4()))
        submitted = submitting.submit(session, parsed, at=at, deadline=HOUR, publish_by=MINUTE, source=source)
    return submitted[0].job_id


def a_reserved_job(account_id: int, operation: str = "clustering", *, now: datetime = NOON, **given: Any) -> UUID:
    """A job that holds its credits."""
    job_id = a_queued_job(account_id, operation, now=now, **given)
    with transaction() as session:
        assert reserving.reserve(session, [job_id], at=moment(session, now), publish_by=MINUTE).job_ids == [job_id]
    return job_id


def a_claim(job_id: UUID, *, now: datetime = NOON, again: int | None = None) -> Claim:
    """The right to call the provider for a reserved job, for a minute."""
    with transaction() as session:
        claim = calling.claim(session, job_id, at=moment(session, now), lease=MINUTE, again=again)
    assert claim is not None
    return claim


def a_delivery(usage: Usage | None = None, **content: Any) -> Delivery:
    """What a provider delivers: by default 100 input and 400 output tokens, 5 credits of clustering."""
    return Delivery(
        content=content or {"text": "a b c"},
        usage=usage or Usage(input_tokens=100, output_tokens=400),
        raw_usage={},
        request_id="req_1",
        finish_reason="stop",
    )


def a_generated_job(
    account_id: int, operation: str = "clustering", *, usage: Usage | None = None, now: datetime = NOON, **given: Any
) -> UUID:
    """A job whose provider has delivered: an image by each call where its model makes no more, the rest by the last."""
    job_id = a_reserved_job(account_id, operation, now=now, **given)
    left = usage
    for number in range(parts.count(Work(**the_job(job_id).work)), 0, -1):
        claim = a_claim(job_id, now=now)
        used = left if number == 1 or left is None else Usage(images=min(claim.images, left.images))
        left = left and replace(left, images=left.images - used.images)
        with transaction() as session:
            state = calling.succeed(session, claim, a_delivery(used), now=now, publish_by=MINUTE)
    assert state is State.GENERATED
    return job_id


def the_job(job_id: UUID) -> GenerationJob:
    """The job as it is now."""
    with transaction() as session:
        return session.get_one(GenerationJob, job_id)


def the_account(account_id: int) -> Account:
    """The account as it is now."""
    with transaction() as session:
        return session.get_one(Account, account_id)


def rows(query: str, **given: Any) -> list[tuple[Any, ...]]:
    """What a query returns, as plain tuples."""
    with transaction() as session:
        return [tuple(row) for row in session.execute(text(query), given)]
