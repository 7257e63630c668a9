"""The clock through the real thing: tasks that come again and again, a real broker, a worker of several processes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing.plans import plans, subscriptions
from config.database import transaction, utc_now
from tasks import periodic
from tests.factories import an_account, rows, the_account
from tests.system import System, wait_until

pytestmark = pytest.mark.fleet

DAY = timedelta(days=1)


def test_what_a_hundred_days_without_beat_have_left_is_granted_once_however_many_ticks_come(system: System):
    began = utc_now() - 100 * DAY
    with transaction() as session:
        plans.set_plan(session, "starter", {"included_credits": "500", "content_ideas": "5"})
    accounts = [an_account(0) for _ in range(20)]
    with transaction() as session:
        for account_id in accounts:
            subscriptions.subscribe(session, account_id, "starter", now=began)

    for _ in range(10):
        periodic.renew_subscriptions.delay()
        periodic.reset_plan_limits.delay()

    # Three to four months after the first: whatever the months, a hundred days hold three boundaries.
    wait_until(lambda: {the_account(each).balance for each in accounts} == {2000}, what="four grants for each account")
    opened = "SELECT account_id, count(*) FROM plan_limit_usage WHERE account_id = ANY(:ids) GROUP BY 1 ORDER BY 1"
    limits = [(each, 4) for each in accounts]
    wait_until(lambda: rows(opened, ids=accounts) == limits, what="the limits of four periods")
    # Of ticks at once one works, and none takes another's locks for those of somebody else.
    noted = "SELECT blocked FROM periodic_runs WHERE task IN ('renew_subscriptions', 'reset_plan_limits')"
    wait_until(lambda: rows(noted) == [(0,), (0,)], what="the end of both tasks' runs")
    assert rows("SELECT count(*) FROM credit_transactions WHERE account_id = ANY(:ids)", ids=accounts) == [(80,)]
    assert system.findings() == []
