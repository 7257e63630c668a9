"""The pipeline end to end, with real workers in processes of their own: who pays for each outcome (design.md, 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from typing import Any
from uuid import UUID

import pytest

from billing.jobs.tables import GenerationJob, ProviderCall
from billing.ledger.tables import Account
from config.database import transaction
from tasks import pipeline
from tests.factories import an_account, rows, the_account
from tests.system import ATTEMPTS, System

pytestmark = pytest.mark.fleet

OPENING = 1000
INPUT_USD, CACHED_USD, OUTPUT_USD = (Decimal(rate) / 1_000_000 for rate in ("1.25", "0.125", "10"))
"""What the default text model, gpt-5.1, costs by the token."""
IMAGE_USD, IMAGE_CREDITS = Decimal("0.04"), 5
"""What the default image model, dall-e-3, costs by the image of the default size and quality; each takes a call."""
ALL_BY_ONE, ALL_BY_ONE_USD = "runware:97@1", Decimal("0.013")
"""A model that makes all images by one call, for as many credits, and what it costs by the image."""


@dataclass(frozen=True)
class Case:
    """A request to the simulated provider, and how it must end."""

    faults: str = ""
    state: str = "settled"
    code: str | None = None
    calls: int = 1
    executed: int = 1
    images: int | None = None
    credits: int = OPENING
    params: dict[str, Any] = field(default_factory=lambda: {"max_output_tokens": 400})
    model: str | None = None

    @property
    def operation(self) -> str:
        return "image_generation" if "n" in self.params else "clustering"


UNKNOWN = {"state": "refunded", "code": "outcome_unknown"}
REFUSED: dict[str, Any] = {"state": "refunded", "executed": 0}
CASES = {
    "text": Case(),
    "image": Case(params={"n": 1}, images=1),
    "images": Case(params={"n": 3}, images=3, calls=3, executed=3),
    "images_by_one_call": Case(params={"n": 3}, images=3, model=ALL_BY_ONE),
    "content_policy": Case("content_policy", **REFUSED, code="content_policy"),
    "image_content_policy": Case("content_policy", **REFUSED, code="content_policy", params={"n": 2}),
    "bad_request": Case("bad_request", **REFUSED, code="bad_request"),
    "insufficient_quota": Case("insufficient_quota", **REFUSED, code="quota_exhausted"),
    "rate_limit": Case("rate_limit x2", calls=3),
    "overloaded": Case("overloaded x1", calls=2),
    "server_error": Case("server_error", **REFUSED, code="retries_exhausted", calls=ATTEMPTS),
    "fewer_images": Case("fewer_images", params={"n": 4}, images=3, model=ALL_BY_ONE),
    "cut": Case("tokens 5000", params={"max_output_tokens": 64}),
    "slow": Case("slow"),
    "hang_after_accept": Case("hang_after_accept", **UNKNOWN),
    "reset_mid_body": Case("reset_mid_body", **UNKNOWN),
    "malformed_body": Case("malformed_body", **UNKNOWN),
    "image_hang_after_accept": Case("hang_after_accept", **UNKNOWN, params={"n": 2}),
    "hang_before_accept": Case("hang_before_accept", **UNKNOWN, executed=0),
    "reset_before_accept": Case("reset_before_accept", **UNKNOWN, executed=0),
    "insufficient_credits": Case(
        state="rejected", code="insufficient_credits", calls=0, executed=0, credits=2, params={"max_output_tokens": 900}
    ),
}


@dataclass(frozen=True)
class Ended:
    """A case's job and account as they are at the end, with the evidence of its calls."""

    case: Case
    job: GenerationJob
    account: Account
    calls: list[ProviderCall]


@pytest.fixture(scope="module")
def endings(system: System) -> dict[str, Ended]:
    """Every case, submitted together, each on an account of its own, and waited for."""
    accounts = {name: an_account(case.credits) for name, case in CASES.items()}
    jobs = {name: _submit(accounts[name], name, case) for name, case in CASES.items()}
    finished = system.finished(list(jobs.values()))
    with transaction() as session:
        ours = session.query(ProviderCall).filter(ProviderCall.job_id.in_(list(jobs.values())))
        found = list(ours.order_by(ProviderCall.job_id, ProviderCall.attempt))
    return {
        name: Ended(
            case,
            finished[jobs[name]],
            the_account(accounts[name]),
            [call for call in found if call.job_id == jobs[name]],
        )
        for name, case in CASES.items()
    }


def _submit(account_id: int, name: str, case: Case) -> UUID:
    marker = f" [[simulate: {case.faults}]]" if case.faults else ""
    prompt = f"Bread and rolls, case {name}.{marker}"
    return pipeline.submit(account_id, case.operation, {"prompt": prompt, **case.params}, model=case.model).job_id


def _due(system: System, ended: Ended) -> tuple[int, Decimal]:
    """Credits and USD for what the provider says that it did, worked out anew from its own journal."""
    work, *more = [entry for entry in system.journal("executed") if str(ended.job.id) in (entry.idempotency_key or "")]
    if work.images is not None:
        images = sum(entry.images for entry in (work, *more))
        return images * IMAGE_CREDITS, images * (ALL_BY_ONE_USD if ended.case.model else IMAGE_USD)
    assert more == []
    assert work.usage is not None
    read, written = work.usage["input_tokens"], work.usage["output_tokens"]
    cached = work.usage["input_tokens_details"]["cached_tokens"]
    usd = (read - cached) * INPUT_USD + cached * CACHED_USD + written * OUTPUT_USD
    return max(1, ceil((read + written) / 100)), usd


