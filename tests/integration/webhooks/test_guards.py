"""Single guards of webhooks, one test each: what the database refuses by itself."""

from __future__ import annotations

import pytest

from tests.catalogue import a_settled_job
from tests.guarding import assert_refused
from tests.integration.webhooks.conftest import an_endpoint

pytestmark = pytest.mark.usefixtures("db")
ENDPOINT = "UPDATE webhook_endpoints SET"
MESSAGE = "UPDATE webhook_messages SET"
REFUSED = [
    (f"{ENDPOINT} events = '{{}}'",                         "ck_webhook_endpoints_events"),
    (f"{ENDPOINT} events = ARRAY['job.lost']",              "ck_webhook_endpoints_events"),
    (f"{ENDPOINT} balance_threshold = -1",                  "ck_webhook_endpoints_balance_threshold"),
    (f"{ENDPOINT} limit_threshold_percent = 0",             "ck_webhook_endpoints_limit_threshold_percent"),
    (f"{ENDPOINT} limit_threshold_percent = 101",           "ck_webhook_endpoints_limit_threshold_percent"),
    (f"{ENDPOINT} id = (SELECT max(id::text)::uuid FROM webhook_endpoints)", "pk_webhook_endpoints"),
    (f"{MESSAGE} state = 'lost'",                           "ck_webhook_messages_state"),
    (f"{MESSAGE} delivered_at = now()",                     "ck_webhook_messages_delivered_has_time"),
    (f"{MESSAGE} state = 'delivered'",                      "ck_webhook_messages_delivered_has_time"),
]  # fmt: skip


@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule, receiver):
    made = an_endpoint(receiver)
    an_endpoint(receiver)
    if rule != "pk_webhook_endpoints":
        a_settled_job(made.view.account_id)

    assert_refused(REFUSED, rule)
