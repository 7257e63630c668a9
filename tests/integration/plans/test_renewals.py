"""Renewals, resets and grants: each once, in the order of time, whenever the tick comes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from billing.errors import BillingError
from billing.jobs import reserving, settling
from billing.money import CREDITS_MAX
from billing.periods import add_months, starts_at
from billing.plans import limits, renewals, subscription_queries
from billing.plans.renewals import Worked
from billing.reports import audit
from config.database import transaction
from tasks.catching_up import LIMITS, RENEWALS, catch_up
from tests.factories import (
    MINUTE,
    NOON,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    an_account,
    rows,
    the_account,
    the_job,
)
from tests.subscribers import a_plan, a_subscriber, act

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Vancouver", "America/Havana", "Africa/Cairo", "Asia/Beirut",
    "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kiritimati", "Pacific/Niue",
]  # fmt: skip


def noon(iso):
    return datetime.fromisoformat(f"{iso}T12:00").replace(tzinfo=UTC)


def tick(at):
    """One tick of both tasks; returns how many rows each wrote."""
    return catch_up(RENEWALS, clock=lambda _: at), catch_up(LIMITS, clock=lambda _: at)


def ledger(account_id):
    """The account's ledger from the books: type, amount, balance after it, day."""
    return rows(
        "SELECT transaction_type, amount, balance_after, created_at::date::text FROM credit_transactions "
        "WHERE account_id = :id ORDER BY id",
        id=account_id,
    )


def periods(account_id):
    return rows(
        "SELECT p.period_start::text, l.slug, p.status, p.credits, p.credits_withheld, p.granted "
        "FROM subscription_periods p JOIN subscriptions s ON s.id = p.subscription_id JOIN plans l ON l.id = p.plan_id "
        "WHERE s.account_id = :id ORDER BY 1",
        id=account_id,
    )


def standing(account_id):
    return rows(
        "SELECT status, current_period_start::text, current_period_end::text, renews_at IS NULL FROM subscriptions "
        "WHERE account_id = :id",
        id=account_id,
    )[0]


def findings():
    with transaction() as session:
        return audit.audit(session, now=NOON)


# --- grants ---


def test_a_subscription_grants_its_first_period_at_once():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 8, 31))

    assert ledger(account_id) == [("subscription", 500, 500, "2026-11-20")]
    assert periods(account_id) == [("2026-10-31", "starter", "active", 500, 0, True)]


def test_each_boundary_grants_once_and_in_the_order_of_time():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 8, 31))

    assert tick(noon("2027-03-01")) == (4, 5)
    assert tick(noon("2027-03-01")) == (0, 0)
    assert ledger(account_id) == [
        ("subscription", 500, 500, "2026-11-20"),
        ("subscription", 500, 1000, "2026-11-30"),
        ("subscription", 500, 1500, "2026-12-31"),
        ("subscription", 500, 2000, "2027-01-31"),
        ("subscription", 500, 2500, "2027-02-28"),
    ]
    assert standing(account_id) == ("active", "2027-02-28", "2027-03-31", False)
    assert findings() == []


@pytest.mark.parametrize("zone", ZONES)
def test_a_boundary_grants_once_and_not_an_instant_before(zone):
    a_plan()
    account_id = a_subscriber(anchor=date(2025, 10, 31), time_zone=zone)
    boundary = starts_at(date(2026, 11, 30), ZoneInfo(zone))

    # The limits of its first period are opened before.
    assert tick(boundary - MOMENT) == (0, 1)
    assert [tick(boundary) for _ in range(2)] == [(1, 1), (0, 0)]
    assert ledger(account_id)[1:] == [("subscription", 500, 1000, f"{boundary:%Y-%m-%d}")]
    assert rows("SELECT created_at FROM credit_transactions ORDER BY id")[1:] == [(boundary,)]


def test_without_subscriptions_there_is_nothing_to_do():
    assert tick(NOON) == (0, 0)


def test_a_plan_without_credits_grants_nothing_but_renews():
    a_plan(included_credits="0")
    account_id = a_subscriber()

    tick(noon("2027-01-21"))

    assert ledger(account_id) == []
    assert [each[0] for each in periods(account_id)] == ["2026-11-20", "2026-12-20", "2027-01-20"]


