"""The audit: what the books must say, as one query a rule. A finding names the row and the difference.

Every rule reads the same snapshot; run them in one REPEATABLE READ transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog.usage import INPUT_BUCKETS, OUTPUT_BUCKETS
from billing.jobs.charging import compute
from billing.jobs.states import OPEN
from billing.ledger import accounts
from billing.reports import audit_queries
from billing.reports.revenue_queries import FIGURES, ROLLED_UP, SOURCE
from billing.reports.tables import AuditRun

GRACE = timedelta(minutes=15)
"""How long past its deadline a job may stay open before the audit says so: the recovery task gets to it first."""

_OPEN = ", ".join(f"'{state}'" for state in sorted(OPEN))
_DIFFER = " OR ".join(f"coalesce(r.{name}, 0) <> coalesce(s.{name}, 0)" for name in FIGURES)
_DIFFERENCES = ", ".join(
    f"CASE WHEN coalesce(r.{name}, 0) <> coalesce(s.{name}, 0) "
    f"THEN '{name} ' || coalesce(r.{name}, 0) || ', source ' || coalesce(s.{name}, 0) END"
    for name in FIGURES
)


_EARLIER = (
    "e.subscription_id = p.subscription_id AND e.period_start < p.period_start AND e.credits + e.credits_withheld > 0"
)
"""Periods of the same account that began before and granted something, or may still do so."""


def _used(counts: Sequence[str], *, but: str = "") -> str:
    """The sum over a job's calls of these counts of their usage but one; those that are 0 are not stored."""
    used = " + ".join(f"coalesce((usage ->> '{count}')::bigint, 0)" for count in counts if count != but)
    return f"sum({used})"


@dataclass(frozen=True)
class Finding:
    """Something that does not add up: the rule, the row, what is wrong with it, and whose account it is."""

    rule: str
    row: str
    problem: str
    account_id: int


@dataclass(frozen=True)
class Rule:
    """One rule of the books: its name, what it promises, and the query that finds what breaks it.

    The query returns (row, problem, account id) and takes `:late`, the instant before which an open job is overdue.
    An account that breaks a rule which `freezes` starts no new jobs until an operator has looked into it.
    """

    name: str
    promise: str
    query: str
    freezes: bool = False


