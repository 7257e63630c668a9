"""The table "Who pays" of docs/explanation/money.md, walked row by row through real workers and the provider's wire.

What is due is worked out anew from the provider's own journal and the table's words. Other outcomes are in
test_pipeline, what kill -9 leaves in test_kill.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import psutil
import pytest
import toktok

from billing.jobs.tables import GenerationJob, ProviderCall
from billing.ledger.tables import Account
from config.database import transaction
from tasks import pipeline
from tests.acceptance.commands import BIN, PROJECT
from tests.acceptance.envelopes import QUEUES, unacknowledged, waiting
from tests.factories import an_account, rows, the_account, the_job
from tests.system import ATTEMPTS, System, wait_until

pytestmark = pytest.mark.fleet

OPENING = 1000
MILLION = 1_000_000
INPUT_USD, CACHED_USD, OUTPUT_USD = Decimal("1.25") / MILLION, Decimal("0.125") / MILLION, Decimal("10") / MILLION
"""What the default text model costs by the token; a reasoning token is an output token."""
TOKENS_PER_CREDIT = 100
IMAGE_USD, IMAGE_CREDITS = Decimal("0.04"), 5
"""What the default image model costs by the image of 1024x1024 in standard quality; each takes a call of its own."""
ALL_BY_ONE, ALL_BY_ONE_USD = "runware:97@1", Decimal("0.013")
"""A model that makes all images by one call, for as many credits, and what it costs by the image."""
TEXT_MODEL, IMAGE_MODEL = "gpt-5.1", "dall-e-3"
FRAMING = 16 + 8
"""Input tokens that an estimate adds to those of a prompt: for the request and for its one message."""


class Row(NamedTuple):
    """A row of the table: what happened, and what the customer and the platform pay for it, in the table's words."""

    outcome: str
    customer: str
    cost: str


class Cost(NamedTuple):
    """What the platform's cost is worked out from, and whether it is its exposure."""

    basis: str
    exposure: bool = False


PAYS_THE_ACTUAL: Mapping[str, bool] = {
    "nothing": False,
    "actual": True,
    "actual, capped by the reservation": True,
    "the success only": True,
    "the delivered ones": True,
    "the text, by count": True,
}
"""What the table says of the customer: whether the work that the provider did is charged, or nothing."""
COSTS: Mapping[str, Cost] = {
    "nothing": Cost("nothing"),
    "recorded": Cost("work"),
    "every attempt": Cost("work"),
    "the delivered ones": Cost("work"),
    "the text, by count": Cost("work"),
    "what the provider reports, else 0": Cost("work"),
    "the delivered ones, and the estimate of the next, flagged `exposure`": Cost("calls"),
    "recorded, flagged `exposure`": Cost("work", exposure=True),
    "the estimate, flagged `exposure`": Cost("estimate", exposure=True),
}
"""What the table says of the platform's cost."""

DELIVERED = ("succeeded", None)
LONG = "Bread, rolls and the price of flour. " * 200
"""Long enough for the provider to remember it: who sends it again finds most of it cached."""
IN_FLIGHT = "latency 2"
"""Long enough for a worker to be suspended between the provider's receipt and its answer."""


@dataclass(frozen=True)
class Case:
    """A request that brings a row about: what it asks of the simulator, and the job, calls and work that it leaves."""

    faults: str = ""
    state: str = "settled"
    code: str | None = None
    calls: tuple[tuple[str, str | None], ...] = (DELIVERED,)
    executed: int = 1
    images: int = 0
    max_output_tokens: int = 400
    prompt: str = "Bread and rolls."
    scene: str = "at once"
    by_count: bool = False
    model: str | None = None
    # Faults of its calls, in their order, and how many calls have each.
    script: tuple[tuple[str, int], ...] = ()

    @property
    def operation(self) -> str:
        return "image_generation" if self.images else "clustering"

    @property
    def in_parts(self) -> bool:
        return self.images > 1 and self.model is None

    @property
    def text(self) -> str:
        return f"{self.prompt} [[simulate: {self.faults}]]" if self.faults else self.prompt

    @property
    def params(self) -> dict[str, Any]:
        most = {"n": self.images} if self.images else {"max_output_tokens": self.max_output_tokens}
        return {"prompt": self.text, **most}


