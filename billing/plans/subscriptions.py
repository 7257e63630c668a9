"""What operators do with subscriptions: begin, move to another plan, cancel, resume, and record what was paid.

Each first brings the account's subscription up to date, so that it acts on the standing now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy.orm import Session

from billing.catalog import current
from billing.errors import InvalidRequest
from billing.ledger import accounts, posting
from billing.ledger.tables import Account
from billing.paging import Listing, Page
from billing.periods import Interval, Period, period_containing
from billing.plans import plans, renewals, subscription_queries
from billing.plans.lifecycle import Standing, Status, Terms
from billing.plans.subscribed import Subscribed
from billing.plans.tables import Plan, Subscription, SubscriptionPeriod

PERIODS = Listing("periods", (date,))
"""The periods of one subscription, the newest first, by their first day."""
TRIAL_DAYS_MAX = 366
GRACE_DAYS_MAX = 366


@dataclass(frozen=True)
class PeriodView:
    """A period of a subscription as it is shown; its end is the first day that is not part of it.

    Credits are those that it grants, of those that its plan included; those of a period that began past due are
    withheld until the payment comes. What was included is not known of periods from before it was kept.
    """

    period_start: date
    period_end: date
    plan: str
    status: str
    included_credits: int | None
    credits: int
    credits_withheld: int
    granted: bool


def subscribe(
    session: Session,
    account_id: int,
    slug: str,
    *,
    anchor: date | None = None,
    trial_days: int | None = None,
    another_trial: bool = False,
    at_period_end: bool = False,
    now: datetime,
) -> Subscription:
    """Subscribe an account to a plan, or move its subscription to another one.

    Periods are counted from `anchor`, the account's present day unless given; with a trial, from the day after it. The
    current period's included credits are granted at once, except in a trial. A subscription that is moved keeps its
    periods: the new plan's limits hold at once and its credits come with the next period; with `at_period_end`, both
    come with the next period. Moving it takes back a cancellation that waits for the end of the period, or one that was
    made at once and whose period still runs. Only with `another_trial` does an account have more than one trial.
    Raises UnknownThing, or InvalidRequest for an inactive plan, an impossible anchor or trial, an anchor or a trial for
    an account that is subscribed already, a period that overlaps one that was begun before, or a move at once between
    a monthly and a yearly plan.
    """
    account = accounts.get(session, account_id)
    plan = plans.named(session, slug)
    if not plan.is_active:
        raise InvalidRequest(f"The plan {slug} is switched off.", code="plan_inactive")
    _bring_up_to_date(session, account_id, now)
    found = subscription_queries.of_accounts(session, [account_id])
    if not found or not _goes_on(session, found[0], plan, at_period_end, now):
        if at_period_end:
            raise InvalidRequest(f"Account {account_id} has no period that could end first.", code="not_subscribed")
        if trial_days is not None and found and not another_trial:
            _refuse_trial(session, found[0])
        return _begin(session, account, plan, anchor, trial_days, found[0].row if found else None, now)
    if trial_days is not None:
        raise InvalidRequest(f"Account {account_id} is subscribed already: no trial.", code="no_trial")
    standing = found[0].standing
    if anchor is not None and anchor != standing.anchor:
        raise InvalidRequest(
            f"Account {account_id} is subscribed since {standing.anchor}; its periods stay.", code="has_anchor"
        )
    if plan.billing_interval != found[0].plan.billing_interval and not at_period_end:
        raise InvalidRequest(
            f"{slug} is paid by the {plan.billing_interval}, {found[0].plan.slug} by the "
            f"{found[0].plan.billing_interval}: it can take over when the period ends.",
            code="other_interval",
        )
    return _move(session, found[0], plan, at_period_end=at_period_end)


def cancel(session: Session, account_id: int, *, at_once: bool = False, now: datetime) -> Subscription:
    """End a subscription when its current period ends, or at once; granted credits stay.

    Raises UnknownThing, or InvalidRequest when the account is not subscribed.
    """

    def ended(standing: Standing) -> Standing:
        if at_once:
            return replace(standing, status=Status.CANCELLED, next_terms=None, grace_until=None)
        return replace(standing, cancel_at_period_end=True, next_terms=None)

    changed = _change(session, account_id, ended, now)
    if at_once:
        subscription_queries.forfeit_withheld(session, [changed.id])
    return changed


def resume(session: Session, account_id: int, *, now: datetime) -> Subscription:
    """Take back a cancellation, or a move to another plan, that waits for the end of the period.

    Raises UnknownThing, or InvalidRequest when the account is not subscribed.
    """
    return _change(
        session, account_id, lambda standing: replace(standing, cancel_at_period_end=False, next_terms=None), now
    )


def past_due(session: Session, account_id: int, *, grace_days: int | None = None, now: datetime) -> Subscription:
    """Record that a payment failed: for some days the account is served as before, then its subscription ends.

    Periods that begin meanwhile withhold their credits. `grace_days` is the platform's default unless given; a grace
    that runs already goes on. Raises UnknownThing or InvalidRequest.
    """
    days = current.read(session).defaults.past_due_grace_days if grace_days is None else grace_days
    if not 0 <= days <= GRACE_DAYS_MAX:
        raise InvalidRequest(f"A grace lasts 0 to {GRACE_DAYS_MAX} days.", code="invalid_grace")
    zone = accounts.zone(accounts.get(session, account_id))

    def overdue(standing: Standing) -> Standing:
        if standing.status is Status.TRIALING:
            raise InvalidRequest("A trial has no payment that could fail.", code="is_trial")
        if standing.status is Status.PAST_DUE:
            return standing
        until = now.astimezone(zone).date() + timedelta(days=days)
        return replace(standing, status=Status.PAST_DUE, grace_until=until)

    changed = _change(session, account_id, overdue, now)
    # With a grace of 0 days, the subscription has ended by now.
    renewals.move_on(session, subscription_queries.lock(session, [account_id]), now)
    return changed


def paid(session: Session, account_id: int, *, now: datetime) -> Subscription:
    """Record that an account that was past due has paid; what was withheld from it is granted.

    Raises UnknownThing, or InvalidRequest when the account is not subscribed.
    """
    changed = _change(
        session,
        account_id,
        lambda standing: (
            replace(standing, status=Status.ACTIVE, grace_until=None)
            if standing.status is Status.PAST_DUE
            else standing
        ),
        now,
    )
    subscription_queries.release_withheld(session, changed.id)
    renewals.grant_or_wait(session, account_id, now, at=now)
    return changed


def of_account(session: Session, account_id: int) -> Subscribed:
    """The account's subscription, ended or not; raises UnknownThing, or InvalidRequest when it never had one."""
    accounts.get(session, account_id)
    found = find(session, account_id)
    if found is None:
        raise InvalidRequest(f"Account {account_id} is not subscribed to a plan.", code="not_subscribed")
    return found


