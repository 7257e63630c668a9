"""One statement for credits and plan limits: both are written, or neither."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from billing.ledger import posting
from billing.ledger.posting import Change
from billing.plans import limits
from billing.plans.limits import LimitChange
from config.database import transaction
from tests.factories import NOON, a_reserved_job, a_subscription, an_account, rows, the_account, the_job

FIRST = date(2026, 11, 1)
OPENING, HELD = 1000, 11


@pytest.fixture
def account_id(db):
    """An account that holds 11 credits and one of its two content ideas."""
    account_id = an_account(OPENING)
    a_subscription(account_id, {"content_ideas": 2})
    a_reserved_job(account_id, "idea_generation")
    return account_id


def post(account_id, change, limit, limit_type="content_ideas"):
    units = limits.counted({(account_id, limit_type, FIRST): limit})
    with transaction() as session:
        posting.post(session, {account_id: change}, beside=[units])


def books(account_id):
    account = the_account(account_id)
    return account.balance, account.reserved, *rows("SELECT amount_used, amount_reserved FROM plan_limit_usage")[0]


def test_credits_and_units_are_written_together(account_id):
    post(account_id, Change(reserved=5), LimitChange(reserved=1, allowed=2))

    assert books(account_id) == (OPENING, HELD + 5, 0, 2)


def test_units_beyond_the_allowance_write_no_credits_either(account_id):
    with pytest.raises(AssertionError, match="counted"):
        post(account_id, Change(reserved=5), LimitChange(reserved=2, allowed=2))

    assert books(account_id) == (OPENING, HELD, 0, 1)


def test_units_without_their_row_write_no_credits_either(account_id):
    with pytest.raises(AssertionError, match="counted"):
        post(account_id, Change(reserved=5), LimitChange(reserved=1, allowed=2), limit_type="image_prompts")

    assert books(account_id) == (OPENING, HELD, 0, 1)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (Change(reserved=OPENING), "balance_covers_reserved"),
        (Change(balance=-OPENING), "balance_covers_reserved"),
        (Change(reserved=-HELD - 1), "reserved_not_negative"),
    ],
)
def test_credits_that_the_balance_does_not_cover_write_no_units_either(account_id, change, rule):
    with pytest.raises(IntegrityError, match=rule):
        post(account_id, change, LimitChange(reserved=1, allowed=2))

    assert books(account_id) == (OPENING, HELD, 0, 1)


def test_units_are_given_back_even_when_the_plan_allows_fewer_by_now(account_id):
    post(account_id, Change(reserved=-HELD), LimitChange(reserved=-1))

    assert books(account_id) == (OPENING, 0, 0, 0)


def test_units_are_given_back_to_the_period_that_they_were_held_in(account_id):
    later = a_reserved_job(account_id, "idea_generation", now=NOON + timedelta(days=31))

    post(account_id, Change(reserved=-HELD), LimitChange(reserved=-1))

    assert the_job(later).limit_period_start == date(2026, 12, 1)
    assert rows("SELECT period_start, amount_reserved FROM plan_limit_usage ORDER BY 1") == [
        (FIRST, 0),
        (date(2026, 12, 1), 1),
    ]


def test_nothing_is_written_for_nothing(account_id):
    with transaction() as session:
        posting.post(session, {}, beside=[limits.counted({})])

    assert books(account_id) == (OPENING, HELD, 0, 1)
