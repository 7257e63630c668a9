"""The room for unfinished jobs that a process remembers: it saves counting, and is never more than was found."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from billing.errors import TooManyOpenJobs
from billing.jobs import bounds
from billing.jobs.bounds import ALL, SHARE

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LIMITS = SimpleNamespace(max_open_jobs=1_600, max_open_jobs_per_account=160)


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    monkeypatch.setattr(bounds, "_rooms", {})


def add(jobs, open_jobs=0, *, limits=LIMITS, now=NOW):
    """One submission of account 7 when so many jobs are open; returns whose jobs had to be counted."""
    counted = bounds.to_count({7: jobs}, limits, now=now)
    bounds.check({7: jobs}, dict.fromkeys(counted, open_jobs), limits, now=now)
    return counted


def test_after_a_count_a_part_of_the_room_is_added_without_counting():
    assert add(1) == [ALL, 7]

    free = [add(1) for _ in range(159 // SHARE)]

    assert free == [[]] * (159 // SHARE)
    assert add(1) == [7]


def test_a_count_holds_for_a_second():
    add(1)

    assert add(1, now=NOW + timedelta(seconds=0.9)) == []
    assert add(1, now=NOW + timedelta(seconds=1)) == [ALL, 7]
    assert add(1, now=NOW - timedelta(seconds=1)) == [ALL, 7]


def test_another_bound_is_counted_anew():
    add(1)

    assert 7 in add(1, limits=SimpleNamespace(max_open_jobs=1_600, max_open_jobs_per_account=161))


def test_one_process_alone_never_exceeds_the_bound():
    open_jobs = 0
    with suppress(TooManyOpenJobs):
        for _ in range(1_000):
            add(1, open_jobs)
            open_jobs += 1

    assert open_jobs == LIMITS.max_open_jobs_per_account