def test_a_yearly_plan_grants_once_a_year():
    a_plan(billing_interval="year")
    account_id = a_subscriber(anchor=date(2024, 2, 29), now=noon("2026-02-28"))

    tick(noon("2028-12-31"))

    assert [each[0] for each in periods(account_id)] == ["2026-02-28", "2027-02-28", "2028-02-29"]


def test_a_grant_that_was_made_cannot_be_made_again_by_the_database_itself():
    a_plan()
    a_subscriber()

    with pytest.raises(IntegrityError, match="one_grant_a_period"), transaction() as session:
        session.execute(
            text(
                "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
                "subscription_id, period_start, idempotency_key, created_at) SELECT account_id, transaction_type, "
                "amount, balance_after + amount, description, subscription_id, period_start, 'again', created_at "
                "FROM credit_transactions"
            )
        )


def test_a_grant_that_loses_its_race_undoes_everything_it_did(monkeypatch):
    a_plan()
    account_id = a_subscriber()
    monkeypatch.setattr(subscription_queries, "mark", lambda *_, **__: 0)

    with transaction() as session:
        renewals.renew(session, noon("2026-12-20"), worked := Worked())

    assert worked.blocked == {account_id: "AssertionError"}
    assert the_account(account_id).balance == 500


def test_a_period_that_was_granted_is_left_as_it_is():
    a_plan()
    account_id = a_subscriber()
    before = periods(account_id)
    columns = "subscription_id, period_start, period_end, plan_id, status, starts_at, credits, credits_withheld"

    with transaction() as session:
        (row,) = session.execute(text(f"SELECT {columns} FROM subscription_periods")).mappings()
        subscription_queries.add_periods(session, [dict(row) | {"credits": 900, "status": "past_due"}])

    assert periods(account_id) == before


def test_an_operators_top_up_cannot_take_the_key_of_a_grant():
    from billing.ledger import accounts

    account_id = an_account(0)
    for key in ("creditmill:subscription:1:2026-12-20", "settle:7"):
        with pytest.raises(BillingError, match=r"Creditmill's own"), transaction() as session:
            accounts.top_up(session, account_id, 5, idempotency_key=key, description="x", now=NOON)


def test_one_account_that_cannot_be_granted_does_not_hold_up_the_others(caplog):
    a_plan()
    first, rich, last = a_subscriber(), a_subscriber(), a_subscriber()
    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = :most WHERE id = :id"), {"most": 2**53 - 1, "id": rich})

    assert tick(noon("2026-12-21"))[0] == 2
    assert [the_account(each).balance for each in (first, last)] == [1000, 1000]
    assert standing(rich)[1] == "2026-12-20", "the limits' task has moved it on"
    assert rows("SELECT task, blocked FROM periodic_runs ORDER BY period DESC, task LIMIT 2") == [
        ("renew_subscriptions", 1),
        ("reset_plan_limits", 0),
    ]

    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = 500 WHERE id = :id"), {"id": rich})
    assert tick(noon("2026-12-22")) == (1, 0)
    assert ledger(rich)[-1] == ("subscription", 500, 1000, "2026-12-20")


# --- limits ---


def test_a_transaction_holds_few_accounts():
    a_plan()
    for _ in range(renewals.BATCH + 1):
        a_subscriber()

    with transaction() as session:
        renewals.renew(session, noon("2026-12-21"), worked := Worked())

    assert renewals.BATCH <= 50
    assert (worked.periods, worked.finished) == (renewals.BATCH, False)
    assert rows("SELECT count(*) FROM credit_transactions") == [(2 * renewals.BATCH + 1,)]


def usage(account_id):
    return rows(
        "SELECT period_start::text, amount_used, amount_reserved FROM plan_limit_usage "
        "WHERE account_id = :id ORDER BY period_start",
        id=account_id,
    )


