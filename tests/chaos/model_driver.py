"""How one step is made: the service in a transaction of its own, then the model, then both are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid5

from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy.orm import Session

from billing.errors import BillingError
from billing.jobs import calling, recovery, requests, reserving, settling, submitting, taking, unknown_calls
from billing.jobs.calling import Claim
from billing.jobs.policy import RetryBudget
from billing.jobs.recovery import Patience, Recovered
from billing.jobs.states import State
from billing.jobs.taking import Taken
from billing.ledger import by_hand
from billing.plans import renewals
from billing.plans.renewals import Worked
from billing.reports import audit
from config.database import transaction
from tests.chaos import model_books, model_takes, model_world
from tests.chaos.model import ASK_AGAIN, ATTEMPTS, DEADLINE, LEASE, PUBLISH_BY, UNKNOWN_WAIT, Model, Refused
from tests.chaos.model_records import EPOCH, Used, Wanted
from tests.chaos.model_takes import Takers
from tests.chaos.model_world import Deed, Flight
from tests.factories import moment

STEPS = {"check": reserving, "reserve": reserving, "settle": settling, "refund": settling}
UNHEARD_OF = UUID(int=0)
PUBLISHED = {"started": "start alone", "called": "call", "asked": "ask", "settled": "settle", "refunded": "refund"}
"""What recovery publishes again, and the step that each sort of it goes to."""
SORTS = (*PUBLISHED, "unknown", "expired", "resolved", "blocked")
PUBLISH, DEADLINE_IN = timedelta(seconds=PUBLISH_BY), timedelta(seconds=DEADLINE)
BUDGET = RetryBudget(attempts=ATTEMPTS, wait_max=timedelta(seconds=60))
PATIENCE = Patience(republish_after=PUBLISH, unknown_wait=timedelta(seconds=UNKNOWN_WAIT))
AUDIT_EVERY = 3


class Crash(Exception):
    """The process dies before its transaction commits."""


class Driver(RuleBasedStateMachine):
    """The services and the model, side by side. What happens is counted over all examples."""

    transitions: ClassVar[Counter[tuple[str, str]]] = Counter()
    happened: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.model = Model({}, self.transitions)
        self.takers = Takers()
        self.messages: list[tuple[str, list[UUID]]] = []
        self.flights: list[Flight] = []
        self.asked: list[tuple[Flight, Claim]] = []
        self.ids: list[UUID] = []
        self.steps = self.named = self.served_last = 0
        self.broken = False

    @property
    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.model.now)

    def step(self, act: Callable[[Session], Any], wanted: Callable[[], Any], *, crash: bool = False) -> Any:
        """Make one transaction, let the model follow, and compare; a crash undoes it, and the model stays."""
        self.broken = True
        answer = self._undone(act) if crash else self._done(act, wanted)
        self.steps += 1
        self.look(audited=self.steps % AUDIT_EVERY == 0)
        self.broken = False
        return answer

    def _done(self, act: Callable[[Session], Any], wanted: Callable[[], Any]) -> Any:
        self.happened["transactions"] += 1
        expected, refused = _answer(wanted, Refused)
        answer, error = _answer(lambda: _committed(act), BillingError)
        says = f"the answer was {error!r} {answer!r}, the rules say {refused!r} {expected!r}"
        assert (error and error.code) == (refused and refused.args[0]), says
        if error:
            self.happened[f"refused: {error.code}"] += 1
        # What the rules leave open, the model answers with None.
        assert expected is None or answer == expected, says
        return answer

    def _undone(self, act: Callable[[Session], Any]) -> None:
        self.happened["transactions undone"] += 1
        try:
            with transaction() as session:
                act(session)
                raise Crash
        except (Crash, BillingError):
            return

    def look(self, *, audited: bool) -> None:
        """Compare everything, and check what must hold whatever the model says."""
        with transaction() as session:
            found = model_books.recorded(session)
            if audited:
                # What beat does; a reservation may have come first.
                renewals.renew(session, self.now, Worked())
            findings = audit.audit(session, now=self.now) if audited else []
        difference = model_books.difference(self.model, found)
        assert not difference, difference
        assert all(balance >= reserved >= 0 for _, balance, reserved, _ in found["accounts"]), found["accounts"]
        deductions = Counter(row[4] for row in found["ledger"] if row[1] == "deduction")
        assert all(count == 1 for count in deductions.values()), f"charged twice: {deductions}"
        assert all((row[8] or 0) <= row[7] for row in found["jobs"]), "a charge above its reservation"
        if audited:
            overdue = [("nothing_open_past_its_deadline", f"job {job_id}") for job_id in self.model.overdue()]
            assert sorted((finding.rule, finding.row) for finding in findings) == overdue, findings

    def new_id(self) -> UUID:
        self.named += 1
        return uuid5(UNHEARD_OF, str(self.named))

    def submit_all(self, wanted: list[Wanted], *, crash: bool = False) -> None:
        data = [model_world.request(each) for each in wanted]

        def act(session: Session) -> list[tuple[UUID, bool]]:
            given = [requests.parse(each) for each in data]
            made = submitting.submit(
                session, given, at=moment(session, self.now, of=given), deadline=DEADLINE_IN, publish_by=PUBLISH
            )
            return [(each.job_id, each.created) for each in made]

        submitted = self.step(act, lambda: self.model.submit(wanted), crash=crash)
        new = [job_id for job_id, created in dict(submitted or []).items() if created]
        if new:
            self.ids += new
            self.messages.append(("start", new))

    def take(self, *, after: int, size: int, passes_on: bool = True, crash: bool = False) -> bool:
        """A taker takes what waits, and passes it on unless it dies before; whether there was anything."""
        waits, taken = model_takes.waiting(self.model), Taken([], [])

        def act(session: Session) -> tuple[list[UUID], int]:
            nonlocal taken
            taken = taking.take(session, hold=PUBLISH, after=after, size=size, now=self.now)
            return taken.job_ids, taken.last

        self.step(act, lambda: model_takes.take(self.model, after, size), crash=crash)
        if crash:
            return False
        self.served_last = taken.last
        self.takers.took(self.model, waits, taken)
        self.happened["jobs taken"] += len(taken.job_ids)
        if passes_on:
            self._pass_on(taken)
        return bool(taken.job_ids)

    def _take_alone(self, ids: Sequence[UUID], *, crash: bool) -> None:
        """Somebody takes these jobs, whoever else has them."""
        taken = Taken([], [])

        def act(session: Session) -> list[UUID]:
            nonlocal taken
            taken = taking.take_alone(session, ids, hold=PUBLISH, now=self.now)
            return taken.job_ids

        self.step(act, lambda: model_takes.take_alone(self.model, ids), crash=crash)
        if not crash:
            self.takers.took_alone(self.model, taken.job_ids)
            self._pass_on(taken)

    def _pass_on(self, taken: Taken) -> None:
        """Look closer at what seems not to be covered, and have the rest reserved."""
        passing = self.work("check", taken.doubted) if taken.doubted else []
        chosen = [job_id for job_id in taken.job_ids if job_id in passing or job_id not in taken.doubted]
        if chosen:
            self.messages.append(("reserve", chosen))

    def work(self, step: str, ids: Sequence[UUID], *, crash: bool = False) -> Sequence[UUID]:
        """Do what a message of this step asks for, and publish what follows; returns the jobs that were passed on."""
        if step == "start alone":
            self._take_alone(ids, crash=crash)
            return []
        if step == "ask":
            for job_id in ids:
                self._ask(job_id, crash=crash)
            return []
        service, rules = getattr(STEPS[step], step), getattr(self.model, step)

        def act(session: Session) -> list[UUID]:
            if step == "check":
                # Of an account that is owed a renewal, a check says nothing; here beat has come first.
                renewals.renew(session, self.now, Worked())
                return service(session, ids, at=moment(session, self.now))
            if step == "reserve":
                return service(session, ids, at=moment(session, self.now), publish_by=PUBLISH).job_ids
            return service(session, ids, now=self.now)

        queued = [job for job in self.model.jobs.values() if job.state == "queued"]
        done = self.step(act, lambda: rules(ids), crash=crash) or []
        if step == "reserve":
            self.takers.reserved(job for job in queued if job.state == "reserved")
            self.messages += [("call", [job_id]) for job_id in done]
        return done

    def claim(self, job_id: UUID, deed: Deed, claimed_by: UUID, again: int | None, *, crash: bool = False) -> None:
        """A worker claims a job, and calls the provider, which does this deed, if the claim is a new one."""
        made: list[Claim] = []

        def act(session: Session) -> int | None:
            claim = calling.claim(
                session,
                job_id,
                at=moment(session, self.now),
                lease=timedelta(seconds=LEASE),
                claimed_by=claimed_by,
                again=again,
            )
            made.extend([claim] if claim else [])
            return claim.attempt if claim else 0

        self.step(act, lambda: self.model.claim(job_id, claimed_by, again) or 0, crash=crash)
        known = [flight for flight in self.flights if flight.claim.job_id == job_id]
        if not made or crash or made[0].attempt in [flight.claim.attempt for flight in known]:
            return
        calls = self.model.jobs[job_id].calls
        done = [flight for flight in known if flight.deed.failure is None and not flight.lied]
        # A part that was delivered in time leads to the next one.
        twice = [flight for flight in done if calls[flight.claim.attempt - 1] not in self.model.jobs[job_id].delivered]
        assert not twice, "the provider is called again for work that it has done"
        assert made[0].images == (self.model.jobs[job_id].body.part.amount if made[0].kind == "image" else 0)
        self.flights.append(Flight(made[0], self.model.jobs[job_id].body.part, claimed_by, deed))

    def record(self, flight: Flight, heard: Deed, *, crash: bool) -> None:
        """The worker of a call writes down what it heard."""
        claim, used = flight.claim, heard.used(flight.body)
        if heard.failure is None:
            delivery = model_world.delivery(heard, flight.body)
            state = self.step(
                lambda s: calling.succeed(s, claim, delivery, now=self.now, publish_by=PUBLISH) or "too late",
                lambda: self.model.succeed(claim.job_id, claim.attempt, used or Used(), heard.words),
                crash=crash,
            )
            follows = {State.GENERATED: "settle", State.RESERVED: "call"}.get(state)
            self.messages += [(follows, [claim.job_id])] if follows else []
            return
        refusal, failure = model_world.refusal(heard, flight.body), heard.failure
        verdict = self.step(
            lambda s: calling.fail(s, claim, refusal, now=self.now, budget=BUDGET, look_after=PUBLISH) or "too late",
            lambda: self.model.fail(claim.job_id, claim.attempt, failure, used) or "too late",
            crash=crash,
        )
        if not crash:
            flight.verdict = str(verdict)
            self.happened[f"a call failed: {flight.verdict}"] += 1
            follows = {"refund": "refund", "conclude": "settle"}.get(flight.verdict)
            self.messages += [(follows, [claim.job_id])] if follows else []

    def _ask(self, job_id: UUID, *, crash: bool) -> None:
        made: list[Claim] = []

        def act(session: Session) -> int:
            claim = unknown_calls.ask(session, job_id, now=self.now, patience=timedelta(seconds=ASK_AGAIN))
            made.extend([claim] if claim else [])
            return claim.attempt if claim else 0

        self.step(act, lambda: self.model.ask(job_id) or 0, crash=crash)
        for claim in made if not crash else []:
            made_by = (claim.job_id, claim.attempt)
            (flight,) = [each for each in self.flights if (each.claim.job_id, each.claim.attempt) == made_by]
            self.asked.append((flight, claim))

    def recover(self, state: str, *, crash: bool = False) -> None:
        """Sweep one state, and publish what recovery publishes again."""

        def act(session: Session) -> dict[str, list[UUID]]:
            done = Recovered()
            recovery.recover(session, State(state), done, now=self.now, patience=PATIENCE)
            return {sort: sorted(getattr(done, sort)) for sort in SORTS if getattr(done, sort)}

        done = self.step(act, lambda: self.model.recover(state), crash=crash) or {}
        for sort, ids in done.items():
            self.happened[f"recovered: {sort}"] += len(ids)
            if sort == "started":
                self.takers.gave_back(ids)
            if sort in PUBLISHED:
                self.messages += [(PUBLISHED[sort], [job_id]) for job_id in ids]

    def add_credits(self, number: int, amount: int, key: str, *, crash: bool = False) -> None:
        self.step(
            lambda s: (
                by_hand.top_up(s, number, amount, idempotency_key=key, description="Credits", now=self.now).amount
            ),
            lambda: self.model.top_up(number, amount, key),
            crash=crash,
        )


def _committed(act: Callable[[Session], Any]) -> Any:
    with transaction() as session:
        return act(session)


def _answer(ask: Callable[[], Any], refusal: type[Exception]) -> tuple[Any, Any]:
    """The answer, or the refusal."""
    try:
        return ask(), None
    except refusal as error:
        return None, error
