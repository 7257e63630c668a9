"""Unknown outcomes that the provider can tell: asked once at a time, acted on once, and given up in the end."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import text

from billing.catalog import current
from billing.jobs import call_queries, calling, policy, recovery, settling, unknown_calls
from billing.jobs.calling import Attempt, Refusal
from billing.jobs.policy import Failure, Means, RetryBudget
from billing.jobs.recovery import Patience, Recovered
from billing.reports import audit
from config.database import transaction
from config.integrations import set_connection
from config.settings import Settings
from tasks import unknown_calls as asking
from tasks.providers.base import ProviderError
from tasks.runtime import Runtime
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_reserved_job,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)

pytestmark = pytest.mark.usefixtures("db")
SECOND = timedelta(seconds=1)
PATIENCE = Patience(republish_after=MINUTE, unknown_wait=10 * MINUTE)
LATER = NOON + MINUTE


class Oracle:
    """A provider that knows, or does not know, what became of a call."""

    def __init__(self, means=Means.LOOK_UP, told=None):
        self._means, self.told, self.asked = means, told, []

    def call(self, claim, connection, *, timeout_s):
        raise AssertionError("an unknown call is never simply made again")

    def means(self, connection):
        return self._means

    def ask(self, claim, connection, *, timeout_s):
        self.asked.append((claim.job_id, claim.attempt, claim.idempotency_key))
        if isinstance(self.told, Refusal):
            raise ProviderError(self.told)
        return self.told


@pytest.fixture
def account_id(db):
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-test", base_url=None)
    return an_account(1000)


@pytest.fixture
def job_id(account_id):
    """A job whose call timed out."""
    claim = a_claim(a_reserved_job(account_id))
    with transaction() as session:
        budget = RetryBudget(attempts=4, wait_max=MINUTE)
        calling.fail(session, claim, Refusal(Failure.TIMED_OUT), now=NOON, budget=budget, look_after=MINUTE)
    return claim.job_id


@pytest.fixture(autouse=True)
def _the_books_balance(db):
    yield
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=NOON) == []


def runtime(provider):
    settings = Settings(DATABASE_URL="postgresql://host/database", BROKER_URL="redis://host", secret_key="x")
    return Runtime(settings=settings, providers={"openai": provider} if provider else {})


def give_up():
    for late in (NOON + HOUR, NOON + 2 * HOUR):
        recover(late)


def recover(now):
    done = Recovered()
    with transaction() as session:
        recovery.recover(session, recovery.State.UNKNOWN, done, now=now, patience=PATIENCE)
    return done


def learn(job_id, told, *, attempt=1, now=LATER):
    with transaction() as session:
        return unknown_calls.resolve_by_answer(
            session, Attempt(job_id, attempt), told, Means.LOOK_UP, now=now, publish_by=MINUTE
        )


def test_recovery_has_an_unknown_outcome_asked_for_with_growing_waits_until_it_is_given_up(job_id):
    asked = [minute for minute in range(15) if recover(NOON + minute * MINUTE).asked]

    assert asked == [1, 3, 7]
    assert the_job(job_id).error_code == "outcome_unknown"
    assert the_job(job_id).finished_at == NOON + 10 * MINUTE


def test_what_the_provider_delivered_is_charged(account_id, job_id):
    oracle = Oracle(told=a_delivery())

    assert asking.ask_about_job(job_id, runtime(oracle)) == "generated"

    with transaction() as session:
        settling.settle(session, [job_id], now=LATER)
    assert oracle.asked == [(job_id, 1, f"creditmill-{job_id}")]
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (995, 0)
    assert rows("SELECT outcome, actor FROM resolutions") == [("delivered", "recovery")]


def test_what_the_provider_refused_is_refunded_and_costs_nothing(account_id, job_id):
    oracle = Oracle(told=Refusal(Failure.CONTENT_POLICY))

    assert asking.ask_about_job(job_id, runtime(oracle)) == "ended"

    job = the_job(job_id)
    assert (job.state, job.error_code, job.cost_usd) == ("refunded", "content_policy", 0)
    assert the_account(account_id).reserved == 0
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("failed", False)]


def test_without_an_answer_the_job_stays_unknown_and_holds_its_credits(account_id, job_id):
    oracle = Oracle(told=None)

    assert asking.ask_about_job(job_id, runtime(oracle)) == "unknown"

    assert the_job(job_id).state == "unknown"
    assert the_account(account_id).reserved > 0
    assert rows("SELECT outcome, asked FROM provider_calls") == [("unknown", 1)]


def test_a_call_is_asked_about_by_one_worker_at_a_time(job_id):
    oracle = Oracle(told=None)

    for _ in range(3):
        asking.ask_about_job(job_id, runtime(oracle))

    assert len(oracle.asked) == 1


def test_it_is_asked_again_when_the_first_asker_must_be_gone(job_id):
    with transaction() as session:
        assert unknown_calls.ask(session, job_id, now=NOON, patience=MINUTE)
    with transaction() as session:
        assert unknown_calls.ask(session, job_id, now=NOON + MINUTE - SECOND, patience=MINUTE) is None
    with transaction() as session:
        assert unknown_calls.ask(session, job_id, now=NOON + MINUTE, patience=MINUTE)


@pytest.mark.parametrize("means", [Means.WAIT, Means.RESEND], ids=["cannot tell", "was another server"])
def test_a_provider_that_cannot_tell_is_not_asked_and_recovery_waits(job_id, means):
    # The connection was set after the call had been made.
    oracle = Oracle(means=means, told=a_delivery())
    recover(LATER)

    assert asking.ask_about_job(job_id, runtime(oracle)) == "unknown"

    assert oracle.asked == []

    lost_at = rows("SELECT finished_at FROM provider_calls")[0][0]
    assert the_job(job_id).next_at == lost_at + timedelta(seconds=900)


def test_a_request_is_sent_again_to_the_very_server_that_it_was_sent_to(job_id):
    with transaction() as session:
        session.execute(text("UPDATE global_integration_settings SET updated_at = :noon"), {"noon": NOON - HOUR})

    assert asking.ask_about_job(job_id, runtime(Oracle(means=Means.RESEND, told=a_delivery()))) == "generated"


def test_a_provider_whose_key_or_adapter_is_missing_is_asked_later(job_id):
    recover(LATER)
    due = the_job(job_id).next_at

    assert asking.ask_about_job(job_id, runtime(None)) == "unknown"

    assert the_job(job_id).next_at == due


def test_however_late_recovery_is_it_asks_before_it_gives_up(job_id):
    assert recover(NOON + HOUR).asked == [job_id]
    assert recover(NOON + HOUR + MINUTE).resolved == [job_id]


def test_a_late_failure_does_not_change_what_was_resolved(account_id, job_id):
    resolution = unknown_calls.Resolution(policy.Outcome.EXECUTED, "It is on the invoice", "anna")
    with transaction() as session:
        unknown_calls.resolve(session, job_id, resolution, now=LATER, publish_by=MINUTE)
        claim = calling.claim_of(the_job(job_id), call_queries.latest(session, job_id, 1), current.read(session))
    before = rows("SELECT outcome, exposure, cost_usd FROM provider_calls")

    with transaction() as session:
        budget = RetryBudget(attempts=4, wait_max=MINUTE)
        refusal = Refusal(Failure.SERVER_ERROR)
        assert calling.fail(session, claim, refusal, now=LATER, budget=budget, look_after=MINUTE) is None

    assert rows("SELECT outcome, exposure, cost_usd FROM provider_calls") == before


def test_a_worker_that_comes_back_with_a_proven_failure_ends_the_wait(account_id):
    claim = a_claim(a_reserved_job(account_id))
    with transaction() as session:
        calling.mark_unknown(session, [the_job(claim.job_id)], Failure.WORKER_LOST, now=NOON, look_after=MINUTE)
    with transaction() as session:
        budget = RetryBudget(attempts=4, wait_max=MINUTE)
        calling.fail(session, claim, Refusal(Failure.OVERLOADED), now=NOON, budget=budget, look_after=MINUTE)

    recover(LATER)

    job = the_job(claim.job_id)
    assert (job.state, job.error_code, job.cost_usd) == ("refunded", "overloaded", 0)


def test_a_job_that_is_not_unknown_is_not_asked_about(account_id):
    oracle = Oracle(told=a_delivery())
    claimed = a_claim(a_reserved_job(account_id)).job_id

    assert asking.ask_about_job(claimed, runtime(oracle)) == "unknown"
    assert asking.ask_about_job(uuid4(), runtime(oracle)) == "unknown"
    assert oracle.asked == []


def test_the_same_answer_twice_changes_nothing(account_id, job_id):
    learn(job_id, a_delivery())
    learn(job_id, a_delivery())
    with transaction() as session:
        settling.settle(session, [job_id], now=LATER)
    learn(job_id, a_delivery())

    assert the_account(account_id).balance == 995
    assert rows("SELECT count(*) FROM resolutions") == [(1,)]


def test_an_answer_after_the_refund_only_corrects_the_cost(account_id, job_id):
    give_up()
    guessed = the_job(job_id).cost_usd

    job = learn(job_id, a_delivery())

    assert (job.state, the_account(account_id).balance) == ("refunded", 1000)
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("succeeded", True)]
    assert Decimal(0) < job.cost_usd < guessed


def test_a_refusal_after_the_refund_takes_the_exposure_away(account_id, job_id):
    give_up()

    job = learn(job_id, Refusal(Failure.BAD_REQUEST))

    assert (job.state, job.error_code, job.cost_usd) == ("refunded", "outcome_unknown", 0)
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("failed", False)]


def test_the_worker_that_was_thought_lost_and_the_answer_agree(account_id, job_id):
    """The call came back late to its own worker, between the question and the answer."""
    with transaction() as session:
        assert calling.succeed(session, Attempt(job_id, 1), a_delivery(), now=LATER, publish_by=MINUTE)

    job = learn(job_id, a_delivery())

    assert job.state == "generated"
    assert rows("SELECT count(*) FROM resolutions") == [(0,)]
    assert job.cost_usd == rows("SELECT sum(cost_usd) FROM provider_calls")[0][0]


def test_a_worker_knows_its_own_claim_again(account_id):
    job_id, mine = a_reserved_job(account_id), uuid4()
    with transaction() as session:
        first = calling.claim(session, job_id, at=moment(session), lease=MINUTE, claimed_by=mine)

    with transaction() as session:
        again = calling.claim(session, job_id, at=moment(session, NOON + SECOND), lease=MINUTE, claimed_by=mine)

    assert again == first
    assert rows("SELECT count(*) FROM provider_calls") == [(1,)]


@pytest.mark.parametrize("whose", ["another's", "nobody's"])
def test_nobody_else_has_the_claim(account_id, whose):
    job_id = a_reserved_job(account_id)
    with transaction() as session:
        calling.claim(session, job_id, at=moment(session), lease=MINUTE, claimed_by=uuid4())

    with transaction() as session:
        other = uuid4() if whose == "another's" else None
        assert calling.claim(session, job_id, at=moment(session), lease=MINUTE, claimed_by=other) is None


def test_an_own_claim_ends_with_its_lease_and_with_its_call(account_id):
    mine = uuid4()
    expired, recorded = a_reserved_job(account_id), a_reserved_job(account_id)
    for job_id in (expired, recorded):
        with transaction() as session:
            claim = calling.claim(session, job_id, at=moment(session), lease=MINUTE, claimed_by=mine)
    with transaction() as session:
        budget = RetryBudget(attempts=4, wait_max=MINUTE)
        calling.fail(session, claim, Refusal(Failure.BAD_REQUEST), now=NOON, budget=budget, look_after=MINUTE)

    with transaction() as session:
        assert calling.claim(session, expired, at=moment(session, NOON + MINUTE), lease=MINUTE, claimed_by=mine) is None
        assert calling.claim(session, recorded, at=moment(session), lease=MINUTE, claimed_by=mine) is None


def test_a_claim_whose_commit_was_not_confirmed_is_called_once(account_id, monkeypatch):
    """The commit arrives and its answer does not: the worker finds its own claim, and calls."""
    from sqlalchemy.exc import OperationalError

    import tasks.runtime
    from tasks import calls, writing

    class Provider(Oracle):
        def call(self, claim, connection, *, timeout_s):
            self.asked.append(claim.attempt)
            return a_delivery()

    provider, lost, real = Provider(), [], writing.transaction

    class Losing:
        def __init__(self):
            self.inner = real()

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *problem):
            self.inner.__exit__(*problem)
            if not lost:
                lost.append(True)
                raise OperationalError("COMMIT", {}, Exception("the connection was cut"))

    monkeypatch.setattr(writing, "transaction", Losing)
    job_id = a_reserved_job(account_id, now=rows("SELECT now()")[0][0])

    monkeypatch.setattr(tasks.runtime, "_runtime", runtime(provider))

    assert calls.call_job(job_id) == "generated"

    assert (lost, provider.asked) == ([True], [1])
    assert the_job(job_id).attempts == 1
