"""The guards of a job's way: its moves between states, its calls, what becomes of unknown ones, and recovery."""

from __future__ import annotations

from tests.mutation.guard import guard
from tests.mutation.operators import (
    assigns,
    drops,
    drops_call,
    drops_clause,
    drops_value,
    gives,
    never,
    returns,
    says,
)

OF_MOVES = [
    guard(
        "a step takes only jobs in the states that it leaves",
        drops_clause("job_queries.lock", "state"),
        "test_a_refund_that_comes_twice_releases_once",
    ),
    guard(
        "a step locks its jobs",
        drops_call("job_queries.lock", "with_for_update"),
        "test_a_refund_that_waited_for_another_one_releases_nothing",
    ),
    guard(
        "jobs are locked in one order",
        drops_call("job_queries.lock", "order_by"),
        "test_jobs_are_locked_in_the_order_of_their_ids",
    ),
    guard(
        "a locked job is read anew",
        drops_value("job_queries.lock", "populate_existing"),
        "test_a_locked_job_is_read_anew",
    ),
    guard(
        "a job moves only from a state that its event leaves",
        assigns("job_queries._move", "guard", "'true'"),
        "test_a_reserved_job_is_not_cancelled_as_if_it_held_nothing",
        "test_a_late_result_after_the_refund_charges_nobody_and_is_counted_as_exposure",
    ),
    guard(
        "the attempt's number fences late writers",
        assigns("job_queries._move", "fence", "''"),
        "test_an_old_attempt_cannot_overwrite_a_newer_one",
        "test_an_old_claim_cannot_give_a_newer_one_back",
    ),
    guard(
        "a job's cost is the sum of its calls, however often it is summed",
        gives("sum_cost", "cost_usd", "GenerationJob.cost_usd + was"),
        "test_a_refusal_after_paid_work_that_is_recorded_twice_is_counted_once",
    ),
    *(
        guard(f"{what} its jobs", says(statement, r"ORDER BY id FOR UPDATE", "ORDER BY id"), test)
        for what, statement, test in (
            ("reserving locks", "_TO_RESERVE", "test_one_job_reserved_by_many_at_once_holds_once"),
            ("settling locks", "_TO_SETTLE", "test_one_job_settled_by_many_at_once_is_charged_once"),
        )
    ),
    guard(
        "a job is charged for a call that succeeded",
        says("_TO_SETTLE", r"outcome = 'succeeded' AND "),
        "test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_failed_one",
    ),
    guard(
        "nobody is charged for a call that came too late",
        says("_TO_SETTLE", r" AND NOT exposure"),
        "test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_late_one",
    ),
    guard(
        "a refund needs a verdict and not only a failed call",
        never("verdict_on", "error_code"),
        "test_a_job_between_two_tries_is_not_refunded",
    ),
    guard(
        "only a job whose last call failed is refunded",
        assigns("verdict_on", "failed", "True"),
        "test_a_verdict_over_a_call_that_is_still_being_made_refunds_nothing",
    ),
]

