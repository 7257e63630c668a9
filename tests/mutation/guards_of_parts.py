"""The guards of jobs in parts: a call for each, one charge for all, and what becomes of them when one fails."""

from __future__ import annotations

from tests.mutation.guard import guard
from tests.mutation.operators import assigns, drops, gives, never, says

OF_PARTS = [
    guard(
        "a part leads to the next, and the last to the charge",
        assigns("_Deliveries.add", "event", "Event.GENERATE"),
        "test_each_part_is_a_call_of_its_own_and_the_job_is_charged_once",
    ),
    guard(
        "each part has a key of its own",
        says("_CLAIM", r"CASE WHEN parts_delivered > 0 THEN '-' \|\| \(parts_delivered \+ 1\) ELSE '' END", "''"),
        "test_each_part_asks_for_its_images_under_a_key_of_its_own_and_all_attempts_at_it_carry_that_key",
    ),
    guard(
        "a call is asked for its part, not for the whole",
        gives("calling._claim", "images", "Work(**row['work']).images"),
        "test_each_part_asks_for_its_images_under_a_key_of_its_own_and_all_attempts_at_it_carry_that_key",
    ),
    guard(
        "all parts are charged",
        says("_TO_SETTLE", r"jsonb_agg\(usage\)", "jsonb_build_array((array_agg(usage))[1])"),
        "test_each_part_is_a_call_of_its_own_and_the_job_is_charged_once",
    ),
    guard(
        "a part takes the place of no other in the result",
        says("_FURTHER", r"coalesce\(r\.content -> 'images', '\[\]'\)\s*\|\| "),
        "test_each_part_is_a_call_of_its_own_and_the_job_is_charged_once",
    ),
    guard(
        "what was delivered is charged when a later part fails for good",
        never("calling.fail", "job.parts_delivered"),
        "test_when_a_later_part_is_refused_what_was_delivered_is_charged",
    ),
    guard(
        "nobody is refunded who was delivered something",
        assigns("concluding.end", "nothing", "jobs"),
        "test_past_its_deadline_a_job_between_two_parts_is_charged_for_those_it_has",
        "test_a_job_that_is_cancelled_between_two_parts_is_charged_for_those_it_has",
    ),
    guard(
        "what is written off delivers nothing",
        drops("concluding.write_off", "expose_delivered"),
        "test_a_job_that_kills_its_workers_between_two_parts_is_refunded_and_the_parts_are_our_cost",
    ),
    guard(
        "a lost part exposes its own cost, not that of the whole job",
        assigns("unknown_calls._worst_cost", "work", "Work(**job.work)"),
        "test_a_later_part_of_unknown_outcome_keeps_the_hold_and_is_our_exposure_in_the_end",
    ),
    guard(
        "how often a part is tried does not count for the next",
        assigns("calling.fail", "tried", "claim.attempt"),
        "test_how_often_a_part_is_tried_does_not_count_for_the_next",
    ),
    guard(
        "the prompt is held for each call that is sent it",
        gives("examining._image", "input_tokens", "_count_what_fits([params.prompt], model, output=0)"),
        "test_an_image_model_that_bills_by_tokens_is_held_the_prompt_for_each_call",
    ),
]