def _worst(job: GenerationJob) -> Decimal:
    work = job.work
    tokens = work["input_tokens"] * INPUT_USD + work["max_output_tokens"] * OUTPUT_USD
    return tokens + min(work["images"], 1) * IMAGE_USD


def named(**wanted: Any) -> list[str]:
    """The names of the cases with these values."""
    return [name for name, case in CASES.items() if all(getattr(case, key) == value for key, value in wanted.items())]


@pytest.mark.parametrize("name", CASES)
def test_every_outcome_ends_as_the_table_says(endings, name):
    ended = endings[name]

    assert (ended.job.state, ended.job.error_code) == (ended.case.state, ended.case.code)
    assert ended.job.finished_at is not None


@pytest.mark.parametrize("name", CASES)
def test_the_provider_was_called_and_worked_as_often_as_the_books_say(endings, system, name):
    ended = endings[name]
    received = [entry for entry in system.journal("received") if str(ended.job.id) in (entry.idempotency_key or "")]

    assert len(ended.calls) == len(received) == ended.job.attempts == ended.case.calls
    assert system.executions()[ended.job.id] == ended.case.executed


@pytest.mark.parametrize("name", named(state="settled"))
def test_a_success_is_charged_what_the_provider_did(endings, system, name):
    ended = endings[name]
    credits, usd = _due(system, ended)

    assert ended.job.credits_charged == credits <= ended.job.credits_reserved
    assert ended.job.credits_overrun == 0
    assert ended.job.cost_usd == sum(call.cost_usd for call in ended.calls) == usd
    assert (ended.account.balance, ended.account.reserved) == (OPENING - credits, 0)
    assert rows("SELECT amount FROM credit_transactions WHERE job_id = :job", job=ended.job.id) == [(-credits,)]


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].state != "settled"])
def test_whatever_is_not_settled_costs_the_customer_nothing(endings, name):
    ended = endings[name]

    assert ended.job.credits_charged is None
    assert (ended.account.balance, ended.account.reserved) == (ended.case.credits, 0)
    assert rows("SELECT 1 FROM credit_transactions WHERE job_id = :job", job=ended.job.id) == []
    assert rows("SELECT 1 FROM credit_usage_logs WHERE job_id = :job", job=ended.job.id) == []


@pytest.mark.parametrize("name", named(state="refunded", code="outcome_unknown"))
def test_an_outcome_that_stays_unknown_is_our_exposure_at_the_estimates_cost(endings, name):
    ended = endings[name]

    assert [(call.outcome, call.exposure, call.cost_usd) for call in ended.calls] == [
        ("unknown", True, _worst(ended.job))
    ]
    assert ended.job.cost_usd == _worst(ended.job) > 0


@pytest.mark.parametrize("name", [name for name in named(state="refunded") if CASES[name].code != "outcome_unknown"])
def test_a_proven_refusal_costs_nobody_anything(endings, name):
    ended = endings[name]

    assert ended.job.cost_usd == 0
    assert {(call.outcome, call.exposure, call.cost_usd) for call in ended.calls} == {("failed", False, 0)}


def test_each_refused_attempt_is_evidence_before_the_one_that_delivered(endings):
    assert [(call.attempt, call.outcome, call.failure) for call in endings["rate_limit"].calls] == [
        (1, "failed", "rate_limited"),
        (2, "failed", "rate_limited"),
        (3, "succeeded", None),
    ]
    assert [call.cost_usd for call in endings["rate_limit"].calls][:2] == [0, 0]


def test_retries_end_with_the_budget_and_say_so(endings):
    job = endings["server_error"].job

    assert job.error_message == f"The provider had an internal error. It was tried {ATTEMPTS} times."


def test_images_are_charged_by_the_delivered_one(endings):
    job, (call,) = endings["fewer_images"].job, endings["fewer_images"].calls

    assert (job.credits_reserved, job.credits_charged) == (4 * IMAGE_CREDITS, 3 * IMAGE_CREDITS)
    assert call.usage["images"] == 3
    assert call.cost_usd == 3 * ALL_BY_ONE_USD


def test_an_answer_that_is_cut_is_charged_and_says_that_it_was_cut(endings):
    ended = endings["cut"]

    assert ended.calls[0].usage["output_tokens"] + ended.calls[0].usage["reasoning_tokens"] <= 64
    assert rows("SELECT finish_reason FROM generation_results WHERE job_id = :job", job=ended.job.id) == [
        ("max_output_tokens",)
    ]


def test_a_rejection_says_how_many_credits_are_missing(endings):
    job, account = endings["insufficient_credits"].job, endings["insufficient_credits"].account
    needed = job.credits_estimated

    assert job.credits_reserved == 0
    assert job.error_message == (
        f"Account {account.id} needs {needed} credits and has 2 available: {needed - 2} short."
    )


def test_a_result_is_kept_for_each_success_and_for_nothing_else(endings):
    ours = [ended.job.id for ended in endings.values()]
    found = rows("SELECT job_id FROM generation_results WHERE job_id = ANY(:jobs)", jobs=ours)
    with_result = {job_id for (job_id,) in found}

    assert with_result == {ended.job.id for ended in endings.values() if ended.case.state == "settled"}


def test_the_books_balance(endings, system):
    assert system.findings() == []
    ours = [ended.job.id for ended in endings.values()]
    assert rows("SELECT count(*) FROM dead_messages WHERE job_id = ANY(:jobs)", jobs=ours) == [(0,)]
