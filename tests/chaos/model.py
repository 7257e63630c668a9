"""What must be: accounts, jobs, calls and plan limits in plain Python, written from the rules of the design.

It shares no code with the services. Who drives it moves `now`, in whole seconds since `EPOCH`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from tests.chaos.model_records import EPOCH, Account, Call, Job, Tariff, Used, Wanted, units, units_used, usd

PUBLISH_BY, LEASE, UNKNOWN_WAIT, DEADLINE, ASK_AGAIN = 60, 120, 600, 3600, 30
ATTEMPTS = 2
OPEN_MAX = 9
"""Unfinished jobs that an account may have."""
ANCHOR_DAY = 21
OPEN = ("reserved", "calling", "unknown", "generated")
TERMINAL = ("settled", "refunded", "rejected", "cancelled")
TRY_AGAIN = ("rate_limited", "overloaded", "server_error", "unreachable")
FOR_GOOD = ("content_policy", "bad_request", "bad_credentials", "quota_exhausted", "not_configured")
NOT_KNOWN = ("timed_out", "connection_lost", "gateway_error", "conflict", "unreadable_answer")


class Refused(Exception):
    """The rules refuse what was asked, with this code; nothing changes then."""


class Model:
    """All that the database must say, and what each step must answer."""

    def __init__(self, accounts: dict[int, Account], transitions: Counter[tuple[str, str]]) -> None:
        self.now = 0
        self.tariff = Tariff()
        self.accounts = accounts
        self.jobs: dict[UUID, Job] = {}
        self.keys: dict[tuple[int, str], Job] = {}
        self.units: dict[tuple[int, str, str], list[int]] = {}
        self.ledger: dict[int, list[list[Any]]] = {account: [] for account in accounts}
        self.top_ups: dict[tuple[int, str], int] = {}
        self.usage_logs: dict[UUID, list[Any]] = {}
        self.transitions = transitions

    # Requests and credits

    def submit(self, wanted: Sequence[Wanted]) -> list[tuple[UUID, bool]]:
        for each in wanted:
            self._refuse(self.tariff.why_not(each.body))
        new: dict[UUID, Job] = {}
        standing = dict(self.keys)
        for each in wanted:
            if (each.account, each.key) not in standing and each.id not in self.jobs and each.id not in new:
                new[each.id] = standing[each.account, each.key] = self._a_job(each)
        unfinished = Counter(job.account for job in self.jobs.values() if job.state not in TERMINAL)
        unfinished.update(job.account for job in new.values())
        if any(unfinished[job.account] > OPEN_MAX for job in new.values()):
            raise Refused("too_many_open_jobs")
        found = [standing.get((each.account, each.key)) for each in wanted]
        if any(job is None or job.body != each.body for job, each in zip(found, wanted, strict=True)):
            raise Refused("idempotency_conflict")
        self.jobs.update(new)
        self.keys = standing
        return [(job.id, job.id == each.id and each.id in new) for job, each in zip(found, wanted, strict=True) if job]

    def cancel(self, job_id: UUID) -> None:
        job = self._known(job_id)
        if job.state == "queued":
            self._end(job, "cancel", "cancelled", job.error)
        elif job.state != "cancelled":
            raise Refused("not_cancellable")

    def release_if_reserved(self, job_id: UUID) -> list[UUID]:
        """The job, when there is something to settle."""
        job = self._known(job_id)
        if job.state == "reserved":
            self._leave_off(job, "cancelled")
            return [job.id] if job.state == "generated" else []
        if job.error != "cancelled" and job.state != "cancelled":
            raise Refused("not_cancellable")
        return []

    def top_up(self, account: int, credits: int, key: str) -> None:
        earlier = self.top_ups.get((account, key))
        self._refuse("idempotency_conflict" if earlier not in (None, credits) else None)
        if earlier is None:
            self.top_ups[account, key] = credits
            self._post(account, "purchase", credits, None, key)

    def freeze(self, account: int, frozen: bool) -> bool:
        """Whether that changed anything."""
        before, self.accounts[account].frozen = self.accounts[account].frozen, frozen
        return before != frozen

    def reprice(self, tariff: Tariff) -> None:
        self.tariff = tariff

    def allow(self, account: int, allowed: dict[str, int | None]) -> None:
        self.accounts[account].allowed = allowed

    # The ledger's steps

    def check(self, ids: Iterable[UUID]) -> list[UUID]:
        refused = [(job, self._why_not(job)) for job in self._those(ids, "queued")]
        for job, code in refused:
            if code is not None:
                self._end(job, "reject", "rejected", code)
        return [job.id for job in self._those(ids, "queued", "reserved")]

    def reserve(self, ids: Iterable[UUID]) -> list[UUID]:
        for job in sorted(self._those(ids, "queued"), key=lambda job: (job.created, job.id)):
            code = self._why_not(job)
            if code is not None:
                self._end(job, "reject", "rejected", code)
                continue
            job.tariff, job.held = self.tariff, self.tariff.estimate(job.body)
            job.estimated = job.held
            self.accounts[job.account].reserved += job.held
            if self._limited(job):
                job.period, job.units_held = self._period(job.account), units(job.body)
                self._units(job)[1] += job.units_held
            self._move(job, "reserve", "reserved", next_at=self.now + PUBLISH_BY)
        return [job.id for job in self._those(ids, "reserved")]

    def settle(self, ids: Iterable[UUID]) -> list[UUID]:
        settled = self._those(ids, "generated")
        for job in settled:
            assert job.tariff is not None
            used = Used.of_all(call.used for call in job.delivered if call.used is not None)
            due = job.tariff.due(job.body, used)
            job.charged, job.overrun = min(due, job.held), max(0, due - job.held)
            self.accounts[job.account].reserved -= job.held
            self._post(job.account, "deduction", -job.charged, str(job.id), f"settle:{job.id}")
            job.units_used = 0
            if job.period is not None:
                job.units_used = min(job.units_held, units_used(job.body, used, job.words[0]))
                self._units(job)[0] += job.units_used
                self._units(job)[1] -= job.units_held
            revenue = job.charged * job.tariff.usd_per_credit
            self.usage_logs[job.id] = [job.charged, usd(job.cost), usd(revenue), *used]
            self._end(job, "settle", "settled", job.error)
        return [job.id for job in settled]

    def refund(self, ids: Iterable[UUID]) -> list[UUID]:
        failed = [job for job in self._those(ids, "calling") if job.error and job.calls[-1].outcome == "failed"]
        for job in failed:
            self._refund(job, job.error)
        return [job.id for job in failed]

    # Provider calls

    def claim(self, job_id: UUID, claimed_by: UUID, again: int | None) -> int | None:
        job = self.jobs.get(job_id)
        if job is None or job.state not in ("reserved", "calling"):
            return None
        if job.state == "calling" and again != len(job.calls):
            call = job.calls[-1]
            mine = call.claimed_by == claimed_by and call.outcome is None and (job.lease or 0) > self.now
            return len(job.calls) if mine else None
        job.calls.append(Call(claimed_by))
        job.lease, job.error = self.now + LEASE, None
        self._move(job, "claim", "calling", next_at=job.lease, republished=job.republished)
        return len(job.calls)

    def succeed(self, job_id: UUID, attempt: int, used: Used, words: int) -> str | None:
        """The state that it leads to, "too late" where nobody pays for it; None where it was recorded before."""
        job = self.jobs[job_id]
        call = job.calls[attempt - 1]
        if call.outcome == "succeeded":
            return None
        in_time = job.state in ("calling", "unknown") and attempt == len(job.calls)
        if in_time:
            job.lease, job.error, job.parts = None, None, job.parts + 1
            job.words.append(words)
            event, state = ("generate", "generated") if job.parts == job.body.calls else ("continue", "reserved")
            self._move(job, event, state, next_at=self.now + PUBLISH_BY)
        self._finish(call, "succeeded", None)
        call.used, call.cost, call.exposure = used, self._cost(job, used), not in_time
        return job.state if in_time else "too late"

    def fail(self, job_id: UUID, attempt: int, failure: str, used: Used | None) -> str | None:
        job = self.jobs[job_id]
        call = job.calls[attempt - 1]
        unknown = failure in NOT_KNOWN
        if call.outcome == "succeeded" or call.resolved is not None or (unknown and call.outcome == "failed"):
            # What is known with evidence stays, and who does not know changes nothing of what is known.
            return None
        since = call.finished if call.outcome == "unknown" else self.now
        self._finish(call, "unknown" if unknown else "failed", failure)
        call.finished = since
        if not unknown:
            call.used, call.cost, call.exposure = used, self._cost(job, used), False
        if job.state != "calling" or attempt != len(job.calls):
            return None
        if unknown:
            self._mark_unknown(job)
            return "unknown"
        # Each part is tried as often as a whole.
        before = max((number for number, each in enumerate(job.calls, 1) if each in job.delivered), default=0)
        if failure in TRY_AGAIN and attempt - before < ATTEMPTS:
            return "retry"
        job.error = "retries_exhausted" if failure in TRY_AGAIN else failure
        if job.parts:
            self._leave_off(job, job.error)
            return "conclude"
        job.lease = job.next_at = self.now
        return "refund"

    def postpone(self, job_id: UUID, attempt: int, until: int) -> bool:
        job = self.jobs[job_id]
        if job.state != "calling" or attempt != len(job.calls):
            return False
        job.lease = None
        self._move(job, "retry", "reserved", next_at=min(until, job.deadline))
        return True

    # What was lost

    def recover(self, state: str) -> dict[str, list[UUID]]:
        done: dict[str, list[UUID]] = {}
        due = [job for job in self.jobs.values() if job.state == state and job.next_at <= self.now]
        for job in sorted(due, key=lambda job: job.id):
            done.setdefault(getattr(self, f"_recover_{state}")(job), []).append(job.id)
        return done

    def _recover_queued(self, job: Job) -> str:
        if job.deadline > self.now:
            return self._publish_again(job, "started")
        self._end(job, "reject", "rejected", "expired")
        return "expired"

    def _recover_reserved(self, job: Job) -> str:
        if job.deadline > self.now:
            return self._publish_again(job, "called")
        self._leave_off(job, "expired")
        return "expired"

    def _recover_calling(self, job: Job) -> str:
        if job.calls[-1].outcome is None:
            self._finish(job.calls[-1], "unknown", "worker_lost")
            self._mark_unknown(job)
            return "unknown"
        if job.error is not None:
            return self._publish_again(job, "refunded")
        job.lease = None
        self._move(job, "retry", "reserved", next_at=self.now, republished=job.republished)
        return "called"

    def _recover_unknown(self, job: Job) -> str:
        call = job.calls[-1]
        if call.outcome == "failed":
            self._leave_off(job, call.failure)
            return "resolved"
        given_up_at = (call.finished or 0) + UNKNOWN_WAIT
        if given_up_at > self.now or not job.republished:
            # However late it is, the provider is asked once.
            self._publish_again(job, "asked")
            job.next_at = min(job.next_at, given_up_at if given_up_at > self.now else self.now + PUBLISH_BY)
            return "asked"
        if call.outcome == "unknown" and not call.exposure:
            assert job.tariff is not None
            call.cost, call.exposure = job.tariff.worst_cost(job.body.part), True
        self._leave_off(job, "outcome_unknown")
        return "resolved"

    def _recover_generated(self, job: Job) -> str:
        return self._publish_again(job, "settled")

    def give_up(self, ids: Iterable[UUID]) -> list[UUID]:
        queued, reserved, generated = (self._those(ids, state) for state in ("queued", "reserved", "generated"))
        for job in queued:
            self._end(job, "reject", "rejected", "worker_lost")
        for job in reserved + generated:
            for call in job.delivered:
                call.exposure = True
            job.parts = 0
            self._refund(job, "worker_lost", event="refund" if job.state == "reserved" else "write_off")
        failed = [job for job in self._those(ids, "calling") if job.error and job.calls[-1].outcome == "failed"]
        for job in failed:
            self._refund(job, job.error or "")
        return [job.id for job in queued + reserved + generated + failed]

    def ask(self, job_id: UUID) -> int | None:
        job = self.jobs[job_id]
        call = job.calls[-1] if job.calls else None
        if job.state != "unknown" or call is None or call.outcome != "unknown":
            return None
        if call.asked_at is not None and call.asked_at > self.now - ASK_AGAIN:
            return None
        call.asked, call.asked_at = call.asked + 1, self.now
        return len(job.calls)

    def stop_asking(self, job_id: UUID) -> None:
        job = self.jobs[job_id]
        if job.state == "unknown":
            job.next_at = (job.calls[-1].finished or 0) + UNKNOWN_WAIT

    def resolve_by_answer(self, job_id: UUID, attempt: int, failure: str | None, used: Used | None, words: int) -> str:
        """What a provider tells of an unknown call: that it delivered, or (`failure`) why it did not."""
        job = self.jobs[job_id]
        call = job.calls[attempt - 1]
        if call.outcome == "unknown" and call.resolved is None:
            call.resolved = "delivered" if failure is None else "not_executed"
            if failure is None:
                self.succeed(job_id, attempt, used or Used(), words)
            else:
                call.outcome, call.cost, call.exposure = "failed", Decimal(0), False
                if job.state == "unknown" and attempt == len(job.calls):
                    self._leave_off(job, failure)
        return job.state

    def resolve(self, job_id: UUID, found: str, used: Used | None, words: int) -> None:
        job = self._known(job_id)
        call = job.calls[-1] if job.calls else None
        if call is None or call.outcome != "unknown" or call.resolved is not None:
            raise Refused("nothing_to_resolve")
        call.resolved = found
        if found == "delivered":
            self.succeed(job_id, len(job.calls), used or Used(), words)
            return
        assert job.tariff is not None
        executed = found == "executed"
        call.outcome, call.exposure, call.used = "unknown" if executed else "failed", executed, used or call.used
        worst = job.tariff.worst_cost(job.body.part) if executed else Decimal(0)
        call.cost = worst if used is None else self._cost(job, used)
        if job.state == "unknown":
            self._leave_off(job, "result_lost" if executed else "not_executed")

    # The small print

    def overdue(self) -> list[UUID]:
        """What the audit says is open past its deadline: nobody has looked at it for 15 minutes too long."""
        late, waiting = self.now - 900, ("queued", "reserved", "calling", "generated")
        found = [j.id for j in self.jobs.values() if j.state in waiting and j.deadline < late and j.next_at < late]
        return sorted(found)

    def _a_job(self, each: Wanted) -> Job:
        next_at, deadline = self.now + PUBLISH_BY, self.now + DEADLINE
        estimated = self.tariff.estimate(each.body)
        return Job(each.id, each.account, each.body, each.key, self.now, next_at, deadline, estimated)

    def _known(self, job_id: UUID) -> Job:
        self._refuse(None if job_id in self.jobs else "unknown_job")
        return self.jobs[job_id]

    def _refuse(self, code: str | None) -> None:
        if code is not None:
            raise Refused(code)

    def _those(self, ids: Iterable[UUID], *states: str) -> list[Job]:
        found = [self.jobs[job_id] for job_id in sorted(set(ids)) if job_id in self.jobs]
        return [job for job in found if job.state in states]

    def _why_not(self, job: Job) -> str | None:
        """Why a queued job may not start, or None."""
        account = self.accounts[job.account]
        code = self.tariff.why_not(job.body) or ("account_frozen" if account.frozen else None)
        if code is None and self.tariff.estimate(job.body) > account.balance - account.reserved:
            code = "insufficient_credits"
        allowed = (account.allowed or {}).get(job.body.kind.limit_type or "")
        if code is None and allowed is not None:
            counted = self.units.get((job.account, job.body.kind.limit_type or "", self._period(job.account)), [0, 0])
            code = "plan_limit_reached" if sum(counted) + units(job.body) > allowed else None
        return code

    def _limited(self, job: Job) -> bool:
        return job.body.kind.limit_type is not None and self.accounts[job.account].allowed is not None

    def _units(self, job: Job) -> list[int]:
        return self.units.setdefault((job.account, job.body.kind.limit_type or "", job.period or ""), [0, 0])

    def _period(self, account: int) -> str:
        day = (EPOCH + timedelta(seconds=self.now)).astimezone(ZoneInfo(self.accounts[account].zone)).date()
        month = day if day.day >= ANCHOR_DAY else date(day.year, day.month, 1) - timedelta(days=1)
        return date(month.year, month.month, ANCHOR_DAY).isoformat()

    def _cost(self, job: Job, used: Used | None) -> Decimal:
        return Decimal(0) if used is None or job.tariff is None else job.tariff.cost(job.body, used)

    def _finish(self, call: Call, outcome: str, failure: str | None) -> None:
        call.outcome, call.failure, call.finished = outcome, failure, self.now

    def _mark_unknown(self, job: Job) -> None:
        job.lease, job.error = None, "outcome_unknown"
        self._move(job, "mark_unknown", "unknown", next_at=self.now + PUBLISH_BY)

    def _publish_again(self, job: Job, sort: str) -> str:
        job.republished, job.taken = job.republished + 1, None
        job.next_at = self.now + PUBLISH_BY * 2 ** min(job.republished, 4)
        return sort

    def _leave_off(self, job: Job, code: str | None) -> None:
        """No further call is made: what was delivered is to be charged, and a job without a delivery is refunded."""
        if not job.parts:
            self._refund(job, code)
            return
        job.lease, job.error = None, code
        self._move(job, "conclude", "generated", next_at=self.now)

    def _refund(self, job: Job, code: str | None, *, event: str = "refund") -> None:
        self.accounts[job.account].reserved -= job.held
        if job.period is not None:
            self._units(job)[1] -= job.units_held
        self._end(job, event, "refunded", code)

    def _end(self, job: Job, event: str, state: str, code: str | None) -> None:
        job.lease, job.error = None, code
        self._move(job, event, state, next_at=job.next_at, republished=job.republished)

    def _move(self, job: Job, event: str, state: str, *, next_at: int, republished: int = 0) -> None:
        self.transitions[job.state, event] += 1
        job.state, job.next_at, job.republished, job.taken = state, next_at, republished, None

    def _post(self, account: int, sort: str, amount: int, job: str | None, key: str) -> None:
        self.accounts[account].balance += amount
        self.ledger[account].append([sort, amount, self.accounts[account].balance, job, key])
