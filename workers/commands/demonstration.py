"""The demonstration: real requests through real servers and workers, against a simulated provider that fails at times.

It prints what became of them and proves it twice: each charge is computed again from its recorded usage, by other code
than the code that charged, and the audit checks the books.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from datetime import timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

import click

from billing.jobs import receipts, story
from billing.jobs.receipts import Receipt
from billing.jobs.requests import Submission
from billing.jobs.story import JobView
from billing.ledger import accounts, by_hand
from billing.ledger.accounts import AccountView
from billing.reports import audit, revenue_reports
from billing.reports.figures import By, Report
from config.database import database_now, transaction
from tasks import pipeline
from workers.commands.output import console, table, usd
from workers.commands.submit import read_requests, wait_for
from workers.local import instance, machine
from workers.local.signals import stop_signals
from workers.local.supervisor import Supervisor

EXAMPLES = Path(__file__).parents[2] / "examples" / "requests.jsonl"
CUSTOMERS = (("Corner Bakery", 20_000), ("Trailhead Outdoor", 12_000), ("Nearly Empty Ltd", 40))
FAULTS = {
    "rate_limit": 0.12,
    "server_error": 0.06,
    "content_policy": 0.06,
    "hang_after_accept": 0.03,
    "reset_mid_body": 0.03,
    "malformed_body": 0.03,
    "fewer_images": 0.05,
}
# Short times, so that unknown calls are resolved or given up while somebody watches.
PACE = {
    "CREDITMILL_TEXT_CALL_S": "6",
    "CREDITMILL_IMAGE_CALL_S": "6",
    "CREDITMILL_CALL_WAIT_MAX_S": "3",
    "CREDITMILL_UNKNOWN_WAIT_S": "5",
    "CREDITMILL_REPUBLISH_AFTER_S": "10",
    "CREDITMILL_RECOVER_EVERY_S": "2",
}
TIMEOUT_S = 240


def run(home: Path, *, path: str | None, faults: bool, seed: int) -> int:
    """Run the demonstration in this folder; returns the exit code: 0 only if every proof holds."""
    began = time.monotonic()
    with stop_signals() as stopping, machine.paced(PACE), instance.running(home):
        settings = machine.prepare()
        port = machine.free_port()
        machine.point_to_simulator(port)
        programs = [
            machine.simulator_program(home, port, faults=FAULTS if faults else {}, seed=seed),
            *machine.workers(settings),
            machine.program("beat", ["beat"], stop_order=1),
        ]
        _say(f"Servers and schema are ready after {time.monotonic() - began:.0f} s; the workers' logs: {home / 'logs'}")
        customers = _open_accounts()
        submissions = _requests(Path(path) if path else EXAMPLES, customers)
        with machine.supervised(home, programs, sys.stderr, quiet=True) as supervisor:
            job_ids = _send(submissions)
            _say(f"Sent {len(job_ids)} requests for {len(customers)} customers. Worker processes: {_pids(supervisor)}")

            def watch() -> None:
                if stopping.is_set():
                    raise click.exceptions.Abort

            wait_for(job_ids, timeout_s=TIMEOUT_S, watch=watch)
        return _report(home, job_ids, [customer.id for customer in customers], seconds=time.monotonic() - began)


def recomputed_charge(receipt: Receipt) -> int:
    """What a job should have been charged, in credits: design rules in plain Decimal, apart from the pricing module."""
    price, usage = receipt.priced, receipt.used
    least = Decimal(price["min_credits"])
    if "credits_per_image" in price:
        due = max(least, usage["images"] * Decimal(price["credits_per_image"])) if "images" in usage else Decimal(0)
    else:
        tokens = Decimal(sum(count for name, count in usage.items() if name.endswith("_tokens")))
        rounding = {"up": ROUND_CEILING, "down": ROUND_FLOOR, "nearest": ROUND_HALF_UP}[price["rounding"]]
        due = max(least, (tokens / price["tokens_per_credit"]).to_integral_value(rounding=rounding))
    return min(int(due), receipt.credits_held)


def _open_accounts() -> list[AccountView]:
    opened = []
    with transaction() as session:
        for name, credits in CUSTOMERS:
            account = accounts.create(session, name)
            key = f"opening:{account.id}"
            by_hand.top_up(
                session,
                account.id,
                credits,
                idempotency_key=key,
                description="Opening credits",
                now=database_now(session),
            )
            opened.append(accounts.view(session, account.id))
    return opened


def _requests(path: Path, customers: list[AccountView]) -> list[Submission]:
    """The requests of the file, dealt out to the customers; the ids make a run with the same seed repeatable."""
    with path.open(encoding="utf-8") as lines:
        found = read_requests(lines, customers[0].id)
    dealt = []
    for number, (_, submission) in enumerate(found):
        # Every eighth request goes to the customer who can hardly pay for anything.
        customer = customers[2] if number % 8 == 7 else customers[number % 2]
        job_id = uuid5(NAMESPACE_URL, f"creditmill-demo:{customer.id}:{number}")
        dealt.append(submission.model_copy(update={"account_id": customer.id, "job_id": job_id}))
    return dealt


def _send(submissions: list[Submission]) -> list[UUID]:
    return [job.job_id for job in pipeline.submit_many(submissions)]


def _report(home: Path, job_ids: list[UUID], account_ids: list[int], *, seconds: float) -> int:
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        now = database_now(session)
        jobs = list(story.views(session, job_ids).values())
        settled = [each for each in receipts.receipts(session, job_ids) if each.credits_recomputed is not None]
        customers = [accounts.view(session, account_id) for account_id in account_ids]
        # The run may have begun before midnight.
        first = now.date() - timedelta(days=1)
        earned = revenue_reports.report(session, first, now.date(), by=By.MODEL, account_ids=account_ids)
        findings = audit.audit(session, now=now)
    wrong = [receipt for receipt in settled if recomputed_charge(receipt) != receipt.credits_charged]
    charged = Counter(dict.fromkeys(account_ids, 0))
    for receipt in settled:
        charged[receipt.account_id] += receipt.credits_charged
    console().print(_outcomes(jobs))
    console().print(_balances(customers, charged))
    console().print(_margins(earned))
    _say(f"{len(settled)} charges were computed again from their recorded usage: {len(wrong)} differ.")
    kept = [c for c, (_, credits) in zip(customers, CUSTOMERS, strict=True) if c.balance != credits - charged[c.id]]
    _say(f"Failed jobs have their credits back: {'no, see the balances' if kept else 'yes'}.")
    for finding in findings:
        _say(f"AUDIT: {finding.rule}: {finding.row}: {finding.problem}")
    _say(f"The audit: {'the books balance' if not findings else f'{len(findings)} findings'}.")
    _say(
        f"Look around: export {instance.FOLDER_VARIABLE}={home}, run `creditmill up --simulator` in another terminal, "
        f"and tell one job's story: creditmill jobs show {jobs[0].job_id}"
    )
    _say(f"Done in {seconds:.0f} s.")
    return 1 if wrong or kept or findings or any(customer.reserved for customer in customers) else 0


def _outcomes(jobs: list[JobView]) -> object:
    counted = Counter((job.state, job.error_code or "") for job in jobs)
    attempts = Counter[tuple[str, str]]()
    credits = Counter[tuple[str, str]]()
    for job in jobs:
        attempts[(job.state, job.error_code or "")] += job.attempts
        credits[(job.state, job.error_code or "")] += job.credits_charged or 0
    rows = [(state, why, n, attempts[state, why], credits[state, why]) for (state, why), n in sorted(counted.items())]
    return table("Outcomes", ["state", "why", "jobs", "provider calls", "credits charged"], rows, left=2)


def _balances(customers: list[AccountView], charged: Counter[int]) -> object:
    rows = [
        (f"{account.id} {account.name}", charged[account.id], account.balance, account.reserved, account.available)
        for account in customers
    ]
    return table("Accounts, in credits", ["account", "charged", "balance", "reserved", "available"], rows)


def _margins(earned: Report) -> object:
    rows = []
    for row in earned.rows:
        found = row.figures
        share = None if found.margin_percent is None else f"{found.margin_percent} %"
        amounts = (found.revenue_usd, found.cost_usd, found.exposure_usd, found.margin_usd)
        rows.append((row.name, found.jobs_settled, *(usd(amount) for amount in amounts), share))
    columns = ["model", "settled jobs", "revenue", "provider cost", "of it exposure", "margin", "margin %"]
    return table("Revenue, provider cost and margin", columns, rows)


def _pids(supervisor: Supervisor) -> str:
    return ", ".join(f"{name} {pid}" for name, pid in supervisor.pids().items())


def _say(sentence: str) -> None:
    click.echo(sentence)