OF_SUBMISSIONS = [
    guard(
        "a model gets no quality and no style that it does not take",
        never("examining._check_taken", "given"),
        "test_a_value_that_the_model_does_not_take_is_refused_with_those_that_it_takes",
    ),
    guard(
        "the platform's quality is sent only to a model that takes it",
        drops_clause("choosing.image_quality", "valid_qualities"),
        "test_what_a_request_leaves_open_is_filled_in_with_what_the_model_takes",
    ),
    guard(
        "an image of no named quality has the price of the platform's quality",
        assigns("image_price_of", "quality", "quality"),
        "test_an_image_has_the_price_of_the_quality_that_it_is_made_in",
    ),
    guard(
        "one statement submits by a catalogue that still holds",
        says("_add_at_once", r"AND \(SELECT version FROM catalog_version\) = CAST\(:version AS uuid\)"),
        "test_one_statement_writes_nothing_by_a_catalogue_that_has_changed",
    ),
    guard(
        "one statement submits on the day that it was examined for",
        says("_add_at_once", r"AND CAST\(clock\.now AT TIME ZONE 'UTC' AS date\) = :today"),
        "test_one_statement_writes_nothing_on_another_day",
    ),
    guard(
        "one statement submits for an account that there is",
        says("_add_at_once", r"AND EXISTS \(SELECT FROM accounts WHERE id = :account_id AND NOT has_settings\)"),
        "test_one_statement_leaves_whatever_needs_a_sentence_to_a_closer_look",
    ),
    guard(
        "one statement submits for the account's own users",
        says("_add_at_once", r"id = :user_id AND account_id = :account_id", "id = :user_id"),
        "test_one_statement_leaves_whatever_needs_a_sentence_to_a_closer_look",
    ),
    guard(
        "one statement submits where there is room for one more",
        says("_add_at_once", r" OR open\.of_account < :account_bound", " OR true"),
        "test_one_statement_counts_what_its_account_has_open",
    ),
    guard(
        "one statement submits where there is room for one more of all",
        says("_add_at_once", r" OR open\.of_all < :bound", " OR true"),
        "test_one_statement_counts_what_all_have_open",
    ),
]

OF_TAKES = [
    guard(
        "what is taken is not taken again",
        says("taking_queries._WAITS", r" AND j\.taken_until IS NULL"),
        "test_what_is_taken_is_not_taken_again",
    ),
    guard(
        "takes come one after the other",
        says("taking_queries._LOCK", r" FROM pg_advisory_xact_lock\(hashtext\('creditmill\.take'\)\)"),
        "test_many_takes_at_once_take_each_account_once",
    ),
    guard(
        "an account is in one take at a time",
        says("taking_queries._NEXT", r" AND t\.taken_until IS NOT NULL", " AND false"),
        "test_an_account_is_in_one_take_until_its_jobs_are_reserved",
    ),
    guard(
        "a take is complete only if it might have taken more",
        drops_clause("taking.take", "shut_out"),
        "test_an_account_is_in_one_take_until_its_jobs_are_reserved",
    ),
    guard(
        "a hint is dropped only if a take began after it was received",
        returns("hints.is_covered", "received_at is not None"),
        "test_a_hint_is_dropped_only_if_a_complete_take_began_after_it_was_received",
    ),
    guard(
        "a take that left jobs behind is followed by another",
        drops("hints.note", "pipeline.hint"),
        "test_a_take_that_leaves_jobs_behind_is_followed_by_another",
    ),
    guard(
        "what a take could not take is looked for again",
        drops("hints.note", "_look_again"),
        "test_looks_come_later_and_later_while_an_account_stays_in_another_take",
    ),
    guard(
        "what a take had to leave out is looked at when its account is free again",
        drops("generation.reserve_credits", "note_reserved"),
        "test_when_jobs_are_reserved_accounts_that_were_left_out_are_looked_at_at_once",
    ),
    guard(
        "a hint is pending until a take begins, and no longer",
        drops("hints.take", "remove_mark"),
        "test_when_a_take_begins_what_comes_then_is_told_again",
    ),
    guard(
        "a hint that was lost keeps no others back for long",
        drops_value("set_mark", "px"),
        "test_a_hint_that_was_lost_keeps_others_back_for_a_moment_only",
    ),
    guard(
        "a hint that came again takes its own jobs, and others are looked for",
        drops("generation.check_balance", "pipeline.hint"),
        "test_a_hint_that_comes_again_is_followed_by_one_for_the_jobs_that_relied_on_it",
    ),
    guard(
        "jobs that killed their taker are left to messages of their own",
        says("taking_queries._WAITS", r" AND j\.republished = 0"),
        "test_recovery_gives_back_what_was_taken_and_never_reserved",
    ),
    guard(
        "recovery leaves a take alone until its time is over",
        says("taking_queries._MARK", r", next_at = :until"),
        "test_recovery_leaves_a_late_take_alone_until_its_time_is_over",
    ),
    guard(
        "what recovery gives back is in no take",
        says("job_queries.postpone", r", taken_until = NULL"),
        "test_recovery_gives_back_what_was_taken_and_never_reserved",
    ),
    guard(
        "jobs of an account are taken in the order in which they came",
        says("taking_queries._TAKE", r"ORDER BY j\.created_at, j\.id LIMIT", "ORDER BY j.created_at DESC, j.id LIMIT"),
        "test_jobs_of_an_account_are_taken_and_reserved_in_the_order_in_which_they_came",
    ),
    guard(
        "accounts are served in turn",
        says("taking_queries._TAKE", r"^:after$", "0"),
        "test_an_account_that_was_served_comes_again_after_all_others",
    ),
    guard(
        "a take that took an account's whole share is not complete",
        says(
            "taking_queries._TAKE",
            r"coalesce\(\(SELECT max\(turn\) FROM candidates\), 0\) < \(SELECT jobs FROM share\)",
            "true",
        ),
        "test_a_take_that_left_nothing_behind_is_complete_and_no_other_is",
    ),
    guard(
        "a take that passed over a locked job is not complete",
        says(
            "taking_queries._TAKE", r"AND \(SELECT count\(\*\) FROM candidates\) = \(SELECT count\(\*\) FROM locked\)"
        ),
        "test_a_take_that_passed_over_a_locked_job_is_not_complete",
    ),
]

