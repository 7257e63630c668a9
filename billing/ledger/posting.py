"""What one batch adds to accounts and plan limits, written by one statement: both, or neither."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date

from sqlalchemy import text
from sqlalchemy.orm import Session

from billing.sql import as_json

LimitKey = tuple[int, str, date]
"""Account id, limit type, first day of the period."""


@dataclass
class Change:
    """What one batch does to one account, in credits."""

    balance: int = 0
    reserved: int = 0


@dataclass
class LimitChange:
    """What one batch does to one plan limit's row, in its units; a hold must leave the row within `allowed`."""

    used: int = 0
    reserved: int = 0
    allowed: int | None = None


# The CHECKs of accounts refuse what the balance does not cover; a plan's allowance stands on another row, so the
# statement itself compares with it.
_POST = """
    WITH held AS (
        UPDATE plan_limit_usage u SET amount_used = u.amount_used + v.used,
               amount_reserved = u.amount_reserved + v.reserved, updated_at = now()
        FROM jsonb_to_recordset(CAST(:limits AS jsonb))
             AS v(account_id bigint, limit_type text, period_start date, used bigint, reserved bigint, allowed bigint)
        WHERE u.account_id = v.account_id AND u.limit_type = v.limit_type AND u.period_start = v.period_start
          AND (v.allowed IS NULL OR u.amount_used + u.amount_reserved + v.used + v.reserved <= v.allowed)
        RETURNING 1
    ), paid AS (
        UPDATE accounts a SET balance = a.balance + v.balance, reserved = a.reserved + v.reserved, updated_at = now()
        FROM jsonb_to_recordset(CAST(:accounts AS jsonb)) AS v(id bigint, balance bigint, reserved bigint)
        WHERE a.id = v.id
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM paid), (SELECT count(*) FROM held)
"""


@dataclass
class Books:
    """The changes of one batch; whoever posts them has locked the accounts, which guards the limits' rows too."""

    accounts: dict[int, Change] = field(default_factory=lambda: defaultdict(Change))
    limits: dict[LimitKey, LimitChange] = field(default_factory=lambda: defaultdict(LimitChange))

    def post(self, session: Session) -> None:
        """Write everything at once; nothing is written when a balance or an allowance does not cover it."""
        accounts = [
            {"id": i, "balance": c.balance, "reserved": c.reserved} for i, c in self.accounts.items() if c != Change()
        ]
        limits = [
            {"account_id": account, "limit_type": limit, "period_start": start, **vars(change)}
            for (account, limit, start), change in self.limits.items()
            if change.used or change.reserved
        ]
        if not accounts and not limits:
            return
        given = {"accounts": as_json(accounts), "limits": as_json(limits)}
        written = tuple(session.execute(text(_POST), given).one())
        assert written == (len(accounts), len(limits)), "a hold would have exceeded its allowance, or lost its row"
