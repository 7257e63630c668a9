"""`creditmill doctor` on the periodic tasks: when each last succeeded, which is overdue, which cannot do its work."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from billing.plans import plans, renewals, subscriptions
from billing.upkeep import periodic_runs
from config.database import database_now, transaction
from tasks import periodic
from tasks.app import app
from tests.catalogue import sql
from tests.factories import an_account

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
TASKS = sorted(app.conf.beat_schedule)


@pytest.fixture(autouse=True)
def without_a_broker(env):
    """Where no broker answers, doctor does not wait for the answers of workers; the database is asked all the same."""
    env.setenv("BROKER_URL", "redis://127.0.0.1:1/0")


def present():
    with transaction() as session:
        return database_now(session)


def ran(task, at, *, blocked=0):
    """A run of this task that ended then, written as the tasks write it."""
    with transaction() as session:
        periodic_runs.note(session, task, blocked=blocked, now=at)


def all_ran(at, *, but=()):
    for task in TASKS:
        if task not in but:
            ran(task, at)


def shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def judged(run):
    """What doctor says of periodic work: whether it is healthy, and the sentence; text and JSON say the same."""
    code, out, _ = run("doctor", "--json")
    (check,) = [each for each in json.loads(out)["checks"] if each["name"] == "periodic"]
    in_text, text, _ = run("doctor")
    (line,) = [line for line in text.splitlines() if line[5:].startswith("periodic ")]
    assert line == f"{'ok ' if check['healthy'] else 'BAD'}  periodic     {check['sentence']}"
    assert (code, in_text) == (1, 1), "nothing is well without a broker"
    return check["healthy"], check["sentence"]


def test_before_anything_has_run_all_is_well_and_it_says_so(run):
    assert judged(run) == (True, "No periodic task has run yet.")


def test_each_task_is_told_with_the_time_of_its_last_success(run):
    now = present()
    for number, task in enumerate(TASKS):
        ran(task, now - 3 * HOUR)
        ran(task, now - number * 10 * timedelta(seconds=1))

    told = ", ".join(f"{task} {shown(now - number * 10 * timedelta(seconds=1))}" for number, task in enumerate(TASKS))
    assert judged(run) == (True, f"Periodic tasks last succeeded: {told}.")


def test_the_real_tasks_leave_what_doctor_reads(run):
    before = present()
    for task in TASKS:
        getattr(periodic, task)()

    healthy, sentence = judged(run)

    assert healthy
    for task in TASKS:
        assert f"{task} {before:%Y-%m-%d }" in sentence or f"{task} {present():%Y-%m-%d }" in sentence
    assert "never" not in sentence


@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_misses_three_of_its_ticks_is_overdue(run, task):
    allowed = 3 * timedelta(seconds=app.conf.beat_schedule[task]["schedule"]) + MINUTE
    now = present()
    all_ran(now, but=[task])
    late = now - allowed - MINUTE / 2
    ran(task, late)

    assert judged(run) == (
        False,
        f"{task} is overdue, it last succeeded at {shown(late)}: are beat and the billing worker running?",
    )
    ran(task, now - allowed + MINUTE / 2)
    assert judged(run)[0]


def test_a_task_that_never_ran_is_overdue_some_time_after_the_first_of_all(run):
    now = present()
    began = now - 2 * HOUR
    ran("recover_jobs", began)
    all_ran(now, but=["reset_plan_limits"])

    assert judged(run) == (
        False,
        f"reset_plan_limits is overdue, it has not succeeded since {shown(began)}: "
        "are beat and the billing worker running?",
    )


def test_soon_after_the_start_a_task_may_not_have_run_yet(run):
    ran("recover_jobs", present())

    healthy, sentence = judged(run)

    assert healthy
    assert "audit_books never" in sentence


def test_every_task_that_is_overdue_is_named(run):
    all_ran(present() - 5 * HOUR)

    healthy, sentence = judged(run)

    assert not healthy
    assert sentence.count("is overdue, it last succeeded at") == len(TASKS)
    assert all(task in sentence for task in TASKS)


def test_a_run_that_was_begun_and_not_ended_is_none(run, monkeypatch):
    now = present()
    all_ran(now, but=["renew_subscriptions"])
    ran("renew_subscriptions", now - 2 * HOUR)
    monkeypatch.setattr(renewals, "_work", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        periodic.renew_subscriptions()

    healthy, sentence = judged(run)

    assert not healthy
    assert sentence.startswith(f"renew_subscriptions is overdue, it last succeeded at {shown(now - 2 * HOUR)}")


@pytest.mark.parametrize(("blocked", "rows_"), [(1, "1 row"), (1_200, "1,200 rows")])
def test_a_task_that_runs_and_cannot_do_its_work_is_told(run, blocked, rows_):
    now = present()
    all_ran(now, but=["renew_subscriptions"])
    ran("renew_subscriptions", now, blocked=blocked)

    assert judged(run) == (
        False,
        f"renew_subscriptions could not work on {rows_}: the log of the billing worker says why.",
    )
    ran("renew_subscriptions", now)
    assert judged(run)[0]


def test_a_subscription_that_cannot_be_renewed_shows_until_it_can(run):
    account_id = an_account(0)
    with transaction() as session:
        plans.set_plan(session, "starter", {"included_credits": "500"})
        subscriptions.subscribe(session, account_id, "starter", now=database_now(session) - 40 * 24 * HOUR)
    sql("UPDATE accounts SET balance = 9007199254740992")
    all_ran(present(), but=["renew_subscriptions"])

    periodic.renew_subscriptions()
    healthy, sentence = judged(run)
    assert (healthy, sentence) == (
        False,
        "renew_subscriptions could not work on 1 row: the log of the billing worker says why.",
    )

    sql("UPDATE accounts SET balance = 500")
    periodic.renew_subscriptions()
    assert judged(run)[0]


def test_one_that_is_overdue_and_was_blocked_is_told_as_both(run):
    now = present()
    all_ran(now, but=["renew_subscriptions"])
    ran("renew_subscriptions", now - 2 * HOUR, blocked=2)

    healthy, sentence = judged(run)

    assert not healthy
    assert "renew_subscriptions is overdue" in sentence
    assert "could not work on 2 rows" in sentence


# --- The clock ---


def test_after_the_clock_was_set_back_a_task_is_not_healthy_for_what_is_yet_to_come(run):
    now = present()
    all_ran(now)
    ahead = now + 30 * 24 * HOUR
    ran("renew_subscriptions", ahead)

    healthy, sentence = judged(run)

    assert not healthy
    assert sentence == (
        f"renew_subscriptions last succeeded at {shown(ahead)}, which is yet to come: the database's clock was set "
        "back, and it has not run since. Check the clock; are beat and the billing worker running?"
    )
    ran("renew_subscriptions", now)
    assert judged(run)[0]


def test_a_clock_that_was_set_back_within_the_hour_does_no_harm(run):
    now = present()
    all_ran(now)
    # Less than what two machines may be apart.
    ran("recover_jobs", now + MINUTE / 2)

    assert judged(run)[0]
