"""Revenue roll-ups and plan limits' periods: computed twice, they are the same."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import charging, limits, revenue
from billing.domain.pricing import Usage
from config.database import transaction
from tests.factories import NOON, a_generated_job, a_queued_job, a_subscription, an_account, rows

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)


def a_settled_job(account_id, now=NOON, **given):
    with transaction() as session:
        charging.settle(session, [a_generated_job(account_id, now=now, **given)], now=now)


def roll_up(now=NOON):
    with transaction() as session:
        return revenue.roll_up(session, now=now)


def rolled():
    return rows(
        "SELECT day::text, operation_type, model_name, jobs, jobs_settled, credits, revenue_usd, cost_usd, margin_usd "
        "FROM revenue_rollups ORDER BY 1, 2, 3, jobs"
    )


def test_a_day_adds_up_to_its_jobs():
    account_id = an_account()
    a_settled_job(account_id, usage=Usage(input_tokens=1000, output_tokens=100))
    a_settled_job(account_id, usage=Usage(input_tokens=100, output_tokens=100))
    image = {"prompt": "a fox"}
    a_settled_job(account_id, operation="image_generation", params=image, usage=Usage(images=1))
    with transaction() as session:
        poor = a_queued_job(an_account(1))
        charging.reserve(session, [poor], now=NOON, publish_by=DAY)

    assert roll_up() == 3
    cents = [tuple(v.normalize() if isinstance(v, Decimal) else v for v in row) for row in rolled()]
    assert cents == [
        ("2026-11-20", "clustering", "gpt-5.1", 1, 0, 0, Decimal(0), Decimal(0), Decimal(0)),
        ("2026-11-20", "clustering", "gpt-5.1", 2, 2, 13, Decimal("0.13"), Decimal("0.003375"), Decimal("0.126625")),
        ("2026-11-20", "image_generation", "dall-e-3", 1, 1, 5, Decimal("0.1"), Decimal("0.04"), Decimal("0.06")),
    ]


def test_rolling_up_twice_changes_nothing():
    account_id = an_account()
    for day in range(3):
        a_settled_job(account_id, now=NOON - day * DAY)
    roll_up()
    once = rolled()

    assert len(once) == 3
    assert roll_up() == 3
    assert rolled() == once


def test_days_that_were_missed_are_caught_up():
    account_id = an_account()
    a_settled_job(account_id)
    roll_up()
    for day in (1, 5, 20):
        a_settled_job(account_id, now=NOON + day * DAY)

    roll_up(NOON + 21 * DAY)

    assert [row[0] for row in rolled()] == ["2026-11-20", "2026-11-21", "2026-11-25", "2026-12-10"]


def test_a_period_opens_its_rows_once_and_leaves_the_old_ones_alone():
    account_id = an_account()
    a_subscription(account_id, {"content_ideas": 5, "content_words": 1000, "image_prompts": None})

    def open_at(now):
        with transaction() as session:
            return limits.open_current_periods(session, now=now)

    assert [open_at(NOON), open_at(NOON), open_at(NOON + 30 * DAY)] == [2, 0, 2]
    assert rows("SELECT limit_type, period_start::text, period_end::text FROM plan_limit_usage ORDER BY 2, 1") == [
        ("content_ideas", "2026-11-01", "2026-12-01"),
        ("content_words", "2026-11-01", "2026-12-01"),
        ("content_ideas", "2026-12-01", "2027-01-01"),
        ("content_words", "2026-12-01", "2027-01-01"),
    ]