def find(session: Session, account_id: int) -> Subscribed | None:
    """The account's subscription, ended or not; None when it never had one."""
    found = subscription_queries.of_accounts(session, [account_id])
    return found[0] if found else None


def periods(session: Session, account_id: int, *, limit: int, after: str | None = None) -> Page[PeriodView]:
    """A page of the periods of an account's subscription, the newest first; `after` is the cursor of the page before.

    Raises UnknownThing, or InvalidRequest when the account was never subscribed and for any other cursor.
    """
    behind, subscription = PERIODS.key(after), of_account(session, account_id).row
    found = subscription_queries.periods_of(session, subscription.id, after=behind, limit=limit + 1)
    return PERIODS.page([_view(*each) for each in found], limit, lambda period: (period.period_start,))


def paid_out(session: Session, account_id: int) -> int:
    """All credits that were granted for periods which began past due; raises UnknownThing or InvalidRequest."""
    return subscription_queries.paid_out(session, of_account(session, account_id).row.id)


def _begin(
    session: Session,
    account: Account,
    plan: Plan,
    anchor: date | None,
    trial_days: int | None,
    former: Subscription | None,
    now: datetime,
) -> Subscription:
    zone = accounts.zone(account)
    today = now.astimezone(zone).date()
    if anchor is not None and anchor > today:
        raise InvalidRequest("A subscription cannot begin in the future.", code="invalid_anchor")
    if trial_days is not None and (anchor is not None or not 1 <= trial_days <= TRIAL_DAYS_MAX):
        raise InvalidRequest(f"A trial lasts 1 to {TRIAL_DAYS_MAX} days and begins today.", code="invalid_trial")
    terms = Terms(plan.id, Interval(plan.billing_interval))
    if trial_days is None:
        anchor = anchor or today
        status, period = Status.ACTIVE, period_containing(anchor, now, zone, terms.interval)
    else:
        anchor = today + timedelta(days=trial_days)
        status, period = Status.TRIALING, Period(today, anchor)
    if former is not None:
        _refuse_overlap(session, former, period, today)
    subscribed = Subscribed(account, former or Subscription(account_id=account.id), plan, None)
    subscription_queries.write(session, subscribed, Standing(status, terms, anchor, period))
    session.flush()
    renewals.begin(session, subscribed)
    renewals.grant(session, [account.id], now, at=now)
    session.refresh(subscribed.row)
    return subscribed.row