def test_a_period_opens_its_rows_once_and_leaves_the_old_ones_alone():
    a_plan(content_words="1000", image_prompts="none")
    account_id = a_subscriber(anchor=date(2026, 11, 1))

    assert [tick(at)[1] for at in (NOON, NOON, NOON + 30 * DAY)] == [1, 0, 1]
    assert rows("SELECT limit_type, period_start::text, period_end::text FROM plan_limit_usage ORDER BY 2, 1") == [
        ("content_ideas", "2026-11-01", "2026-12-01"),
        ("content_words", "2026-11-01", "2026-12-01"),
        ("content_ideas", "2026-12-01", "2027-01-01"),
        ("content_words", "2026-12-01", "2027-01-01"),
    ]
    assert the_account(account_id).balance == 1000


def test_a_job_over_the_boundary_counts_in_the_period_in_which_it_was_reserved():
    a_plan()
    account_id = a_subscriber(credits=100, anchor=date(2026, 11, 1))
    before, after = noon("2026-11-30"), noon("2026-12-01")
    job_id = a_generated_job(account_id, "idea_generation", now=before)

    tick(after)
    with transaction() as session:
        settling.settle(session, [job_id], now=after)

    assert usage(account_id) == [("2026-11-01", 1, 0), ("2026-12-01", 0, 0)]
    assert the_job(job_id).limit_period_start == date(2026, 11, 1)


def test_usage_before_the_tick_is_already_in_the_new_periods_row():
    a_plan(content_ideas="1")
    account_id = a_subscriber(credits=100, anchor=date(2026, 11, 1))
    a_generated_job(account_id, "idea_generation")
    december = noon("2026-12-01")

    a_generated_job(account_id, "idea_generation", now=december)
    tick(december)

    assert usage(account_id) == [("2026-11-01", 0, 1), ("2026-12-01", 0, 1)]


def test_the_plan_that_takes_over_holds_from_its_first_instant_even_without_a_tick():
    a_plan(content_ideas="0")
    a_plan("pro", content_ideas="2")
    account_id = a_subscriber(credits=100, anchor=date(2026, 11, 1))
    act("subscribe", account_id, "pro", at_period_end=True)

    job_id = a_queued_job(account_id, "idea_generation", now=noon("2026-11-30"))
    later = a_queued_job(account_id, "idea_generation", now=noon("2026-12-01"))
    with transaction() as session:
        assert reserving.reserve(session, [job_id], now=noon("2026-11-30"), publish_by=MINUTE) == []
    with transaction() as session:
        assert reserving.reserve(session, [later], now=noon("2026-12-01"), publish_by=MINUTE) == [later]
        assert [each[:2] for each in limits.current(session, account_id, now=noon("2026-12-01"))] == [
            ("content_ideas", 2)
        ]


def test_a_job_is_not_refused_for_credits_that_a_late_tick_still_owes():
    a_plan(included_credits="11")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    a_reserved_job(account_id)
    january = noon("2027-01-05")
    jobs = [a_queued_job(account_id, now=january + number * MINUTE) for number in range(3)]

    with transaction() as session:
        assert set(reserving.check(session, jobs, now=january)) == set(jobs)
    with transaction() as session:
        assert set(reserving.reserve(session, jobs, now=january, publish_by=MINUTE)) == set(jobs[:2])

    assert (the_job(jobs[2]).state, the_job(jobs[2]).error_code) == ("rejected", "insufficient_credits")
    assert ledger(account_id) == [
        ("subscription", 11, 11, "2026-11-20"),
        ("subscription", 11, 22, "2026-12-01"),
        ("subscription", 11, 33, "2027-01-01"),
    ]
    # What was moved on without a grant, as by the other task, is granted as well.
    february = noon("2027-02-05")
    catch_up(LIMITS, clock=lambda _: february)
    a_reserved_job(account_id, now=february)
    assert tick(february) == (0, 0)
    assert findings() == []


def test_an_account_that_cannot_be_renewed_goes_on_with_what_it_has():
    a_plan(included_credits=str(CREDITS_MAX))
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    before = the_account(account_id).balance

    a_reserved_job(account_id, now=noon("2026-12-05"))

    assert before == the_account(account_id).balance == CREDITS_MAX
    assert [each[0] for each in periods(account_id)] == ["2026-11-01"]


