"""Beat stands still for 95 days over 200 accounts while customers go on: one tick then makes what ticking every hour
would have made, also with two beats at once, and with a beat that is killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from signal import SIGKILL

import pytest
from sqlalchemy import make_url

from billing.errors import BillingError
from billing.jobs import calling, reserving, settling
from billing.plans import plans, subscriptions
from billing.reports import audit, revenue
from config import database
from config.database import transaction
from tests import subscribers
from tests.conftest import fresh_database
from tests.factories import MINUTE, a_claim, a_delivery, a_queued_job, an_account, moment, rows
from workers.local.embedded.servers import Servers

# Three months take their time on a slow machine.
pytestmark = [pytest.mark.own_system, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
START = datetime(2026, 11, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
END = START + timedelta(days=95)
ACCOUNTS = 200
ACTS = 400
SEED = 20261101
IDLE_SAMPLE = 20
"""Of how many hours in which nothing is due one is ticked."""
OPERATIONS = ("idea_generation", "clustering")
ZONES = (
    *("UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/Los_Angeles", "America/Sao_Paulo"),
    *("America/St_Johns", "America/Havana", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Tokyo", "Asia/Beirut"),
    *("Australia/Sydney", "Australia/Adelaide", "Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Apia"),
    *("Pacific/Chatham", "Africa/Cairo", "Pacific/Kiritimati"),
)
PLANS = {
    "small": {"included_credits": "500", "content_ideas": "40"},
    "large": {"included_credits": "900", "content_ideas": "80", "content_words": "90000"},
    "yearly": {"included_credits": "7000", "content_ideas": "500", "billing_interval": "year"},
    "bare": {"included_credits": "0"},
}

# What each table says, but for numbers that only count inserts, random names, and the wall clock of this machine.
SAID = {
    "accounts": "SELECT id, balance, reserved, time_zone, frozen_reason FROM accounts ORDER BY id",
    "subscriptions": "SELECT id, account_id, plan_id, next_plan_id, status, anchor_date, current_period_start, "
    "current_period_end, cancel_at_period_end, grace_until, renews_at FROM subscriptions ORDER BY id",
    "subscription_periods": "SELECT granted, limits_opened, subscription_id, period_start, period_end, plan_id, "
    "status, starts_at, credits, credits_withheld FROM subscription_periods ORDER BY subscription_id, period_start",
    "plan_limit_usage": "SELECT account_id, limit_type, period_start, period_end, amount_used, amount_reserved "
    "FROM plan_limit_usage ORDER BY 1, 2, 3",
    "credit_transactions": "SELECT account_id, row_number() OVER (PARTITION BY account_id ORDER BY id), "
    "transaction_type, amount, balance_after, subscription_id, period_start, created_at, "
    "CASE WHEN job_id IS NULL THEN description || coalesce(idempotency_key, '') END FROM credit_transactions "
    "ORDER BY 1, 2",
    "credit_usage_logs": "SELECT account_id, operation_type, credits_used, revenue_usd, created_at "
    "FROM credit_usage_logs ORDER BY created_at, account_id",
    "generation_jobs": "SELECT account_id, operation_type, state, error_code, credits_charged, limit_used, "
    "limit_period_start, created_at FROM generation_jobs ORDER BY created_at, account_id",
    "revenue_rollups": "SELECT day, account_id, operation_type, model_name, jobs, jobs_settled, credits, revenue_usd, "
    "cost_usd FROM revenue_rollups ORDER BY 1, 2, 3, 4",
    "revenue_changes": "SELECT count(*) FROM revenue_changes",
}
DUE = """SELECT least(
    (SELECT min(renews_at) FROM subscriptions),
    (SELECT min(starts_at) FROM subscription_periods WHERE (credits > 0 AND NOT granted) OR NOT limits_opened))"""
"""The earliest instant that the periodic tasks have not worked on, by the tables alone."""


def said() -> dict[str, list[tuple]]:
    return {table: [tuple(map(str, row)) for row in rows(query)] for table, query in SAID.items()}


def tick(at: datetime) -> int:
    """What beat has done in one minute, but for the audit and the recovery of jobs; returns how much was written."""
    renewed, opened = subscribers.tick(at)
    with transaction() as session:
        return renewed + opened + revenue.roll_up(session, now=at)


def a_world() -> None:
    """Accounts in many zones, with subscriptions of every status, as beat last saw them."""
    chance = Random(SEED)
    with transaction() as session:
        for slug, fields in PLANS.items():
            plans.set_plan(session, slug, fields)
    for number in range(ACCOUNTS):
        account_id = an_account(chance.choice([0, 40, 2000]), time_zone=ZONES[number % len(ZONES)])
        if number % 20 != 19:
            _subscribe(account_id, chance)
    tick(START)


def _subscribe(account_id: int, chance: Random) -> None:
    plan, other = chance.sample(sorted(PLANS), 2)
    with transaction() as session:
        if chance.random() < 0.2:
            subscriptions.subscribe(session, account_id, plan, trial_days=chance.randint(1, 120), now=START)
            return
        anchor = date(2025, 9, 1) + timedelta(days=chance.randrange(425))
        if chance.random() < 0.2:
            anchor = date(2025, chance.choice([10, 12]), 31)
        subscriptions.subscribe(session, account_id, plan, anchor=anchor, now=START)
        fate = chance.choice(["stays", "stays", "past due", "cancels", "moves", "moves now", "ended"])
        if fate == "past due":
            subscriptions.past_due(session, account_id, grace_days=chance.randint(0, 150), now=START)
        elif fate == "cancels":
            subscriptions.cancel(session, account_id, now=START)
        elif fate == "ended":
            subscriptions.cancel(session, account_id, at_once=True, now=START)
        elif fate.startswith("moves"):
            # Between a monthly and a yearly plan there is only the move at the end of the period.
            at_period_end = fate == "moves" or "yearly" in {plan, other}
            subscriptions.subscribe(session, account_id, other, at_period_end=at_period_end, now=START)


def acts() -> Iterator[tuple[datetime, int, str]]:
    """When each customer does something, and what: the same whatever beat does."""
    chance = Random(SEED + 1)
    kinds = [*OPERATIONS * 9, "paid", "past_due", "cancel", "resume", "subscribe"]
    moments = sorted(START + chance.random() * (END - START) for _ in range(ACTS))
    for at in moments:
        yield at.replace(microsecond=0), chance.randint(1, ACCOUNTS), chance.choice(kinds)


def act(at: datetime, account_id: int, kind: str) -> None:
    if kind in OPERATIONS:
        _generate(at, account_id, kind)
        return
    # Who has no subscription, or one that has ended, is refused, in each run alike.
    with suppress(BillingError), transaction() as session:
        given = ["large"] if kind == "subscribe" else []
        getattr(subscriptions, kind)(session, account_id, *given, now=at)


def _generate(at: datetime, account_id: int, operation: str) -> None:
    job_id = a_queued_job(account_id, operation, now=at)
    with transaction() as session:
        if not reserving.reserve(session, [job_id], at=moment(session, at), publish_by=MINUTE).job_ids:
            return
    claim = a_claim(job_id, now=at)
    with transaction() as session:
        assert calling.succeed(session, claim, a_delivery(), now=at, publish_by=MINUTE)
    with transaction() as session:
        assert settling.settle(session, [job_id], now=at) == [job_id]


def beat(at: datetime) -> None:
    """Tick until nothing is left to do."""
    while left(at):
        tick(at)


def left(at: datetime) -> bool:
    ((due,),) = rows(DUE)
    return due is not None and due <= at


@contextmanager
def a_copy_of(servers: Servers, template: str) -> Iterator[str]:
    with fresh_database(servers, template) as url:
        database.connect(database.make_engine(url))
        yield url
        database.disconnect()


@pytest.fixture(scope="module")
def world(servers, template):
    """The database as beat last saw it; scenarios are played in copies of it."""
    with a_copy_of(servers, template) as url:
        a_world()
        database.disconnect()
        yield make_url(url).database


@pytest.fixture(scope="module")
def on_time(servers, world):
    """What the tables say when beat ticks every hour.

    Where nothing is due and nobody has acted since the last tick, a tick finds nothing to read and writes nothing: of
    these hours only some are ticked, to see that it is so.
    """
    with a_copy_of(servers, world):
        coming, idle = list(acts()), 0
        for number in range(1, 95 * 24 + 1):
            now = START + number * HOUR
            acted = False
            while coming and coming[0][0] < now:
                act(*coming.pop(0))
                acted = True
            if acted or left(now):
                tick(now)
                continue
            idle += 1
            if idle % IDLE_SAMPLE == 0:
                assert tick(now) == 0
        with transaction() as session:
            assert audit.audit(session, now=END) == []
        return said()


@pytest.fixture(scope="module")
def stood_still(servers, world):
    """The database in which customers went on for 95 days, and beat did not."""
    with a_copy_of(servers, world) as url:
        for each in acts():
            act(*each)
        database.disconnect()
        yield make_url(url).database


@pytest.fixture
def after_95_days(servers, stood_still):
    """A copy of it."""
    with a_copy_of(servers, stood_still) as url:
        yield url


def assert_as_on_time(on_time):
    found = said()
    for table, lines in on_time.items():
        assert found[table] == lines, table
    with transaction() as session:
        assert audit.audit(session, now=END) == []


def a_beat_process(url: str, at: datetime) -> subprocess.Popen[bytes]:
    program = (
        "import sys; from datetime import datetime; from config import database; "
        f"from {__name__} import beat; import os; "
        "database.connect(database.make_engine(os.environ['DATABASE_URL'])); "
        "beat(datetime.fromisoformat(sys.argv[1]))"
    )
    environment = {**os.environ, "DATABASE_URL": url}
    return subprocess.Popen([sys.executable, "-c", program, at.isoformat()], cwd=ROOT, env=environment)


def done() -> int:
    """How many periods were granted or opened."""
    (count,) = rows("SELECT sum(granted::int + limits_opened::int) FROM subscription_periods")[0]
    return int(count)


def test_it_is_a_world_in_which_much_happens(on_time):
    periods = on_time["subscription_periods"]
    statuses = {row[4] for row in on_time["subscriptions"]}

    assert len(periods) > 400
    assert statuses == {"active", "trialing", "past_due", "cancelled"}
    assert {row[2] for row in on_time["generation_jobs"]} == {"settled", "rejected"}


def test_one_tick_after_95_days_makes_what_ticking_every_hour_makes(on_time, after_95_days):
    assert left(END)

    tick(END)

    assert_as_on_time(on_time)
    tick(END)
    assert_as_on_time(on_time)


def test_so_do_two_beats_at_once(on_time, after_95_days):
    processes = [a_beat_process(after_95_days, END) for _ in range(2)]

    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    tick(END)
    assert_as_on_time(on_time)


def test_so_does_a_beat_that_is_killed_in_the_middle(on_time, after_95_days):
    before, whole = done(), sum(row[:2].count("True") for row in on_time["subscription_periods"])
    for number, share in enumerate((0.1, 0.4, 0.8)):
        process = a_beat_process(after_95_days, END + number * MINUTE)
        while done() < before + share * (whole - before) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        assert process.wait(timeout=60) == -SIGKILL

    assert left(END)
    # The database may still be at ending the session of the last one.
    beat(END)
    assert_as_on_time(on_time)