def _move(session: Session, subscribed: Subscribed, plan: Plan, *, at_period_end: bool) -> Subscription:
    standing = subscribed.standing
    terms = Terms(plan.id, Interval(plan.billing_interval))
    if standing.status is Status.CANCELLED:
        # The credits of its last period were granted: it goes on in that period, and nothing is granted twice.
        in_trial = standing.period.end <= standing.anchor
        standing = replace(standing, status=Status.TRIALING if in_trial else Status.ACTIVE)
    standing = replace(standing, cancel_at_period_end=False)
    moved = replace(standing, next_terms=terms) if at_period_end else replace(standing, terms=terms, next_terms=None)
    subscription_queries.write(session, subscribed, moved)
    session.flush()
    session.refresh(subscribed.row)
    return subscribed.row


def _change(session: Session, account_id: int, change: Callable[[Standing], Standing], now: datetime) -> Subscription:
    _bring_up_to_date(session, account_id, now)
    subscribed = of_account(session, account_id)
    if subscribed.standing.status is Status.CANCELLED:
        raise InvalidRequest(f"The subscription of account {account_id} has ended.", code="not_subscribed")
    subscription_queries.write(session, subscribed, change(subscribed.standing))
    session.flush()
    session.refresh(subscribed.row)
    return subscribed.row


def _bring_up_to_date(session: Session, account_id: int, now: datetime) -> None:
    """Lock the account, under whose lock reservations read the plan, and its subscription; renew what is due."""
    accounts.get(session, account_id)
    posting.lock(session, [account_id])
    renewals.move_on(session, subscription_queries.lock(session, [account_id]), now)
    # An account that holds the most credits possible cannot take a grant, and must still be able to cancel and to pay.
    renewals.grant_or_wait(session, account_id, now)


def _goes_on(session: Session, subscribed: Subscribed, plan: Plan, at_period_end: bool, now: datetime) -> bool:
    """Whether a subscription is live, or was cancelled within a period that it was granted and that still runs.

    An account that returns to a plan of another interval begins anew, unless the plan takes over at the period's end.
    """
    if subscribed.row.status != Status.CANCELLED:
        return True
    last = subscription_queries.last_period(session, subscribed.row.id)
    runs = now.astimezone(subscribed.zone).date() < subscribed.row.current_period_end
    same = at_period_end or plan.billing_interval == subscribed.plan.billing_interval
    return same and runs and last is not None and not _is_forfeited(last)


def _refuse_trial(session: Session, subscribed: Subscribed) -> None:
    """Raise InvalidRequest when an account has had a trial."""
    if (began := subscription_queries.last_trial(session, subscribed.row.id)) is not None:
        raise InvalidRequest(
            f"Account {subscribed.row.account_id} has had a trial, from {began}: a second one needs --another-trial.",
            code="trial_used",
        )


def _refuse_overlap(session: Session, former: Subscription, period: Period, today: date) -> None:
    """Raise InvalidRequest when an account returns with a period that overlaps the last one it had.

    A period that begins today may overlap; one with the same first day as the last may only replace a forfeited one.
    """
    last = subscription_queries.last_period(session, former.id)
    if last is None or period.start >= last.period_end:
        return
    again = period.start == last.period_start
    if _is_forfeited(last) if again else period.start == today:
        return
    raise InvalidRequest(
        f"Account {former.account_id} has had a period from {last.period_start} up to {last.period_end}: "
        "its new one begins after it, or today if that is later than its first day.",
        code="periods_overlap",
    )


def _is_forfeited(period: SubscriptionPeriod) -> bool:
    """Whether a period began past due and was never paid."""
    return period.status == Status.PAST_DUE and not period.granted


def _view(period: SubscriptionPeriod, plan: Plan) -> PeriodView:
    return PeriodView(
        period_start=period.period_start,
        period_end=period.period_end,
        plan=plan.slug,
        status=period.status,
        included_credits=period.included_credits,
        credits=period.credits,
        credits_withheld=period.credits_withheld,
        granted=period.granted,
    )
