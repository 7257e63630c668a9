"""The errors of the business. Each carries its facts and a code; its message is the sentence that the user reads."""

from __future__ import annotations


class BillingError(Exception):
    """Something that was asked for cannot be done; `code` says what, the message says why in one sentence."""

    code = "billing_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def facts(self) -> dict[str, object]:
        """The figures behind the sentence, for programs."""
        return {}


class InvalidRequest(BillingError):
    """The request is not one that Creditmill understands."""

    code = "invalid_request"

    def __init__(self, message: str, *, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.code = code


class UnknownThing(BillingError):
    """The request names an account, operation, model or job that does not exist."""

    def __init__(self, kind: str, name: object, *, choices: tuple[str, ...] = ()) -> None:
        hint = f" Known: {', '.join(choices)}." if choices else ""
        shown = repr(str(name)[:80])
        super().__init__(f"There is no {kind} {shown}.{hint}")
        self.code = f"unknown_{kind.replace(' ', '_')}"


class IdempotencyConflict(BillingError):
    """The idempotency key was used before, for another request."""

    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(f"The idempotency key {key[:80]!r} was already used with a different request.")
        self.key = key


class PriceNotConfigured(BillingError):
    """There is no price for what was asked, so it is refused rather than given away."""

    code = "price_not_configured"


class InsufficientCredits(BillingError):
    """The account cannot cover the estimate."""

    code = "insufficient_credits"

    def __init__(self, account_id: int, *, needed: int, available: int, held: int) -> None:
        short = needed - available
        holds = f" ({held} more are held by open jobs)" if held else ""
        super().__init__(
            f"Account {account_id} needs {needed} credits and has {available} available{holds}: {short} short."
        )
        self.needed, self.available, self.held, self.short = needed, available, held, short

    @property
    def cause(self) -> str:
        """`held` when open jobs hold the missing credits and may still release them, else `spent`."""
        return "held" if self.short <= self.held else "spent"

    def facts(self) -> dict[str, object]:
        """Credits: needed, available, held by open jobs, and short; and why they are short."""
        return {
            "needed": self.needed,
            "available": self.available,
            "held": self.held,
            "short": self.short,
            "cause": self.cause,
        }


class PlanLimitReached(BillingError):
    """The plan's allowance for this period does not cover the request."""

    code = "plan_limit_reached"

    def __init__(self, account_id: int, limit_type: str, *, needed: int, remaining: int) -> None:
        super().__init__(
            f"Account {account_id} needs {needed} of its plan's {limit_type} and has {remaining} left in this period."
        )
        self.limit_type, self.needed, self.remaining = limit_type, needed, remaining

    def facts(self) -> dict[str, object]:
        """The limit's type, and its units: needed, remaining and short."""
        return {
            "limit_type": self.limit_type,
            "needed": self.needed,
            "remaining": self.remaining,
            "short": self.needed - self.remaining,
        }


class AccountFrozen(BillingError):
    """The account may not start new jobs."""

    code = "account_frozen"

    def __init__(self, account_id: int) -> None:
        super().__init__(f"Account {account_id} is frozen: it can start no new jobs until an operator looks into it.")


class TooManyOpenJobs(BillingError):
    """The account or the installation has as many unfinished jobs as it may have; the caller should try again later."""

    code = "too_many_open_jobs"

    def __init__(self, whose: str, *, asked: int, limit: int) -> None:
        more = "one more" if asked == 1 else f"{asked:,} more"
        super().__init__(f"{whose} may have {limit:,} unfinished jobs; {more} would exceed that. Try again later.")
        self.asked, self.limit = asked, limit

    def facts(self) -> dict[str, object]:
        """How many jobs were asked for, and how many may be unfinished at once."""
        return {"asked": self.asked, "limit": self.limit}


class KeyCapReached(BillingError):
    """What the API key may spend in all does not cover the request."""

    code = "key_cap_reached"

    def __init__(self) -> None:
        super().__init__("The cap of this API key does not cover the request.")


class NotCancellable(BillingError):
    """The job has gone too far to be cancelled."""

    code = "not_cancellable"

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"Job {job_id} is {state}; only a queued or reserved job can be cancelled.")
