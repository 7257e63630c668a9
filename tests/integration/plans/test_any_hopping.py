"""Plans changed at random, and two changes at once: no day is granted more than the best plan of that day gives.

The rule itself is pure and tested by the day in tests/unit/plans/test_shares.py; here the services and ticks go by it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from billing.errors import InvalidRequest
from billing.plans import renewals, subscriptions
from billing.reports import audit
from config.database import transaction
from tests.factories import an_account, rows
from tests.guarding import meanwhile
from tests.rounds import rounds
from tests.subscribers import a_plan, forget_accounts, ledger, periods, without_lock

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _plans(db):
    for slug, interval, credits in (
        ("free", "year", "365"),
        ("monthly", "month", "1000"),
        ("large", "month", "7000"),
        ("yearly", "year", "36500"),
    ):
        a_plan(slug, billing_interval=interval, included_credits=credits)


def subscribe(session, account_id, now, slug, *, back=None, **given):
    """Subscribe, with periods that are counted from so many days ago, if it says so."""
    anchor = None if back is None else (now - back * DAY).date()
    subscriptions.subscribe(session, account_id, slug, anchor=anchor, now=now, **given)


def hop(session, account_id, now, slug):
    """Subscribe, take the credits, and leave at once."""
    subscribe(session, account_id, now, slug)
    cancel(session, account_id, now, at_once=True)


def cancel(session, account_id, now, **given):
    subscriptions.cancel(session, account_id, now=now, **given)


def resume(session, account_id, now):
    subscriptions.resume(session, account_id, now=now)


def fail_to_pay(session, account_id, now, grace_days):
    subscriptions.past_due(session, account_id, grace_days=grace_days, now=now)


def pay(session, account_id, now):
    subscriptions.paid(session, account_id, now=now)


def renew(session, account_id, now):
    """One batch of a tick."""
    worked = renewals.Worked()
    renewals.renew(session, now, worked)
    assert worked.blocked == {}


def ask(session, account_id, now, change, given):
    """Make this change; returns None, or the code of the refusal."""
    try:
        # What a refused change has done by then is undone, as when its transaction ends.
        with session.begin_nested():
            change(session, account_id, now, **given)
    except InvalidRequest as error:
        return error.code
    return None


def in_turn(account_id, now, *changes):
    """What the changes answer, one after the other."""
    answers = []
    for change in changes:
        with transaction() as session:
            answers.append(ask(session, account_id, now, *change))
    return answers


def granted(account_id):
    """The sum of the credits that the ledger says were granted."""
    return sum(amount for kind, amount, *_ in ledger(account_id) if kind == "subscription")


def best(account_id):
    """What the account's days come to at the best daily rate of each; and in how many periods that was rounded down."""
    found = rows(
        "SELECT period_start, period_end, included_credits FROM subscription_periods p "
        "JOIN subscriptions s ON s.id = p.subscription_id "
        "WHERE s.account_id = :id AND (p.status = 'active' OR p.granted)",
        id=account_id,
    )
    rates = {}
    for start, end, included in found:
        rate = Fraction(included, (end - start).days)
        for day in range(start.toordinal(), end.toordinal()):
            rates[day] = max(rates.get(day, rate), rate)
    return sum(rates.values()), len(found)


def findings(now):
    with transaction() as session:
        return audit.audit(session, now=now)


# --- In random order ---

SLUGS = st.sampled_from(["free", "monthly", "large", "yearly"])
CHANGES = st.one_of(
    st.tuples(st.just(subscribe), st.fixed_dictionaries({"slug": SLUGS})),
    st.tuples(st.just(subscribe), st.fixed_dictionaries({"slug": SLUGS, "back": st.integers(0, 40)})),
    st.tuples(st.just(subscribe), st.fixed_dictionaries({"slug": SLUGS, "at_period_end": st.just(True)})),
    st.tuples(
        st.just(subscribe),
        st.fixed_dictionaries({"slug": SLUGS, "trial_days": st.integers(1, 20), "another_trial": st.just(True)}),
    ),
    st.tuples(st.just(hop), st.fixed_dictionaries({"slug": SLUGS})),
    st.tuples(st.just(cancel), st.fixed_dictionaries({"at_once": st.booleans()})),
    st.tuples(st.sampled_from([resume, pay, renew]), st.just({})),
    st.tuples(st.just(fail_to_pay), st.fixed_dictionaries({"grace_days": st.sampled_from([0, 3, 40])})),
)
TRIAL = (subscribe, {"slug": "monthly", "trial_days": 20})
PASSED = st.sampled_from([0, 0, 1, 1, 9, 30, 31, 100, 366])
"""Days from one change to the next."""