def refused(failure: str, times: int = 1) -> tuple[tuple[str, str | None], ...]:
    return (("failed", failure),) * times


def lost(failure: str) -> tuple[tuple[str, str | None], ...]:
    return (("unknown", failure),)


REFUNDED: Mapping[str, Any] = {"state": "refunded", "executed": 0}
CONTENT_POLICY: Mapping[str, Any] = {"state": "refunded", "code": "content_policy"}
GIVEN_UP: Mapping[str, Any] = {"state": "refunded", "code": "outcome_unknown"}
WALK: Mapping[str, Mapping[str, Case]] = {
    "success": {
        "a text": Case(),
        "images": Case(images=2, calls=(DELIVERED, DELIVERED), executed=2),
        "images by one call": Case(images=2, model=ALL_BY_ONE),
        "a long text": Case(prompt=LONG),
        "a long text again": Case(prompt=LONG),
    },
    "refused by the provider (content policy, bad request)": {
        "content policy": Case("content_policy", **REFUNDED, code="content_policy", calls=refused("content_policy")),
        "bad request": Case("bad_request", **REFUNDED, code="bad_request", calls=refused("bad_request")),
        "images": Case("content_policy", **REFUNDED, code="content_policy", calls=refused("content_policy"), images=2),
    },
    "refused by the model in its answer": {
        "a text": Case("model_refusal", **CONTENT_POLICY, calls=refused("content_policy")),
    },
    "an error inside an answer, again and again": {
        "a text": Case(
            "error_in_answer", **REFUNDED, code="retries_exhausted", calls=refused("server_error", ATTEMPTS)
        ),
    },
    "rate limited or overloaded, then success": {
        "rate limited": Case("rate_limit x2", calls=(*refused("rate_limited", 2), DELIVERED)),
        "overloaded": Case("overloaded x1", calls=(*refused("overloaded"), DELIVERED)),
        "until a date": Case("overloaded_until x1", calls=(*refused("overloaded"), DELIVERED)),
        "for a window": Case("rate_limit_window x1", calls=(*refused("rate_limited"), DELIVERED), images=1),
        "too early": Case("too_early x1", calls=(*refused("overloaded"), DELIVERED)),
    },
    "retries exhausted": {
        "overloaded": Case(
            "overloaded", **REFUNDED, code="retries_exhausted", calls=refused("overloaded", ATTEMPTS), images=1
        ),
        "server error": Case(
            "server_error", **REFUNDED, code="retries_exhausted", calls=refused("server_error", ATTEMPTS)
        ),
    },
    "some images (3 of 4)": {"three of four": Case("fewer_images", images=4, model=ALL_BY_ONE)},
    "some images, each by a call of its own; the next is refused": {
        "two of three": Case(
            code="content_policy",
            calls=(DELIVERED, DELIVERED, *refused("content_policy")),
            executed=2,
            images=3,
            prompt="Bread, rolls and a third that is refused.",
            script=(("slow", 2), ("content_policy", 1)),
        ),
    },
    "some images, each by a call of its own; the next not resolvable": {
        "one of three": Case(
            code="outcome_unknown",
            calls=(DELIVERED, *lost("connection_lost")),
            images=3,
            prompt="Bread, and a second that is lost.",
            script=(("slow", 1), ("reset_before_accept", 1)),
        ),
    },
    "output cut at its limit": {"a text": Case("tokens 5000", max_output_tokens=64)},
    "thought, and wrote nothing": {"a text": Case("tokens 5000", max_output_tokens=16)},
    "delivered without its usage": {"a text": Case("missing_usage", by_count=True)},
    "unknown, later found done": {
        "the worker stood still": Case(IN_FLIGHT, images=1, scene="found"),
    },
    "unknown, not resolvable": {
        "no answer": Case("hang_after_accept", **GIVEN_UP, calls=lost("timed_out")),
        "half an answer": Case("reset_mid_body", **GIVEN_UP, calls=lost("connection_lost"), images=1),
        "never begun": Case("reset_before_accept", **GIVEN_UP, calls=lost("connection_lost"), executed=0),
    },
    "a gateway answered instead of the provider, not resolvable": {
        "502": Case("bad_gateway", **GIVEN_UP, calls=lost("gateway_error")),
        "504": Case("gateway_timeout", **GIVEN_UP, calls=lost("timed_out"), images=1),
    },
    "an answer that does not end in its time, not resolvable": {
        "a byte now and then": Case("drip", **GIVEN_UP, calls=lost("timed_out")),
    },
    "cancelled before the call": {
        "queued": Case(state="cancelled", calls=(), executed=0, scene="queued"),
        "reserved": Case(state="refunded", code="cancelled", calls=(), executed=0, scene="reserved"),
    },
    "success arriving after the refund": {
        "the worker stood still": Case(IN_FLIGHT, **GIVEN_UP, calls=(DELIVERED,), scene="late"),
    },
}
"""For each row of the table, by its first cell, the cases that bring it about."""
CASES = {(outcome, name): case for outcome, cases in WALK.items() for name, case in cases.items()}
Name = tuple[str, str]


