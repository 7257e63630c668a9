"""Lists that are read page by page: all pages together are the list, each row once, whatever happens meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import InvalidRequest
from billing.jobs import story
from config.database import transaction
from tests.catalogue import everything, sql
from tests.factories import NOON, a_queued_job, an_account, rows
from tests.integration.lists import LISTS
from tests.rounds import rounds

ROWS = 30
ALL = 10_000


@pytest.fixture(params=LISTS)
def listed(db, request):
    """A list with rows, several at the same instant where its order goes by time."""
    found = LISTS[request.param]
    found.begin()
    found.add(1, ROWS)
    return found


def pages(listed, limit, between=lambda: None):
    """The pages of the list, one by one, up to the one without a cursor."""
    after, found = None, []
    while after is not None or not found:
        page = listed.read(limit, after)
        found.append(page.rows)
        after = page.next
        between()
    return found


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_all_pages_together_are_the_list_each_row_once(listed, limit):
    whole = listed.read(ALL).rows

    read = pages(listed, limit)

    assert [row for page in read for row in page] == whole
    assert len(set(whole)) == len(whole) > 3
    assert {len(page) for page in read[:-1]} <= {limit}


def test_a_page_that_ends_with_the_list_has_no_cursor(listed):
    whole = listed.read(ALL)

    assert listed.read(len(whole.rows)) == whole
    assert whole.next is None
    assert listed.read(len(whole.rows) - 1).next is not None


def test_rows_that_are_added_between_the_pages_move_no_others(listed):
    before = listed.read(ALL).rows
    numbers = iter(range(ROWS + 1, 1_000, 3))

    def add():
        first = next(numbers)
        listed.add(first, first + 2)

    read = [row for page in pages(listed, 4, between=add) for row in page]

    assert [row for row in read if row in before] == before
    assert len(set(read)) == len(read)


def test_an_empty_list_is_one_empty_page(db):
    assert LISTS["accounts"].read(5) == LISTS["messages"].read(5)
    assert LISTS["accounts"].read(5).rows == []


def test_a_cursor_of_another_list_is_refused_and_changes_nothing(listed):
    other = LISTS["accounts"] if listed is LISTS["messages"] else LISTS["messages"]
    other.add(1, 3)
    cursor = other.read(1).next
    before = everything()

    with pytest.raises(InvalidRequest) as refused:
        listed.read(5, cursor)

    assert refused.value.code == "invalid_cursor"
    assert everything() == before


def test_jobs_of_one_instant_come_in_one_order_whatever_their_state(db):
    LISTS["jobs"].begin()
    LISTS["jobs"].add(1, ROWS)

    listed = [row for page in pages(LISTS["jobs"], 2) for row in page]

    assert listed == [job_id for (job_id,) in rows("SELECT id FROM generation_jobs ORDER BY created_at DESC, id DESC")]


@settings(max_examples=rounds(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(1, 4),
    there=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    meanwhile=st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=3), st.integers(0, 12)), max_size=8),
)
def test_jobs_that_begin_and_end_between_the_pages_are_listed_once(db, limit, there, meanwhile):
    """Each number is a second, so some jobs share theirs; after each page some begin, late ones too, and one ends."""
    account_id = an_account(1000)
    began = [a_job_at(account_id, second) for second in there]
    before = sorted(zip(there, began, strict=True), reverse=True)
    happens = iter(meanwhile)

    def go_on():
        seconds, ends = next(happens, ((), 0))
        began.extend(a_job_at(account_id, second) for second in seconds)
        end(began[ends % len(began)])

    read, after = [], None
    while after is not None or not read:
        with transaction() as session:
            page = story.newest(session, account_id=account_id, state=None, limit=limit, after=after)
        read += [job.job_id for job in page.rows]
        after = page.next
        go_on()

    assert [job_id for job_id in read if job_id in dict(map(reversed, before))] == [job_id for _, job_id in before]
    assert len(set(read)) == len(read)


def a_job_at(account_id, second):
    job_id = a_queued_job(account_id)
    at = NOON.replace(second=second)
    sql("UPDATE generation_jobs SET created_at = :at WHERE id = :id", at=at, id=job_id)
    return job_id


def end(job_id):
    sql("UPDATE generation_jobs SET state = 'rejected', finished_at = :at WHERE id = :id", at=NOON, id=job_id)
