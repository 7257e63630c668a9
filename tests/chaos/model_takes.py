"""What must be of takes: which jobs one marks, by the rules, and what may never be seen of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from billing.jobs.taking import Taken
from tests.chaos.model import PUBLISH_BY, Model
from tests.chaos.model_records import Job


def waiting(model: Model) -> dict[int, list[Job]]:
    """The jobs of each account that a take may have, in the order in which they came."""
    found: dict[int, list[Job]] = {}
    for job in sorted(model.jobs.values(), key=place):
        if job.state == "queued" and job.taken is None and not job.republished:
            found.setdefault(job.account, []).append(job)
    return found


def take(model: Model, after: int, size: int) -> tuple[list[UUID], int]:
    """Mark as many jobs of each account; returns the jobs, and the account that was served last."""
    waits, shut_out = waiting(model), {job.account for job in model.jobs.values() if job.taken is not None}
    in_turn = sorted(waits.keys() - shut_out, key=lambda account: (account <= after, account))[:size]
    share = max(1, size // max(1, len(in_turn)))
    taken = [job for account in in_turn for job in waits[account][:share]]
    return _mark(model, taken), in_turn[-1] if in_turn else after


def take_alone(model: Model, ids: Iterable[UUID]) -> list[UUID]:
    """Mark those of these jobs that are queued, whoever has them."""
    jobs = [model.jobs[job_id] for job_id in set(ids) if job_id in model.jobs]
    return _mark(model, [job for job in jobs if job.state == "queued"])


def place(job: Job) -> tuple[int, UUID]:
    """When a job came, compared with others."""
    return job.created, job.id


def _mark(model: Model, jobs: list[Job]) -> list[UUID]:
    for job in jobs:
        job.taken = job.next_at = model.now + PUBLISH_BY
    return [job.id for job in sorted(jobs, key=place)]


@dataclass
class Takers:
    """What takers have, by their own account, whatever marks there are; their rules are asserted."""

    held: dict[UUID, int] = field(default_factory=dict)
    """The jobs of takes whose jobs were not reserved yet, each with its account."""
    out_of_turn: set[UUID] = field(default_factory=set)
    """Jobs that were given to somebody by name: they may come before those that wait longer."""
    served: dict[int, int] = field(default_factory=dict)
    """When the job of each account came that was reserved last, of those that came in turn."""

    def took(self, model: Model, waits: Mapping[int, Sequence[Job]], answer: Taken) -> None:
        """A taker has these jobs now; these were waiting before."""
        self._forget_what_is_over(model)
        jobs = [model.jobs[job_id] for job_id in answer.job_ids]
        twice = self.held.keys() & set(answer.job_ids)
        assert not twice, f"in two takes at one time: {twice}"
        crowded = set(self.held.values()) & {job.account for job in jobs}
        assert not crowded, f"accounts in two takes at one time: {crowded}"
        for account, own in waits.items():
            mine = [job for job in jobs if job.account == account]
            assert mine == list(own[: len(mine)]), f"account {account} is not served in the order of its jobs"
        self._check_what_is_left(waits, answer)
        poor = {job.id for job in jobs if not _is_covered(model, job)}
        assert poor <= set(answer.doubted) <= set(answer.job_ids), f"not covered: {poor}, doubted: {answer.doubted}"
        self.held |= {job.id: job.account for job in jobs}

    def _check_what_is_left(self, waits: Mapping[int, Sequence[Job]], answer: Taken) -> None:
        shut_out = waits.keys() & set(self.held.values())
        left = {job.id for own in waits.values() for job in own} - set(answer.job_ids)
        assert not answer.complete or not left, f"complete, and left behind: {left}"
        assert answer.complete or answer.job_ids or shut_out, "nothing waits, and somebody is to look again"
        assert answer.shut_out <= len(shut_out), f"{answer.shut_out} accounts are shut out, and not {shut_out}"

    def took_alone(self, model: Model, job_ids: Sequence[UUID]) -> None:
        """Somebody was given these jobs by name, and has them now, whoever else has them."""
        self.given_by_name(job_ids)
        self.held |= {job_id: model.jobs[job_id].account for job_id in job_ids}

    def given_by_name(self, job_ids: Iterable[UUID]) -> None:
        """Somebody was given these jobs by name."""
        self.out_of_turn |= set(job_ids)

    def gave_back(self, job_ids: Iterable[UUID]) -> None:
        """Recovery has taken these jobs from whoever had them, and given each to a message of its own."""
        self.given_by_name(job_ids)
        for job_id in job_ids:
            self.held.pop(job_id, None)

    def reserved(self, jobs: Iterable[Job]) -> None:
        """These jobs were reserved by one step."""
        for job in sorted(jobs, key=place):
            if job.id not in self.out_of_turn:
                latest = self.served.get(job.account, 0)
                assert latest <= job.created, f"{job} was reserved after one that came at {latest}"
                self.served[job.account] = job.created

    def _forget_what_is_over(self, model: Model) -> None:
        held = self.held.items()
        self.held = {job_id: account for job_id, account in held if model.jobs[job_id].state == "queued"}


def _is_covered(model: Model, job: Job) -> bool:
    account = model.accounts[job.account]
    return not account.frozen and job.estimated <= account.balance - account.reserved
