"""What a simulation says is what then happens, to the instant; and it writes nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from billing.errors import BillingError
from billing.jobs import recovery
from billing.jobs.recovery import Patience, Recovered
from billing.money import CREDITS_MAX
from billing.periods import add_months, starts_at
from billing.plans import plans, renewals
from billing.plans.renewals import Worked
from billing.reports import forecast
from billing.reports.forecast import Expected
from config.database import transaction, utc_now
from tests.catalogue import everything, sql
from tests.factories import HOUR, MINUTE, NOON, a_claim, a_queued_job, a_reserved_job, an_account, rows, the_account
from tests.subscribers import a_plan, a_subscriber, act

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
HALF = CREDITS_MAX // 2 + 1
"""More than half of the credits that an account can hold."""
TICK = timedelta(microseconds=1)


def simulate(account_id, *, months=3, now=NOON):
    with transaction(read_only=True, isolation="REPEATABLE READ") as session:
        return forecast.simulate(session, account_id, months=months, now=now)


def short(expected):
    return [(f"{each.day}", each.event, each.credits_granted, each.balance) for each in expected]


def renew(until):
    """What a tick at this instant does."""
    for work in (renewals.renew, renewals.reset_limits):
        with transaction() as session:
            work(session, until, worked := Worked())
            assert worked.finished


# --- What it says ---


def test_renewals_are_told_with_their_days_credits_and_limits():
    a_plan(images_basic="20", image_prompts="none")
    account_id = a_subscriber(credits=100, anchor=date(2026, 8, 31), time_zone="Europe/Berlin")

    first, second, third = simulate(account_id)

    assert first == Expected(
        at=datetime(2026, 11, 29, 23, tzinfo=UTC),
        day=date(2026, 11, 30),
        event="renewal",
        plan="starter",
        period_end=date(2026, 12, 31),
        credits_granted=500,
        credits_withheld=0,
        credits_released=0,
        balance=1100,
        available=1100,
        limits={"content_ideas": 5, "images_basic": 20},
    )
    assert [(each.day, each.balance) for each in (second, third)] == [
        (date(2026, 12, 31), 1600), (date(2027, 1, 31), 2100),
    ]  # fmt: skip


def test_the_last_day_is_part_of_the_span():
    a_plan()
    account_id = a_subscriber()

    assert short(simulate(account_id, months=1)) == [("2026-12-20", "renewal", 500, 1000)]
    assert [each.day for each in simulate(account_id, months=1, now=NOON - DAY)] == []


def test_a_trial_a_move_and_an_end_have_their_names():
    a_plan()
    a_plan("pro", included_credits="900", billing_interval="year")
    account_id = a_subscriber(trial_days=14)
    assert short(simulate(account_id, months=1)) == [("2026-12-04", "trial_end", 500, 500)]

    act("subscribe", account_id, "pro", now=NOON + 15 * DAY, at_period_end=True)
    told = simulate(account_id, months=14, now=NOON + 15 * DAY)
    assert short(told) == [("2027-01-04", "plan_change", 900, 1400), ("2028-01-04", "renewal", 900, 2300)]
    assert {each.plan for each in told} == {"pro"}

    act("cancel", account_id, now=NOON + 15 * DAY)
    (end,) = simulate(account_id, months=14, now=NOON + 15 * DAY)
    assert short([end]) == [("2027-01-04", "end", 0, 500)]
    assert (end.plan, end.period_end, end.limits) == ("starter", None, {})


def test_what_is_withheld_is_told_and_not_in_the_balance():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)

    renewal, end = simulate(account_id)

    assert short([renewal]) == [("2026-12-01", "renewal", 0, 500)]
    assert (renewal.credits_withheld, end.credits_withheld) == (500, 0)
    assert (end.event, end.day, end.balance) == ("end", date(2026, 12, 20), 500)


def test_what_is_overdue_is_told_first():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))

    told = simulate(account_id, months=1, now=NOON + 45 * DAY)

    assert short(told) == [
        ("2026-12-01", "renewal", 500, 1000),
        ("2027-01-01", "renewal", 500, 1500),
        ("2027-02-01", "renewal", 500, 2000),
    ]  # fmt: skip


def test_credits_of_a_period_that_has_begun_and_was_not_granted_are_told():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    december = NOON + 11 * DAY
    with transaction() as session:
        # The tasks for limits and for credits run apart: this is the moment between them.
        renewals.reset_limits(session, december, Worked())

    told = simulate(account_id, months=1, now=december)

    assert short(told) == [("2026-12-01", "grant", 500, 1000), ("2027-01-01", "renewal", 500, 1500)]
    assert (told[0].plan, told[0].period_end, told[0].limits) == ("starter", date(2027, 1, 1), {})


def test_an_account_that_can_hold_no_more_is_granted_nothing_from_then_on():
    a_plan(included_credits=str(HALF))
    account_id = a_subscriber()

    told = short(simulate(account_id, months=2))

    assert told == [("2026-12-20", "renewal", 0, HALF), ("2027-01-20", "renewal", 0, HALF)]
    renew(NOON + 70 * DAY)
    assert the_account(account_id).balance == HALF


def test_an_account_may_be_filled_to_the_last_credit():
    a_plan()
    account_id = a_subscriber()
    sql("UPDATE accounts SET balance = :balance", balance=CREDITS_MAX - 500)

    told = short(simulate(account_id, months=2))

    assert [each[2:] for each in told] == [(500, CREDITS_MAX), (0, CREDITS_MAX)]
    renew(NOON + 31 * DAY)
    assert the_account(account_id).balance == CREDITS_MAX


def test_a_grant_that_an_account_cannot_hold_keeps_a_smaller_one_back():
    a_plan()
    a_plan("small", included_credits="7")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    sql("UPDATE accounts SET balance = :balance", balance=CREDITS_MAX - 100)
    december, january = NOON + 11 * DAY, NOON + 43 * DAY
    with transaction() as session:
        renewals.reset_limits(session, december, Worked())
    sql("UPDATE subscriptions SET next_plan_id = (SELECT id FROM plans WHERE slug = 'small')")

    told = simulate(account_id, months=1, now=december)

    assert [(each.event, each.credits_granted) for each in told] == [("grant", 0), ("plan_change", 0)]
    renew(january)
    assert the_account(account_id).balance == CREDITS_MAX - 100


# --- Holds ---


def test_a_hold_expires_at_its_deadline_as_it_then_does():
    account_id = an_account(100)
    a_reserved_job(account_id)
    a_reserved_job(account_id)
    a_reserved_job(account_id, now=NOON + 20 * MINUTE)

    told = simulate(account_id, months=1)

    assert [(each.at, each.event, each.credits_released, each.balance, each.available) for each in told] == [
        (NOON + HOUR, "expiry", 22, 100, 89),
        (NOON + HOUR + 20 * MINUTE, "expiry", 11, 100, 100),
    ]
    assert {(each.plan, each.period_end, each.credits_granted) for each in told} == {(None, None, 0)}
    recover(NOON + HOUR / 2)
    assert the_account(account_id).available == 67
    for each in told:
        recover(each.at)
        assert the_account(account_id).available == each.available


def test_only_holds_of_this_account_that_wait_for_their_call_expire():
    account_id, other = an_account(100), an_account(100)
    a_reserved_job(other)
    a_claim(a_reserved_job(account_id))
    a_queued_job(account_id)

    assert simulate(account_id) == []


def test_holds_and_renewals_are_told_in_the_order_of_time():
    a_plan()
    account_id = a_subscriber(credits=100, anchor=date(2026, 10, 21))
    midnight = starts_at(date(2026, 11, 21), account_zone())
    for at in (midnight - MINUTE, midnight - HOUR - MINUTE):
        a_reserved_job(account_id, now=at)

    told = simulate(account_id, months=1)

    assert [(each.event, each.balance, each.available) for each in told] == [
        ("expiry", 600, 589), ("renewal", 1100, 1089), ("expiry", 1100, 1100),
    ]  # fmt: skip


def account_zone():
    ((name,),) = rows("SELECT time_zone FROM accounts")
    return ZoneInfo(name)


def recover(now):
    patience = Patience(republish_after=MINUTE, unknown_wait=MINUTE)
    for state in recovery.states():
        with transaction() as session:
            recovery.recover(session, state, Recovered(), now=now, patience=patience)


# --- What it cannot say ---


@pytest.mark.parametrize("months", [0, -1, 1_201, 10**30])
def test_months_out_of_range_are_refused(months):
    account_id = an_account()

    with pytest.raises(BillingError) as caught:
        simulate(account_id, months=months)
    assert caught.value.code == "invalid_months"


@pytest.mark.parametrize("account_id", [77, 0, -1, 2**63])
def test_an_unknown_account_is_refused(account_id):
    with pytest.raises(BillingError) as caught:
        simulate(account_id)
    assert caught.value.code == "unknown_account"


def test_nothing_happens_to_an_account_without_a_subscription_or_with_one_that_has_ended():
    a_plan()
    ended = a_subscriber()
    act("cancel", ended, at_once=True)

    assert (simulate(an_account()), simulate(ended, months=1_200)) == ([], [])


def test_a_century_is_told_to_its_last_month():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 10, 31))

    told = simulate(account_id, months=1_200)

    assert [each.day for each in told] == [add_months(date(2026, 10, 31), n) for n in range(1, 1_201)]
    assert told[-1].balance == 500 * 1_201


def test_a_frozen_account_renews_all_the_same():
    a_plan()
    account_id = a_subscriber()
    before = simulate(account_id)
    sql("UPDATE accounts SET frozen_reason = 'chargeback'")

    assert simulate(account_id) == before
    renew(NOON + 31 * DAY)
    assert the_account(account_id).balance == before[0].balance


# --- It writes nothing ---


def a_full_account():
    """An account for which much can happen, and some is overdue: a move to another plan, a grace, a hold."""
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(credits=100, anchor=date(2026, 10, 21), now=NOON - 30 * DAY)
    act("subscribe", account_id, "pro", at_period_end=True, now=NOON - 30 * DAY)
    act("past_due", account_id, grace_days=60, now=NOON - 29 * DAY)
    a_reserved_job(account_id)
    return account_id


def test_a_simulation_writes_nothing_even_where_it_could():
    account_id = a_full_account()
    before = everything()

    with transaction() as session:
        told = forecast.simulate(session, account_id, months=24, now=NOON + 40 * DAY)
        assert not session.new
        assert not session.dirty

    assert {each.event for each in told} == {"plan_change", "end", "expiry"}
    assert everything() == before


@pytest.mark.parametrize("options", [[], ["--json"], ["--months", 1_200], ["--months", 0]])
def test_the_command_writes_nothing(run, options):
    account_id = a_full_account()
    before = everything()

    run("accounts", "simulate", account_id, *options)

    assert everything() == before


# --- The command ---


def test_the_command_prints_a_line_for_each_event(run):
    a_plan()
    now = utc_now()
    account_id = a_subscriber(now=now)

    code, out, err = run("accounts", "simulate", account_id, "--months", 2, "--json")

    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            **vars(each),
            "at": each.at.isoformat(),
            "day": f"{each.day}",
            "period_end": f"{each.period_end}",
        }
        for each in simulate(account_id, months=2, now=now)
    ]
    assert out.count("\n") == 2


def test_the_command_looks_fourteen_months_ahead(run):
    a_plan()
    account_id = a_subscriber(now=utc_now())

    assert run("accounts", "simulate", account_id, "--json")[1].count("\n") == 14


def test_people_read_a_table_that_shows_only_amounts_that_there_are(run):
    a_plan()
    now = utc_now()
    account_id = a_subscriber(now=now)

    def columns():
        code, out, err = run("accounts", "simulate", account_id, "--months", 3)
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 140
        (header,) = [line for line in out.splitlines() if line.startswith("┃")]
        return [cell.strip() for cell in header.strip("┃").split("┃")][5:], out

    names, told = columns()
    assert names == ["granted", "balance if unused"]
    assert f"What account {account_id} can expect" in told
    assert "content_ideas 5" in told
    assert "1,000" in told

    act("past_due", account_id, now=now, grace_days=90)
    assert columns()[0] == ["withheld", "balance if unused"]
    act("cancel", account_id, now=now, at_once=True)
    a_reserved_job(account_id, now=now)
    names, told = columns()
    assert names == ["released", "balance if unused"]
    assert "expiry" in told


def test_people_read_that_nothing_would_happen(run):
    account_id = an_account()

    told = [run("accounts", "simulate", account_id, "--months", months) for months in (1, 1_200)]

    assert told == [
        (0, f"Nothing would happen to account {account_id} within a month.\n", ""),
        (0, f"Nothing would happen to account {account_id} within 1,200 months.\n", ""),
    ]


def test_people_read_that_an_account_is_frozen(run):
    a_plan()
    account_id = a_subscriber(now=utc_now())
    run("accounts", "freeze", account_id, "--reason", "chargeback [/b]")

    code, out, _ = run("accounts", "simulate", account_id)

    said = f"Account {account_id} is frozen (chargeback [/b]): it starts no jobs and renews all the same."
    assert (code, out.splitlines()[0]) == (0, said)
    assert "renewal" in out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["77"],                          "There is no account '77'. [unknown_account]"),
        (["--", "-1"],                    "There is no account '-1'. [unknown_account]"),
        ([str(2**70)],                    f"There is no account '{2**70}'. [unknown_account]"),
        (["one"],                         "'one' is not a valid integer."),
        (["1", "--months", "0"],          "0 is not in the range 1<=x<=1200."),
        (["1", "--months", "1201"],       "1201 is not in the range 1<=x<=1200."),
        (["1", "--months", "-1"],         "-1 is not in the range 1<=x<=1200."),
        (["1", "--months", "9" * 40],     "is not in the range 1<=x<=1200."),
        (["1", "--months", "1.5"],        "'1.5' is not a valid integer range."),
        ([],                              "Missing argument 'ACCOUNT_ID'."),
    ],
)  # fmt: skip
def test_the_command_refuses_bad_input_in_one_sentence(run, given, said):
    an_account()

    code, out, err = run("accounts", "simulate", *given)

    assert (code, out) == (2, "")
    assert err.endswith(f"{said}\n")
    assert "Traceback" not in err


# --- It says what then happens ---

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
    max_examples=40,
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
    with transaction() as session:
        # Past the triggers that keep histories whole.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("TRUNCATE accounts CASCADE"))
    account_id, now = a_lived_subscription(zone, beginning, first, second, began, acts)
    with transaction() as session:
        # The limits of a period that has begun already are none of what is to come.
        renewals.reset_limits(session, now, Worked())
    now += later * DAY
    if apart:
        # The limits' task may have come, and the one that grants not yet.
        with transaction() as session:
            renewals.reset_limits(session, now, Worked())

    expected = simulate(account_id, months=months, now=now)

    instants = sorted({each.at for each in expected})
    assert len(instants) == len(expected)
    for each in expected:
        renew(each.at - TICK)
        before = written(account_id)
        renew(each.at)
        assert happened(account_id, before, each.at) == told(each), each
    last = written(account_id)
    here = account_zone()
    renew(starts_at(add_months(now.astimezone(here).date(), months), here))
    assert written(account_id) == last, "nothing came that was not told"
