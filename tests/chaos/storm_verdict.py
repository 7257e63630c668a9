"""What a storm left behind: the books, the queues and the provider's journal, held against each other.

Everything is read past the proxies, once the storm is over.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text

from billing.jobs.states import TERMINAL
from tests.chaos.chaotic import QUEUES
from tests.chaos.storm_traffic import Ledger
from tests.chaos.storm_watch import SNAPSHOT, findings
from tests.chaos.storm_world import World
from workers.simulator.journal import Entry, read_journal

KEY = "creditmill-"
KEY_LENGTH = len(KEY) + 36
DATABASE_AWAY = ("OperationalError", "InterfaceError", "TimeoutError")
"""What a step ends with after its last retry while the database is away."""


@dataclass
class Left:
    """One snapshot of what there is: rows as mappings, by job."""

    jobs: dict[UUID, Mapping[str, Any]]
    calls: dict[UUID, list[Mapping[str, Any]]]
    accounts: list[Mapping[str, Any]]
    dead: Counter[tuple[str, str, str]]
    journal: dict[str, list[Entry]]
    audit: list[str]

    @classmethod
    def read(cls, world: World) -> Left:
        """Read everything."""
        with world.direct.connect() as connection:
            snapshot = connection.execution_options(**SNAPSHOT)

            def rows(query: str) -> list[Mapping[str, Any]]:
                return [dict(row) for row in snapshot.execute(text(query)).mappings()]

            jobs = rows(
                "SELECT id, account_id, idempotency_key, kind, state, credits_reserved, credits_charged, attempts, "
                "error_code, republished, next_at, cost_usd, created_at, finished_at FROM generation_jobs"
            )
            calls = rows("SELECT * FROM provider_calls ORDER BY job_id, attempt")
            accounts = rows(
                "SELECT a.id, a.balance, a.reserved, a.frozen_reason, coalesce((SELECT sum(j.credits_charged) FROM "
                "generation_jobs j WHERE j.account_id = a.id), 0) AS charged FROM accounts a ORDER BY a.id"
            )
            dead = rows("SELECT code, coalesce(task_name, '') AS task, reason FROM dead_messages")
            snapshot.rollback()
        with world.direct.connect() as connection:
            audit = [
                f"{each.rule}: {each.row}: {each.problem}"
                for each in findings(connection.execution_options(**SNAPSHOT))
            ]
        by_job: dict[UUID, list[Mapping[str, Any]]] = defaultdict(list)
        for call in calls:
            by_job[call["job_id"]].append(call)
        journal: dict[str, list[Entry]] = defaultdict(list)
        for entry in read_journal(world.journal):
            # The key of a job's further part has the part's number behind it.
            journal[(entry.idempotency_key or "")[:KEY_LENGTH]].append(entry)
        return cls(
            jobs={job["id"]: job for job in jobs},
            calls=by_job,
            accounts=accounts,
            dead=Counter((row["code"], row["task"], row["reason"]) for row in dead),
            journal=journal,
            audit=audit,
        )

    def executions(self, job_id: UUID) -> list[Entry]:
        """The times that the provider did billable work for this job."""
        return [entry for entry in self.journal.get(f"{KEY}{job_id}", []) if entry.event == "executed"]

    def declined(self, job_id: UUID) -> bool:
        """Whether the provider's work for this job was the model's refusal: the platform pays for it."""
        done = self.executions(job_id)
        return self.jobs[job_id]["kind"] == "text" and any(entry.fault == "model_refusal" for entry in done)

    def provider_faults(self) -> set[str]:
        """The faults with which the provider met requests."""
        return {entry.fault for entries in self.journal.values() for entry in entries if entry.fault}


@dataclass
class Verdict:
    """What is wrong, by the promise that was broken; each entry names its job or account."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    wrongly_charged: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    suspects: set[UUID] = field(default_factory=set)

    def wrong(self) -> dict[str, list[str]]:
        """The broken promises."""
        return {name: found for name, found in vars(self).items() if found and name != "suspects"}


