"""The guards of credits: what is reserved, charged, added and granted, and what the reports and the audit say of it."""

from __future__ import annotations

from tests.mutation.guard import guard
from tests.mutation.operators import (
    always,
    assigns,
    calls,
    drops,
    drops_call,
    drops_clause,
    drops_value,
    gives,
    never,
    returns,
    says,
)

OF_PRICES = [
    guard(
        "a charge is capped by its reservation",
        gives("pricing.charge", "credits", "due"),
        "test_what_exceeds_the_reservation_is_the_platforms_loss",
        "test_a_charge_never_exceeds_what_is_held_and_loses_nothing",
    ),
    guard(
        "an estimate counts the longest output, so that no charge needs more",
        returns("pricing.estimate", "_for_tokens(work.input_tokens, 0, price)", instead_of="_for_tokens"),
        "test_text_is_reserved_for_its_input_and_its_longest_output",
    ),
    guard(
        "what is priced by cost is held at the dearest service tier",
        returns("pricing._dearest_cost", "worst"),
        "test_what_is_priced_by_cost_is_held_at_the_dearest_that_it_can_meet",
    ),
    guard(
        "an operation on a model with a rule of its own is charged by that",
        returns("Catalog.rule_of", "own"),
        "test_the_most_specific_row_decides",
    ),
    guard(
        "a fraction of a credit is rounded up where the platform says so",
        never("round_credits", "UP"),
        "test_division_rounds_as_it_is_told",
    ),
]

OF_RESERVING = [
    guard(
        "no job is reserved beyond what is available",
        never("decisions.decide", "available"),
        "test_a_job_that_cannot_be_paid_is_rejected_with_its_shortfall_and_holds_nothing",
    ),
    guard(
        "no job is reserved beyond its plan",
        never("decisions.decide", "remaining"),
        "test_a_plan_limit_that_does_not_suffice_rejects_and_holds_no_credits",
    ),
    guard(
        "a frozen account starts nothing",
        never("decisions.decide", "frozen"),
        "test_a_frozen_account_starts_no_new_job",
    ),
    guard(
        "jobs of one batch do not share credits",
        drops("_Batch.decide", "_available"),
        "test_a_batch_is_served_in_the_order_in_which_it_came",
    ),
    guard(
        "a hold carries its allowance into the books",
        drops("_hold_units", "allowed"),
        "test_a_decision_from_a_stale_count_of_units_is_refused_by_the_books",
    ),
    guard(
        "a hold stays within its allowance, in the statement that makes it",
        says("_COUNT", r"AND \(v\.allowed IS NULL.*\)"),
        "test_units_beyond_the_allowance_write_no_credits_either",
    ),
    guard(
        "credits are not written without their units",
        always("check_written", "wrong"),
        "test_units_without_their_row_write_no_credits_either",
        "test_units_beyond_the_allowance_write_no_credits_either",
    ),
    guard(
        "a reservation renews first what is due",
        never("reserving.reserve", "behind"),
        "test_a_job_is_not_refused_for_credits_that_a_late_tick_still_owes",
    ),
]

OF_ACCOUNTS = [
    guard(
        "whoever changes an account locks it",
        says("_OWNERS", r" FOR NO KEY UPDATE"),
        "test_jobs_settled_side_by_side_leave_a_continuous_ledger",
        "test_two_jobs_race_for_the_last_credits_and_the_loser_holds_nothing_of_the_plan",
    ),
    guard(
        "accounts are locked in one order",
        drops_call("account_queries.lock", "order_by"),
        "test_accounts_are_locked_in_the_order_of_their_ids",
    ),
    guard(
        "a release locks its accounts before it changes any",
        drops("settling.release", "lock"),
        "test_a_release_locks_accounts_in_their_order_before_it_changes_any",
    ),
    guard(
        "a top-up is added once for each key",
        assigns("by_hand._enter", "earlier", "None"),
        "test_a_top_up_with_one_key_adds_its_credits_once",
    ),
    guard(
        "a top-up's key with another amount is a conflict",
        never("by_hand._enter", "earlier.amount"),
        "test_a_top_up_with_one_key_adds_its_credits_once",
    ),
    guard(
        "top-ups of one account wait for each other",
        calls("by_hand._enter", "find_many", instead_of="posting.lock"),
        "test_a_top_up_continues_the_balance_that_another_one_left_while_it_waited",
        "test_a_top_up_that_waited_for_the_same_one_adds_nothing_and_answers_alike",
    ),
    guard(
        "nobody takes what open jobs hold",
        never("by_hand._enter", "account.reserved"),
        "test_what_open_jobs_hold_cannot_be_taken",
    ),
    guard(
        "what is far out of the usual asks for force",
        never("_check_usual", "usual"),
        "test_what_is_far_out_of_the_usual_asks_for_force",
    ),
    guard(
        "goodwill is no sale",
        drops_value("by_hand.grant", "goodwill"),
        "test_each_row_says_its_type_its_reason_and_who_made_it",
    ),
    guard(
        "no top-up takes the key of a grant",
        never("by_hand._check_texts", "OUR_KEYS"),
        "test_an_operators_top_up_cannot_take_the_key_of_a_grant",
    ),
]

