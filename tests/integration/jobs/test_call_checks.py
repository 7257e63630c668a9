"""What calls tell an operator: usage that was mended, and costs that the provider reports as others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from billing.catalog.usage import Usage
from billing.jobs import call_checks, calling, settling
from billing.jobs.call_checks import CostDifference
from billing.jobs.mending import Note
from billing.reports import audit
from config.database import transaction
from tests.factories import MINUTE, NOON, a_claim, a_delivery, a_reserved_job, an_account, rows

pytestmark = pytest.mark.usefixtures("db")

# gpt-5.1: 100 x 1.25 + 400 x 10 dollars per million tokens.
USAGE, COST = Usage(input_tokens=100, output_tokens=400), Decimal("0.004125")


def a_call(usage=USAGE, *, settle=False, **told):
    """A delivered job whose call tells these things."""
    job_id = a_reserved_job(an_account())
    with transaction() as session:
        delivery = replace(a_delivery(usage), **told)
        calling.succeed(session, a_claim(job_id), delivery, now=NOON, publish_by=MINUTE)
    if settle:
        with transaction() as session:
            settling.settle(session, [job_id], now=NOON)
    return job_id


def differences(now=NOON):
    with transaction() as session:
        return call_checks.cost_differences(session, now=now)


def mended(now=NOON):
    with transaction() as session:
        return {note: calls for note, calls in call_checks.mended(session, now=now).items() if calls}


def test_mended_usage_is_counted_by_rule_for_a_day():
    a_call(usage_note="rounded")
    a_call(usage_note="rounded input_counted")
    a_call()

    assert mended() == {Note.ROUNDED: 2, Note.INPUT_COUNTED: 1}
    assert mended(NOON + timedelta(days=1, seconds=1)) == {}


def test_costs_that_the_provider_reports_as_others_are_summed_by_model():
    a_call(reported_cost_usd=COST * 2)
    a_call(reported_cost_usd=COST)
    a_call()

    assert differences() == [CostDifference("gpt-5.1", 1, COST, COST * 2)]
    assert differences()[0].percent == 100
    assert differences(NOON + timedelta(days=31)) == []


def test_a_difference_of_rounding_is_none():
    a_call(reported_cost_usd=COST + Decimal("0.0000001"))

    assert differences() == []


def test_the_usage_log_counts_every_token_and_tells_the_special_ones_apart():
    usage = Usage(
        10, 20, 30, 40, cache_write_tokens=50, cache_write_1h_tokens=60, audio_output_tokens=70, service_tier="flex"
    )

    a_call(usage, settle=True)

    told = "tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, metadata"
    particulars = {
        "cache_write_tokens": 50,
        "cache_write_1h_tokens": 60,
        "audio_output_tokens": 70,
        "service_tier": "flex",
    }
    assert rows(f"SELECT {told} FROM credit_usage_logs") == [(120, 20, 100, 40, particulars)]
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=NOON) == []
