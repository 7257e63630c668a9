"""The guards around a job: its request comes once, messages follow commits and get lost nowhere."""

from __future__ import annotations

from tests.mutation.guard import guard
from tests.mutation.operators import (
    always,
    assigns,
    calls,
    drops,
    drops_clause,
    drops_value,
    gives,
    never,
    returns,
    says,
    too_early,
)

AT_LEAST_ONCE = "test_messages_are_delivered_at_least_once"

OF_REQUESTS = [
    guard(
        "a repeated request inserts nothing",
        says("_ADD", r"ON CONFLICT DO NOTHING "),
        "test_the_same_key_and_body_is_the_same_job",
    ),
    guard(
        "one key with another body is a conflict",
        never("_submitted", "request_hash"),
        "test_the_same_key_with_another_body_is_a_conflict",
    ),
    guard(
        "a request that an earlier version hashed is still the same",
        drops_clause("submitting._submitted", "_earlier_hashes"),
        "test_a_request_of_an_earlier_version_is_still_the_same",
    ),
    guard(
        "a request is hashed as JSON has it, where 1.0 is 1",
        drops_value("requests.from_json", "parse_float"),
        "test_equal_numbers_are_the_same_request",
        "test_equal_numbers_are_the_same_number",
    ),
    guard(
        "a request is stored under its own id, so that it can be stored again",
        drops_value("pipeline._store", "job_id"),
        "test_a_request_whose_commit_was_not_confirmed_is_one_job",
    ),
    guard(
        "a message that comes twice is one job",
        never("with_key", "message_id"),
        "test_a_message_that_is_delivered_twice_is_one_job",
    ),
    guard(
        "a message that could not be kept stays in its queue",
        never("take_in", "kept"),
        "test_a_request_that_could_not_be_kept_is_not_taken_for_done",
    ),
    guard(
        "a request waits in its queue while the database is away",
        gives("generation.submit", "requeue", "False"),
        "test_a_request_goes_back_into_the_queue_while_the_database_is_away",
    ),
    guard(
        "a request whose message expired is kept for an operator, never dropped",
        returns("intake.is_in_time", "True", instead_of="instant"),
        "test_a_request_that_expired_can_be_worked_on_after_all",
    ),
]

OF_COMMITS = [
    guard(
        "a request is committed before it is published",
        returns("pipeline._submit", "[start([(job.job_id, job.kind)]) or job for job in was]"),
        "test_a_request_is_committed_before_it_is_published",
    ),
    guard(
        "recovery commits before it publishes",
        too_early("recover_jobs", "_publish"),
        "test_recovery_commits_before_it_publishes_again",
    ),
    guard(
        "whatever publishing raises is the broker's trouble",
        calls("Mill.send_task", "lambda _: error", instead_of="OperationalError"),
        "test_a_stored_request_is_reported_as_stored_whatever_publishing_raises",
        "test_a_step_is_done_whatever_publishing_the_next_one_raises",
    ),
    guard(
        "one tick of a task works at a time",
        never("in_batches", "try_lock"),
        "test_whoever_finds_another_at_work_ends_at_once_and_takes_nothing_for_blocked",
    ),
    guard(
        "a claim is committed before the call",
        returns(
            "calls._claim",
            "[_provider(each).call(each, found.of('openai', 'text'), timeout_s=1) for each in claims.values()] and was",
        ),
        "test_a_claim_and_its_call_are_committed_before_the_provider_is_called",
    ),
    guard(
        "what a provider did is recorded although the database was away",
        gives("writing.record", "retry", "retry_if_exception_type(())"),
        "test_what_was_delivered_is_recorded_although_the_database_was_away_for_a_moment",
    ),
    guard(
        "a row that cannot be worked on is undone alone",
        calls("_apart", "__import__('contextlib').nullcontext", instead_of="begin_nested"),
        "test_what_was_half_done_to_a_row_is_undone_and_the_others_go_on",
    ),
]

