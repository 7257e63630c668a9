"""The guards of periods, renewals, grants and periodic runs."""

from __future__ import annotations

from tests.mutation.guard import Guard, checks, code, direct, located, rule

AUDIT = "billing/audit.py"
CATCHING_UP = "tasks/catching_up.py"
CHARGING = "billing/charging.py"
LIMITS = "billing/store/limits.py"
MIGRATION = "billing/store/migrations/versions/0007_clock.py"
PERIODS = "billing/domain/periods.py"
RENEWALS = "billing/renewals.py"
RUNS = "billing/store/periodic_runs.py"
STANDINGS = "billing/domain/subscriptions.py"
STORE = "billing/store/subscriptions.py"
SUBSCRIPTIONS = "billing/subscriptions.py"
LATE = "renewals::test_a_job_is_not_refused_for_credits_that_a_late_tick_still_owes"
WITHHELD = "renewals::test_a_period_that_begins_past_due_withholds_its_credits_until_it_is_paid"
EACH_BOUNDARY = "renewals::test_each_boundary_grants_once_and_in_the_order_of_time"
NOTICES = "audit::test_each_rule_notices_its_damage"

OF_THE_CLOCK = [
    *checks("plans", billing_interval="a plan is paid by the month or the year"),
    *checks("billing_configuration", past_due_grace_days="a grace is no less than nothing and no more than a year"),
    *checks(
        "subscriptions",
        past_due_has_grace="who is past due, and nobody else, has a grace that ends",
        live_renews="a subscription has a next turn until it has ended",
    ),
    *checks(
        "subscription_periods",
        period="a period is longer than nothing",
        status="a period began active, in a trial or past due",
        not_negative="a period takes no credits away",
        grants_something="what grants nothing is not marked as granted",
    ),
    *checks("credit_transactions", subscription_has_period="a grant belongs to a period, and nothing else does"),
    *checks(
        "periodic_runs",
        claim_is_leased="a claim ends with its lease",
        not_negative="a run counts what it did",
    ),
    rule("subscription_periods", "pk_subscription_periods", "a period of a subscription is one row"),
    rule("periodic_runs", "pk_periodic_runs", "an hour of a task is one row"),
    rule("credit_transactions", "fk_credit_transactions_subscription_id", "a grant belongs to a period that was begun"),
    Guard(
        "a period is granted once (uq_credit_transactions_one_grant_a_period)",
        located((direct("uq_credit_transactions_one_grant_a_period"),)),
        sql="DROP INDEX uq_credit_transactions_one_grant_a_period",
        constraint="uq_credit_transactions_one_grant_a_period",
    ),
    # --- what a calendar says ---
    code(
        PERIODS,
        "a boundary is counted from the anchor, not from the boundary before it",
        "add_months(anchor, _months_between(anchor, start) + interval.months)",
        "add_months(start, interval.months)",
        "unit/subscriptions::test_a_subscription_renews_from_its_anchor",
        "unit/calendars",
    ),
    code(
        PERIODS,
        "a month that is too short ends the period on its last day",
        "min(anchor.day, monthrange(years, month + 1)[1])",
        "min(anchor.day, 28)",
        "unit/periods",
    ),
    code(
        PERIODS,
        "an instant on a boundary is in the period that begins",
        "if starts_at(day := add_months(anchor, nearby + n * step), zone) <= at)",
        "if starts_at(day := add_months(anchor, nearby + n * step), zone) < at)",
        "unit/periods",
        "unit/calendars",
    ),
    # --- what time makes of a subscription ---
    code(
        STANDINGS,
        "a turn comes at its very instant",
        "(at := starts_at(day, zone)) <= until:",
        "(at := starts_at(day, zone)) < until:",
        "unit/subscriptions",
    ),
    code(
        STANDINGS,
        "a grace that ends with the period ends the subscription",
        "standing.grace_until <= standing.period.end",
        "standing.grace_until < standing.period.end",
        "unit/subscriptions",
    ),
    code(
        STANDINGS,
        "a cancelled subscription ends with its period",
        "if out_of_grace or standing.cancel_at_period_end:",
        "if out_of_grace:",
        "unit/subscriptions",
    ),
    code(
        STANDINGS,
        "the plan that was chosen takes over",
        "terms = standing.next_terms or standing.terms",
        "terms = standing.terms",
        "unit/subscriptions",
    ),
    code(
        STANDINGS,
        "a trial ends",
        "Status.ACTIVE if standing.status is Status.TRIALING else standing.status",
        "standing.status",
        "unit/subscriptions",
    ),
    # --- renewals and grants ---
    code(
        RENEWALS,
        "a renewal waits for whoever holds the account",
        "        account_store.lock(session, account_ids)\n        move_on",
        "        move_on",
        "subscription_races::test_an_operator_and_the_ticks_at_the_boundary",
        "subscription_races::test_many_operators_ticks_and_reservations_at_once_come_to_their_end",
    ),
    code(
        RENEWALS,
        "a trial grants nothing",
        'included if standing.status is Status.ACTIVE else 0,\n        "credits_withheld"',
        'included,\n        "credits_withheld"',
        "renewals::test_a_trial_grants_nothing_until_it_ends",
    ),
    code(
        RENEWALS,
        "a period that begins past due withholds its credits",
        "included if standing.status is Status.PAST_DUE else 0",
        "0",
        WITHHELD,
    ),
    code(
        RENEWALS,
        "no account is granted more than it can hold",
        "if balances[account_id] > CREDITS_MAX:",
        "if False:",
        "renewals::test_one_account_that_cannot_be_granted_does_not_hold_up_the_others",
    ),
    code(
        RENEWALS,
        "a grant that marks nothing is undone",
        '    assert marked == len(waiting), "a period\'s credits are granted once"\n',
        "",
        "renewals::test_a_grant_that_loses_its_race_undoes_everything_it_did",
    ),
    code(
        RENEWALS,
        "what was withheld is forfeited when the subscription ends",
        "    store.forfeit_withheld(session, ended)\n",
        "",
        "renewals::test_a_grace_that_runs_out_ends_the_subscription_and_forfeits_what_was_withheld",
    ),
    code(
        RENEWALS,
        "an account that cannot be worked on is not looked at again",
        "found = store.due(session, until, limit=limit, but=worked.blocked)",
        "found = store.due(session, until, limit=limit, but=())",
        "renewals::test_one_account_that_cannot_be_granted_does_not_hold_up_the_others",
    ),
    code(
        STORE,
        "what was granted is not granted again",
        "and_(SubscriptionPeriod.credits > 0, ~SubscriptionPeriod.granted)",
        "SubscriptionPeriod.credits > 0",
        EACH_BOUNDARY,
    ),
    code(
        STORE,
        "a period that was begun is left as it is",
        "        where=and_(SubscriptionPeriod.status == Status.PAST_DUE, ~SubscriptionPeriod.granted),\n",
        "",
        "renewals::test_a_period_that_was_granted_is_left_as_it_is",
    ),
    code(
        STORE,
        "a forfeited period can be begun once more",
        "SubscriptionPeriod.status == Status.PAST_DUE, ~SubscriptionPeriod.granted",
        "SubscriptionPeriod.status == Status.CANCELLED, ~SubscriptionPeriod.granted",
        "renewals::test_who_subscribes_anew_on_the_day_of_a_forfeited_period_begins_it_once_more",
    ),
    code(
        CHARGING,
        "a reservation renews first what is due",
        "if renewals.bring_up_to_date(session, accounts, now):",
        "if False:",
        LATE,
    ),
    code(
        CHARGING,
        "a check refuses no account that is owed a renewal",
        "if job.account_id not in owed]",
        "if True]",
        LATE,
    ),
    code(
        STORE,
        "a period that was begun without its grant is owed it",
        "or_(Subscription.renews_at <= now, owed)",
        "or_(Subscription.renews_at <= now)",
        LATE,
    ),
    code(
        "billing/accounts.py",
        "no top-up takes the key of a grant",
        '("settle:", "creditmill:")',
        '("settle:",)',
        "renewals::test_an_operators_top_up_cannot_take_the_key_of_a_grant",
    ),
    # --- what operators do ---
    code(
        SUBSCRIPTIONS,
        "who comes back within a granted period is not granted it again",
        "return same and runs and last is not None and not _is_forfeited(last)",
        "return False",
        "renewals::test_who_comes_back_within_a_granted_period_is_not_granted_it_again",
    ),
    code(
        SUBSCRIPTIONS,
        "who paid late goes on",
        "return period.status == Status.PAST_DUE and not period.granted",
        "return period.status == Status.PAST_DUE",
        "renewals::test_who_paid_late_cancels_and_comes_back_is_not_granted_the_period_again",
    ),
    code(
        SUBSCRIPTIONS,
        "no period overlaps one of before",
        "        _refuse_overlap(session, former, period, today)\n",
        "        pass\n",
        "renewals::test_who_comes_back_begins_no_period_that_overlaps_one_of_before",
    ),
    code(
        SUBSCRIPTIONS,
        "a plan of another length waits for the end of the period",
        "if plan.billing_interval != found[0].plan.billing_interval and not at_period_end:",
        "if False:",
        "renewals::test_a_plan_of_another_length_takes_over_when_the_period_ends_or_is_begun_anew",
    ),
    code(
        SUBSCRIPTIONS,
        "whoever can hold no more credits can pay all the same",
        "    renewals.grant_or_wait(session, account_id, now, at=now)",
        "    renewals.grant(session, [account_id], now, at=now)",
        "renewals::test_whoever_can_hold_no_more_credits_can_cancel_and_pay_all_the_same",
    ),
    code(
        RENEWALS,
        "no job is refused while somebody holds the subscription that owes it credits",
        "        store.lock(session, behind)\n",
        "",
        "renewals::test_a_job_is_not_refused_while_somebody_holds_the_subscription_that_owes_it_credits",
    ),
    code(
        SUBSCRIPTIONS,
        "a grace that runs goes on",
        "        if standing.status is Status.PAST_DUE:\n            return standing\n",
        "",
        "renewals::test_a_grace_that_runs_out_ends_the_subscription_and_forfeits_what_was_withheld",
    ),
    code(
        SUBSCRIPTIONS,
        "a command acts on the present",
        "    renewals.move_on(session, store.lock(session, [account_id]), now)\n    # Whoever",
        "    # Whoever",
        "renewals::test_what_an_operator_does_acts_on_the_present_even_without_a_tick",
    ),
    # --- the audit ---
    code(AUDIT, "the audit notices a grant to somebody else", "OR t.of_others > 0", "", NOTICES),
    code(
        AUDIT,
        "the audit notices a grant that is missing, too many or of another amount",
        "WHERE t.total <> CASE WHEN p.granted THEN p.credits ELSE 0 END",
        "WHERE false",
        NOTICES,
    ),
    code(
        AUDIT,
        "the audit notices a subscription outside its last period",
        "IS DISTINCT FROM (p.period_start, p.period_end)",
        "IS DISTINCT FROM (p.period_start, p.period_end) AND false",
        NOTICES,
    ),
    code(AUDIT, "the audit notices a renewal that waits", "WHERE renews_at < :late", "WHERE false", NOTICES),
    code(
        AUDIT,
        "the audit notices a grant that waits",
        "AND p.starts_at < :late",
        "AND p.starts_at < :late AND false",
        NOTICES,
    ),
    # --- the hours of a task ---
    code(
        RUNS,
        "one claims an hour of a task",
        "SELECT pg_advisory_xact_lock(hashtext('creditmill.periodic_runs.' || :task))",
        "SELECT :task",
        "periodic_runs::test_of_many_who_claim_an_hour_at_once_one_gets_it",
    ),
    code(
        RUNS,
        "a claim that is alive is left alone",
        "if latest is None or _is_held(latest, now):",
        "if latest is None:",
        "periodic_runs::test_a_claim_refuses_others_up_to_the_end_of_its_lease",
    ),
    code(
        RUNS,
        "whoever is in the middle of a batch is not taken over",
        'with_for_update={"skip_locked": True}, populate_existing=True',
        "populate_existing=True",
        "periodic_runs::test_who_is_in_the_middle_of_a_batch_is_not_taken_over_however_long_that_takes",
    ),
    code(
        RUNS,
        "a lease of a clock that was set back ends",
        "now < run.lease_until <= now + LEASE",
        "now < run.lease_until",
        "periodic_runs::test_a_lease_of_a_clock_that_was_set_back_does_not_last_until_that_clock_is_there_again",
    ),
    code(
        RUNS,
        "an hour that was worked on before its end is worked on again",
        "latest.finished_at is not None and latest.finished_at >= newest + HOUR",
        "latest.finished_at is not None",
        "periodic_runs::test_what_came_after_the_last_tick_of_an_hour_is_done_as_that_hours_work",
    ),
    code(
        RUNS,
        "whoever has lost a claim writes nothing to it",
        "PeriodicRun.period == claim.period, PeriodicRun.claimed_by == claim.by)",
        "PeriodicRun.period == claim.period)",
        "periodic_runs::test_who_has_lost_a_claim_writes_nothing_to_it",
    ),
    code(
        CATCHING_UP,
        "whoever has lost a claim does no work under it",
        "if not periodic_runs.go_on(session, claim, now=now):",
        "if periodic_runs.go_on(session, claim, now=now) is None:",
        "periodic_runs::test_who_is_taken_over_between_two_steps_writes_nothing_more",
    ),
    code(
        CATCHING_UP,
        "an hour's work ends with the hour",
        "work.batch(session, min(claim.end, now), worked)",
        "work.batch(session, now, worked)",
        "periodic_runs::test_an_hour_is_worked_on_up_to_its_end_and_no_further",
    ),
    code(
        CATCHING_UP,
        "an account that somebody holds does not hold up the others",
        "        session.execute(text(\"SET LOCAL lock_timeout = '1s'\"))\n",
        "",
        "periodic_runs::test_an_account_that_somebody_holds_for_long_does_not_hold_up_the_others",
    ),
    code(
        LIMITS,
        "limits are opened in one order",
        "in_order = sorted(rows, key=",
        "in_order = list(rows) or sorted(rows, key=",
        "subscription_races::test_limits_that_are_opened_and_reserved_at_once_do_not_deadlock",
    ),
    code(
        RENEWALS,
        "a turn that was noted too early is noted anew",
        "store.write(session, subscribed, passed[-1][1] if passed else subscribed.standing)",
        "passed and store.write(session, subscribed, passed[-1][1])",
        "subscription_races::test_a_turn_that_was_noted_too_early_ends_no_tick",
    ),
    # --- subscriptions from before ---
    code(
        MIGRATION,
        "nothing is granted in hindsight",
        ":status, :starts_at, 0, true)",
        ":status, :starts_at, 500, true)",
        "migrations_of_subscriptions::test_of_every_status_each_goes_on_as_it_can",
    ),
]