OF_CALLS = [
    guard(
        "a result locks its job",
        says("_TO_RECORD", r"uuid\[\]\)\) ORDER BY id FOR UPDATE", "uuid[])) ORDER BY id"),
        "test_a_result_that_waited_for_a_refund_is_late",
    ),
    guard(
        "a claim decides on the job as it is after the wait",
        says("_CLAIM", r"        ORDER BY j\.id FOR UPDATE", "        ORDER BY j.id"),
        "test_a_claim_sees_that_the_job_was_claimed_while_it_waited",
        "test_one_job_claimed_by_many_at_once_is_called_once",
    ),
    guard(
        "a live claim is left alone",
        says("_CLAIM", r"\(l\.state = 'reserved' OR l\.attempts = w\.again\)", "true"),
        "test_a_live_claim_is_left_alone",
        "test_one_job_claimed_by_many_at_once_is_called_once",
    ),
    guard(
        "only whoever made a claim gets it again",
        says("_CLAIMED_BY", r"AND c\.claimed_by = w\.claimed_by "),
        "test_whoever_made_a_claim_gets_it_again_and_nobody_else",
    ),
    guard(
        "a claim that was worked on is not made again",
        says("_CLAIMED_BY", r" AND c\.outcome IS NULL"),
        "test_a_claim_that_was_worked_on_is_not_given_again",
    ),
    guard(
        "a claim past its lease is not made again",
        says("_CLAIMED_BY", r" AND j\.lease_until > :now"),
        "test_a_claim_past_its_lease_is_not_given_again",
    ),
    guard(
        "each call has a number of its own",
        says("_CLAIM", r"attempts = l\.attempts \+ 1", "attempts = greatest(l.attempts, 1)"),
        "test_an_old_attempt_cannot_overwrite_a_newer_one",
    ),
    guard(
        "all attempts of a job carry one key",
        says("_CLAIM", r"'creditmill-' \|\| id", "'creditmill-' || id || '-' || attempts"),
        "test_all_attempts_of_a_job_carry_one_key",
    ),
    guard(
        "a success that is recorded twice counts once",
        never("calling.succeed_many", "call.outcome"),
        "test_recording_a_success_twice_counts_its_cost_once",
    ),
    guard(
        "a late success is exposure",
        gives("_Deliveries.add", "exposure", "False"),
        "test_a_late_result_after_the_refund_charges_nobody_and_is_counted_as_exposure",
    ),
    guard(
        "a failure after a recorded success changes nothing",
        drops_clause("calling.fail", "succeeded"),
        "test_a_failure_after_a_recorded_success_changes_nothing",
    ),
    guard(
        "a late failure changes nothing that was resolved",
        drops_clause("calling.fail", "resolution"),
        "test_a_late_failure_does_not_change_what_was_resolved",
    ),
    guard(
        "a late verdict of an old attempt says nothing of a newer one",
        drops_clause("calling.fail", "job.attempts"),
        "test_a_late_verdict_of_an_old_attempt_says_nothing_about_the_newer_one",
    ),
    guard(
        "a claim is given back by its own attempt",
        drops_value("calling.postpone", "attempts"),
        "test_an_old_claim_cannot_give_a_newer_one_back",
    ),
    guard(
        "a proven refusal withdraws the guess at its cost",
        drops_value("_count_cost", "exposure"),
        "test_a_late_refusal_withdraws_the_exposure",
        "test_a_late_refusal_after_paid_work_takes_the_place_of_the_guess",
    ),
    *(
        guard(
            f"a call that {what} is never repeated",
            gives("VERDICTS", failure, "Verdict.RETRY"),
            "test_only_what_was_proven_not_executed_is_ever_tried_again",
            "test_a_failure_leads_to_its_verdict",
        )
        for failure, what in (
            ("TIMED_OUT", "timed out"),
            ("CONNECTION_LOST", "broke"),
            ("GATEWAY_ERROR", "a gateway answered"),
            ("CONFLICT", "had an earlier copy"),
            ("WORKER_LOST", "lost its worker"),
        )
    ),
]

