"""The machine that drives the billing services and the model side by side, and compares them after every step.

A rule is something that can happen: a request, a message in any order, an answer in time or late, a sweep, an operator.
The messages and the provider are imaginary; the services and PostgreSQL are real.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from billing.jobs import calling, policy, recovery, submitting, unknown_calls
from billing.jobs.policy import Means
from billing.ledger import accounts
from config.database import transaction
from tests.chaos import model_books, model_takes, model_world
from tests.chaos.machine_rules import crashes, happens, hearings, one, picks, some
from tests.chaos.model import DEADLINE, LEASE, NOT_KNOWN, PUBLISH_BY, TERMINAL, UNKNOWN_WAIT, Model
from tests.chaos.model_driver import PUBLISH, UNHEARD_OF, Driver
from tests.chaos.model_records import Account, Body, Tariff, Wanted
from tests.chaos.model_world import Deed, Flight, allowances, amounts, bodies, deeds, deliveries, few, tariffs

SIZES = (1, 3, 2, 50)
"""Jobs of one take at most."""
LONGEST_PAUSE = 16 * PUBLISH_BY
"""How long recovery leaves a job alone at most, in seconds."""
STATES = ("queued", "reserved", "calling", "unknown", "generated")

strays = st.sampled_from(["start alone", "check", "reserve", "settle", "refund"])
# The second account is the one whose credits and limits are near their end.
numbers = st.sampled_from([2, 2, 2, 1, 3])
requested = st.lists(st.tuples(numbers, bodies), min_size=1, max_size=5)


class Machine(Driver):
    """Everything that can happen."""

    @initialize(opening=st.tuples(amounts, few, amounts), near=allowances, first=requested)
    def open(self, opening: Sequence[int], near: dict[str, int | None], first: list[tuple[int, Body]]) -> None:
        found = {1: Account(), 2: Account(allowed=near), 3: Account("Pacific/Auckland", allowed={"images_basic": 4})}
        self.model = Model(found, self.transitions)
        with transaction() as session:
            model_books.empty(session, found)
        for number, amount in enumerate(opening, 1):
            self.add_credits(number, amount, "opening")
        self._submit(first, crash=False)

    # Requests

    @happens(wanted=requested, crash=crashes)
    def submit(self, wanted: list[tuple[int, Body]], crash: bool) -> None:
        self._submit(wanted, crash=crash)

    def _submit(self, wanted: list[tuple[int, Body]], *, crash: bool) -> None:
        # What is submitted later comes later: takes go by that.
        self.model.now += 1
        made = [Wanted(self.new_id(), account, body, f"key {self.named}") for account, body in wanted]
        self.submit_all(made, crash=crash)

    @some("ids")
    @happens(pick=picks, other_id=st.booleans(), other_key=st.booleans(), other=st.none() | bodies, more=st.booleans())
    def submit_again(self, pick: int, other_id: bool, other_key: bool, other: Body | None, more: bool) -> None:
        job = self.model.jobs[one(self.ids, pick)]
        job_id = self.new_id() if other_id else job.id
        again = [Wanted(job_id, job.account, other or job.body, f"key {self.named} again" if other_key else job.key)]
        self.submit_all(again + ([Wanted(self.new_id(), job.account, job.body, "more")] if more else []))

    @some("ids")
    @happens(pick=picks, reserved=st.booleans(), crash=crashes)
    def cancel(self, pick: int, reserved: bool, crash: bool) -> None:
        job_id = one([UNHEARD_OF, *self.ids, *self._living, *self._living], pick)
        service = recovery.release_if_reserved if reserved else submitting.cancel
        rules = self.model.release_if_reserved if reserved else self.model.cancel
        self.step(lambda s: service(s, job_id, now=self.now), lambda: rules(job_id), crash=crash)

    # Messages, and answers of the provider

    def go_on(self, worked: list[tuple[int, Deed, bool]]) -> None:
        """Workers do their work: each turn is a message, or the answer to a call."""
        for pick, deed, heard in worked:
            choices = [*self.messages, *self._unanswered, *self._trying_again]
            if choices:
                self._turn(one(choices, pick), deed, heard)

    def _turn(self, chosen: Flight | tuple[str, Any], deed: Deed, heard: bool) -> None:
        if isinstance(chosen, Flight):
            if chosen.heard is None:
                self._hear(chosen, heard, crash=False)
            elif heard:
                self._call_again(chosen, deed, crash=False)
            else:
                self._postpone(chosen, 5000, crash=False)
            return
        self.messages.remove(chosen)
        step, ids = chosen
        if step == "call":
            self.claim(ids[0], deed, self.new_id(), None)
        elif step == "start":
            self.take(after=self.served_last, size=one(SIZES, self.steps))
        else:
            self.work(step, ids)

    @happens(after=st.integers(0, 3), size=st.sampled_from(SIZES), passes_on=hearings, crash=crashes)
    def take_what_waits(self, after: int, size: int, passes_on: bool, crash: bool) -> None:
        """A taker was told that somebody should look again; it may die before its take is committed, or after."""
        self.take(after=after, size=size, passes_on=passes_on, crash=crash)

    @some("messages")
    @happens(pick=picks, deed=deeds, crash=crashes)
    def deliver_twice(self, pick: int, deed: Deed, crash: bool) -> None:
        """A message is worked on, and stays: its worker dies before or after its commit."""
        step, ids = one(self.messages, pick)
        if step == "call":
            self.claim(ids[0], deed, self.new_id(), None, crash=crash)
        else:
            # A hint that comes again is for its own jobs alone.
            self.work("start alone" if step == "start" else step, ids, crash=crash)

    @some("ids")
    @happens(step=strays, chosen=st.lists(picks, max_size=6))
    def stray_message(self, step: str, chosen: list[int]) -> None:
        ids = [one([UNHEARD_OF, *self.ids, *self._living, *self._living], pick) for pick in chosen]
        self.takers.given_by_name(ids)
        self.work(step, ids)

    @some("ids")
    @happens(pick=picks, deed=deeds)
    def stray_call(self, pick: int, deed: Deed) -> None:
        self.claim(one([*self.ids, UNHEARD_OF], pick), deed, self.new_id(), None)

    @some("messages")
    @happens()
    def lose_all_messages(self) -> None:
        self.messages.clear()

    @some("_unanswered")
    @happens(pick=picks, heard=hearings, crash=crashes)
    def answer(self, pick: int, heard: bool, crash: bool) -> None:
        self._hear(one(self._unanswered, pick), heard, crash=crash)

    @some("flights")
    @happens(pick=picks, what=st.sampled_from(["truth", "silence", "delivery"]), deed=deliveries, crash=crashes)
    def answer_again(self, pick: int, what: str, deed: Deed, crash: bool) -> None:
        """What a call brought is written down once more, or late, or after all; or the provider had lied."""
        flight = one([*self.flights, *self._too_late, *self._too_late], pick)
        if what == "silence" and not (flight.heard and flight.deed.failure):
            # Of what was refused in its hearing, a worker does not say later that it heard nothing.
            self._hear(flight, False, crash=crash)
            return
        if what == "delivery" and flight.deed.failure is not None and not crash:
            flight.deed, flight.lied = deed, True
        self._hear(flight, True, crash=crash)

    @some("_to_try_again")
    @happens(pick=picks, deed=deeds, crash=crashes)
    def call_again(self, pick: int, deed: Deed, crash: bool) -> None:
        self._call_again(one(self._to_try_again, pick), deed, crash=crash)

    def _call_again(self, flight: Flight, deed: Deed, *, crash: bool) -> None:
        self.claim(flight.claim.job_id, deed, flight.claimed_by, flight.claim.attempt, crash=crash)

    @some("_to_try_again")
    @happens(pick=picks, wait=st.sampled_from([30, 5000]), crash=crashes)
    def postpone(self, pick: int, wait: int, crash: bool) -> None:
        self._postpone(one(self._to_try_again, pick), wait, crash=crash)

    def _postpone(self, flight: Flight, wait: int, *, crash: bool) -> None:
        claim = flight.claim
        self.step(
            lambda s: calling.postpone(s, claim, until=self.now + timedelta(seconds=wait)),
            lambda: self.model.postpone(claim.job_id, claim.attempt, self.model.now + wait),
            crash=crash,
        )

    @some("_overtaken")
    @happens(pick=picks, postpones=st.booleans(), deed=deliveries)
    def late_writer(self, pick: int, postpones: bool, deed: Deed) -> None:
        """A worker goes on with a call after the job was called again: the number of its attempt gives it away."""
        flight = one(self._overtaken, pick)
        if postpones:
            self._postpone(flight, 30, crash=False)
            return
        flight.deed, flight.lied = deed, True
        self._hear(flight, True, crash=False)

    @some("_callable")
    @happens(pick=picks, deed=deeds, later=st.sampled_from([LEASE, 0]))
    def claim_unconfirmed(self, pick: int, deed: Deed, later: int) -> None:
        """The claim's commit is not confirmed to the worker, which asks once more, maybe too late."""
        job_id, claimed_by = one(self._callable, pick), self.new_id()
        self.claim(job_id, deed, claimed_by, None)
        self.model.now += later
        self.claim(job_id, deed, claimed_by, None)

    @some("_lost")
    @happens(pick=picks)
    def ask(self, pick: int) -> None:
        self.work("ask", [one(self._lost, pick)])

    @some("_lost")
    @happens(pick=picks)
    def stop_asking(self, pick: int) -> None:
        job_id, wait = one(self._lost, pick), timedelta(seconds=UNKNOWN_WAIT)
        self.step(
            lambda s: unknown_calls.stop_asking(s, job_id, unknown_wait=wait), lambda: self.model.stop_asking(job_id)
        )

    @some("asked")
    @happens(pick=picks, crash=crashes)
    def resolve_by_answer(self, pick: int, crash: bool) -> None:
        """The provider tells what became of an unknown call: that it delivered, or that it did nothing."""
        flight, claim = one(self.asked, pick)
        deed, used = flight.deed, flight.deed.used(flight.body)
        if deed.failure is not None and used is not None:
            # It did work, and has nothing to deliver: what it tells is no answer.
            return
        told = (model_world.refusal if deed.failure else model_world.delivery)(deed, flight.body)
        self.step(
            lambda s: (
                unknown_calls.resolve_by_answer(s, claim, told, Means.LOOK_UP, now=self.now, publish_by=PUBLISH).state
            ),
            lambda: self.model.resolve_by_answer(claim.job_id, claim.attempt, deed.failure, used, deed.words),
            crash=crash,
        )

    # Time, recovery and operators

    @happens(by=st.sampled_from([1, 31, 61, 61, 121, 121, 601, 601, 1000, 3601, 50_000]))
    def wait(self, by: int) -> None:
        self.model.now += by

    @happens(states=st.just(STATES) | st.lists(st.sampled_from(STATES), min_size=1, max_size=3), crash=crashes)
    def sweep(self, states: Sequence[str], crash: bool) -> None:
        for state in states:
            self.recover(state, crash=crash)

    @some("ids")
    @happens(chosen=st.lists(picks, min_size=1, max_size=2), crash=crashes)
    def give_up(self, chosen: list[int], crash: bool) -> None:
        self._give_up([one([*self.ids, *self._living], pick) for pick in chosen], crash=crash)

    @some("_delivered")
    @happens(pick=picks, crash=crashes)
    def settling_kills_workers(self, pick: int, crash: bool) -> None:
        self._give_up([one(self._delivered, pick)], crash=crash)

    def _give_up(self, ids: list[Any], *, crash: bool) -> None:
        self.step(lambda s: recovery.give_up(s, ids, now=self.now), lambda: self.model.give_up(ids), crash=crash)

    @some("flights")
    @happens(pick=picks, lost=st.booleans(), said=st.booleans(), crash=crashes)
    def resolve(self, pick: int, lost: bool, said: bool, crash: bool) -> None:
        """An operator resolves the latest call of a job, and tells the truth."""
        job_id = one(self.flights, pick).claim.job_id
        flight = [flight for flight in self.flights if flight.claim.job_id == job_id][-1]
        deed, used = flight.deed, flight.deed.used(flight.body)
        if deed.failure is None and not lost:
            found = "delivered"
        else:
            found, used = ("not_executed", None) if used is None else ("executed", used if said else None)
        content = model_books.result(deed.words, flight.body)
        given = unknown_calls.Resolution(policy.Outcome(found), "a ticket", "anna", model_world.usage(used), content)
        self.step(
            lambda s: unknown_calls.resolve(s, job_id, given, now=self.now, publish_by=PUBLISH).state,
            lambda: self.model.resolve(job_id, found, used, deed.words),
            crash=crash,
        )

    @happens(account=numbers, amount=amounts, key=st.sampled_from(["opening", "monday", "tuesday"]), crash=crashes)
    def top_up(self, account: int, amount: int, key: str, crash: bool) -> None:
        self.add_credits(account, amount, key, crash=crash)

    @happens(account=numbers, freeze=st.sampled_from([False, True]))
    def freeze(self, account: int, freeze: bool) -> None:
        self.step(
            lambda s: accounts.freeze(s, account, "a doubt") if freeze else accounts.unfreeze(s, account),
            lambda: self.model.freeze(account, freeze),
        )

    @happens(tariff=tariffs)
    def reprice(self, tariff: Tariff) -> None:
        self.step(lambda s: model_books.set_tariff(s, tariff), lambda: self.model.reprice(tariff))

    @happens(allowed=allowances)
    def change_plan(self, allowed: dict[str, int | None]) -> None:
        self.step(lambda s: model_books.set_limits(s, 2, allowed), lambda: self.model.allow(2, allowed))

    # The end

    def teardown(self) -> None:
        """Faults stop, time goes on, recovery runs: everything comes to an end, and to the right one."""
        if self.broken or not self.model.accounts:
            return
        self.let_nothing_wait()
        # One round for each state that a job may still go through, each long enough for its longest wait.
        for _ in STATES:
            self.model.now += DEADLINE
            self.messages.clear()
            for state in STATES:
                if any(job.state == state for job in self.model.jobs.values()):
                    self.recover(state)
            for step, ids in [message for message in self.messages if message[0] in ("settle", "refund")]:
                self.work(step, ids)
        self.look(audited=True)
        assert [job for job in self.model.jobs.values() if job.state not in TERMINAL] == []
        assert [account for account in self.model.accounts.values() if account.reserved] == []
        assert [held for _, held in self.model.units.values() if held] == []
        self._check_the_truth()

    def let_nothing_wait(self) -> None:
        """All messages are lost: takes find what nobody has, recovery gives back the rest, and no job waits on."""
        self.messages.clear()
        while self.take(after=0, size=2):
            self._work_off("reserve")
        assert not model_takes.waiting(self.model).keys() - set(self.takers.held.values()), "free, and not taken"
        self.model.now += LONGEST_PAUSE
        self.recover("queued")
        assert not self.take(after=0, size=50), "what recovery sends again is left to messages of its own"
        self._work_off("start alone")
        self._work_off("reserve")
        assert [job for job in self.model.jobs.values() if job.state == "queued"] == [], "a job waits for ever"

    def _work_off(self, *steps: str) -> None:
        """Work on all messages of these steps, in their order."""
        chosen = [message for message in self.messages if message[0] in steps]
        for message in chosen:
            self.messages.remove(message)
            self.work(*message)

    def _check_the_truth(self) -> None:
        """Charged is what the provider delivered in time; whatever else it delivered is on record as our exposure."""
        delivered = [flight for flight in self.flights if flight.deed.failure is None]
        charged = {job.id for job in self.model.jobs.values() if job.charged is not None}
        assert charged <= {flight.claim.job_id for flight in delivered}, "charged, and never delivered"
        for flight in delivered:
            call = self.model.jobs[flight.claim.job_id].calls[flight.claim.attempt - 1]
            paid = flight.claim.job_id in charged and call.outcome == "succeeded" and not call.exposure
            assert paid or call.exposure, f"nobody pays for {flight}, and it is no exposure"

    def _hear(self, flight: Flight, heard: bool, *, crash: bool) -> None:
        if not crash:
            flight.heard = heard
        silence = Deed(NOT_KNOWN[flight.claim.attempt % len(NOT_KNOWN)])
        self.record(flight, flight.deed if heard else silence, crash=crash)

    @property
    def _unanswered(self) -> list[Flight]:
        return [flight for flight in self.flights if flight.heard is None]

    @property
    def _to_try_again(self) -> list[Flight]:
        return [flight for flight in self.flights if flight.verdict == "retry"]

    @property
    def _trying_again(self) -> list[Flight]:
        """Those whose worker still has the job: nobody took it over."""
        held = {(job.id, len(job.calls)) for job in self.model.jobs.values() if job.state == "calling"}
        return [each for each in self._to_try_again if (each.claim.job_id, each.claim.attempt) in held]

    @property
    def _overtaken(self) -> list[Flight]:
        called = {job.id: len(job.calls) for job in self.model.jobs.values() if job.state in ("calling", "unknown")}
        return [each for each in self._to_try_again if called.get(each.claim.job_id, 0) > each.claim.attempt]

    @property
    def _too_late(self) -> list[Flight]:
        """Those that delivered for a job which ended meanwhile."""
        delivered = [
            (flight, self.model.jobs[flight.claim.job_id]) for flight in self.flights if not flight.deed.failure
        ]
        ended = ("refunded", "settled", "generated")
        return [
            flight
            for flight, job in delivered
            if job.state in ended and job.calls[flight.claim.attempt - 1] not in job.delivered
        ]

    @property
    def _callable(self) -> list[Any]:
        return [job.id for job in self.model.jobs.values() if job.state == "reserved"]

    @property
    def _living(self) -> list[Any]:
        return [job.id for job in self.model.jobs.values() if job.state in STATES]

    @property
    def _delivered(self) -> list[Any]:
        return [job.id for job in self.model.jobs.values() if job.state == "generated"]

    @property
    def _lost(self) -> list[Any]:
        return [job.id for job in self.model.jobs.values() if job.state == "unknown"]