@settings(
    max_examples=rounds(60),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    zone=st.sampled_from(["UTC", "Asia/Tokyo", "America/Lima"]), steps=st.lists(st.tuples(PASSED, CHANGES), max_size=9)
)
@example("UTC", [(1, (hop, {"slug": slug})) for slug in ("yearly", "monthly", "free", "yearly", "large", "yearly")])
@example("Asia/Tokyo", [(31, (hop, {"slug": slug})) for slug in ("free", "large", "monthly", "yearly", "large")])
@example("UTC", [(0, TRIAL), (1, (cancel, {"at_once": True})), (1, (subscribe, {"slug": "yearly"}))])
@example("UTC", [(0, (hop, {"slug": "yearly"})), (9, (subscribe, {"slug": "monthly", "back": 20}))])
def test_no_sequence_of_changes_is_granted_more_than_the_best_plan_of_each_day(zone, steps):
    forget_accounts()
    account_id, now = an_account(0, time_zone=zone), START
    for days, change in [*steps, (1, (renew, {}))]:
        now += days * DAY
        in_turn(account_id, now, change)
    assert without_lock(renewals.renew, now).blocked == {}

    most, times = best(account_id)
    assert granted(account_id) <= most
    if not any(change is fail_to_pay for _, (change, _) in steps):
        # Nor less, but for what was rounded down.
        assert granted(account_id) > most - times or most == times == 0
    assert findings(now) == []


# --- Two changes at once ---

WITHIN, AFTER = START + DAY, START + 40 * DAY
BEGINNINGS = {
    "never subscribed": ([], WITHIN),
    "left a year on its first day": ([(hop, {"slug": "yearly"})], WITHIN),
    "lives in a month": ([(subscribe, {"slug": "monthly"})], AFTER),
    "has left at the end of a month": ([(subscribe, {"slug": "monthly"}), (cancel, {})], AFTER),
}
TWO = [
    (subscribe, {"slug": "monthly"}),
    (hop, {"slug": "large"}),
    (subscribe, {"slug": "yearly", "at_period_end": True}),
    (renew, {}),
]


def standing(account_id):
    """What was granted, by which periods, and how the subscription stands."""
    stands = rows(
        "SELECT status, current_period_start, next_plan_id, cancel_at_period_end FROM subscriptions "
        "WHERE account_id = :id",
        id=account_id,
    )
    return ledger(account_id), periods(account_id), stands


def begun(steps):
    """An account after these changes."""
    account_id = an_account(0)
    with transaction() as session:
        for step in steps:
            assert ask(session, account_id, START, *step) is None
    return account_id


def at_once(account_id, now, first, second):
    """The same, where the second begins when the first was made and is not committed: it waits for that."""
    answers = []
    later = meanwhile(
        lambda session: answers.append(ask(session, account_id, now, *first)),
        lambda session: ask(session, account_id, now, *second),
    )
    return [*answers, later]


@pytest.mark.parametrize(("steps", "now"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_two_changes_at_once_grant_what_they_grant_one_after_the_other(steps, now):
    for pair in product(TWO, TWO):
        one, answers = (account_id := begun(steps)), in_turn(account_id, now, *pair)
        # Made only now: a tick renews every account.
        other = begun(steps)

        assert (at_once(other, now, *pair), standing(other)) == (answers, standing(one)), pair
        assert granted(other) <= best(other)[0]
    assert findings(now) == []