OF_UNKNOWN_CALLS = [
    guard(
        "an unknown call is asked about by one at a time",
        never("unknown_calls.ask", "asked_at"),
        "test_an_unknown_call_is_asked_about_once_within_the_time_that_an_answer_takes",
    ),
    guard(
        "only an unknown call is exposed",
        drops_clause("unknown_calls.expose", "outcome"),
        "test_only_a_call_of_unknown_outcome_is_exposed",
    ),
    guard(
        "an unknown outcome that is given up is exposure",
        drops("recovery._unknown", "expose"),
        "test_an_unknown_outcome_is_refunded_in_the_end_and_its_worst_cost_is_ours",
    ),
    guard(
        "what was executed and lost is exposure",
        gives("correct_cost", "exposure", "False"),
        "test_what_was_executed_and_lost_is_our_cost",
    ),
    guard(
        "what was delivered and given up is written off",
        drops("recovery.give_up", "write_off"),
        "test_what_was_delivered_and_given_up_is_our_exposure",
    ),
    guard(
        "a call is resolved by hand once",
        drops_clause("unknown_calls.resolve", "resolution"),
        "test_a_lost_result_is_resolved_once",
    ),
    guard(
        "only an unknown outcome is learnt",
        drops_clause("resolve_by_answer", "outcome"),
        "test_what_is_learnt_of_a_call_that_is_known_changes_nothing",
    ),
    guard(
        "what is learnt twice changes nothing the second time",
        drops_clause("resolve_by_answer", "resolution"),
        "test_what_is_learnt_after_a_resolution_by_hand_changes_nothing",
    ),
]

OF_RECOVERY = [
    guard(
        "a claim is recovery's business only when its lease has ended",
        says("_CLAIM", r"next_at = CAST\(CAST\(:leases AS jsonb\) ->> j\.kind AS timestamptz\)", "next_at = :now"),
        "test_nothing_is_touched_before_its_time",
    ),
    guard(
        "a job is given up only past its deadline",
        assigns("recovery._reserved", "late", "[*jobs]"),
        "test_a_job_whose_deadline_has_not_come_is_published_and_not_given_up",
    ),
    guard(
        "what lost its worker in a call is unknown, never called again",
        drops_clause("recovery._calling", "outcome"),
        "test_a_claim_past_its_lease_becomes_unknown_and_keeps_its_hold",
    ),
    guard(
        "an unknown outcome keeps its hold for as long as it is waited for",
        drops_clause("recovery._unknown", "given_up_at"),
        "test_an_unknown_outcome_keeps_its_hold_however_often_it_was_asked_for",
    ),
]

OF_JOBS = [*OF_SUBMISSIONS, *OF_MOVES, *OF_TAKES, *OF_CALLS, *OF_UNKNOWN_CALLS, *OF_RECOVERY]