def test_a_job_is_not_refused_while_somebody_holds_the_subscription_that_owes_it_credits():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    december = noon("2026-12-05")
    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = 0"))
        session.execute(text("ALTER TABLE credit_transactions DISABLE TRIGGER append_only"))
        session.execute(text("DELETE FROM credit_transactions"))
    job_id = a_queued_job(account_id, now=december)

    with transaction() as other:
        other.execute(text("SELECT 1 FROM subscriptions FOR UPDATE"))
        with pytest.raises(OperationalError, match="lock timeout"), transaction() as session:
            reserve_soon(session, job_id, december)
    assert the_job(job_id).state == "queued"

    with transaction() as session:
        assert reserving.reserve(session, [job_id], now=december, publish_by=MINUTE) == [job_id]


def reserve_soon(session, job_id, now):
    session.execute(text("SET LOCAL lock_timeout = '100ms'"))
    reserving.reserve(session, [job_id], now=now, publish_by=MINUTE)


# --- what operators do ---


def test_a_cancelled_subscription_grants_nothing_more_and_limits_nothing():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)

    assert standing(account_id)[0] == "active"
    assert tick(noon("2027-03-01")) == (0, 1)
    assert standing(account_id) == ("cancelled", "2026-11-01", "2026-12-01", True)
    assert the_account(account_id).balance == 500
    with transaction() as session:
        assert limits.current(session, account_id, now=noon("2027-03-01")) == []


def test_a_cancellation_can_be_taken_back_until_it_comes():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)
    act("resume", account_id)

    tick(noon("2026-12-01"))
    assert standing(account_id)[:2] == ("active", "2026-12-01")
    act("cancel", account_id, now=noon("2026-12-02"))
    with pytest.raises(BillingError, match="has ended"):
        act("resume", account_id, now=noon("2027-01-01"))


def test_another_plan_at_the_end_of_the_period():
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("subscribe", account_id, "pro", at_period_end=True)

    tick(noon("2027-01-01"))

    assert [each[:2] + each[3:4] for each in periods(account_id)] == [
        ("2026-11-01", "starter", 500), ("2026-12-01", "pro", 900), ("2027-01-01", "pro", 900),
    ]  # fmt: skip


def test_another_plan_at_once_grants_with_the_next_period():
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)
    act("subscribe", account_id, "pro")

    assert the_account(account_id).balance == 500
    tick(noon("2026-12-01"))
    assert the_account(account_id).balance == 1400


def test_a_trial_grants_nothing_until_it_ends():
    a_plan()
    account_id = a_subscriber(trial_days=14)
    assert (standing(account_id)[:3], ledger(account_id)) == (("trialing", "2026-11-20", "2026-12-04"), [])

    tick(noon("2026-12-03"))
    assert ledger(account_id) == []
    tick(noon("2026-12-04"))
    assert ledger(account_id) == [("subscription", 500, 500, "2026-12-04")]
    assert standing(account_id)[:3] == ("active", "2026-12-04", "2027-01-04")


def test_a_period_that_begins_past_due_withholds_its_credits_until_it_is_paid():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)
    tick(noon("2026-12-01"))

    assert periods(account_id)[-1] == ("2026-12-01", "starter", "past_due", 0, 500, False)
    act("paid", account_id, now=noon("2026-12-05"))
    act("paid", account_id, now=noon("2026-12-05"))
    tick(noon("2026-12-31"))

    assert ledger(account_id)[1:] == [("subscription", 500, 1000, "2026-12-05")]
    assert (standing(account_id)[0], findings()) == ("active", [])


@pytest.mark.parametrize("ticks", [["2026-12-01", "2026-12-20"], ["2026-12-20"]])
def test_a_grace_that_runs_out_ends_the_subscription_and_forfeits_what_was_withheld(ticks):
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    made = act("past_due", account_id, grace_days=14)
    assert made.grace_until == date(2026, 12, 4)
    assert act("past_due", account_id, grace_days=60, now=NOON + DAY).grace_until == date(2026, 12, 4)

    for day in ticks:
        tick(noon(day))

    assert standing(account_id) == ("cancelled", "2026-12-01", "2027-01-01", True)
    assert periods(account_id)[-1] == ("2026-12-01", "starter", "past_due", 0, 0, False)
    with pytest.raises(BillingError, match="has ended"):
        act("paid", account_id, now=noon("2026-12-20"))
    assert the_account(account_id).balance == 500


