"""The pipeline end to end, with real workers in processes of their own."""

from __future__ import annotations

from tasks import pipeline
from tests.factories import an_account, the_account


def test_a_request_is_reserved_called_and_settled(system):
    account_id = an_account(1000)

    job = pipeline.submit(account_id, "clustering", {"prompt": "bread, rolls", "max_output_tokens": 500})

    finished = system.finished([job.job_id])[job.job_id]
    assert finished.state == "settled"
    assert 1 <= finished.credits_charged <= finished.credits_reserved
    assert the_account(account_id).balance == 1000 - finished.credits_charged
    assert the_account(account_id).reserved == 0
    assert len(system.journal("executed")) == 1