RULES: Sequence[Rule] = (
    Rule(
        "balance_is_sum_of_transactions",
        "An account's balance is the sum of its ledger rows.",
        """SELECT 'account ' || a.id, 'balance ' || a.balance || ', ledger ' || coalesce(sum(t.amount), 0), a.id
           FROM accounts a LEFT JOIN credit_transactions t ON t.account_id = a.id
           GROUP BY a.id HAVING a.balance <> coalesce(sum(t.amount), 0)""",
        freezes=True,
    ),
    Rule(
        "reserved_is_sum_of_open_jobs",
        "What an account has reserved is what its open jobs hold.",
        f"""SELECT 'account ' || a.id, 'reserved ' || a.reserved || ', open jobs hold '
                   || coalesce(sum(j.credits_reserved), 0), a.id
            FROM accounts a LEFT JOIN generation_jobs j ON j.account_id = a.id AND j.state IN ({_OPEN})
            GROUP BY a.id HAVING a.reserved <> coalesce(sum(j.credits_reserved), 0)""",  # noqa: S608
        freezes=True,
    ),
    Rule(
        "balance_after_is_continuous",
        "Each ledger row's balance is the one before it plus its amount.",
        """SELECT 'transaction ' || id, 'balance_after ' || balance_after || ', expected ' || expected,
                  account_id FROM (
               SELECT id, account_id, balance_after,
                      coalesce(lag(balance_after) OVER (PARTITION BY account_id ORDER BY id), 0) + amount AS expected
               FROM credit_transactions) t
           WHERE balance_after <> expected""",
        freezes=True,
    ),
    Rule(
        "settled_jobs_are_charged_once",
        "A settled job has one deduction of its charge and one usage log; no other job has either.",
        """SELECT 'job ' || j.id, 'state ' || j.state || ', charged ' || coalesce(j.credits_charged, 0)
                  || ', deductions ' || coalesce(d.n, 0) || ' of ' || coalesce(d.total, 0) || ' credits, usage logs '
                  || coalesce(u.n, 0) || ' of ' || coalesce(u.total, 0) || ' credits', j.account_id
           FROM generation_jobs j
           LEFT JOIN (SELECT job_id, count(*) AS n, -sum(amount) AS total
                      FROM credit_transactions WHERE job_id IS NOT NULL GROUP BY job_id) d ON d.job_id = j.id
           LEFT JOIN (SELECT job_id, count(*) AS n, sum(credits_used) AS total
                      FROM credit_usage_logs GROUP BY job_id) u ON u.job_id = j.id
           WHERE coalesce(d.n, 0) <> (j.state = 'settled')::int OR coalesce(u.n, 0) <> (j.state = 'settled')::int
              OR coalesce(d.total, 0) <> coalesce(j.credits_charged, 0)
              OR coalesce(u.total, 0) <> coalesce(j.credits_charged, 0)""",
        freezes=True,
    ),
    Rule(
        "charge_within_reservation",
        "No job is charged more than was reserved for it.",
        """SELECT 'job ' || id, 'charged ' || credits_charged || ', reserved ' || credits_reserved, account_id
           FROM generation_jobs WHERE credits_charged > credits_reserved""",
        freezes=True,
    ),
    Rule(
        "settled_jobs_have_a_successful_call",
        "A settled job has one call that delivered for it, or one for each part; a refunded one none but exposure.",
        # Jobs that were settled before parts were counted have one, and count none.
        """SELECT 'job ' || j.id, 'state ' || j.state || ', parts delivered ' || j.parts_delivered
                  || ', calls that delivered ' || count(c.id), j.account_id
           FROM generation_jobs j
           LEFT JOIN provider_calls c ON c.job_id = j.id AND c.outcome = 'succeeded' AND NOT c.exposure
           GROUP BY j.id
           HAVING count(c.id) <> greatest(j.parts_delivered, (j.state IN ('settled', 'generated'))::int)""",
    ),
    Rule(
        "cost_is_sum_of_calls",
        "A job's provider cost is the sum of its calls.",
        """SELECT 'job ' || j.id, 'cost ' || j.cost_usd || ', calls ' || coalesce(sum(c.cost_usd), 0), j.account_id
           FROM generation_jobs j LEFT JOIN provider_calls c ON c.job_id = j.id
           GROUP BY j.id HAVING j.cost_usd <> coalesce(sum(c.cost_usd), 0)""",
    ),
    Rule(
        "plan_usage_is_sum_of_jobs",
        "What a plan limit counts is what the jobs of its period used and hold.",
        f"""SELECT 'plan_limit_usage of account ' || account_id || ', ' || limit_type || ' from ' || period_start,
                   'used ' || coalesce(u.amount_used, 0) || ' and reserved ' || coalesce(u.amount_reserved, 0)
                   || ', jobs used ' || coalesce(j.used, 0) || ' and hold ' || coalesce(j.held, 0), account_id
            FROM plan_limit_usage u
            FULL JOIN (SELECT account_id, limit_type, limit_period_start AS period_start, sum(limit_used) AS used,
                              sum(limit_reserved) FILTER (WHERE state IN ({_OPEN})) AS held
                       FROM generation_jobs WHERE limit_period_start IS NOT NULL GROUP BY 1, 2, 3) j
                 USING (account_id, limit_type, period_start)
            WHERE coalesce(u.amount_used, 0) <> coalesce(j.used, 0)
               OR coalesce(u.amount_reserved, 0) <> coalesce(j.held, 0)""",  # noqa: S608
        freezes=True,
    ),
    Rule(
        "periods_are_granted_once",
        "A subscription's period that was granted has one transaction of its credits, and any other has none.",
        """SELECT 'period from ' || p.period_start || ' of subscription ' || s.id,
                  CASE WHEN p.granted THEN 'granted ' || p.credits ELSE 'not granted' END
                  || ', transactions ' || t.n || ' of ' || t.total || ' credits', s.account_id
           FROM subscription_periods p
           JOIN subscriptions s ON s.id = p.subscription_id
           CROSS JOIN LATERAL (SELECT count(*) AS n, coalesce(sum(amount), 0) AS total,
                                      count(*) FILTER (WHERE account_id <> s.account_id) AS of_others
                               FROM credit_transactions t
                               WHERE t.transaction_type = 'subscription' AND t.subscription_id = s.id
                                     AND t.period_start = p.period_start) t
           WHERE t.total <> CASE WHEN p.granted THEN p.credits ELSE 0 END OR t.of_others > 0""",
        freezes=True,
    ),
    Rule(
        "no_day_is_granted_twice",
        "A period grants each of its days no more than its plan includes beyond what an earlier period granted it.",
        f"""SELECT 'period from ' || p.period_start || ' of subscription ' || s.id,
                  'grants ' || p.credits + p.credits_withheld || ' credits, and earlier ones left '
                  || trunc(own.credits, 2) || ' of ' || p.included_credits, s.account_id
           FROM subscription_periods p
           JOIN subscriptions s ON s.id = p.subscription_id
           CROSS JOIN LATERAL (
               SELECT sum(greatest(0, p.included_credits::numeric / (p.period_end - p.period_start) - had.rate))
                      AS credits
               FROM generate_series(0, p.period_end - p.period_start - 1) day
               CROSS JOIN LATERAL (
                   SELECT coalesce(max(coalesce(e.included_credits, e.credits + e.credits_withheld)::numeric
                                       / (e.period_end - e.period_start)), 0) AS rate
                   FROM subscription_periods e WHERE {_EARLIER} AND e.period_end > p.period_start + day) had
           ) own
           WHERE EXISTS (SELECT FROM subscription_periods e WHERE {_EARLIER} AND e.period_end > p.period_start)
                 -- A sum of fractions is exact to many more places than these.
                 AND p.credits + p.credits_withheld > own.credits + 0.000001""",  # noqa: S608
    ),
    Rule(
        "subscriptions_stand_in_their_last_period",
        "A subscription that has not ended stands in the last of the periods that it began.",
        """SELECT 'subscription ' || s.id, 'stands in ' || s.current_period_start || ' up to ' || s.current_period_end
                  || ', its last period is ' || coalesce(p.period_start || ' up to ' || p.period_end, 'none'),
                  s.account_id
           FROM subscriptions s
           LEFT JOIN LATERAL (SELECT period_start, period_end FROM subscription_periods
                              WHERE subscription_id = s.id ORDER BY period_start DESC LIMIT 1) p ON true
           WHERE s.status <> 'cancelled' AND (s.current_period_start, s.current_period_end)
                                             IS DISTINCT FROM (p.period_start, p.period_end)""",
    ),
    Rule(
        "nothing_owed_long_past_its_time",
        "No renewal and no grant of credits waits long past its time.",
        """SELECT 'subscription ' || id, 'should have turned at ' || renews_at, account_id
           FROM subscriptions WHERE renews_at < :late
           UNION ALL
           SELECT 'period from ' || p.period_start || ' of subscription ' || s.id,
                  p.credits || ' credits are owed since ' || p.starts_at, s.account_id
           FROM subscription_periods p JOIN subscriptions s ON s.id = p.subscription_id
           WHERE p.credits > 0 AND NOT p.granted AND p.starts_at < :late""",
    ),
    Rule(
        "usage_logs_say_what_was_delivered",
        "A usage log has the account, tokens, images and revenue of the calls that its job was charged for.",
        f"""SELECT 'usage log ' || l.id, 'of job ' || j.id || ' differs from what was delivered', j.account_id
           FROM credit_usage_logs l
           JOIN generation_jobs j ON j.id = l.job_id
           JOIN (SELECT job_id, {_used(INPUT_BUCKETS, but="cached_input_tokens")} AS input,
                        {_used(("cached_input_tokens",))} AS cached,
                        {_used(OUTPUT_BUCKETS, but="reasoning_tokens")} AS output,
                        {_used(("reasoning_tokens",))} AS reasoning, {_used(("images",))} AS images
                 FROM provider_calls WHERE outcome = 'succeeded' AND NOT exposure GROUP BY job_id) c ON c.job_id = j.id
           WHERE (l.account_id, l.operation_type, l.model_used, l.tokens_input, l.tokens_input_cached, l.tokens_output,
                  l.tokens_reasoning, l.images)
                 IS DISTINCT FROM
                 (j.account_id, j.operation_type, j.model_name, c.input, c.cached, c.output, c.reasoning, c.images)
              OR l.revenue_usd <> l.credits_used * l.price_per_credit_usd""",  # noqa: S608 - names of our own buckets
    ),
    Rule(
        "finished_jobs_have_no_open_call",
        "A finished job has no call whose outcome was never written.",
        """SELECT 'job ' || j.id, 'call ' || c.id || ', attempt ' || c.attempt || ', began at ' || c.started_at
                  || ' and has no outcome', j.account_id
           FROM provider_calls c JOIN generation_jobs j ON j.id = c.job_id
           WHERE c.outcome IS NULL AND j.finished_at < :late""",
    ),
    Rule(
        "unknown_outcomes_are_exposure",
        "A job that was refunded as its outcome stayed unknown has a call that counts as exposure, or was resolved.",
        """SELECT 'job ' || j.id, 'refunded as ' || j.error_code || ', and no call of it counts as exposure',
                  j.account_id
           FROM generation_jobs j
           WHERE j.state = 'refunded' AND j.error_code = 'outcome_unknown' AND NOT EXISTS (
               SELECT FROM provider_calls c WHERE c.job_id = j.id
               AND (c.exposure OR EXISTS (SELECT FROM resolutions r WHERE r.call_id = c.id)))""",
    ),
    Rule(
        "capped_keys_count_their_jobs",
        "What a capped API key holds and has used is what its jobs, and those of keys that took its place, do.",
        """SELECT 'api key ' || k.id, 'held ' || k.credits_held || ' and used ' || k.credits_used || ', its jobs hold '
                  || coalesce(sum(j.credits_estimated) FILTER (WHERE j.finished_at IS NULL), 0) || ' and used '
                  || coalesce(sum(j.credits_charged), 0), k.account_id
           FROM api_keys k
           LEFT JOIN api_keys own ON own.id = k.id OR own.cap_of = k.id
           LEFT JOIN generation_jobs j ON j.api_key_id = own.id
           WHERE k.credit_cap IS NOT NULL GROUP BY k.id
           HAVING k.credits_held <> coalesce(sum(j.credits_estimated) FILTER (WHERE j.finished_at IS NULL), 0)
               OR k.credits_used <> coalesce(sum(j.credits_charged), 0)""",
    ),
    Rule(
        "nothing_open_past_its_deadline",
        "No job stays open long past its deadline, unless its outcome is still being looked for.",
        """SELECT 'job ' || id, state || ' since its deadline at ' || deadline_at, account_id FROM generation_jobs
           WHERE state IN ('queued', 'reserved', 'calling', 'generated') AND deadline_at < :late AND next_at < :late""",
    ),
    Rule(
        "roll_ups_equal_their_source",
        "The roll-ups, with the changes queued for them, equal the sums of their jobs, usage and exposed calls.",
        f"""SELECT 'roll-up ' || day || ' account ' || account_id || ' ' || operation_type || ' ' || model_name,
                   concat_ws('; ', {_DIFFERENCES}), account_id
            FROM ({ROLLED_UP}) r FULL JOIN ({SOURCE}) s USING (day, account_id, operation_type, model_name)
            WHERE ({_DIFFER})""",  # noqa: S608
    ),
)