OF_PROVIDERS = [
    guard(
        "the SDK never retries by itself",
        gives("OpenAIProvider._client", "max_retries", "2"),
        "test_the_sdk_makes_one_request_and_no_retry",
        "test_the_sdk_tries_a_broken_connection_once",
    ),
    guard(
        "a connection that broke proves nothing",
        returns("failure_of_break", "Failure.UNREACHABLE", instead_of="CONNECTION_LOST"),
        "test_a_broken_connection_is_sorted_by_whether_anything_was_sent",
    ),
    guard(
        "a status that nobody defined proves nothing",
        returns("failure_of_status", "STATUSES.get(status, Failure.BAD_REQUEST)"),
        "test_a_status_that_nobody_defined_proves_nothing",
        "test_every_status_is_sorted_by_what_it_proves",
    ),
    guard(
        "no code undoes what a status leaves open",
        assigns("failure_of_error", "left_open", "False"),
        "test_a_code_never_proves_that_nothing_was_done_where_the_status_leaves_that_open",
        "test_a_status_is_sorted_by_what_it_proves",
    ),
    guard(
        "a key follows no redirect",
        gives("Client.__init__", "follow_redirects", "True"),
        "test_neither_the_key_nor_the_request_follows_a_redirect",
    ),
    guard(
        "the time of a call bounds the whole of it",
        drops("_Transport.__init__", "_network_backend"),
        "test_a_server_that_is_slow_anywhere_holds_no_thread_beyond_the_time",
    ),
    guard(
        "an answer has a largest size",
        never("_Answer.iter_bytes", "LARGEST_ANSWER"),
        "test_an_answer_of_the_largest_size_is_read",
    ),
    guard(
        "what has arrived when the time is over is still read",
        always("_Clock.left_to_read", "reads_until"),
        "test_what_has_arrived_when_the_time_is_over_is_still_read",
    ),
    guard(
        "a provider has no wait of its own choice without bounds",
        returns(
            "waits.retry_after", "None if wait_s is None else timedelta(seconds=wait_s)", instead_of="LONGEST_WAIT"
        ),
        "test_whatever_a_header_says_the_wait_is_none_or_within_bounds",
    ),
    guard(
        "a lost request is sent again only to a server that honours keys",
        always("OpenAIProvider.means", "honours_keys"),
        "test_an_unknown_call_is_sent_again_only_where_the_server_does_one_key_once",
    ),
    guard(
        "a request is sent again only where it was sent to",
        never("unknown_calls._question", "_went_there"),
        "test_a_provider_that_cannot_tell_is_not_asked_and_recovery_waits",
    ),
]

OF_MESSAGES = [
    guard(
        "a message that could not be kept is not acknowledged",
        always("CarefulConsumer._set_aside", "kept"),
        "test_a_message_that_could_not_be_kept_is_not_acknowledged",
    ),
    guard(
        "a message is acknowledged when its work is done",
        assigns("celeryconfig", "task_acks_late", "False"),
        AT_LEAST_ONCE,
    ),
    guard(
        "a killed child gives its message back",
        assigns("celeryconfig", "task_reject_on_worker_lost", "False"),
        AT_LEAST_ONCE,
    ),
    guard(
        "running work is not delivered a second time",
        gives("celeryconfig", "visibility_timeout", "300"),
        "test_a_limit_ends_before_the_next_one_begins",
    ),
]

OF_ZONES = [
    guard(
        "a machine's own files of zones are no time zones",
        never("_is_time_zone", "NO_ZONES"),
        "test_what_is_no_time_zone_is_refused",
    ),
]

OF_GROUPS = [
    guard(
        "no two items of one key are written together",
        drops_clause("Group._next_group", "isdisjoint"),
        "test_two_items_of_one_key_are_never_written_together",
    ),
    guard(
        "what the database refuses of a group is written apart",
        never("Group._write_together", "DATABASE_TROUBLE"),
        "test_what_the_database_refuses_undoes_nothing_of_the_others",
    ),
    guard(
        "nothing follows from what was not written",
        always("Group._lead", "error"),
        "test_what_the_database_refuses_undoes_nothing_of_the_others",
    ),
]

AROUND_JOBS = [*OF_REQUESTS, *OF_COMMITS, *OF_PROVIDERS, *OF_MESSAGES, *OF_ZONES, *OF_GROUPS]