def test_who_subscribes_anew_on_the_day_of_a_forfeited_period_begins_it_once_more():
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)
    december = noon("2026-12-01")
    tick(december)
    act("cancel", account_id, at_once=True, now=december)

    act("subscribe", account_id, "pro", now=december)

    assert periods(account_id)[-1] == ("2026-12-01", "pro", "active", 900, 0, True)
    assert ledger(account_id)[1:] == [("subscription", 900, 1400, "2026-12-01")]
    assert findings() == []


def test_who_paid_late_cancels_and_comes_back_is_not_granted_the_period_again():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)
    for action, given in [("paid", {}), ("cancel", {"at_once": True}), ("subscribe", {})]:
        act(action, account_id, *(["starter"] if action == "subscribe" else []), now=noon("2026-12-05"), **given)

    assert ledger(account_id)[1:] == [("subscription", 500, 1000, "2026-12-05")]
    assert standing(account_id)[:3] == ("active", "2026-12-01", "2027-01-01")
    assert findings() == []


def test_who_comes_back_begins_no_period_that_overlaps_one_of_before():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)
    later = noon("2026-12-10")
    tick(later)

    with pytest.raises(BillingError) as refused:
        act("subscribe", account_id, "starter", anchor=date(2026, 10, 25), now=later)
    assert refused.value.code == "periods_overlap"
    act("subscribe", account_id, "starter", anchor=date(2026, 11, 1), now=later)

    assert [each[0] for each in periods(account_id)] == ["2026-11-01", "2026-12-01"]
    assert findings() == []


def test_a_trial_that_was_cancelled_is_no_period_that_could_be_begun_again():
    a_plan()
    account_id = a_subscriber(trial_days=14)
    act("cancel", account_id)
    later = noon("2026-12-09")
    tick(later)

    with pytest.raises(BillingError, match="has had a period from 2026-11-20 up to 2026-12-04") as refused:
        act("subscribe", account_id, "starter", anchor=date(2026, 11, 20), now=later)
    assert refused.value.code == "periods_overlap"
    act("subscribe", account_id, "starter", now=later)

    assert ledger(account_id) == [("subscription", 500, 500, "2026-12-09")]
    assert findings() == []


def test_a_plan_of_another_length_takes_over_when_the_period_ends_or_is_begun_anew():
    a_plan(billing_interval="year")
    a_plan("monthly", included_credits="50")
    account_id = a_subscriber(anchor=date(2026, 1, 1))
    with pytest.raises(BillingError) as refused:
        act("subscribe", account_id, "monthly")
    assert refused.value.code == "other_interval"

    act("cancel", account_id, at_once=True)
    act("subscribe", account_id, "monthly", now=NOON + DAY)
    tick(noon("2026-12-21"))

    assert [each[:2] for each in periods(account_id)] == [
        ("2026-01-01", "starter"),
        ("2026-11-21", "monthly"),
        ("2026-12-21", "monthly"),
    ]
    assert the_account(account_id).balance == 600
    assert findings() == []


def test_whoever_can_hold_no_more_credits_can_cancel_and_pay_all_the_same():
    a_plan()
    account_id = a_subscriber(credits=CREDITS_MAX - 600, anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=90)
    december = noon("2026-12-05")
    assert act("paid", account_id, now=december).status == "active"
    assert act("cancel", account_id, now=december).cancel_at_period_end
    assert act("resume", account_id, now=december).status == "active"

    assert the_account(account_id).balance == CREDITS_MAX - 100
    assert periods(account_id)[-1] == ("2026-12-01", "starter", "past_due", 500, 0, False)


def test_without_a_grace_it_ends_at_once():
    a_plan()
    account_id = a_subscriber()

    assert act("past_due", account_id, grace_days=0).status == "cancelled"


