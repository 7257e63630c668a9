"""Subscriptions at the very moment of a boundary: whoever comes first, it ends as if one had come after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import permutations
from threading import Barrier
from time import monotonic, sleep

import pytest
from sqlalchemy import text

from billing.errors import BillingError
from billing.jobs import reserving
from billing.ledger import accounts
from billing.plans import plans, renewals, subscriptions
from billing.plans.renewals import Worked
from billing.reports import audit
from config import database
from config.database import transaction
from tests import subscribers
from tests.factories import MINUTE, NOON, a_queued_job, an_account, moment, rows, the_account
from tests.rounds import rounds
from tests.subscribers import reset_limits, without_lock

DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
ROUNDS = rounds(2)
BOUNDARY = datetime(2026, 12, 1, tzinfo=UTC)
"""When the second period begins of who is anchored on the first of the month."""


@pytest.fixture(autouse=True)
def _plans(db):
    # As many sessions as a test has threads, each of which looks at other sessions too.
    database.connect(database.make_engine(db, pool_size=20))
    with transaction() as session:
        for slug, credits in (("starter", "500"), ("pro", "900")):
            plans.set_plan(session, slug, {"included_credits": credits, "content_ideas": "5"})
    yield
    with transaction() as session:
        assert audit.audit(session, now=BOUNDARY) == []


def operate(action, account_id, *given, now=NOON, **named):
    """What an operator does; returns None, or the code of the refusal."""
    try:
        with transaction() as session:
            getattr(subscriptions, action)(session, account_id, *given, now=now, **named)
    except BillingError as error:
        return error.code
    return None


def a_subscriber(*steps):
    """An account whose second period begins at the boundary, after these steps of an operator."""
    with transaction() as session:
        account_id = accounts.create(session, "Corner Bakery").id
        subscriptions.subscribe(session, account_id, "starter", anchor=date(2026, 11, 1), now=NOON)
        for action, given in steps:
            getattr(subscriptions, action)(session, account_id, now=NOON, **given)
    return account_id


def renew(_, now=BOUNDARY):
    """The renewals without a tick's lock."""
    assert without_lock(renewals.renew, now).blocked == {}


def reset(_, now=BOUNDARY):
    """The limits' task without a tick's lock."""
    assert without_lock(renewals.reset_limits, now).blocked == {}


def tick(_, now=BOUNDARY):
    """A tick of the renewals."""
    subscribers.renew(now)


EVERYTHING = """
    SELECT jsonb_build_object(
        'subscription', to_jsonb(s) - 'id' - 'account_id' - 'created_at' - 'updated_at',
        'account', (SELECT ARRAY[balance, reserved] FROM accounts a WHERE a.id = s.account_id),
        'periods', (SELECT jsonb_agg(to_jsonb(p) - 'subscription_id' ORDER BY period_start)
                    FROM subscription_periods p WHERE p.subscription_id = s.id),
        'ledger', (SELECT jsonb_agg(jsonb_build_array(amount, balance_after, period_start) ORDER BY id)
                   FROM credit_transactions t WHERE t.account_id = s.account_id),
        'limits', (SELECT jsonb_agg(jsonb_build_array(limit_type, period_start, period_end) ORDER BY 1)
                   FROM (SELECT * FROM plan_limit_usage u WHERE u.account_id = s.account_id
                         ORDER BY limit_type, period_start) u))
    FROM subscriptions s WHERE s.account_id = :id
"""


def settled(account_id, answers):
    """What was answered, and how everything stands after the next ticks of both tasks."""
    renew(None), reset(None)
    return answers, rows(EVERYTHING, id=account_id)[0][0]


def in_turn(order, account_id):
    answers = {number: call(account_id) for number, call in order}
    return settled(account_id, [answers[number] for number in range(len(answers))])


def at_once(pool, calls, account_id):
    """Start together, and meet wherever it happens."""
    barrier = Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call(account_id)

    return settled(account_id, list(pool.map(run, calls)))


def behind_a_gate(pool, order, holds_account, account_id):
    """Let all come, in this order, to a row that somebody else holds, and then go on."""
    started = {}
    with transaction() as gate:
        if holds_account:
            gate.execute(text("SELECT 1 FROM accounts WHERE id = :id FOR NO KEY UPDATE"), {"id": account_id})
        gate.execute(text("SELECT 1 FROM subscriptions WHERE account_id = :id FOR UPDATE"), {"id": account_id})
        for number, call in order:
            started[number] = pool.submit(call, account_id)
            soon(lambda: waiting(gate) + sum(each.done() for each in started.values()) >= len(started))
    return settled(account_id, [started[number].result(30) for number in range(len(started))])


