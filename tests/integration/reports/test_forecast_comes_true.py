"""What a simulation says is what then happens, to the instant."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from billing.errors import BillingError
from billing.periods import add_months, starts_at
from billing.plans import plans
from config.database import transaction
from tests.factories import MINUTE, rows, the_account
from tests.integration.reports.forecasts import DAY, HALF, account_zone, simulate
from tests.rounds import rounds
from tests.subscribers import a_subscriber, act, forget_accounts, reset_limits, tick

pytestmark = pytest.mark.usefixtures("db")
TICK = timedelta(microseconds=1)

ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Africa/Cairo", "Asia/Kathmandu"),
    "Pacific/Chatham",
]
ANCHORS = [date(2023, 10, 31), date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 30), date(2023, 12, 1)]
CREDITS = [0, 500, HALF]
MONTHLY = {"billing_interval": "month", "included_credits": "500", "content_ideas": "7"}
YEARLY = {"billing_interval": "year", "included_credits": "7", "content_ideas": "none"}
PLANS = st.fixed_dictionaries(
    {
        "billing_interval": st.sampled_from(["month", "year"]),
        "included_credits": st.sampled_from(CREDITS).map(str),
        "content_ideas": st.sampled_from(["0", "7", "none"]),
    }
)
ACTS = st.one_of(
    st.tuples(st.just("cancel"), st.just({})),
    st.tuples(st.just("subscribe"), st.fixed_dictionaries({"at_period_end": st.booleans()})),
    st.tuples(st.just("past_due"), st.fixed_dictionaries({"grace_days": st.integers(0, 100)})),
    st.tuples(st.just("paid"), st.just({})),
    st.tuples(st.just("resume"), st.just({})),
)
BEGINNINGS = st.one_of(
    st.fixed_dictionaries({"anchor": st.sampled_from(ANCHORS)}),
    st.fixed_dictionaries({"trial_days": st.integers(1, 45)}),
)


def a_lived_subscription(zone, beginning, first, second, began, acts):
    """An account and a subscription to which all this was done, each some days after the one before."""
    for name, fields in (("first", first), ("second", second)):
        with transaction() as session:
            plans.set_plan(session, name, fields)
    account_id = a_subscriber("first", credits=100, time_zone=zone, now=began, **beginning)
    now = began
    for days, (action, named) in acts:
        now += days * DAY
        # What an operator cannot do, such as pay for what has ended, changes nothing.
        with suppress(BillingError):
            act(action, account_id, *(["second"] if action == "subscribe" else []), now=now, **named)
    return account_id, now


def written(account_id):
    """What renewals write for an account: periods, ledger rows, opened limits, and how the subscription stands."""
    return (
        rows(
            "SELECT p.starts_at, p.period_end, l.slug, CASE WHEN p.granted THEN p.credits ELSE 0 END, "
            "p.credits_withheld, p.granted FROM subscription_periods p JOIN plans l ON l.id = p.plan_id ORDER BY 1"
        ),
        rows(
            "SELECT created_at, amount, balance_after FROM credit_transactions "
            "WHERE account_id = :id AND transaction_type = 'subscription' ORDER BY id",
            id=account_id,
        ),
        rows("SELECT limit_type, period_end FROM plan_limit_usage WHERE account_id = :id ORDER BY 2, 1", id=account_id),
        rows("SELECT status FROM subscriptions WHERE account_id = :id", id=account_id),
    )


def happened(account_id, before, at):
    """What has come since: the event as a simulation would tell it, from nothing but the rows."""
    (periods, ledger, opened, status), (old_periods, old_ledger, old_opened, old_status) = written(account_id), before
    begun = [row for row in periods if row[0] not in {old[0] for old in old_periods}]
    assert len(begun) <= 1
    assert len(ledger) - len(old_ledger) <= 1
    granted = sum(amount for when, amount, _ in ledger[len(old_ledger) :] if when == at)
    with transaction() as session:
        limits = {each.limit_type: each.allowed for each in plans.usage(session, account_id, now=at)}
    assert [name for name, end in opened[len(old_opened) :]] == (sorted(limits) if begun else [])
    return {
        "at": at,
        "ends": status == [("cancelled",)] != old_status,
        "period": [(at, row[1], row[2], row[4]) for row in begun],
        "granted": granted,
        "balance": the_account(account_id).balance,
        "limits": limits if begun else {},
    }


def told(each):
    """The same, as the simulation tells it."""
    begins = each.event not in ("end", "grant")
    return {
        "at": each.at,
        "ends": each.event == "end",
        "period": [(each.at, each.period_end, each.plan, each.credits_withheld)] if begins else [],
        "granted": each.credits_granted,
        "balance": each.balance,
        "limits": dict(each.limits),
    }


@settings(
    max_examples=rounds(40),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    zone=st.sampled_from(ZONES),
    beginning=BEGINNINGS,
    first=PLANS,
    second=PLANS,
    began=st.integers(0, 1_000 * 24 * 60).map(lambda minutes: datetime(2024, 4, 1, tzinfo=UTC) + minutes * MINUTE),
    acts=st.lists(st.tuples(st.integers(0, 40), ACTS), max_size=4),
    later=st.integers(0, 80),
    apart=st.booleans(),
    months=st.integers(1, 14),
)
@example("Africa/Cairo", {"anchor": date(2024, 1, 31)}, MONTHLY, YEARLY, datetime(2026, 3, 1, tzinfo=UTC),
         [(3, ("past_due", {"grace_days": 100}))], 0, False, 6)  # fmt: skip
@example("America/Havana", {"trial_days": 30}, MONTHLY, YEARLY, datetime(2026, 10, 2, tzinfo=UTC),
         [(3, ("subscribe", {"at_period_end": True}))], 0, False, 14)  # fmt: skip
@example("UTC", {"anchor": date(2024, 1, 31)}, {**MONTHLY, "included_credits": str(HALF)}, YEARLY,
         datetime(2026, 3, 1, tzinfo=UTC), [], 70, True, 3)  # fmt: skip
def test_what_is_simulated_is_what_the_clock_then_does(
    zone, beginning, first, second, began, acts, later, apart, months
):
    forget_accounts()
    account_id, now = a_lived_subscription(zone, beginning, first, second, began, acts)
    # The limits of a period that has begun already are none of what is to come.
    reset_limits(now)
    now += later * DAY
    if apart:
        # The limits' task may have come, and the one that grants not yet.
        reset_limits(now)

    expected = simulate(account_id, months=months, now=now)

    instants = sorted({each.at for each in expected})
    assert len(instants) == len(expected)
    for each in expected:
        tick(each.at - TICK)
        before = written(account_id)
        tick(each.at)
        assert happened(account_id, before, each.at) == told(each), each
    last = written(account_id)
    here = account_zone()
    tick(starts_at(add_months(now.astimezone(here).date(), months), here))
    assert written(account_id) == last, "nothing came that was not told"
