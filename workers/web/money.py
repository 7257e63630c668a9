"""Money: the balance, the ledger, the usage, and the limits of the plan."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from billing.access import keys
from billing.catalog import current
from billing.errors import BillingError, InsufficientCredits, PlanLimitReached
from billing.ledger import accounts, statements
from billing.plans import plans
from billing.reports import usage_reports
from billing.reports.figures import By
from config.database import database_now, transaction
from config.tenants import reading_as
from workers.web import shapes
from workers.web.identity import Credentials, asker

SCOPE = "balance:read"
SHOWN_DAYS = 30
router = APIRouter(prefix="/api/v1", tags=["money"])


class Refused(BillingError):
    """What cannot be paid, in words that an app may show to its users."""

    def __init__(self, error: BillingError, message: str, facts: dict[str, object]) -> None:
        super().__init__(message)
        self.code = error.code
        self._facts = facts

    def facts(self) -> dict[str, object]:
        """What is needed, available, held and short, and when the plan renews."""
        return self._facts


def told_with_renewal(error: BillingError, account_id: int) -> BillingError:
    """An error about money in the words of the account, with the day on which its plan renews; any other as it is."""
    if not isinstance(error, InsufficientCredits | PlanLimitReached):
        return error
    with reading_as(account_id) as session:
        renewal = plans.renewal(session, account_id, now=database_now(session))
    renews_at = None if renewal is None or renewal.renews_at is None else renewal.renews_at
    when = "" if renews_at is None else f" The plan renews on {renews_at:%-d %B %Y}."
    facts = {**error.facts(), "renews_at": None if renews_at is None else renews_at.isoformat()}
    if isinstance(error, InsufficientCredits):
        facts["shortfall"] = facts.pop("short")
        holds = f" ({error.held:,} more are held by jobs that still run)" if error.held else ""
        said = f"This needs {error.needed:,} credits, and {error.available:,} are available{holds}: "
        return Refused(error, f"{said}{error.short:,} short.{when}", facts)
    facts["shortfall"] = facts.pop("short")
    said = f"This needs {error.needed:,} of the plan's {error.limit_type}, and {error.remaining:,} are left"
    return Refused(error, f"{said} in this period.{when}", facts)


def balance_headers(account_id: int) -> dict[str, str]:
    """What the account has after an answer that spends."""
    with reading_as(account_id) as session:
        account = accounts.view(session, account_id)
    return {
        "Creditmill-Balance": str(account.balance),
        "Creditmill-Held": str(account.reserved),
        "Creditmill-Available": str(account.available),
    }


@router.get("/balance")
def balance(credentials: Credentials, response: Response) -> shapes.Balance:
    """What the account has, what its open jobs hold, and what a new job may use."""
    who = asker(credentials, SCOPE, response)
    with reading_as(who.account_id) as session:
        account = accounts.view(session, who.account_id)
    with transaction() as session:
        cap = keys.cap(session, who.bearer.key_id)
    return shapes.Balance(
        balance=account.balance,
        held=account.reserved,
        available=account.available,
        frozen=account.frozen_reason is not None,
        key=None if cap is None else shapes.KeyCap(cap=cap[0], held=cap[1], used=cap[2]),
    )


@router.get("/ledger")
def ledger(
    credentials: Credentials,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.", max_length=500)] = None,
) -> shapes.Ledger:
    """Every change of the balance, the newest first, page by page."""
    who = asker(credentials, SCOPE, response)
    with reading_as(who.account_id) as session:
        page = statements.entries(session, who.account_id, limit=limit, after=cursor)
    return shapes.Ledger(entries=[shapes.Entry.model_validate(row) for row in page.rows], next=page.next)


@router.get("/usage")
def usage(
    credentials: Credentials,
    response: Response,
    by: Annotated[Literal["day", "model", "operation"], Query(description="What one row sums up.")] = "day",
    first: Annotated[date | None, Query(description="The first day (UTC); else 30 days before the last.")] = None,
    last: Annotated[date | None, Query(description="The last day (UTC); else today.")] = None,
) -> shapes.Usage:
    """What the jobs of some days used: credits, images and, where the platform reports them, tokens."""
    who = asker(credentials, SCOPE, response)
    with transaction() as session:
        at = current.moment(session)
    until = last or at.today
    since = first or until - timedelta(days=SHOWN_DAYS - 1)
    with reading_as(who.account_id) as session:
        found = usage_reports.used(session, who.account_id, since, until, by=By(by))
    shows_tokens = at.catalog.defaults.enable_token_based_reporting
    rows = [
        {name: value for name, value in vars(row).items() if shows_tokens or not name.startswith("tokens_")}
        for row in found
    ]
    return shapes.Usage(first=since, last=until, by=by, rows=[shapes.Used.model_validate(row) for row in rows])


@router.get("/limits")
def limits(credentials: Credentials, response: Response) -> shapes.Limits:
    """The plan, when it renews, and what is used and left of its limits in the current period."""
    who = asker(credentials, SCOPE, response)
    with reading_as(who.account_id) as session:
        now = database_now(session)
        plan = plans.renewal(session, who.account_id, now=now)
        used = plans.usage(session, who.account_id, now=now)
    return shapes.Limits(
        plan=None if plan is None else plan.plan,
        period_start=None if plan is None else plan.period_start,
        period_end=None if plan is None else plan.period_end,
        renews_at=None if plan is None else plan.renews_at,
        limits=[
            shapes.PlanLimit(
                limit_type=each.limit_type,
                allowed=each.allowed,
                used=each.used,
                held=each.reserved,
                remaining=each.remaining,
            )
            for each in used
        ],
    )
