"""Credits that people put in or take back: why and by whom, once for each key, never what jobs hold, and no slips."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from billing.errors import BillingError, IdempotencyConflict
from billing.ledger import by_hand, statements, users
from billing.ledger.by_hand import USUAL_CREDITS
from billing.money import CREDITS_MAX
from billing.reports import audit, revenue_reports
from config.database import transaction
from tests.catalogue import a_settled_job, everything, sql
from tests.factories import NOON, a_reserved_job, a_subscription, an_account, rows, the_account
from tests.guarding import at_once

pytestmark = pytest.mark.usefixtures("db")


def enter(act, account_id, credits, key="k", **given):
    with transaction() as session:
        row = getattr(by_hand, act)(
            session, account_id, credits, idempotency_key=key, description="why", now=NOON, actor="anna", **given
        )
        return row.id, row.balance_after


def refused(*arguments, **given):
    before = everything()
    with pytest.raises(BillingError) as error:
        enter(*arguments, **given)
    assert everything() == before
    return error.value


def test_each_row_says_its_type_its_reason_and_who_made_it():
    account_id = an_account(1000)
    a_subscription(account_id, {})
    enter("top_up", account_id, 10, "1")
    enter("grant", account_id, 20, "2")
    enter("adjust", account_id, 30, "3")
    enter("adjust", account_id, -40, "4")
    a_settled_job(account_id)

    told = rows("SELECT transaction_type, reason, amount, actor FROM credit_transactions ORDER BY id")

    assert told == [
        ("purchase",   "sold",     1000, "creditmill"),
        ("purchase",   "sold",     10,   "anna"),
        ("adjustment", "goodwill", 20,   "anna"),
        ("adjustment", "adjusted", 30,   "anna"),
        ("adjustment", "adjusted", -40,  "anna"),
        ("deduction",  "used",     -5,   "creditmill"),
    ]  # fmt: skip
    with transaction() as session:
        assert audit.audit(session, now=NOON) == []


@pytest.mark.parametrize("act", ["top_up", "grant", "adjust"])
def test_the_same_key_counts_once_and_another_entry_under_it_is_a_conflict(act):
    account_id = an_account(0)

    assert enter(act, account_id, 50) == enter(act, account_id, 50)
    assert the_account(account_id).balance == 50
    assert isinstance(refused(act, account_id, 51), IdempotencyConflict)
    other = "grant" if act == "adjust" else "adjust"
    assert isinstance(refused(other, account_id, 50), IdempotencyConflict)


def test_what_open_jobs_hold_cannot_be_taken():
    account_id = an_account(100)
    a_reserved_job(account_id)
    held = the_account(account_id).reserved

    error = refused("adjust", account_id, -(101 - held))
    enter("adjust", account_id, -(100 - held))

    assert error.code == "not_available"
    assert error.message == (
        f"Account {account_id} has 100 credits, of which open jobs hold {held}: {100 - held} can be taken at most."
    )
    assert the_account(account_id).available == 0
    with pytest.raises(IntegrityError, match="balance_covers_reserved"):
        sql("UPDATE accounts SET balance = balance - 1")


def test_credits_that_are_taken_while_a_job_reserves_are_never_those_that_it_holds():
    for _ in range(5):
        account_id = an_account(11)

        def take(session, account_id=account_id):
            try:
                by_hand.adjust(session, account_id, -5, idempotency_key="k", description="", now=NOON, actor="anna")
            except BillingError as error:
                return error.code
            return "taken"

        def reserve(_, account_id=account_id):
            try:
                return a_reserved_job(account_id)
            except AssertionError:
                return "rejected"

        outcome = at_once(take, reserve)

        account = the_account(account_id)
        assert account.available >= 0
        assert outcome in (["taken", "rejected"], ["not_available", outcome[1]])


@pytest.mark.parametrize(
    ("before", "credits", "is_usual"),
    [
        (0,          USUAL_CREDITS,     True),
        (0,          USUAL_CREDITS + 1, False),
        (0,          900_000_000_000,   False),
        (500_000,    5_000_000,         True),
        (500_000,    5_000_001,         False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("act", ["top_up", "grant", "adjust"])
def test_what_is_far_out_of_the_usual_asks_for_force(act, before, credits, is_usual):
    account_id = an_account(before)

    if is_usual:
        assert enter(act, account_id, credits)[1] == before + credits
        return
    error = refused(act, account_id, credits)
    assert error.code == "implausible_amount"
    assert "--force" in error.message
    assert enter(act, account_id, credits, force=True) == enter(act, account_id, credits)


@pytest.mark.parametrize(
    ("act", "credits", "given", "code"),
    [
        ("grant",  0,                {},                              "invalid_amount"),
        ("grant",  -1,               {},                              "invalid_amount"),
        ("top_up", -1,               {},                              "invalid_amount"),
        ("adjust", 0,                {},                              "invalid_amount"),
        ("adjust", CREDITS_MAX + 1,  {},                              "invalid_amount"),
        ("adjust", -1,               {},                              "not_available"),
        ("grant",  1,                {"key": "settle:x"},             "invalid_text"),
        ("grant",  1,                {"key": "a\nb"},                 "invalid_text"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(act, credits, given, code):
    assert refused(act, an_account(0), credits, **given).code == code


def test_the_database_refuses_goodwill_that_is_none():
    account_id = an_account(100)
    entry = (
        "INSERT INTO credit_transactions (account_id, transaction_type, goodwill, amount, balance_after, description, "
        "idempotency_key, created_at) VALUES (:id, '{}', true, {}, 1, '', 'x', now())"
    )
    for kind, amount in [("purchase", 5), ("adjustment", -5)]:
        with pytest.raises(IntegrityError, match="goodwill_is_given"):
            sql(entry.format(kind, amount), id=account_id)


def test_credits_put_in_are_told_by_their_reason():
    account_id, other = an_account(1000), an_account(0)
    enter("grant", account_id, 20, "2")
    enter("adjust", account_id, -40, "4")
    enter("grant", other, 7, "2")
    a_settled_job(account_id)

    with transaction() as session:
        of_all = revenue_reports.credits_put_in(session, NOON.date(), NOON.date())
        of_one = revenue_reports.credits_put_in(session, NOON.date(), NOON.date(), account_id=other)

    assert [(each.reason, each.entries, each.credits) for each in of_all] == [
        ("sold", 1, 1000), ("plan", 0, 0), ("goodwill", 2, 27), ("adjusted", 1, -40)
    ]  # fmt: skip
    assert [each.credits for each in of_one] == [0, 0, 7, 0]


def test_a_statement_runs_down_the_balance_page_by_page():
    account_id = an_account(100)
    an_account(5)
    for number in range(5):
        enter("adjust", account_id, -number - 1, f"{number}")

    found, after = [], None
    while True:
        with transaction() as session:
            page = statements.entries(session, account_id, limit=2, after=after)
        found += page.rows
        after = page.next
        if after is None:
            break

    assert [(each.credits, each.balance_after) for each in found] == [
        (-5, 85), (-4, 90), (-3, 94), (-2, 97), (-1, 99), (100, 100)
    ]  # fmt: skip


def a_user(account_id, email, **given):
    with transaction() as session:
        return users.create(session, account_id, email, **given)


@pytest.mark.parametrize(
    "email", ["", "ada", "ada@", "@example.com", "ada@example", "a b@example.com", "a" * 255, "a\x00@b.c"]
)
def test_what_is_no_address_is_refused(email):
    account_id = an_account()
    before = everything()

    with pytest.raises(BillingError) as error:
        a_user(account_id, email)

    assert error.value.code == "invalid_email"
    assert everything() == before


def test_an_address_belongs_to_one_user_however_it_is_written():
    account_id = an_account()
    made = a_user(account_id, " Ada@Example.com ", name="Ada")

    with pytest.raises(BillingError, match="already"):
        a_user(an_account(), "ada@example.com")

    assert (made.email, made.name, made.account_id) == ("ada@example.com", "Ada", account_id)
    with transaction() as session:
        assert users.newest(session, account_id=account_id, limit=5).rows == [made]
