"""Commands of `creditmill plans` that act on an account's subscription: begin, move, cancel, resume, what was paid.

Those that act on a plan itself are in `plans`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from billing.plans.lifecycle import Standing, Status
from workers.commands.assignments import acting
from workers.commands.output import as_json, console, print_json, table
from workers.commands.pages import in_pages, print_page, tell_more
from workers.commands.plans import group

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from billing.plans.subscribed import Subscribed


account_argument = click.argument("account_id", type=int)


@group.command()
@account_argument
@click.argument("slug", metavar="PLAN")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="The day from which periods are counted; else today.",
)
@click.option("--trial-days", type=int, help="Begin with a trial of this many days, which grants no credits.")
@click.option("--another-trial", is_flag=True, help="Give a trial to an account that has had one.")
@click.option("--at-period-end", is_flag=True, help="Move to the plan when the current period ends.")
@as_json
def subscribe(
    account_id: int,
    slug: str,
    since: datetime | None,
    trial_days: int | None,
    another_trial: bool,
    at_period_end: bool,
    as_json: bool,
) -> None:
    """Subscribe an account to a plan, or move it to another one.

    A new subscription grants its period's credits at once. One that is moved keeps its period: the new plan's limits
    hold at once and its credits come with the next period, or both with --at-period-end. Moving takes back a
    cancellation.

    \b
    Example:  creditmill plans subscribe 1 starter
              creditmill plans subscribe 1 starter --since 2026-01-31
              creditmill plans subscribe 1 starter --trial-days 14
              creditmill plans subscribe 1 pro --at-period-end
    """
    from billing.plans import subscriptions
    from config.database import database_now
    from workers import bootstrap

    if (since is not None) + (trial_days is not None) + at_period_end > 1:
        raise click.UsageError("Choose one of --since, --trial-days and --at-period-end.")
    if another_trial and trial_days is None:
        raise click.UsageError("--another-trial is for a trial: give --trial-days.")
    bootstrap.connect("plans")
    with acting() as session:
        now = database_now(session)
        before = _standing(session, account_id, now)
        subscriptions.subscribe(
            session,
            account_id,
            slug,
            anchor=since and since.date(),
            trial_days=trial_days,
            another_trial=another_trial,
            at_period_end=at_period_end,
            now=now,
        )
        made = subscriptions.of_account(session, account_id)
        facts = _facts(made)
    if as_json:
        print_json(facts)
    elif at_period_end:
        click.echo(f"Account {account_id} moves to {slug} on {made.row.current_period_end}.")
    else:
        kept = before is not None and before.period == made.standing.period
        runs = f"{'trial' if made.row.status == Status.TRIALING else 'period'} {'still runs' if kept else 'runs'}"
        click.echo(
            f"Account {account_id} is subscribed to {slug}; its {runs} from {made.row.current_period_start} up to "
            f"{made.row.current_period_end}."
        )


@group.command()
@account_argument
@click.option("--now", "at_once", is_flag=True, help="End it at once instead of when its period ends.")
@as_json
def cancel(account_id: int, at_once: bool, as_json: bool) -> None:
    """End a subscription when its current period ends, or at once.

    Credits that were granted stay; those that were withheld from an account that is past due are never granted. An end
    that has not come yet can be taken back: creditmill plans resume.

    \b
    Example:  creditmill plans cancel 1
              creditmill plans cancel 1 --now
    """
    from billing.plans import subscriptions
    from config.database import database_now
    from workers import bootstrap

    bootstrap.connect("plans")
    with acting() as session:
        subscriptions.cancel(session, account_id, at_once=at_once, now=database_now(session))
        made = subscriptions.of_account(session, account_id)
        facts = _facts(made)
    _say(f"The subscription of account {account_id} {'has ended' if at_once else _ends(made)}.", facts, as_json)


@group.command()
@account_argument
@as_json
def resume(account_id: int, as_json: bool) -> None:
    """Take back a cancellation, or a move to another plan, that waits for the end of the period.

    \b
    Example:  creditmill plans resume 1
    """
    from billing.plans import subscriptions
    from config.database import database_now
    from workers import bootstrap

    bootstrap.connect("plans")
    with acting() as session:
        now = database_now(session)
        before = _standing(session, account_id, now)
        subscriptions.resume(session, account_id, now=now)
        made = subscriptions.of_account(session, account_id)
        facts = _facts(made)
    waited = before is not None and (before.cancel_at_period_end or before.next_terms is not None)
    goes_on = f"The subscription of account {account_id} goes on with {made.plan.slug}."
    _say(goes_on if waited else f"There was nothing to take back. {goes_on}", facts, as_json)


@group.command("past-due")
@account_argument
@click.option("--grace-days", type=int, help="How long the account is served; else past_due_grace_days.")
@as_json
def past_due(account_id: int, grace_days: int | None, as_json: bool) -> None:
    """Note that a payment failed: the account is served for some days more, then its subscription ends.

    Periods that begin meanwhile withhold their credits until creditmill plans paid is run. A grace that runs already
    goes on as it was. The platform's own grace is set by creditmill operations defaults past_due_grace_days=7.

    \b
    Example:  creditmill plans past-due 1
              creditmill plans past-due 1 --grace-days 14
    """
    from billing.plans import subscriptions
    from config.database import database_now
    from workers import bootstrap

    bootstrap.connect("plans")
    with acting() as session:
        subscriptions.past_due(session, account_id, grace_days=grace_days, now=database_now(session))
        made = subscriptions.of_account(session, account_id)
        facts = _facts(made)
    ends = "has ended" if made.standing.status is Status.CANCELLED else _ends(made)
    _say(f"The subscription of account {account_id} {ends}.", facts, as_json)


@group.command()
@account_argument
@as_json
def paid(account_id: int, as_json: bool) -> None:
    """Note that an account that was past due has paid; what was withheld from it is granted.

    \b
    Example:  creditmill plans paid 1
    """
    from billing.plans import subscriptions
    from config.database import database_now
    from workers import bootstrap

    bootstrap.connect("plans")
    with acting() as session:
        now = database_now(session)
        before = _standing(session, account_id, now)
        earlier = subscriptions.paid_out(session, account_id)
        subscriptions.paid(session, account_id, now=now)
        # Statements have changed the rows since they were read.
        session.expire_all()
        credits = subscriptions.paid_out(session, account_id) - earlier
        facts = _facts(subscriptions.of_account(session, account_id)) | {"credits_granted": credits}
    if before is None or before.status is not Status.PAST_DUE:
        _say(f"Account {account_id} was not past due.", facts, as_json)
    else:
        granted = f"; {credits:,} credits that were withheld are granted" if credits else ""
        _say(f"The subscription of account {account_id} is paid{granted}.", facts, as_json)


@group.command("periods")
@account_argument
@in_pages
@as_json
def periods_(account_id: int, limit: int, after: str | None, as_json: bool) -> None:
    """Show how an account's subscription stands, and its periods, the newest first, with the credits of each.

    \b
    Example:  creditmill plans periods 1
    """
    from billing.plans import subscriptions
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("plans")
    with transaction() as session:
        subscribed = subscriptions.of_account(session, account_id)
        sentence = _sentence(subscribed, subscribed.at(database_now(session)))
        page = subscriptions.periods(session, account_id, limit=limit, after=after)
    if as_json:
        print_page("periods", page)
        return
    found = [dict(vars(period)) for period in page.rows]
    for facts in found:
        facts["status"] = facts["status"].replace("_", " ")
        if not facts["credits"] + facts["credits_withheld"]:
            # Where there is nothing to grant, "no" would look like a fault.
            facts["granted"] = None
    rows = [list(facts.values()) for facts in found]
    columns = ["from", "up to", "plan", "status", "included", "credits", "withheld", "granted"]
    click.echo(f"{sentence}.")
    console().print(table("Periods", columns, rows, left=4))
    tell_more(page)


def _standing(session: Session, account_id: int, now: datetime) -> Standing | None:
    """The standing before a command changes it; None without a subscription. Only for the words of the answer."""
    from billing.plans import subscriptions

    found = subscriptions.find(session, account_id)
    return None if found is None else found.at(now)


def _ends(made: Subscribed) -> str:
    """When a subscription ends that was cancelled or is past due."""
    standing = made.standing
    if standing.grace_until is None or (standing.cancel_at_period_end and standing.period.end <= standing.grace_until):
        return f"ends on {standing.period.end}"
    return f"ends on {standing.grace_until} unless it pays"


def _sentence(subscribed: Subscribed, standing: Standing) -> str:
    """A subscription's standing and what comes next, in one line."""
    told = f"Account {subscribed.account.id} on {subscribed.plan_of(standing).slug}: "
    told += standing.status.replace("_", " ")
    if standing.status is Status.CANCELLED:
        return told
    end = standing.period.end
    if standing.cancel_at_period_end:
        return f"{told}, ends on {standing.next_turn}"
    if standing.grace_until is not None:
        told += f", ends on {standing.grace_until} unless it pays"
        if standing.grace_until <= end:
            return told
    if standing.next_terms is not None and subscribed.next_plan is not None:
        return f"{told}, moves to {subscribed.next_plan.slug} on {end}"
    return f"{told}, renews on {end}"


def _facts(made: Subscribed) -> dict[str, Any]:
    names = (
        *("status", "anchor_date", "current_period_start", "current_period_end"),
        *("cancel_at_period_end", "grace_until", "renews_at"),
    )
    plans = {"plan": made.plan.slug, "next_plan": made.next_plan.slug if made.next_plan else None}
    return {"account_id": made.account.id} | plans | {name: getattr(made.row, name) for name in names}


def _say(sentence: str, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        click.echo(sentence)