def test_who_comes_back_within_a_granted_period_is_not_granted_it_again():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id, at_once=True)
    act("subscribe", account_id, "starter", now=NOON + DAY)

    assert standing(account_id)[:3] == ("active", "2026-11-01", "2026-12-01")
    assert the_account(account_id).balance == 500
    act("cancel", account_id, at_once=True, now=NOON + DAY)
    act("subscribe", account_id, "starter", now=noon("2027-02-10"))
    assert standing(account_id)[:3] == ("active", "2027-02-10", "2027-03-10")
    assert the_account(account_id).balance == 1000


def test_who_comes_back_within_a_trial_goes_on_with_it():
    a_plan()
    account_id = a_subscriber(trial_days=14)
    act("cancel", account_id, at_once=True)
    act("subscribe", account_id, "starter", now=NOON + DAY)

    assert standing(account_id)[:3] == ("trialing", "2026-11-20", "2026-12-04")
    assert ledger(account_id) == []


@pytest.mark.parametrize(
    ("action", "given", "code"),
    [
        ("cancel", {}, "not_subscribed"),
        ("resume", {}, "not_subscribed"),
        ("paid", {}, "not_subscribed"),
        ("past_due", {}, "not_subscribed"),
        ("past_due", {"grace_days": -1}, "invalid_grace"),
    ],
)
def test_an_account_without_a_subscription_has_none_to_change(action, given, code):
    account_id = an_account()

    with pytest.raises(BillingError) as caught:
        act(action, account_id, **given)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"trial_days": 0}, "invalid_trial"),
        ({"trial_days": 400}, "invalid_trial"),
        ({"trial_days": 7, "anchor": date(2026, 11, 1)}, "invalid_trial"),
        ({"anchor": date(2026, 11, 21)}, "invalid_anchor"),
        ({"at_period_end": True}, "not_subscribed"),
    ],
)
def test_a_subscription_that_cannot_begin_is_refused(given, code):
    a_plan()

    with pytest.raises(BillingError) as caught:
        a_subscriber(**given)
    assert (caught.value.code, rows("SELECT count(*) FROM subscriptions")) == (code, [(0,)])


def test_a_subscriber_gets_no_trial_and_a_trial_no_failed_payment():
    a_plan()
    subscribed, trying = a_subscriber(), a_subscriber(trial_days=5)

    with pytest.raises(BillingError, match="no trial"):
        act("subscribe", subscribed, "starter", trial_days=5)
    with pytest.raises(BillingError, match="no payment"):
        act("past_due", trying)


def test_what_an_operator_does_acts_on_the_present_even_without_a_tick():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))

    made = act("cancel", account_id, now=noon("2027-01-15"))

    assert (made.current_period_start, made.current_period_end) == (date(2027, 1, 1), date(2027, 2, 1))
    assert the_account(account_id).balance == 1500


# --- at once ---


def test_eight_ticks_at_once_a_hundred_times_grant_each_period_once():
    a_plan(included_credits="7")
    accounts = [
        a_subscriber(anchor=date(2026, 10, 31), time_zone=zone) for zone in ("UTC", "Asia/Tokyo", "America/Lima")
    ]

    def run(number, at):
        if number % 2:
            return catch_up(RENEWALS, clock=lambda _: at)
        # Without the claim of an hour: the guards of the rows themselves.
        with transaction() as session:
            renewals.renew(session, at, worked := Worked())
            assert worked.blocked == {}
            return worked.periods

    with ThreadPoolExecutor(8) as pool:
        for month in range(1, 101):
            at = datetime.combine(add_months(date(2026, 11, 2), month), datetime.min.time(), UTC)
            list(pool.map(run, range(8), [at] * 8))
            assert catch_up(RENEWALS, clock=lambda _, at=at: at) == 0
            granted = rows("SELECT account_id, count(*), sum(amount) FROM credit_transactions GROUP BY 1 ORDER BY 1")
            assert granted == [(each, month + 1, 7 * (month + 1)) for each in accounts]

    assert [the_account(each).balance for each in accounts] == [7 * 101] * 3
    assert findings() == []
