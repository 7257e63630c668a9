"""The books that the model is compared with: emptied for each example, and read whole by one statement."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.chaos.model import ANCHOR_DAY, OPEN_MAX, Model
from tests.chaos.model_records import EPOCH, Account, Body, Call, Job, Tariff, usd

EMPTIED = """
    resolutions generation_results credit_usage_logs credit_transactions provider_calls generation_jobs
    plan_limit_usage subscription_periods subscriptions plans accounts change_history revenue_rollups revenue_changes
"""

# Each part is a list of rows, in an order that the model knows.
PARTS = {
    "accounts": "SELECT id, balance, reserved, frozen_reason IS NOT NULL FROM accounts ORDER BY id",
    "ledger": "SELECT account_id, transaction_type, amount, balance_after, job_id, idempotency_key "
    "FROM credit_transactions ORDER BY account_id, id",
    "usage_logs": "SELECT job_id, credits_used, cost_usd::text, revenue_usd::text, tokens_input, tokens_input_cached, "
    "tokens_output, tokens_reasoning, images FROM credit_usage_logs ORDER BY job_id",
    "limits": "SELECT account_id, limit_type, period_start, amount_used, amount_reserved FROM plan_limit_usage "
    "WHERE amount_used <> 0 OR amount_reserved <> 0 ORDER BY 1, 2, 3",
    "jobs": "SELECT id, account_id, idempotency_key, operation_type, model_name, state, credits_estimated, "
    "credits_reserved, credits_charged, credits_overrun, cost_usd::text, attempts, parts_delivered, error_code "
    "FROM generation_jobs ORDER BY id",
    "times": "SELECT id, {created_at}, {deadline_at}, {next_at}, {taken_until}, {lease_until}, republished, "
    "limit_period_start, limit_reserved, limit_used FROM generation_jobs ORDER BY id",
    "calls": "SELECT job_id, attempt, outcome, failure, {finished_at}, cost_usd::text, exposure, "
    "ARRAY[usage->'input_tokens', usage->'cached_input_tokens', usage->'output_tokens', usage->'reasoning_tokens', "
    "usage->'images'], asked, (SELECT r.outcome FROM resolutions r WHERE r.call_id = c.id) FROM provider_calls c "
    "ORDER BY job_id, attempt",
    "results": "SELECT job_id, content->>'text', content->'images' FROM generation_results ORDER BY job_id",
}


class _Seconds(dict[str, str]):
    def __missing__(self, column: str) -> str:
        return f"extract(epoch FROM {column} - timestamptz '{EPOCH.isoformat()}')::bigint"


def _whole() -> str:
    parts = []
    for name, query in PARTS.items():
        # A row becomes an array of its values, without their names.
        rows = query.format_map(_Seconds())
        array = "(SELECT json_agg(value) FROM json_each(row_to_json(r)))"
        parts.append(f"'{name}', (SELECT coalesce(json_agg({array}), '[]') FROM ({rows}) r)")
    return f"SELECT json_build_object({', '.join(parts)})"


_WHOLE = text(_whole().replace(":", "\\:"))


def recorded(session: Session) -> dict[str, list[list[Any]]]:
    """What the database says."""
    return session.scalars(_WHOLE).one()


def modelled(model: Model) -> dict[str, list[list[Any]]]:
    """What the model says, in the shape of `recorded`."""
    jobs = sorted(model.jobs.values(), key=lambda job: job.id)
    return {
        "accounts": [[i, a.balance, a.reserved, a.frozen] for i, a in sorted(model.accounts.items())],
        "ledger": [[account, *row] for account, rows in sorted(model.ledger.items()) for row in rows],
        "usage_logs": [[str(job.id), *model.usage_logs[job.id]] for job in jobs if job.id in model.usage_logs],
        "limits": [[*key, *counted] for key, counted in sorted(model.units.items()) if any(counted)],
        "jobs": [_job(job) for job in jobs],
        "times": [_times(job) for job in jobs],
        "calls": [_call(job, attempt, call) for job in jobs for attempt, call in enumerate(job.calls, 1)],
        "results": [_result(job) for job in jobs if job.words],
    }


def result(words: int, body: Body) -> dict[str, Any]:
    """What a provider delivers that writes so many words, or an image of them."""
    return {"text": "bread " * words} | ({"images": [words]} if body.of_images else {})


def difference(model: Model, found: dict[str, list[list[Any]]]) -> str:
    """The rows in which the database and the model differ; empty when they agree."""
    wanted = modelled(model)
    lines = []
    for part in PARTS:
        if found[part] != wanted[part]:
            lines += [f"{part}: the database has {row}" for row in found[part] if row not in wanted[part]]
            lines += [f"{part}: the model has    {row}" for row in wanted[part] if row not in found[part]]
            lines = lines or [f"{part}: in another order"]
    return "\n".join(lines)


def empty(session: Session, accounts: dict[int, Account]) -> None:
    """Throw everything away but the catalogue, which is set back, and open these accounts without credits."""
    # The ledger and the histories refuse to lose rows; as a replica, the session fires no triggers.
    session.execute(text("SET LOCAL session_replication_role = replica"))
    session.execute(text(";".join(f"DELETE FROM {table}" for table in EMPTIED.split())))
    session.execute(text("UPDATE billing_configuration SET max_open_jobs_per_account = :most"), {"most": OPEN_MAX})
    set_tariff(session, Tariff())
    session.execute(text("UPDATE catalog_version SET version = gen_random_uuid()"))
    month = EPOCH.replace(day=ANCHOR_DAY) - timedelta(days=31)
    for number, account in accounts.items():
        given = {"id": number, "zone": account.zone, "limits": json.dumps(account.allowed), "start": month.date()}
        session.execute(
            text(
                "INSERT INTO accounts (id, name, time_zone) OVERRIDING SYSTEM VALUE "
                "VALUES (:id, 'Account ' || :id, :zone)"
            ),
            given,
        )
        if account.allowed is not None:
            session.execute(
                text(
                    "INSERT INTO plans (id, slug, name, limits) OVERRIDING SYSTEM VALUE "
                    "VALUES (:id, 'plan-' || :id, 'Plan', CAST(:limits AS jsonb)); "
                    "INSERT INTO subscriptions (id, account_id, plan_id, anchor_date, current_period_start, "
                    "current_period_end, renews_at) OVERRIDING SYSTEM VALUE VALUES (:id, :id, :id, :start, :start, "
                    "CAST(:start AS date) + 31, (CAST(:start AS date) + 31)::timestamp AT TIME ZONE :zone); "
                    "INSERT INTO subscription_periods (subscription_id, period_start, period_end, plan_id, status, "
                    "starts_at, credits) SELECT id, current_period_start, current_period_end, plan_id, status, "
                    "current_period_start::timestamp AT TIME ZONE :zone, 0 FROM subscriptions WHERE id = :id"
                ),
                given,
            )


def set_tariff(session: Session, tariff: Tariff) -> None:
    """Let the catalogue have these prices."""
    session.execute(
        text(
            "UPDATE credit_cost_config SET tokens_per_credit = :tokens_per_credit, min_credits = :min_credits, "
            "price_per_credit_usd = :usd_per_credit, is_active = operation_type IS DISTINCT FROM :off; "
            "UPDATE billing_configuration SET credit_rounding_mode = :rounding; "
            "UPDATE ai_model_config SET output_cost_per_1m = :output_usd WHERE model_type = 'text'; "
            "DELETE FROM image_prices WHERE (model_name, size, quality) = ('dall-e-3', '1024x1024', 'standard'); "
            "INSERT INTO image_prices (model_name, size, quality, cost_per_image_usd, credits_per_image) "
            "SELECT 'dall-e-3', '1024x1024', 'standard', :image_usd, :image_credits WHERE :image_priced"
        ),
        vars(tariff),
    )


def set_limits(session: Session, number: int, allowed: dict[str, int | None]) -> None:
    """Let an account's plan have these limits."""
    given = {"id": number, "limits": json.dumps(allowed)}
    session.execute(text("UPDATE plans SET limits = CAST(:limits AS jsonb) WHERE id = :id"), given)


def _job(job: Job) -> list[Any]:
    kind, attempts = job.body.kind, len(job.calls)
    money = [job.estimated, job.held, job.charged, job.overrun, usd(job.cost)]
    made = [attempts, job.parts, job.error]
    return [str(job.id), job.account, job.key, kind.operation, kind.model, job.state, *money, *made]


def _result(job: Job) -> list[Any]:
    first = result(job.words[0], job.body)
    return [str(job.id), first["text"], job.words if job.body.of_images else None]


def _times(job: Job) -> list[Any]:
    counted = [job.period, job.units_held, job.units_used]
    return [str(job.id), job.created, job.deadline, job.next_at, job.taken, job.lease, job.republished, *counted]


def _call(job: Job, attempt: int, call: Call) -> list[Any]:
    used = [None] * 5 if call.used is None else list(call.used)
    ended = [call.outcome, call.failure, call.finished, usd(call.cost), call.exposure]
    return [str(job.id), attempt, *ended, used, call.asked, call.resolved]
