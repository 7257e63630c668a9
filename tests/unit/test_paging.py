"""Cursors: whole and of their list, or refused; and where a list ends."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidRequest
from billing.paging import BIGINT_MAX, CURSOR_MAX, Listing, Page

JOBS = Listing("jobs", (datetime, UUID))
ACCOUNTS = Listing("accounts", (int,))
PERIODS = Listing("periods", (date,))
ID = UUID("0198c1de-7d3f-4a6e-9d55-3f4c5a6b7c8d")
NOON = datetime(2026, 11, 20, 12, 0, 0, 250, tzinfo=UTC)
CURSOR = JOBS.cursor((NOON, ID))

instants = st.datetimes(timezones=st.timezones() | st.just(UTC), allow_imaginary=False)


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def assert_refused(listing, cursor):
    with pytest.raises(InvalidRequest) as refused:
        listing.key(cursor)
    assert refused.value.code == "invalid_cursor"
    assert refused.value.message == (
        f"That is no cursor of the list of {listing.name}: give the one that its page before ended with, whole."
    )


@given(at=instants.filter(lambda at: 1 < at.year < 9999), job_id=st.uuids())
def test_a_cursor_of_time_and_id_leads_back_to_its_row(at, job_id):
    assert JOBS.key(JOBS.cursor((at, job_id))) == (at.astimezone(UTC), job_id)


@given(number=st.integers(0, BIGINT_MAX), day=st.dates())
def test_a_cursor_of_a_number_or_a_day_leads_back_to_its_row(number, day):
    assert ACCOUNTS.key(ACCOUNTS.cursor((number,))) == (number,)
    assert PERIODS.key(PERIODS.cursor((day,))) == (day,)


def test_without_a_cursor_a_list_begins_at_its_beginning():
    assert JOBS.key(None) is None


def test_a_cursor_needs_no_quotes_in_an_address_or_a_shell():
    assert CURSOR.replace("-", "").replace("_", "").isalnum()
    assert len(CURSOR) < CURSOR_MAX


@pytest.mark.parametrize("length", range(len(CURSOR)))
def test_a_cursor_that_was_cut_is_refused(length):
    assert_refused(JOBS, CURSOR[:length])


@pytest.mark.parametrize(
    "cursor",
    [
        CURSOR + "=", CURSOR + " ", " " + CURSOR, CURSOR + "\n", CURSOR + "A", CURSOR.lower(), CURSOR[::-1],
        "nonsense", "é", "\udcff", "\x00", "-1", "9" * 400, CURSOR * 10, "[" * 300, "W1tbW1tb",
    ],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(cursor):
    assert_refused(JOBS, cursor)


@pytest.mark.parametrize(
    ("listing", "value"),
    [
        (JOBS,     ["accounts", 5]),
        (JOBS,     ["accounts", NOON.isoformat(), str(ID)]),
        (JOBS,     ["jobs"]),
        (JOBS,     ["jobs", NOON.isoformat()]),
        (JOBS,     ["jobs", NOON.isoformat(), str(ID), 1]),
        (JOBS,     ["jobs", str(ID), NOON.isoformat()]),
        (JOBS,     ["jobs", "2026-11-20T12:00:00", str(ID)]),
        (JOBS,     ["jobs", "2026-11-20T12:00:00+01:00", str(ID)]),
        (JOBS,     ["jobs", "0001-01-01T00:00:00+01:00", str(ID)]),
        (JOBS,     ["jobs", NOON.isoformat(), str(ID).upper()]),
        (JOBS,     ["jobs", 5, None]),
        (JOBS,     {"jobs": 1}),
        (JOBS,     "jobs"),
        (JOBS,     5),
        (JOBS,     None),
        (JOBS,     []),
        (ACCOUNTS, ["accounts", True]),
        (ACCOUNTS, ["accounts", -1]),
        (ACCOUNTS, ["accounts", BIGINT_MAX + 1]),
        (ACCOUNTS, ["accounts", 1.0]),
        (ACCOUNTS, ["accounts", "1"]),
        (ACCOUNTS, ["accounts", "1 OR true"]),
        (ACCOUNTS, ["messages", 1]),
        (PERIODS,  ["periods", "2026-02-30"]),
        (PERIODS,  ["periods", "20260201"]),
    ],
)  # fmt: skip
def test_what_was_put_together_by_hand_is_refused(listing, value):
    assert_refused(listing, encoded(value))


@given(st.text() | st.binary().map(lambda some: base64.urlsafe_b64encode(some).decode()))
def test_no_text_does_more_than_be_refused(cursor):
    assert_refused(ACCOUNTS, cursor)


def test_an_instant_is_told_in_utc():
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))

    assert JOBS.cursor((elsewhere, ID)) == CURSOR


@pytest.mark.parametrize(
    ("found", "page"),
    [
        ([],        Page([], None)),
        ([9],       Page([9], None)),
        ([9, 8],    Page([9, 8], None)),
        ([9, 8, 7], Page([9, 8], ACCOUNTS.cursor((8,)))),
    ],
)  # fmt: skip
def test_one_row_more_than_a_page_says_that_the_list_goes_on(found, page):
    assert ACCOUNTS.page(found, 2, lambda number: (number,)) == page