def waiting(session):
    """How many sessions of this database wait for a lock."""
    # Of this moment, not of the first look in this transaction.
    session.execute(text("SELECT pg_stat_clear_snapshot()"))
    return session.scalar(text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"))


def soon(condition):
    """Wait for it, looking more often than tests usually do: there are hundreds of these."""
    deadline = monotonic() + 20
    while not condition():
        assert monotonic() < deadline, "what was started has neither ended nor waits"
        sleep(0.005)


def assert_as_in_turn(calls, *steps, most=2, holds_account=True):
    """Do all of this at once, in some ways, and compare with what comes of each order of it."""
    orders = [list(order) for order in permutations(enumerate(calls))]
    known, unknown = [], orders[:]

    def is_one_of_them(found):
        while found not in known and unknown:
            known.append(in_turn(unknown.pop(0), a_subscriber(*steps)))
        return found in known

    with ThreadPoolExecutor(len(calls)) as pool:
        ways = [partial(behind_a_gate, pool, order, holds_account) for order in orders[:: len(orders) // most]]
        # And without the gate, as it comes.
        if holds_account:
            ways.append(partial(at_once, pool, calls))
        for way in ways:
            found = way(a_subscriber(*steps))
            assert is_one_of_them(found), (steps, calls, found)


OVERDUE = ("past_due", {"grace_days": 30})
BEFORE = BOUNDARY - MOMENT


def op(action, *given, now=BOUNDARY, **named):
    return partial(_operate, action, given, now, named)


def _operate(action, given, now, named, account_id):
    return operate(action, account_id, *given, now=now, **named)


def test_an_operator_and_the_ticks_at_the_boundary():
    for steps, action, given, named in (
        ([], "cancel", (), {}),
        ([], "cancel", (), {"at_once": True}),
        ([("cancel", {})], "resume", (), {}),
        ([], "subscribe", ("pro",), {}),
        ([], "subscribe", ("pro",), {"at_period_end": True}),
        ([], "past_due", (), {}),
        ([], "past_due", (), {"grace_days": 0}),
        ([OVERDUE], "paid", (), {}),
        ([("cancel", {"at_once": True})], "subscribe", ("starter",), {}),
    ):
        assert_as_in_turn([op(action, *given, **named), renew, reset], *steps)
        # By a clock that is not quite there, and with a tick that does not wait for the account.
        assert_as_in_turn([op(action, *given, now=BEFORE, **named), reset], *steps, holds_account=False)


def test_an_operator_and_a_whole_tick():
    for action, given, named in (("cancel", (), {"at_once": True}), ("past_due", (), {})):
        assert_as_in_turn([op(action, *given, **named), tick])


def test_two_operators_at_once():
    for steps, first, second in (
        ([], op("cancel"), op("resume")),
        ([], op("cancel"), op("subscribe", "pro")),
        ([], op("cancel", at_once=True), op("subscribe", "pro")),
        ([], op("subscribe", "pro"), op("subscribe", "starter", at_period_end=True)),
        ([], op("past_due"), op("paid")),
        ([], op("past_due", grace_days=3), op("past_due", grace_days=9)),
        ([OVERDUE], op("paid"), op("paid")),
        ([OVERDUE], op("paid"), op("cancel", at_once=True)),
    ):
        assert_as_in_turn([first, second], *steps)


def test_paid_many_times_at_once_grants_what_was_withheld_once():
    for _ in range(ROUNDS):
        account_id = a_subscriber(OVERDUE)
        renew(None)
        assert the_account(account_id).balance == 500

        with ThreadPoolExecutor(6) as pool:
            answers, found = at_once(pool, [op("paid")] * 4 + [renew, reset], account_id)

        assert (answers, found["account"]) == ([None] * 6, [1000, 0])
        assert [each[0] for each in found["ledger"]] == [500, 500]


def test_a_payment_races_the_end_of_the_grace_and_either_it_is_granted_or_forfeited():
    end = BOUNDARY + 4 * DAY
    outcomes = set()
    for number in range(4):
        account_id = a_subscriber(("past_due", {"grace_days": 14}))
        renew(None)
        # The payment's clock is still before the end of the grace; in every other round it has a head start.
        calls = [op("paid", now=end - MOMENT), partial(renew, now=end), partial(reset, now=end)]
        with ThreadPoolExecutor(3) as pool:
            answers, found = at_once(pool, calls if number % 2 else calls[::-1], account_id)

        paid = answers[0 if number % 2 else 2] is None
        status, balance = found["subscription"]["status"], found["account"][0]
        assert (status, balance) == (("active", 1000) if paid else ("cancelled", 500))
        # Nothing is left that could still be granted, or was granted and taken away.
        assert rows(
            "SELECT count(*) FROM subscription_periods WHERE credits_withheld > 0 OR (credits > 0 AND NOT granted)"
        ) == [(0,)]
        assert sum(each[0] for each in found["ledger"]) == balance
        outcomes.add(paid)
    assert outcomes


def test_many_operators_ticks_and_reservations_at_once_come_to_their_end():
    ids = [a_subscriber() for _ in range(6)]
    jobs = [a_queued_job(account_id, "idea_generation") for account_id in ids * 2]

    def reserve(batch, _):
        with transaction() as session:
            reserving.reserve(session, batch, at=moment(session, BOUNDARY), publish_by=MINUTE)

    def operating(some, _):
        for account_id in some:
            for action in ("cancel", "resume", "past_due", "paid"):
                assert operate(action, account_id, now=BOUNDARY) is None

    calls = [
        renew, reset, tick, partial(operating, ids), partial(operating, ids[::-1]), partial(reserve, jobs[::2]),
        partial(reserve, jobs[::-2]), partial(lambda _: reset_limits(BOUNDARY)),
    ]  # fmt: skip
    with ThreadPoolExecutor(len(calls)) as pool:
        at_once(pool, calls, ids[0])

    assert rows("SELECT DISTINCT status, current_period_start::text FROM subscriptions") == [("active", "2026-12-01")]
    assert rows("SELECT DISTINCT balance, reserved FROM accounts") == [(1000, 22)]
    assert rows(
        "SELECT DISTINCT amount_used, amount_reserved FROM plan_limit_usage WHERE period_start > '2026-11-30'"
    ) == [(0, 2)]


# --- orders in which rows are locked ---


def test_limits_that_are_opened_and_reserved_at_once_do_not_deadlock():
    # By time the last account comes first.
    zones = ["America/Lima", "UTC", "Asia/Tokyo"]
    ids = [an_account(100, time_zone=zone) for zone in zones]
    for account_id in ids:
        operate("subscribe", account_id, "starter", anchor=date(2026, 11, 1))
    later = BOUNDARY + 12 * 60 * MINUTE
    renew(None, now=later)
    jobs = [a_queued_job(account_id, "idea_generation", now=later) for account_id in ids]

    def reserve():
        with transaction() as session:
            return len(reserving.reserve(session, jobs, at=moment(session, later), publish_by=MINUTE).job_ids)

    with ThreadPoolExecutor(2) as pool:
        # Whoever comes to the middle account's row waits there for us, with what it has opened before.
        with transaction() as between:
            between.execute(
                text(
                    "INSERT INTO plan_limit_usage (account_id, limit_type, period_start, period_end) "
                    "VALUES (:id, 'content_ideas', '2026-12-01', '2027-01-01')"
                ),
                {"id": ids[1]},
            )
            opened = pool.submit(reset, None, later)
            soon(lambda: waiting(between) == 1)
            reserved = pool.submit(reserve)
            soon(lambda: waiting(between) == 2)
        opened.result(30)
        assert reserved.result(30) == 3

    assert rows(
        "SELECT account_id, amount_reserved FROM plan_limit_usage WHERE period_start > '2026-11-30' ORDER BY 1"
    ) == [(account_id, 1) for account_id in ids]


def test_a_turn_that_was_noted_too_early_ends_no_tick():
    # As it was computed before the rules of its zone changed, and its clocks go on an hour less.
    account_id = a_subscriber()
    with transaction() as session:
        session.execute(text("UPDATE subscriptions SET renews_at = renews_at - interval '1 hour'"))
    assert subscribers.tick(BOUNDARY - 30 * MINUTE) == (0, 1)
    assert rows("SELECT renews_at FROM subscriptions") == [(BOUNDARY,)]
    tick(None)
    assert the_account(account_id).balance == 1000


def test_the_limits_task_waits_for_nobody_who_holds_the_account():
    account_id = a_subscriber()

    with transaction() as session:
        # A settlement that has locked its account; the limits' task waits for no account.
        session.execute(text("SELECT 1 FROM accounts WHERE id = :id FOR NO KEY UPDATE"), {"id": account_id})
        with transaction() as other:
            other.execute(text("SET LOCAL lock_timeout = '2s'"))
            worked = Worked()
            while renewals.reset_limits(other, BOUNDARY, worked):
                pass
        assert (worked.periods, worked.blocked) == (2, {})