def judge(left: Left, ledger: Ledger) -> Verdict:
    """Hold everything against each other."""
    verdict = Verdict()
    for key, job_id in ledger.acknowledged.items():
        job = left.jobs.get(job_id)
        if job is None or job["state"] not in TERMINAL:
            verdict.lost.append(f"{key}: job {job_id} is {job['state'] if job else 'not there'}")
            verdict.suspects.add(job_id)
    _judge_jobs(left, ledger, verdict)
    for account in left.accounts:
        opened = ledger.opening.get(account["id"], 0)
        if opened - account["charged"] != account["balance"] or account["reserved"] or account["frozen_reason"]:
            verdict.drift.append(f"opened with {opened}: {dict(account)}")
    verdict.drift += left.audit
    verdict.unexplained += [
        f"dead message {kind} x{count}" for kind, count in left.dead.items() if not _is_explained(*kind)
    ]
    return verdict


def _judge_jobs(left: Left, ledger: Ledger, verdict: Verdict) -> None:
    known = set(ledger.acknowledged.values())
    for job_id, job in left.jobs.items():
        # A job in parts has a key for each.
        times = max(Counter(entry.idempotency_key for entry in left.executions(job_id)).values(), default=0)
        problems = [(verdict.wrongly_charged, problem) for problem in _who_pays_wrongly(left, job_id)]
        if times > 1:
            problems.append((verdict.duplicated, f"executed {times} times"))
        if job_id not in known:
            problems.append((verdict.duplicated, "nobody knows of it"))
        for where, problem in problems:
            where.append(f"job {job_id} ({job['state']}): {problem}")
            verdict.suspects.add(job_id)
    for key in left.journal:
        if key and UUID(key.removeprefix(KEY)) not in left.jobs:
            verdict.duplicated.append(f"the provider was called for {key}, which is no job")


def _who_pays_wrongly(left: Left, job_id: UUID) -> list[str]:
    """What is wrong with who pays for this job: the customer, the platform, or nobody although work was done."""
    job, executed, declined = left.jobs[job_id], bool(left.executions(job_id)), left.declined(job_id)
    charged = job["state"] == "settled"
    exposed = any(call["exposure"] for call in left.calls[job_id])
    paid = [call for call in left.calls[job_id] if call["exposure"] or call["outcome"] == "succeeded"]
    rules = (
        (charged and not executed, "charged and not executed"),
        (charged and declined, "charged for the model's refusal"),
        (executed and not (charged or exposed or declined), "executed, and neither charged nor our exposure"),
        (job["kind"] == "image" and len(left.executions(job_id)) > len(paid), "executed for more images than are paid"),
        (declined and not (exposed or job["cost_usd"]), "refused by the model, and what that cost is not kept"),
        ((job["credits_charged"] or 0) > job["credits_reserved"], "charged more than was reserved"),
    )
    return [problem for broken, problem in rules if broken]


def _is_explained(code: str, task: str, reason: str) -> bool:
    """A step that gave up after its last retry, while the database was away; recovery has taken its jobs over."""
    return code == "task_failed" and any(f"({name})" in reason for name in DATABASE_AWAY)


def unfinished(world: World) -> dict[str, int]:
    """What is still going on, by its name; empty when every job has ended and no message is left.

    Raises what the servers' clients raise while they are away.
    """
    with world.direct.connect() as connection:
        states = connection.execute(
            text("SELECT state, count(*) FROM generation_jobs WHERE finished_at IS NULL GROUP BY state")
        )
        going = {str(state): count for state, count in states}
    with world.broker() as broker:
        going |= {f"queue {name}": broker.llen(name) for name in sorted(QUEUES)}
        going |= {"unacked": broker.hlen("unacked"), "unacked_index": broker.zcard("unacked_index")}
        # A message in any other list would be one that nobody reads.
        strays = [name.decode() for name in broker.scan_iter(_type="list") if name.decode() not in QUEUES]
        going |= {f"queue {name}": broker.llen(name) for name in strays}
    return {name: count for name, count in going.items() if count}


def story(left: Left, job_id: UUID) -> str:
    """Everything that is known of one job, for whoever looks for the cause."""
    lines = [f"job {job_id}: {dict(left.jobs.get(job_id, {}))}"]
    lines += [f"  call {dict(call)}" for call in left.calls.get(job_id, [])]
    lines += [
        f"  provider {entry.at} {entry.event} fault={entry.fault} status={entry.status}"
        for entry in left.journal.get(f"{KEY}{job_id}", [])
    ]
    return "\n".join(lines)