def of_scene(scene: str) -> dict[Name, Case]:
    return {name: case for name, case in CASES.items() if case.scene == scene}


every_case = pytest.mark.parametrize("name", CASES, ids=": ".join)


@dataclass(frozen=True)
class Books:
    """What stands written of a job: itself, its account, its calls."""

    job: GenerationJob
    account: Account
    calls: list[ProviderCall]


@dataclass(frozen=True)
class Work:
    """What the provider says that it did for a job, and what that comes to in credits and in USD."""

    times: int
    credits: int
    usd: Decimal


@dataclass(frozen=True)
class Walked:
    """The books of every case at the end, and of some while their outcome was not known."""

    system: System
    ends: Mapping[Name, Books]
    meanwhile: Mapping[Name, Books]

    def work(self, name: Name) -> Work:
        executed = [entry for entry in self.system.journal("executed") if _is_for(entry, self.ends[name].job.id)]
        bills = [_count(CASES[name], self.ends[name]) if CASES[name].by_count else _bill(entry) for entry in executed]
        return Work(len(bills), sum(credits for credits, _ in bills), sum((usd for _, usd in bills), Decimal(0)))


def _is_for(entry: Any, job_id: UUID) -> bool:
    return str(job_id) in (entry.idempotency_key or "")


def _bill(entry: Any) -> tuple[int, Decimal]:
    """Credits and USD for one piece of work, by the prices that stand at the head of this module."""
    if entry.images is not None:
        return entry.images * IMAGE_CREDITS, entry.images * {IMAGE_MODEL: IMAGE_USD, ALL_BY_ONE: ALL_BY_ONE_USD}[
            entry.model
        ]
    assert entry.model == TEXT_MODEL
    read, written = entry.usage["input_tokens"], entry.usage["output_tokens"]
    cached = entry.usage["input_tokens_details"]["cached_tokens"]
    usd = (read - cached) * INPUT_USD + cached * CACHED_USD + written * OUTPUT_USD
    return _credits(read + written), usd


def _count(case: Case, end: Books) -> tuple[int, Decimal]:
    """Credits and USD for a text whose provider says nothing of its usage: what its texts count."""
    ((written,),) = rows("SELECT content ->> 'text' FROM generation_results WHERE job_id = :job", job=end.job.id)
    tokens = [toktok.batch_count([text], "o200k_base", threads=1)[0] for text in (case.text, written)]
    return _credits(sum(tokens)), tokens[0] * INPUT_USD + tokens[1] * OUTPUT_USD