CHARGES_FOLLOW = "charges_follow_from_price_and_usage"
"""The one rule that is no query: SQL does not price."""
PROMISES = len(RULES) + 1


def audit(session: Session, *, now: datetime, changed: Sequence[UUID] | None = None) -> list[Finding]:
    """Every finding of every rule; an empty list means that the books balance.

    Charges are computed again of all jobs, or only of those that `changed`.
    """
    given = {"late": now - GRACE, "start": "-infinity", "end": "infinity"}
    findings = []
    for rule in RULES:
        rows = audit_queries.findings(session, rule.query, given)
        findings += [Finding(rule.name, row, problem, account_id) for row, problem, account_id in rows]
    return findings + [finding for _, finding in charges(session, changed)]


def audit_changed(session: Session, *, now: datetime) -> list[Finding]:
    """As `audit`, of the charges that changed since it ran last; those that do not follow are looked at again.

    Charges that are committed late are queued by then, and found next time. The caller commits one REPEATABLE READ
    transaction.
    """
    changed = audit_queries.take_changed(session)
    wrong = [job_id for job_id, _ in charges(session, changed)]
    audit_queries.queue(session, wrong)
    return audit(session, now=now, changed=wrong)


def charges(session: Session, job_ids: Sequence[UUID] | None) -> Iterator[tuple[UUID, Finding]]:
    """The jobs, of these or of all, whose charge does not follow from their stored price and usage."""
    for job in audit_queries.settled(session, job_ids):
        if not job.usages:
            # Another rule says that no call delivered.
            continue
        due = compute(job.price, job.usages, held=job.credits_reserved).charge
        if (due.credits, due.overrun) != (job.credits_charged, job.credits_overrun):
            problem = (
                f"charged {job.credits_charged} and {job.credits_overrun} overrun, from price and usage follow "
                f"{due.credits} and {due.overrun}"
            )
            yield job.id, Finding(CHARGES_FOLLOW, f"job {job.id}", problem, job.account_id)


def freeze(session: Session, findings: Sequence[Finding]) -> list[int]:
    """Freeze the accounts whose credits do not add up: they start no new jobs; returns those not frozen before.

    Their open jobs go on to their end, and all other accounts go on.
    """
    serious = {rule.name for rule in RULES if rule.freezes} | {CHARGES_FOLLOW}
    # The first rule that it breaks is the reason.
    wrong = [finding for finding in findings if finding.rule in serious]
    reasons = {finding.account_id: f"audit: {finding.rule}" for finding in reversed(wrong)}
    return accounts.freeze_all(session, reasons)


def note(session: Session, findings: Sequence[Finding], frozen: Sequence[int], *, now: datetime) -> None:
    """Record that the audit ran, how much it found and how many accounts it froze."""
    audit_queries.note(session, AuditRun(ran_at=now, findings=len(findings), accounts_frozen=len(frozen)))


def last_run(session: Session) -> AuditRun | None:
    """The latest run of the periodic audit."""
    return audit_queries.last_run(session)