OF_SUBSCRIPTIONS = [
    guard(
        "a period grants nothing that an earlier one has granted its days",
        returns("shares.share", "included"),
        "test_hopping_between_plans_grants_each_day_once",
        "test_a_period_grants_what_its_days_were_not_granted_before",
    ),
    guard(
        "a period that granted nothing takes nothing from a later one",
        drops_clause("subscription_queries.granted", "credits"),
        "test_no_sequence_of_changes_is_granted_more_than_the_best_plan_of_each_day",
    ),
    guard(
        "no period begins before one that its account has had",
        drops("subscriptions._begin", "_refuse_overlap"),
        "test_no_sequence_of_changes_is_granted_more_than_the_best_plan_of_each_day",
    ),
    guard(
        "a second trial needs a flag",
        drops("plans.subscriptions.subscribe", "_refuse_trial"),
        "test_a_second_trial_is_given_only_to_whom_it_is_meant_for",
    ),
    guard(
        "an account is subscribed once, however many try",
        drops("subscriptions._bring_up_to_date", "posting.lock"),
        "test_two_changes_at_once_grant_what_they_grant_one_after_the_other",
    ),
    guard(
        "a renewal waits for whoever holds the account",
        drops("renew.one", "posting.lock"),
        "test_an_operator_and_the_ticks_at_the_boundary",
        "test_many_operators_ticks_and_reservations_at_once_come_to_their_end",
    ),
    guard(
        "what was granted is not granted again",
        drops_clause("TO_GRANT", "granted"),
        "test_each_boundary_grants_once_and_in_the_order_of_time",
    ),
    guard(
        "a late tick grants one instant after the other",
        assigns("renewals._work", "until", "now"),
        "test_an_account_that_can_hold_one_more_grant_and_no_two_has_that_one_however_late_the_tick",
        "test_a_late_tick_goes_by_the_order_of_time_over_all_accounts",
    ),
    guard(
        "a grant that marks nothing is undone",
        always("renewals.grant", "marked"),
        "test_a_grant_that_loses_its_race_undoes_everything_it_did",
    ),
    guard(
        "a trial grants nothing",
        gives("_begun", "credits", "included"),
        "test_a_trial_grants_nothing_until_it_ends",
    ),
    guard(
        "a period that begins past due withholds its credits",
        gives("_begun", "credits_withheld", "0"),
        "test_a_period_that_begins_past_due_withholds_its_credits_until_it_is_paid",
    ),
    guard(
        "what was withheld is forfeited when the subscription ends",
        drops("move_on", "forfeit_withheld"),
        "test_a_grace_that_runs_out_ends_the_subscription_and_forfeits_what_was_withheld",
    ),
    guard(
        "a period that was begun is left as it is",
        drops_value("add_periods", "where"),
        "test_a_period_that_was_granted_is_left_as_it_is",
    ),
    guard(
        "who paid late is not granted the period again",
        drops_clause("_is_forfeited", "granted"),
        "test_who_paid_late_cancels_and_comes_back_is_not_granted_the_period_again",
    ),
]

OF_REPORTS = [
    guard(
        "ticks wait for each other and for rebuilds",
        drops("roll_up", "lock_rollups"),
        "test_ticks_at_once_take_each_change_once",
    ),
    guard(
        "a rebuild waits for the tick",
        drops("reports.revenue.rebuild", "lock_rollups"),
        "test_a_rebuild_waits_for_the_tick_and_counts_nothing_twice",
    ),
    guard(
        "a rebuild sees sources and queue at one moment",
        always("reports.revenue.rebuild", "is_one_snapshot"),
        "test_a_rebuild_without_one_snapshot_is_refused",
    ),
    guard(
        "a change is taken once",
        says("revenue_queries._TAKE", "DELETE FROM revenue_changes", "UPDATE revenue_changes SET day = day"),
        "test_rolling_up_twice_changes_nothing",
    ),
    guard(
        "a rebuild takes what is queued for its days",
        says("revenue_queries.replace", "(?<=FROM revenue_changes WHERE)", " false AND"),
        "test_a_rebuild_takes_the_place_of_whatever_is_there",
    ),
    guard(
        "whoever changes exposure waits for whoever finishes the job",
        says("COUNT_EXPOSURE", r"PERFORM FROM .* FOR NO KEY UPDATE;"),
        "test_exposure_that_is_written_while_its_job_is_finished_is_counted_once",
    ),
    guard(
        "the audit freezes whoever's credits do not add up",
        assigns("audit.freeze", "serious", "set()"),
        "test_each_rule_about_a_customers_credits_freezes_the_account_that_breaks_it",
    ),
    guard(
        "the audit reads one snapshot",
        drops_value("audit_books", "isolation"),
        "test_the_audit_reads_one_snapshot",
    ),
]

OF_BOOKS = [*OF_PRICES, *OF_RESERVING, *OF_ACCOUNTS, *OF_SUBSCRIPTIONS, *OF_REPORTS]