def _credits(tokens: int) -> int:
    return max(1, -(-tokens // TOKENS_PER_CREDIT))


def _estimate(case: Case) -> tuple[int, Decimal]:
    """The most credits and USD that a request can come to, from nothing but what it says."""
    if case.images:
        return case.images * IMAGE_CREDITS, case.images * (ALL_BY_ONE_USD if case.model else IMAGE_USD)
    read = toktok.batch_count([case.text], "o200k_base", threads=1)[0] + FRAMING
    written = case.max_output_tokens
    return _credits(read + written), read * INPUT_USD + written * OUTPUT_USD


def table() -> dict[str, Row]:
    """The rows of "Who pays", as the documentation has them, by their first cell."""
    section = (PROJECT / "docs/explanation/money.md").read_text().split("## Who pays\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, _, *found = [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]
    assert head == ("outcome", "customer", "platform's cost")
    assert len({row.outcome for row in found}) == len(found)
    return {row.outcome: row for row in found}


@pytest.fixture(scope="module")
def walked(system: System) -> Walked:
    """Every case, each on an account of its own: most of them at once, the others while workers stand still."""
    accounts = {name: an_account(OPENING) for name in CASES}
    script_faults(system, CASES.values())
    jobs = {name: submit(accounts[name], case) for name, case in of_scene("at once").items()}
    wait_until(lambda: not (states(jobs.values()) & {"queued", "reserved", "calling", "generated"}), what="every call")

    in_flight = of_scene("found") | of_scene("late")
    jobs |= {name: submit(accounts[name], case) for name, case in in_flight.items()}
    found, late = ([jobs[name] for name in of_scene(scene)] for scene in ("found", "late"))
    with ExitStack() as until_found:
        wait_for_events(system, "received", found + late)
        with suspended(system, "generation"):
            wait_for_events(system, "answered", found + late)
            assert states(found + late) == {"calling"}
            for name, case in (of_scene("queued") | of_scene("reserved")).items():
                jobs[name] = cancelled(system, accounts[name], case)
            wait_until(lambda: states(late) == {"refunded"}, what="the refund")
            wait_until(lambda: states(found) == {"unknown"}, what="the unknown outcome")
            # Without beat nobody gives it up before its answer is read, however slow this machine is.
            until_found.enter_context(suspended(system, "beat"))
            meanwhile = {name: read_books(jobs[name], accounts[name]) for name in in_flight}
        wait_until(lambda: outcomes(found + late) == {"succeeded"}, what="both answers")

    send_again(system, [jobs[name] for name in of_scene("queued") | of_scene("reserved")])
    system.finished(list(jobs.values()))
    ends = {name: read_books(jobs[name], accounts[name]) for name in CASES}
    return Walked(system, ends, meanwhile)


def submit(account_id: int, case: Case) -> UUID:
    return pipeline.submit(account_id, case.operation, case.params, model=case.model).job_id


def script_faults(system: System, cases: Iterable[Case]) -> None:
    """Tell the simulator which calls of these cases meet which fault."""
    faults = [{"fault": fault, "times": times, "match": case.prompt} for case in cases for fault, times in case.script]
    body = json.dumps({"faults": faults}).encode()
    with urllib.request.urlopen(
        f"{system.provider_url.removesuffix('/v1')}/simulator/faults", body, timeout=10
    ) as told:
        assert told.status == 200


def states(job_ids: Iterable[UUID]) -> set[str]:
    found = rows("SELECT state FROM generation_jobs WHERE id = ANY(:jobs)", jobs=list(job_ids))
    return {state for (state,) in found}


def outcomes(job_ids: Iterable[UUID]) -> set[str]:
    found = rows("SELECT outcome FROM provider_calls WHERE job_id = ANY(:jobs)", jobs=list(job_ids))
    return {outcome for (outcome,) in found}


def wait_for_events(system: System, event: str, job_ids: Sequence[UUID]) -> None:
    """Wait until the provider's journal has this event for each of these jobs."""

    def look() -> bool:
        entries = system.journal(event)
        return all(any(_is_for(entry, job_id) for entry in entries) for job_id in job_ids)

    wait_until(look, what=f"{event} in the provider's journal, for {len(job_ids)} jobs")


@contextmanager
def suspended(system: System, name: str) -> Iterator[None]:
    """A program that stands still, with every process of its own, while the block lasts."""
    program = psutil.Process(system.supervisor.pids()[name])
    # The parent first: a child that stops is no news to a parent which stands still.
    processes = [program]
    program.suspend()
    try:
        processes += program.children(recursive=True)
        for child in processes[1:]:
            child.suspend()
        yield
    finally:
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def cancelled(system: System, account_id: int, case: Case) -> UUID:
    """A job that is cancelled in its scene's state. The generation worker stands still, so that nobody calls for it."""
    with ExitStack() as standing:
        if case.scene == "queued":
            standing.enter_context(suspended(system, "billing"))
        job_id = submit(account_id, case)
        wait_until(lambda: states([job_id]) == {case.scene}, what=f"a {case.scene} job")
        # As an operator does it; the environment is the running system's.
        subprocess.run([str(BIN / "creditmill"), "jobs", "cancel", str(job_id)], check=True, timeout=60)
    return job_id


def send_again(system: System, job_ids: Sequence[UUID]) -> None:
    """Send every message of these jobs to workers that run, and wait until each was worked on."""
    kinds = [(row.id, row.kind) for row in map(the_job, job_ids)]
    pipeline.start(job_ids)
    pipeline.call(kinds)
    # Queues keep their order: when a later job is through, and nothing is in anybody's hands, these were looked at.
    system.finished([submit(an_account(), Case())])
    broker_url = system.environment["BROKER_URL"]
    wait_until(
        lambda: not unacknowledged(broker_url) and not any(waiting(broker_url, queue) for queue in QUEUES),
        what="empty queues",
    )


def read_books(job_id: UUID, account_id: int) -> Books:
    with transaction() as session:
        calls = list(session.query(ProviderCall).filter_by(job_id=job_id).order_by(ProviderCall.attempt))
    return Books(the_job(job_id), the_account(account_id), calls)


def deductions(end: Books) -> list[tuple[Any, ...]]:
    return rows("SELECT amount FROM credit_transactions WHERE job_id = :job", job=end.job.id)


def usage_logs(end: Books) -> list[tuple[Any, ...]]:
    return rows("SELECT credits_used, cost_usd FROM credit_usage_logs WHERE job_id = :job", job=end.job.id)


def test_the_table_and_the_walk_have_the_same_rows():
    assert set(table()) == set(WALK)


def test_the_walk_understands_what_the_table_says_and_no_more():
    assert {row.customer for row in table().values()} == set(PAYS_THE_ACTUAL)
    assert {row.cost for row in table().values()} == set(COSTS)


@every_case
def test_each_row_ends_in_its_state(walked, name):
    case, job = CASES[name], walked.ends[name].job

    assert (job.state, job.error_code) == (case.state, case.code)
    assert job.finished_at is not None


@every_case
def test_the_provider_was_called_and_worked_as_often_as_the_row_says(walked, system, name):
    case, end = CASES[name], walked.ends[name]
    received = [entry for entry in system.journal("received") if _is_for(entry, end.job.id)]

    assert [(call.outcome, call.failure) for call in end.calls] == list(case.calls)
    assert len(received) == end.job.attempts == len(case.calls)
    assert walked.work(name).times == system.executions()[end.job.id] == case.executed


@every_case
def test_the_customer_pays_what_the_row_says(walked, name):
    end, work = walked.ends[name], walked.work(name)
    pays = PAYS_THE_ACTUAL[table()[name[0]].customer]
    charged = [min(work.credits, end.job.credits_reserved)] if pays else []

    assert end.job.credits_charged == (charged[0] if pays else None)
    assert (end.account.balance, end.account.reserved) == (OPENING - sum(charged), 0)
    assert deductions(end) == [(-credits,) for credits in charged]
    assert usage_logs(end) == [(credits, end.job.cost_usd) for credits in charged]


@every_case
def test_the_platform_pays_what_the_row_says(walked, name):
    end, rule = walked.ends[name], COSTS[table()[name[0]].cost]
    by_call = [
        (IMAGE_USD if outcome != "failed" else Decimal(0), outcome == "unknown") for outcome, _ in CASES[name].calls
    ]
    if CASES[name].in_parts and any(usd for usd, _ in by_call):
        assert [(call.cost_usd, call.exposure) for call in end.calls] == by_call
        assert end.job.cost_usd == sum(usd for usd, _ in by_call)
        assert rule.basis == "calls" or end.job.cost_usd == walked.work(name).usd
        return
    due = {"nothing": Decimal(0), "work": walked.work(name).usd, "estimate": _estimate(CASES[name])[1]}[rule.basis]
    # What was refused before cost nothing: the last call alone has done work, or may have.
    calls = [*[(Decimal(0), False)] * (len(end.calls) - 1), (due, rule.exposure)] if end.calls else []

    assert end.job.cost_usd == due
    assert [(call.cost_usd, call.exposure) for call in end.calls] == calls


@every_case
def test_whoever_pays_has_a_result_and_nobody_else(walked, name):
    pays = PAYS_THE_ACTUAL[table()[name[0]].customer]

    assert len(rows("SELECT 1 FROM generation_results WHERE job_id = :job", job=walked.ends[name].job.id)) == pays


@every_case
def test_what_was_held_is_the_estimate(walked, name):
    held = 0 if CASES[name].state == "cancelled" else _estimate(CASES[name])[0]

    assert walked.ends[name].job.credits_reserved == held


@pytest.mark.parametrize("name", of_scene("found"), ids=": ".join)
def test_an_unknown_outcome_keeps_its_hold_until_it_is_found(walked, name):
    before = walked.meanwhile[name]

    assert (before.job.state, before.job.error_code) == ("unknown", "outcome_unknown")
    assert (before.account.balance, before.account.reserved) == (OPENING, _estimate(CASES[name])[0])
    assert [(call.outcome, call.exposure, call.cost_usd) for call in before.calls] == [("unknown", False, 0)]


@pytest.mark.parametrize("name", of_scene("late"), ids=": ".join)
def test_a_late_success_puts_the_fact_in_the_place_of_the_guess(walked, name):
    before, guess = walked.meanwhile[name], _estimate(CASES[name])[1]

    assert (before.job.state, before.account.reserved) == ("refunded", 0)
    assert [(call.outcome, call.exposure, call.cost_usd) for call in before.calls] == [("unknown", True, guess)]
    assert before.job.cost_usd == guess > walked.ends[name].job.cost_usd > 0


def test_some_images_are_three_of_four(walked):
    assert walked.work(("some images (3 of 4)", "three of four")).credits == 3 * IMAGE_CREDITS


def test_a_cut_answer_says_so_and_stays_below_its_limit(walked):
    end = walked.ends["output cut at its limit", "a text"]

    assert rows("SELECT finish_reason FROM generation_results WHERE job_id = :job", job=end.job.id) == [
        ("max_output_tokens",)
    ]
    assert end.calls[0].raw_usage["output_tokens"] <= 64


def test_input_that_the_provider_had_cached_is_part_of_the_walk(walked):
    usages = [walked.ends["success", name].calls[0].usage for name in ("a long text", "a long text again")]

    assert sorted(usage["cached_input_tokens"] > 0 for usage in usages) == [False, True]


def test_the_books_balance_at_the_end_of_the_walk(walked, system):
    assert system.findings() == []
