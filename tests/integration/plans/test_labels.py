"""What requests with a label use of a plan's limit is told apart by the label."""

from __future__ import annotations

import pytest

from billing.plans import limit_queries, plans
from config.database import transaction
from tests.catalogue import a_settled_job
from tests.factories import NOON, a_subscription, an_account, rows

pytestmark = pytest.mark.usefixtures("db")


def settled(account_id, label=None):
    given = {} if label is None else {"label": label}
    a_settled_job(account_id, "idea_generation", params={"prompt": "x", "max_output_tokens": 64, **given})


def used(account_id):
    with transaction() as session:
        (limit,) = plans.usage(session, account_id, now=NOON)
    return limit.used, limit.by_label


def test_each_label_is_counted_by_itself():
    account_id = an_account()
    a_subscription(account_id, {"content_ideas": 100})

    for label in ("shop", None, "shop", "blog"):
        settled(account_id, label)

    assert used(account_id) == (4, {"shop": 2, "blog": 1})
    assert rows("SELECT label FROM generation_jobs ORDER BY created_at, id").count(("shop",)) == 2


def test_further_labels_than_are_told_apart_are_counted_together(monkeypatch):
    monkeypatch.setattr(limit_queries, "_COUNT", limit_queries._COUNT.replace(f"{limit_queries.LABELS_MAX} >", "2 >"))
    account_id = an_account()
    a_subscription(account_id, {"content_ideas": 100})

    for label in ("a", "b", "c", "d", "a"):
        settled(account_id, label)

    assert used(account_id) == (5, {"a": 2, "b": 1, limit_queries.OTHER_LABELS: 2})


def test_what_nobody_labelled_leaves_the_breakdown_as_it_is():
    account_id = an_account()
    a_subscription(account_id, {"content_ideas": 100})

    settled(account_id)

    assert rows("SELECT metadata FROM plan_limit_usage WHERE limit_type = 'content_ideas'") == [({},)]
