"""Every guard, as data: what it promises, how it is taken away, and the tests that should notice, the quickest first.

A guard of the database is dropped from the database that tests are copied from. A guard of the code is a text that
stands exactly once in its file, and what it is replaced by. Not listed are assertions that can only speak when another
guard is gone: taking them away alone changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from billing.audit import RULES


@dataclass(frozen=True)
class Edit:
    """A change of one file: `old` stands in it exactly once."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Guard:
    """One guard: its promise, the tests that should notice its removal, and either SQL or an edit that removes it."""

    name: str
    tests: tuple[str, ...]
    edit: Edit | None = None
    sql: str = ""
    constraint: str = ""


def _tests(short: tuple[str, ...]) -> tuple[str, ...]:
    """`charging::test_x` is a test of tests/integration/test_charging.py, `unit/policy` a module of tests/unit."""
    whole = []
    for each in short:
        module, _, test = each.partition("::")
        folder, _, name = module.rpartition("/")
        whole.append(f"tests/{folder or 'integration'}/test_{name}.py" + (f"::{test}" if test else ""))
    return tuple(whole)


def _rule(table: str, constraint: str, promise: str, *tests: str) -> Guard:
    drop = f"ALTER TABLE {table} DROP CONSTRAINT {constraint} CASCADE"
    return Guard(f"{promise} ({constraint})", _tests(tests or (_direct(constraint),)), sql=drop, constraint=constraint)


def _direct(constraint: str) -> str:
    return f"guards::test_the_database_refuses_it_by_itself[{constraint}]"


def _checks(table: str, **promises: str) -> list[Guard]:
    """The CHECKs of one table, which have a direct test each."""
    return [_rule(table, f"ck_{table}_{name}", promise) for name, promise in promises.items()]


def _trigger(table: str, name: str, promise: str, *tests: str) -> Guard:
    return Guard(f"{promise} (trigger {name} of {table})", _tests(tests), sql=f"DROP TRIGGER {name} ON {table}")


def _code(path: str, promise: str, old: str, new: str, *tests: str) -> Guard:
    return Guard(promise, _tests(tests), edit=Edit(path, old, new))


BY_ITSELF = "catalog::test_the_database_refuses_what_could_not_be_billed"
PRICE = "catalog::test_the_database_refuses_a_bad_price"

FORM_ONLY = {
    "ck_ai_model_config_api": "implied by api_fits_type, which lists the interfaces of each type",
    "ck_ai_model_config_model_type": "implied by api_fits_type, which lists the types",
    "ck_credit_cost_config_limit_unit": "implied by limit_unit_fits_type, which lists the units",
    "ck_billing_configuration_typical_output_percent": "only quotes show it",
    "ck_billing_configuration_min_margin_percent": "only reports of margins compare with it",
    "ck_billing_configuration_deprecation_notice_days": "only warnings depend on it",
    "ck_change_history_action": "the trigger that writes the column knows three words",
    "uq_users_email": "no job, price or account is looked up by it",
}
"""CHECKs and unique constraints which protect neither money nor exactly-once, each with the reason."""

OF_MONEY = [
    *_checks(
        "accounts",
        balance_covers_reserved="an account never holds more than it has",
        reserved_not_negative="an account never holds less than nothing",
    ),
    *_checks(
        "generation_jobs",
        state="a job is in a state that exists",
        kind="a job is of a kind that a worker serves",
        terminal_is_finished="a job is finished exactly when its state is the last",
        open_has_price="a job that holds credits has the price that it is charged by",
        calling_is_leased="a job is leased exactly while it is called",
        settled_is_charged="a job is charged exactly when it is settled",
        charge_within_reservation="a charge is within its reservation",
        limit_within_reservation="units used are within the units held",
        not_negative="a job's credits and cost are not negative",
        attempts="a job's attempts are counted upwards from 0",
    ),
    *_checks(
        "provider_calls",
        outcome="a call's outcome is one of three",
        finished_has_outcome="a call is finished exactly when its outcome is told",
        success_has_usage="a call that succeeded has the usage that is charged",
        cost_not_negative="a call costs nothing or more",
    ),
    *_checks(
        "credit_transactions",
        transaction_type="a ledger row is of a type that exists",
        sign="a ledger row's sign fits its type",
        balance_after_not_negative="no ledger row leaves a balance below nothing",
        deduction_has_job="a deduction has its job, and no other row has one",
    ),
    *_checks("credit_usage_logs", not_negative="a usage log's credits, cost and revenue are not negative"),
    *_checks(
        "plan_limit_usage",
        not_negative="units used and held are not negative",
        period="a plan limit's period has a first day before its end",
    ),
    *_checks(
        "plans",
        amounts="a plan's price and credits are not negative",
        limits_are_whole_numbers="a plan's limits are whole numbers",
    ),
    *_checks(
        "subscriptions",
        status="a subscription is in a status that exists",
        period="a subscription's period has a first day before its end",
    ),
    *_checks(
        "ai_model_config",
        limits="a model's limits are 1 or more",
        api_fits_type="a model speaks an interface of its type",
        provider="a model's provider is one that exists",
    ),
    *_checks(
        "credit_cost_config",
        tokens_per_credit="a credit of an operation has 1 token or more",
        min_credits="an operation's minimum is not negative",
        model_type="an operation is of a type that exists",
        limit_unit_fits_type="an operation counts a unit that its work has",
    ),
    *_checks(
        "billing_configuration",
        tokens_per_credit="a credit has 1 token or more by default",
        rounding="fractions of a credit round in a way that exists",
        max_open_jobs="the bound on all open jobs is 1 or more",
        max_open_jobs_per_account="the bound on an account's open jobs is 1 or more",
        singleton="the platform has one row of billing defaults",
    ),
    *_checks("global_integration_settings", singleton="the platform has one row of provider keys"),
    *_checks(
        "resolutions",
        outcome="what was found out about a call is one of three",
        evidence="nothing is resolved without evidence",
    ),
    *_checks("worker_losses", counted="a worker's loss is counted from 1"),
    *_checks("audit_runs", not_negative="an audit's figures are not negative"),
    _rule("ai_model_config", "ck_ai_model_config_rates", "a model's rates are prices", PRICE),
    _rule("image_prices", "ck_image_prices_cost", "an image's cost is a price", PRICE),
    _rule("credit_cost_config", "ck_credit_cost_config_price_per_credit", "an operation's credit has a price", PRICE),
    _rule(
        "billing_configuration", "ck_billing_configuration_price_per_credit", "a credit has a price by default", PRICE
    ),
    _rule("image_prices", "ck_image_prices_credits", "an image is charged 1 credit or more", BY_ITSELF),
    _rule(
        "ai_model_config",
        "ck_ai_model_config_text_has_rates_and_limits",
        "a text model has the rates and limits that it is billed by",
        BY_ITSELF,
    ),
    _rule(
        "ai_model_config",
        "ck_ai_model_config_token_images_have_rates",
        "an image model by the token has its rates and limit",
        BY_ITSELF,
    ),
    _rule(
        "ai_model_config",
        "ck_ai_model_config_embedding_has_rate_and_limit",
        "an embedding model has its rate and limit",
        BY_ITSELF,
    ),
    _rule(
        "billing_configuration",
        "ck_billing_configuration_words_per_100_tokens",
        "words are held before they are written",
        BY_ITSELF,
    ),
    _rule(
        "ai_model_config",
        "ck_ai_model_config_default_is_active",
        "a default model is active",
        "changes_at_once::test_the_database_itself_keeps_a_default_active",
    ),
]

OF_ONCE = [
    _rule(
        "generation_jobs",
        "uq_generation_jobs_account_id_idempotency_key",
        "one key of an account is one job",
        "submitting::test_the_same_key_and_body_is_the_same_job",
        "submitting::test_one_key_submitted_by_eight_at_once_is_one_job",
    ),
    _rule(
        "generation_jobs",
        "pk_generation_jobs",
        "one id is one job, whoever chose it",
        "submitting::test_a_job_id_of_another_request_is_a_conflict_even_across_accounts",
    ),
    _rule("provider_calls", "uq_provider_calls_job_id_attempt", "one attempt of a job is one call"),
    _rule(
        "generation_results",
        "pk_generation_results",
        "a job has one result",
        "guards::test_the_database_itself_keeps_one_result_a_job",
    ),
    _rule(
        "credit_transactions",
        "uq_credit_transactions_account_id_idempotency_key",
        "one key of an account is one ledger row",
    ),
    Guard(
        "a settled job is charged once (uq_credit_transactions_one_deduction_a_job)",
        _tests((_direct("uq_credit_transactions_one_deduction_a_job"),)),
        sql="DROP INDEX uq_credit_transactions_one_deduction_a_job",
        constraint="uq_credit_transactions_one_deduction_a_job",
    ),
    _rule("credit_usage_logs", "uq_credit_usage_logs_job_id", "a job has one usage log"),
    _rule(
        "plan_limit_usage",
        "uq_plan_limit_usage_account_id_limit_type_period_start",
        "a limit's period is counted in one row",
        "revenue::test_a_period_opens_its_rows_once_and_leaves_the_old_ones_alone",
        _direct("uq_plan_limit_usage_account_id_limit_type_period_start"),
    ),
    _rule("plans", "uq_plans_slug", "a plan's name is one plan"),
    _rule("subscriptions", "uq_subscriptions_account_id", "an account has one subscription"),
    _rule("ai_model_config", "uq_ai_model_config_model_name", "a model's name is one row of rates"),
    Guard(
        "each type has one default model (uq_ai_model_config_one_default_a_type)",
        _tests((_direct("uq_ai_model_config_one_default_a_type"),)),
        sql="DROP INDEX uq_ai_model_config_one_default_a_type",
        constraint="uq_ai_model_config_one_default_a_type",
    ),
    _rule("image_prices", "uq_image_prices_model_name_size_quality", "a size and quality has one price", BY_ITSELF),
    _rule("credit_cost_config", "uq_credit_cost_config_operation_type", "an operation is one row of rules"),
    _rule("resolutions", "uq_resolutions_call_id", "a call is resolved once"),
    _rule(
        "dead_messages",
        "uq_dead_messages_message_id",
        "a message is set aside in one row",
        "dead_messages::test_a_message_that_is_set_aside_once_more_can_be_worked_on_once_more",
    ),
]

APPEND_ONLY = "guards::test_what_is_only_added_to_is_neither_changed_nor_removed"
HISTORY = "guards::test_no_change_escapes_the_history"
TRUNCATE = "guards::test_nothing_whose_history_is_kept_is_emptied_past_it"
KEPT = ("ai_model_config", "image_prices", "credit_cost_config", "billing_configuration", "plans", "subscriptions")

OF_EVIDENCE = [
    _trigger(
        "credit_transactions", "append_only", "the ledger is only added to", f"{APPEND_ONLY}[credit_transactions]"
    ),
    _trigger("change_history", "append_only", "the history is only added to", f"{APPEND_ONLY}[change_history]"),
    _trigger("resolutions", "append_only", "evidence is only added to", f"{APPEND_ONLY}[resolutions]"),
    *(_trigger(table, "keep_history", "each change is kept", f"{HISTORY}[{table}]") for table in KEPT),
    *(
        _trigger(table, "no_truncate", "rows are not emptied past the history", f"{TRUNCATE}[{table}]")
        for table in KEPT
    ),
    _trigger(
        "credit_cost_config",
        "keep_previous_ratio",
        "an operation's previous ratio is kept",
        "catalog_changes::test_the_previous_ratio_is_kept_whoever_changes_it",
    ),
]

JOBS = "billing/store/jobs.py"
CALLS = "billing/store/calls.py"
ACCOUNTS = "billing/store/accounts.py"
BOOKS = "billing/store/books.py"
LIMITS = "billing/store/limits.py"

OF_STORE = [
    _code(
        JOBS,
        "a repeated request inserts nothing (on conflict)",
        "insert(GenerationJob).on_conflict_do_nothing()",
        "insert(GenerationJob)",
        "submitting::test_the_same_key_and_body_is_the_same_job",
    ),
    _code(
        JOBS,
        "a step takes only jobs in the states that it leaves",
        ".where(GenerationJob.state.in_(list(states)))",
        "",
        "charging::test_settling_twice_charges_once",
        "charging::test_reserving_twice_holds_once_and_passes_the_job_on_again",
    ),
    _code(
        JOBS,
        "a step locks its jobs (FOR UPDATE)",
        "statement.with_for_update().execution",
        "statement.execution",
        "concurrency::test_one_job_settled_by_many_at_once_is_charged_once",
        "concurrency::test_one_job_reserved_by_many_at_once_holds_once",
        "concurrency::test_one_job_claimed_by_many_at_once_is_called_once",
    ),
    _code(
        JOBS,
        "jobs are locked in one order",
        "in_(list(states))).order_by(GenerationJob.id)",
        "in_(list(states)))",
        "guards::test_jobs_are_locked_in_the_order_of_their_ids",
    ),
    _code(
        JOBS,
        "a locked job is read anew",
        "statement.with_for_update().execution_options(populate_existing=True)",
        "statement.with_for_update()",
        "guards::test_a_claim_counts_on_from_the_calls_that_others_made_meanwhile",
    ),
    _code(
        JOBS,
        "a job moves only from a state that its event leaves (AND state IN)",
        "AND j.state IN :leaving",
        "AND (true OR j.state IN :leaving)",
        "submitting::test_a_reserved_job_is_not_cancelled_as_if_it_held_nothing",
        "charging::test_a_late_result_after_the_refund_charges_nobody_and_is_counted_as_exposure",
    ),
    _code(
        JOBS,
        "the attempt's number fences late writers (AND attempts =)",
        '" AND j.attempts = v.attempts" if fenced',
        '"" if fenced',
        "charging::test_an_old_attempt_cannot_overwrite_a_newer_one",
        "guards::test_an_old_claim_cannot_give_a_newer_one_back",
    ),
    _code(
        JOBS,
        "recovery leaves alone what is not due (next_at <= now)",
        "GenerationJob.state == state, GenerationJob.next_at <= now",
        "GenerationJob.state == state",
        "recovery::test_nothing_is_touched_before_its_time",
    ),
    _code(
        JOBS,
        "recovery treats each state by itself",
        "GenerationJob.state == state, GenerationJob.next_at <= now",
        "GenerationJob.next_at <= now",
        "recovery::test_each_step_that_lost_its_message_is_published_again",
        "recovery::test_a_claim_past_its_lease_becomes_unknown_and_keeps_its_hold",
    ),
    _code(
        JOBS,
        "two recoveries share the work without waiting (SKIP LOCKED)",
        "with_for_update(skip_locked=True)",
        "with_for_update()",
        "recovery::test_two_recoveries_at_once_share_the_work",
    ),
    _code(
        JOBS,
        "two recoveries never take the same job (FOR UPDATE)",
        ".with_for_update(skip_locked=True)",
        "",
        "recovery::test_two_recoveries_at_once_share_the_work",
    ),
    _code(
        JOBS,
        "a finished job takes no room (finished_at IS NULL)",
        "select(GenerationJob.id).where(GenerationJob.finished_at.is_(None))",
        "select(GenerationJob.id)",
        "bounds::test_a_finished_job_makes_room_for_another",
    ),
    _code(
        JOBS,
        "an account's bound counts that account's jobs",
        "some = some.where(GenerationJob.account_id == account_id)",
        "pass",
        "bounds::test_an_account_may_have_as_many_unfinished_jobs_as_its_bound_and_no_more",
    ),
    _code(
        JOBS,
        "a call under way is not looked at again at once (state IN)",
        ", GenerationJob.state.in_(waiting))",
        ")",
        "guards::test_looking_again_leaves_a_call_that_is_under_way_alone",
    ),
    _code(
        JOBS,
        "a verdict is written on a job that is being called (AND state =)",
        "GenerationJob.id == job_id, GenerationJob.state == State.CALLING",
        "GenerationJob.id == job_id",
        "guards::test_a_verdict_is_written_on_a_job_that_is_being_called_and_on_no_other",
    ),
    _code(
        JOBS,
        "a job's cost is the sum of its calls, however often it is summed",
        "values(cost_usd=calls.scalar_subquery())",
        "values(cost_usd=GenerationJob.cost_usd + calls.scalar_subquery())",
        "charging::test_a_refusal_after_paid_work_that_is_recorded_twice_is_counted_once",
        "recovery::test_an_unknown_outcome_is_refunded_in_the_end_and_its_worst_cost_is_ours",
    ),
    _code(
        CALLS,
        "a call is found by its attempt",
        "ProviderCall.job_id == job_id, ProviderCall.attempt == attempt",
        "ProviderCall.job_id == job_id",
        "guards::test_each_call_of_a_job_is_found_by_its_attempt",
    ),
    _code(
        CALLS,
        "only jobs of unknown outcome are listed to be resolved (AND state =)",
        ".where(GenerationJob.state == State.UNKNOWN)",
        "",
        "guards::test_only_jobs_of_unknown_outcome_are_listed_to_be_resolved",
    ),
    _code(
        CALLS,
        "a job keeps its first result (on conflict)",
        "statement.on_conflict_do_nothing()",
        "statement",
        "guards::test_a_job_keeps_its_first_result",
    ),
    _code(
        CALLS,
        "a job is charged for a call that succeeded",
        'ProviderCall.outcome == "succeeded", ~ProviderCall.exposure',
        "~ProviderCall.exposure",
        "guards::test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_failed_one",
    ),
    _code(
        CALLS,
        "nobody is charged for a call that came too late",
        'ProviderCall.outcome == "succeeded", ~ProviderCall.exposure',
        'ProviderCall.outcome == "succeeded"',
        "guards::test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_late_one",
    ),
    _code(
        ACCOUNTS,
        "whoever changes an account locks it (FOR NO KEY UPDATE)",
        "statement = statement.with_for_update(key_share=True)",
        "pass",
        "guards::test_jobs_settled_side_by_side_leave_a_continuous_ledger",
        "concurrency::test_two_jobs_race_for_the_last_credits_and_the_loser_holds_nothing_of_the_plan",
    ),
    _code(
        ACCOUNTS,
        "an account's lock leaves rows that refer to it alone (NO KEY)",
        "with_for_update(key_share=True)",
        "with_for_update()",
        "changes_at_once::test_opening_a_period_does_not_block_reservations_nor_they_it",
    ),
    _code(
        ACCOUNTS,
        "accounts are locked in one order",
        "in_(sorted(set(account_ids)))).order_by(Account.id)",
        "in_(sorted(set(account_ids))))",
        "guards::test_accounts_are_locked_in_the_order_of_their_ids",
    ),
    _code(
        ACCOUNTS,
        "a frozen account keeps its first reason",
        "Account.id == account_id, Account.frozen_reason.is_(None)",
        "Account.id == account_id",
        "audit::test_an_account_whose_credits_do_not_add_up_is_frozen_and_no_other",
    ),
    _code(
        ACCOUNTS,
        "only a frozen account is unfrozen",
        "Account.id == account_id, Account.frozen_reason.is_not(None)",
        "Account.id == account_id",
        "audit::test_a_frozen_account_finishes_what_it_began_and_starts_nothing_new",
    ),
    _code(
        BOOKS,
        "a hold stays within its allowance, in the statement that makes it",
        "AND (v.allowed IS NULL OR u.amount_used + u.amount_reserved + v.used + v.reserved <= v.allowed)",
        "",
        "books::test_units_beyond_the_allowance_write_no_credits_either",
    ),
    _code(
        BOOKS,
        "credits are not written without their units",
        "assert written == (len(accounts), len(limits))",
        "assert True",
        "books::test_units_without_their_row_write_no_credits_either",
        "books::test_units_beyond_the_allowance_write_no_credits_either",
    ),
    _code(
        LIMITS,
        "a period that was opened is left alone (on conflict)",
        "insert(PlanLimitUsage).on_conflict_do_nothing()",
        "insert(PlanLimitUsage)",
        "revenue::test_a_period_opens_its_rows_once_and_leaves_the_old_ones_alone",
    ),
    _code(
        LIMITS,
        "a cancelled subscription limits nothing (AND status <>)",
        '.where(Subscription.status != "cancelled")',
        "",
        "guards::test_a_cancelled_subscription_limits_nothing",
    ),
    _code(
        "billing/store/dead.py",
        "a message that is set aside again is counted, not kept twice (on conflict)",
        "statement.on_conflict_do_update(",
        "statement if code else statement.on_conflict_do_update(",
        "dead_messages::test_a_message_that_is_set_aside_once_more_can_be_worked_on_once_more",
    ),
    _code(
        "billing/store/dead.py",
        "a message that is set aside again can be worked on again",
        '"redriven_at": None,',
        "",
        "dead_messages::test_a_message_that_is_set_aside_once_more_can_be_worked_on_once_more",
    ),
    _code(
        "billing/store/losses.py",
        "losses of one job are added up (on conflict)",
        "WorkerLoss.losses + 1",
        "WorkerLoss.losses",
        "guards::test_losses_in_a_row_are_added_up_and_forgotten_at_the_end",
    ),
    _code(
        "billing/store/schema.py",
        "migrations run once (advisory lock)",
        "connection.execute(text(LOCK))",
        "pass",
        "database::test_migrating_at_the_same_time_migrates_once",
    ),
    _code(
        "billing/store/catalog.py",
        "the catalogue is changed by one at a time (advisory lock)",
        "session.execute(text(\"SELECT pg_advisory_xact_lock(hashtext('creditmill.catalog'))\"))",
        "pass",
        "changes_at_once::test_two_operators_change_one_plan_and_both_changes_stay",
        "changes_at_once::test_two_operators_make_a_default_and_one_model_is_it",
    ),
    _code(
        "billing/store/catalog.py",
        "whoever waited to change the catalogue reads it anew",
        "session.expire_all()",
        "pass",
        "guards::test_whoever_waited_to_change_the_catalogue_reads_it_anew",
    ),
]

CALLING = "billing/calling.py"

OF_CALLS = [
    _code(
        CALLING,
        "a live claim is left alone",
        "if job.state == State.CALLING and job.attempts != again:",
        "if False:",
        "charging::test_a_live_claim_is_left_alone",
        "concurrency::test_one_job_claimed_by_many_at_once_is_called_once",
    ),
    _code(
        CALLING,
        "only whoever made a claim gets it again",
        "call.claimed_by != claimed_by",
        "False",
        "guards::test_whoever_made_a_claim_gets_it_again_and_nobody_else",
    ),
    _code(
        CALLING,
        "a claim that was worked on is not made again",
        "or call.outcome is not None:",
        "or False:",
        "guards::test_a_claim_that_was_worked_on_is_not_given_again",
    ),
    _code(
        CALLING,
        "a claim past its lease is not made again",
        "job.lease_until is not None and job.lease_until > now",
        "True",
        "guards::test_a_claim_past_its_lease_is_not_given_again",
    ),
    _code(
        CALLING,
        "each call has a number of its own",
        "attempt = job.attempts + 1",
        "attempt = max(job.attempts, 1)",
        "charging::test_an_old_attempt_cannot_overwrite_a_newer_one",
    ),
    _code(
        CALLING,
        "a claim is recovery's business only when its lease has ended",
        '"next_at": now + lease',
        '"next_at": now',
        "recovery::test_nothing_is_touched_before_its_time",
    ),
    _code(
        CALLING,
        "all attempts of a job carry one key",
        'f"creditmill-{job.id}"',
        'f"creditmill-{job.id}-{attempt}"',
        "guards::test_all_attempts_of_a_job_carry_one_key",
    ),
    _code(
        CALLING,
        "a lost call is asked about by one at a time",
        "call.asked_at is not None and call.asked_at > now - patience",
        "False",
        "guards::test_a_lost_call_is_asked_about_once_within_the_time_that_an_answer_takes",
    ),
    _code(
        CALLING,
        "a success that is recorded twice counts once",
        'if call.outcome == "succeeded":\n        return not call.exposure',
        "pass",
        "charging::test_recording_a_success_twice_counts_its_cost_once",
    ),
    _code(
        CALLING,
        "a late success is exposure",
        '"exposure": not on_time',
        '"exposure": False',
        "charging::test_a_late_result_after_the_refund_charges_nobody_and_is_counted_as_exposure",
    ),
    _code(
        CALLING,
        "a late success leaves no result",
        "    if on_time:\n",
        "    if True:\n",
        "guards::test_a_late_delivery_keeps_no_result",
    ),
    _code(
        CALLING,
        "a failure after a recorded success changes nothing",
        'if call.outcome == "succeeded" or call_store.resolution(session, call.id):',
        "if call_store.resolution(session, call.id):",
        "changes_at_once::test_a_failure_after_a_recorded_success_changes_nothing",
    ),
    _code(
        CALLING,
        "a refusal after the job was given up is no verdict",
        "if job.state != State.CALLING or job.attempts != claim.attempt:",
        "if job.attempts != claim.attempt:",
        "guards::test_a_refusal_that_comes_after_the_job_was_given_up_is_no_verdict",
    ),
    _code(
        CALLING,
        "a late verdict of an old attempt says nothing of a newer one",
        "if job.state != State.CALLING or job.attempts != claim.attempt:",
        "if job.state != State.CALLING:",
        "guards::test_a_late_verdict_of_an_old_attempt_says_nothing_about_the_newer_one",
    ),
    _code(
        CALLING,
        "losing a job leaves what its call said as it was",
        "if call is not None and call.outcome is None:",
        "if call is not None:",
        "guards::test_losing_a_job_leaves_what_its_call_said_as_it_was",
    ),
    _code(
        CALLING,
        "a claim is given back by its own attempt",
        '"attempts": claim.attempt,',
        "",
        "guards::test_an_old_claim_cannot_give_a_newer_one_back",
    ),
    _code(
        CALLING,
        "no wish of a provider keeps a hold past the deadline",
        '"next_at": min(until, job.deadline_at)',
        '"next_at": until',
        "recovery::test_a_provider_that_wants_to_be_left_alone_does_not_keep_a_hold_past_the_deadline",
    ),
    _code(
        CALLING,
        "only an unknown call is exposed, and once",
        'if call is None or call.outcome != "unknown" or call.exposure:',
        "if call is None:",
        "guards::test_only_a_call_of_unknown_outcome_is_exposed",
        "guards::test_what_is_known_of_an_exposed_call_is_not_replaced_by_a_guess",
    ),
    _code(
        CALLING,
        "an unknown call is exposed at its worst cost",
        '{"cost_usd": worst, "exposure": True}',
        '{"cost_usd": worst, "exposure": False}',
        "recovery::test_an_unknown_outcome_is_refunded_in_the_end_and_its_worst_cost_is_ours",
    ),
    _code(
        CALLING,
        "what was delivered and written off is exposure",
        'call_store.complete(session, call.id, {"exposure": True})',
        "pass",
        "guards::test_what_was_delivered_and_given_up_is_our_exposure",
    ),
    _code(
        CALLING,
        "what was executed and lost is exposure",
        '"exposure": executed',
        '"exposure": False',
        "resolving::test_what_was_executed_and_lost_is_our_cost",
    ),
    _code(
        CALLING,
        "a proven refusal withdraws the guess at its cost",
        '"usage": used, "exposure": False',
        '"usage": used',
        "charging::test_a_late_refusal_withdraws_the_exposure",
        "charging::test_a_late_refusal_after_paid_work_takes_the_place_of_the_guess",
    ),
    _code(
        "billing/domain/policy.py",
        "a call that timed out is never repeated",
        "Failure.TIMED_OUT: Verdict.UNKNOWN",
        "Failure.TIMED_OUT: Verdict.RETRY",
        "unit/policy::test_only_what_was_proven_not_executed_is_ever_tried_again",
        "unit/policy::test_a_failure_leads_to_its_verdict",
    ),
    _code(
        "billing/domain/policy.py",
        "a call whose connection broke is never repeated",
        "Failure.CONNECTION_LOST: Verdict.UNKNOWN",
        "Failure.CONNECTION_LOST: Verdict.RETRY",
        "unit/policy::test_only_what_was_proven_not_executed_is_ever_tried_again",
        "unit/policy::test_a_failure_leads_to_its_verdict",
    ),
    _code(
        "billing/domain/policy.py",
        "a call whose worker was lost is never repeated",
        "Failure.WORKER_LOST: Verdict.UNKNOWN",
        "Failure.WORKER_LOST: Verdict.RETRY",
        "unit/policy::test_only_what_was_proven_not_executed_is_ever_tried_again",
        "unit/policy::test_a_failure_leads_to_its_verdict",
    ),
    _code(
        "billing/domain/policy.py",
        "attempts are bounded",
        "and attempts >= budget.attempts",
        "and False",
        "unit/policy::test_a_retry_becomes_a_refund_exactly_when_the_attempts_are_spent",
    ),
    _code(
        "tasks/providers/openai.py",
        "the SDK never retries by itself",
        "max_retries=0",
        "max_retries=2",
        "unit/openai_adapter::test_the_sdk_makes_one_request_and_no_retry",
        "unit/openai_adapter::test_the_sdk_tries_a_broken_connection_once",
    ),
    _code(
        "tasks/providers/wire.py",
        "a connection that broke proves nothing",
        "else Failure.CONNECTION_LOST",
        "else Failure.UNREACHABLE",
        "unit/openai_adapter::test_a_broken_connection_is_sorted_by_whether_anything_was_sent",
    ),
    _code(
        "tasks/providers/retry.py",
        "calls of one job are bounded in time",
        "stop_after_delay(total_s)(state) or",
        "",
        "unit/retry::test_one_long_call_can_spend_the_total_time",
        "unit/retry::test_no_call_is_begun_when_the_total_time_is_spent",
    ),
    _code(
        "tasks/providers/retry.py",
        "a long wait is made in the database, not in a worker",
        "return _asked_s(state) > wait_max_s",
        "return False",
        "unit/retry::test_a_longer_wait_than_a_worker_may_make_stops_at_once",
    ),
    _code(
        "tasks/calls.py",
        "a claim is committed before the call",
        "claimed = record(self._claim)",
        "with transaction() as session:\n"
        "            claimed = self._claim(session)\n"
        "            self.claim = claimed and claimed[0]\n"
        "            claimed and self._provider().call(*claimed, timeout_s=1.0)",
        "guards::test_a_claim_and_its_call_are_committed_before_the_provider_is_called",
    ),
    _code(
        "tasks/writing.py",
        "what a provider did is recorded although the database was away",
        "retry=retry_if_exception_type(DATABASE_TROUBLE)",
        "retry=retry_if_exception_type(())",
        "guards::test_what_was_delivered_is_recorded_although_the_database_was_away_for_a_moment",
    ),
]

CHARGING = "billing/charging.py"

OF_CHARGES = [
    _code(
        "billing/domain/pricing.py",
        "a charge is capped by its reservation",
        "credits=min(due, held)",
        "credits=due",
        "unit/pricing",
        "charging::test_usage_beyond_the_reservation_is_the_platforms_loss",
    ),
    _code(
        "billing/domain/decisions.py",
        "no job is reserved beyond what is available",
        "if needed > standing.available:",
        "if False:",
        "charging::test_a_job_that_cannot_be_paid_is_rejected_with_its_shortfall_and_holds_nothing",
    ),
    _code(
        "billing/domain/decisions.py",
        "no job is reserved beyond its plan",
        "if limit.remaining is not None and units > limit.remaining:",
        "if False:",
        "charging::test_a_plan_limit_that_does_not_suffice_rejects_and_holds_no_credits",
    ),
    _code(
        "billing/domain/decisions.py",
        "a frozen account starts nothing",
        "if standing.frozen:",
        "if False:",
        "charging::test_a_frozen_account_starts_no_new_job",
    ),
    _code(
        CHARGING,
        "a check rejects only what is queued",
        "if job.state == State.QUEUED:",
        "if True:",
        "guards::test_a_check_that_comes_late_rejects_nothing",
    ),
    _code(
        CHARGING,
        "a job is reserved once",
        "store.lock(session, job_ids, {State.QUEUED})",
        "store.lock(session, job_ids, set(State))",
        "charging::test_reserving_twice_holds_once_and_passes_the_job_on_again",
    ),
    _code(
        CHARGING,
        "only a generated job is charged",
        "store.lock(session, job_ids, {State.GENERATED})",
        "store.lock(session, job_ids, set(State))",
        "charging::test_settling_twice_charges_once",
    ),
    _code(
        CHARGING,
        "only a job that is being called is refunded for its verdict",
        "store.lock(session, job_ids, {State.CALLING})",
        "store.lock(session, job_ids, set(State))",
        "guards::test_a_refund_that_comes_twice_releases_once",
    ),
    _code(
        CHARGING,
        "only a job whose last call failed is refunded",
        'failed = call is not None and call.outcome == "failed"',
        "failed = True",
        "guards::test_a_verdict_over_a_call_that_is_still_being_made_refunds_nothing",
    ),
    _code(
        CHARGING,
        "a refund needs a verdict and not only a failed call",
        "if job.error_code is None:",
        "if False:",
        "guards::test_a_job_between_two_tries_is_not_refunded",
    ),
    _code(
        CHARGING,
        "jobs of one batch do not share credits",
        "available[job.account_id] -= outcome.credits",
        "pass",
        "charging::test_a_batch_is_served_in_the_order_in_which_it_came",
    ),
    _code(
        CHARGING,
        "jobs of one batch do not share units",
        "allowance.remaining -= outcome.limit_units",
        "pass",
        "guards::test_a_batch_cannot_hold_more_units_than_are_left",
    ),
    _code(
        CHARGING,
        "a hold carries its allowance into the books",
        "held.allowed = allowance.allowed",
        "pass",
        "guards::test_a_decision_from_a_stale_count_of_units_is_refused_by_the_books",
    ),
    _code(
        CHARGING,
        "a release locks its accounts before it changes any",
        "    account_store.lock(session, {job.account_id for job in jobs})\n    books, moves = Books(), []\n",
        "    books, moves = Books(), []\n",
        "guards::test_a_release_locks_accounts_in_their_order_before_it_changes_any",
    ),
    _code(
        CHARGING,
        "what was counted in images is not billed by the token",
        "price.rates is not None and not work.max_output_tokens",
        "False",
        "changes_at_once::test_a_model_that_came_to_bill_by_the_token_does_not_serve_what_was_counted_in_images",
    ),
    _code(
        "billing/limits.py",
        "units that open jobs hold are not given away again",
        " - used.amount_reserved",
        "",
        "guards::test_units_that_open_jobs_hold_are_not_given_away_again",
    ),
    _code(
        "billing/accounts.py",
        "a top-up is added once for each key",
        "if earlier is not None:",
        "if False:",
        "submitting::test_a_top_up_with_one_key_adds_its_credits_once",
    ),
    _code(
        "billing/accounts.py",
        "a top-up's key with another amount is a conflict",
        "if earlier.amount != credits:",
        "if False:",
        "submitting::test_a_top_up_with_one_key_adds_its_credits_once",
    ),
    _code(
        "billing/accounts.py",
        "top-ups of one account wait for each other",
        "account = store.lock(session, [account_id])[account_id]",
        "account = get(session, account_id)",
        "guards::test_one_top_up_sent_by_many_at_once_is_added_once_and_answered_alike",
    ),
    _code(
        "billing/plans.py",
        "an account is subscribed once, however many try",
        "account_store.lock(session, [account_id])",
        "pass",
        "concurrency::test_an_account_that_is_subscribed_by_many_at_once_has_one_subscription",
    ),
]

REQUESTS = "billing/requests.py"
PIPELINE = "tasks/pipeline.py"

OF_REQUESTS = [
    _code(
        REQUESTS,
        "one key with another body is a conflict",
        'if job.request_hash != row["request_hash"]:',
        "if False:",
        "submitting::test_the_same_key_with_another_body_is_a_conflict",
    ),
    _code(
        REQUESTS,
        "an account's open jobs are bounded",
        "up_to=limit + 1) > limit:",
        "up_to=limit + 1) > 10**9:",
        "bounds::test_an_account_may_have_as_many_unfinished_jobs_as_its_bound_and_no_more",
    ),
    _code(
        REQUESTS,
        "all open jobs together are bounded",
        "up_to=bounds.max_open_jobs + 1) > bounds.max_open_jobs:",
        "up_to=bounds.max_open_jobs + 1) > 10**9:",
        "bounds::test_all_accounts_together_have_a_bound_too",
    ),
    _code(
        REQUESTS,
        "a repeated request is refused by no bound",
        "if not created:\n        return",
        "pass",
        "guards::test_a_repeated_request_is_answered_although_the_bound_is_lower_by_now",
    ),
    _code(
        "tasks/intake.py",
        "a message that comes twice is one job",
        'f"message:{message_id}"',
        '"message:" + str(__import__("uuid").uuid4())',
        "guards::test_a_message_that_is_delivered_twice_is_one_job",
    ),
    _code(
        "tasks/intake.py",
        "a message that could not be kept stays in its queue",
        "if not kept:",
        "if False:",
        "guards::test_a_request_that_could_not_be_kept_is_not_taken_for_done",
    ),
    _code(
        PIPELINE,
        "a request is committed before it is published",
        "return requests.submit(",
        "return (lambda *a, **k: [start([(job.job_id, job.kind)]) or job for job in requests.submit(*a, **k)])(",
        "guards::test_a_request_is_committed_before_it_is_published",
    ),
    _code(
        PIPELINE,
        "a repeated request is not published again",
        "for job in submitted if job.created)",
        "for job in submitted)",
        "guards::test_a_repeated_request_is_not_published_again",
    ),
    _code(
        PIPELINE,
        "a request is stored under its own id, so that it can be stored again",
        'update={"job_id": each.job_id or uuid4()}',
        "update={}",
        "guards::test_a_request_whose_commit_was_not_confirmed_is_one_job",
    ),
    _code(
        PIPELINE,
        "a request is taken in while the broker is away",
        "except OperationalError as error:",
        "except ZeroDivisionError as error:",
        "guards::test_a_request_is_taken_in_while_the_broker_is_away",
    ),
    _code(
        "tasks/consumer.py",
        "a message that could not be kept is not acknowledged",
        "        if kept:\n",
        "        if True:\n",
        "guards::test_a_message_that_could_not_be_kept_is_not_acknowledged",
    ),
    _code(
        "tasks/periodic.py",
        "recovery commits before it publishes",
        "        _publish(found)\n",
        "            _publish(found)\n",
        "guards::test_recovery_commits_before_it_publishes_again",
    ),
    _code(
        "tasks/step.py",
        "a step waits while the database is away",
        "autoretry_for = DATABASE_TROUBLE",
        "autoretry_for = ()",
        "guards::test_a_step_is_tried_again_while_the_database_is_away",
    ),
    _code(
        "tasks/losses.py",
        "a message that kills its worker again and again is given up",
        "if lost <= LOSSES_MAX:",
        "if True:",
        "guards::test_a_message_that_ends_worker_after_worker_is_given_up",
    ),
    _code(
        "celeryconfig.py",
        "a message is acknowledged when its work is done",
        "task_acks_late = True",
        "task_acks_late = False",
        "guards::test_messages_are_delivered_at_least_once",
    ),
    _code(
        "celeryconfig.py",
        "a killed child gives its message back",
        "task_reject_on_worker_lost = True",
        "task_reject_on_worker_lost = False",
        "guards::test_messages_are_delivered_at_least_once",
    ),
    _code(
        "celeryconfig.py",
        "a paid call is finished although the broker is away",
        "worker_cancel_long_running_tasks_on_connection_loss = False",
        "worker_cancel_long_running_tasks_on_connection_loss = True",
        "guards::test_messages_are_delivered_at_least_once",
    ),
    _code(
        "celeryconfig.py",
        "running work is not delivered a second time",
        '"visibility_timeout": 900',
        '"visibility_timeout": 300',
        "unit/architecture::test_a_limit_ends_before_the_next_one_begins",
    ),
]

RECOVERY = "billing/recovery.py"
RESOLVING = "billing/resolving.py"

OF_RECOVERY = [
    _code(
        RECOVERY,
        "a row that cannot be worked on is undone alone (savepoint)",
        "with session.begin_nested():",
        'with __import__("contextlib").nullcontext():',
        "guards::test_what_was_half_done_to_a_row_is_undone_and_the_others_go_on",
    ),
    _code(
        RECOVERY,
        "trouble of the database is blamed on no row",
        "        if not is_locked(error):\n",
        "        if False:\n",
        "recovery::test_trouble_of_the_database_is_not_blamed_on_a_row",
    ),
    _code(
        RECOVERY,
        "a blocked row is put off",
        "            _publish_again(session, [job], now, patience)\n",
        "",
        "recovery::test_a_row_that_cannot_be_worked_on_is_tried_again_later_and_later",
    ),
    _code(
        RECOVERY,
        "a queued job is given up only past its deadline",
        "late = [job.id for job in jobs if job.deadline_at <= now]",
        "late = [job.id for job in jobs]",
        "guards::test_a_job_whose_deadline_has_not_come_is_published_and_not_given_up",
    ),
    _code(
        RECOVERY,
        "a reserved job is given up only past its deadline",
        "late = [job for job in jobs if job.deadline_at <= now]",
        "late = [job for job in jobs]",
        "guards::test_a_job_whose_deadline_has_not_come_is_published_and_not_given_up",
    ),
    _code(
        RECOVERY,
        "what lost its worker in a call is unknown, never called again",
        "if call is None or call.outcome is None:",
        "if call is None:",
        "recovery::test_a_claim_past_its_lease_becomes_unknown_and_keeps_its_hold",
    ),
    _code(
        RECOVERY,
        "an unknown outcome keeps its hold for as long as it is waited for",
        "if given_up_at[job.id] <= now and job.republished > 0]",
        "if job.republished > 0]",
        "recovery::test_an_unknown_outcome_keeps_its_hold_however_often_it_was_asked_for",
    ),
    _code(
        RECOVERY,
        "an unknown outcome that is given up is exposure",
        "calling.expose(session, job)",
        "pass",
        "recovery::test_an_unknown_outcome_is_refunded_in_the_end_and_its_worst_cost_is_ours",
    ),
    _code(
        RECOVERY,
        "only a job that was not called yet is cancelled",
        "store.lock(session, [job_id], {State.RESERVED})",
        "store.lock(session, [job_id], {State.RESERVED, State.CALLING})",
        "recovery::test_a_job_that_is_being_called_cannot_be_cancelled",
    ),
    _code(
        RECOVERY,
        "what was delivered and given up is written off",
        "calling.write_off(session, these)",
        "pass",
        "guards::test_what_was_delivered_and_given_up_is_our_exposure",
    ),
    _code(
        RESOLVING,
        "only an unknown outcome is resolved by hand",
        'if call is None or call.outcome != "unknown" or call_store.resolution(session, call.id):',
        "if call is None or call_store.resolution(session, call.id):",
        "resolving::test_what_is_known_already_cannot_be_resolved",
    ),
    _code(
        RESOLVING,
        "a call is resolved by hand once",
        'if call is None or call.outcome != "unknown" or call_store.resolution(session, call.id):',
        'if call is None or call.outcome != "unknown":',
        "guards::test_a_lost_result_is_resolved_once",
    ),
    _code(
        RESOLVING,
        "only an unknown outcome is learnt",
        'if call.outcome != "unknown" or call_store.resolution(session, call.id):',
        "if call_store.resolution(session, call.id):",
        "guards::test_what_is_learnt_of_a_call_that_is_known_changes_nothing",
    ),
    _code(
        RESOLVING,
        "what is learnt twice changes nothing the second time",
        'if call.outcome != "unknown" or call_store.resolution(session, call.id):',
        'if call.outcome != "unknown":',
        "guards::test_what_is_learnt_after_a_resolution_by_hand_changes_nothing",
    ),
    _code(
        RESOLVING,
        "resolving after the refund releases nothing again",
        "[job] if job.state == State.UNKNOWN else []",
        "[job]",
        "resolving::test_after_the_refund_only_our_cost_is_corrected",
    ),
    _code(
        RESOLVING,
        "learning after the refund releases nothing again",
        "if job.state == State.UNKNOWN and job.attempts == asked.attempt else []",
        "if job.attempts == asked.attempt else []",
        "guards::test_what_is_learnt_after_the_refund_releases_nothing_again",
    ),
]

AUDIT = "billing/audit.py"
NOTICES = "audit::test_each_rule_notices_its_damage"
FREEZES = "guards::test_each_rule_about_a_customers_credits_freezes_the_account_that_breaks_it"


def _audits(rule: str, old: str, *tests: str) -> Guard:
    """A rule that stays, and finds nothing."""
    return _code(AUDIT, f"the audit notices what breaks {rule}", old, f"{old} AND false", *(tests or (NOTICES,)))


def _freezes(rule: str) -> Guard:
    """A rule that finds, and freezes nobody."""
    line = "serious = {rule.name for rule in RULES if rule.freezes}"
    without = f"{line} - {{{rule!r}}}"
    return _code(AUDIT, f"whoever breaks {rule} is frozen", line, without, f"{FREEZES}[{rule}]")


OF_AUDIT = [
    _audits("balance_is_sum_of_transactions", "HAVING a.balance <> coalesce(sum(t.amount), 0)"),
    _audits("reserved_is_sum_of_open_jobs", "HAVING a.reserved <> coalesce(sum(j.credits_reserved), 0)"),
    _audits("balance_after_is_continuous", "WHERE balance_after <> expected"),
    _code(
        AUDIT,
        "the audit notices a deduction that is missing",
        "WHERE d.n <> (j.state = 'settled')::int OR u.n <>",
        "WHERE u.n <>",
        "guards::test_a_free_job_without_its_deduction_is_noticed",
    ),
    _code(
        AUDIT,
        "the audit notices a usage log that is missing or too many",
        "OR u.n <> (j.state = 'settled')::int",
        "",
        "guards::test_a_free_job_without_its_usage_log_is_noticed",
    ),
    _code(
        AUDIT,
        "the audit notices a deduction of another amount",
        "OR d.total <> coalesce(j.credits_charged, 0)",
        "OR false",
        "guards::test_a_deduction_of_another_amount_is_noticed",
    ),
    _code(
        AUDIT,
        "the audit notices a usage log of another amount",
        "OR u.total <> coalesce(j.credits_charged, 0)",
        "",
        "guards::test_a_usage_log_of_another_amount_is_noticed",
    ),
    _audits(
        "charge_within_reservation",
        "WHERE credits_charged > credits_reserved",
        "audit::test_a_charge_above_its_reservation_is_noticed",
    ),
    _audits("settled_jobs_have_a_successful_call", "HAVING count(c.id) <> (j.state IN ('settled', 'generated'))::int"),
    _audits("cost_is_sum_of_calls", "HAVING j.cost_usd <> coalesce(sum(c.cost_usd), 0)"),
    _code(
        AUDIT,
        "the audit notices units that no job used",
        "WHERE coalesce(u.amount_used, 0) <> coalesce(j.used, 0)",
        "WHERE false",
        NOTICES,
    ),
    _code(
        AUDIT,
        "the audit notices units that no job holds",
        "OR coalesce(u.amount_reserved, 0) <> coalesce(j.held, 0)",
        "",
        "guards::test_units_that_no_job_holds_are_noticed",
    ),
    _code(
        AUDIT,
        "the audit notices a usage log that differs from its call",
        "WHERE (l.account_id, l.operation_type",
        "WHERE false AND (l.account_id, l.operation_type",
        NOTICES,
    ),
    _code(
        AUDIT,
        "the audit notices revenue that is not credits x price",
        "OR l.revenue_usd <> l.credits_used * l.price_per_credit_usd",
        "",
        NOTICES,
    ),
    _audits(
        "nothing_open_past_its_deadline",
        "deadline_at < :late AND next_at < :late",
        "audit::test_work_that_nobody_brings_to_its_end_is_noticed",
    ),
    _audits("roll_ups_equal_their_source", "WHERE ({_DIFFER})"),
    _code(
        AUDIT,
        "the audit notices a roll-up that is missing, or has no source",
        "FROM ({STANDING}) r FULL JOIN ({SOURCE}) s",
        "FROM ({STANDING}) r JOIN ({SOURCE}) s",
        NOTICES,
    ),
    *(_freezes(rule.name) for rule in RULES if rule.freezes),
    _code(
        AUDIT,
        "what is ours alone freezes nobody",
        "for finding in findings if finding.rule in serious}",
        "for finding in findings}",
        "audit::test_what_is_ours_alone_freezes_nobody",
    ),
    _code(
        "tasks/periodic.py",
        "the periodic audit freezes whoever's credits do not add up",
        "frozen = audit.freeze(session, findings)",
        "frozen = []",
        FREEZES,
    ),
    _code(
        "tasks/periodic.py",
        "the audit reads one snapshot, and writes nothing",
        'transaction(isolation="REPEATABLE READ", read_only=True)',
        "transaction()",
        "guards::test_the_audit_reads_one_snapshot",
    ),
]

TRANSPORT = "tasks/transport.py"

OF_WIRES = [
    _code(
        "tasks/providers/openai.py",
        "a lost request is sent again only to a server that honours keys",
        "return Means.RESEND if connection.honours_keys else Means.WAIT",
        "return Means.RESEND",
        "unit/openai_adapter",
    ),
    _code(
        "tasks/lost_calls.py",
        "nobody is asked who cannot tell",
        "    if means is Means.WAIT:\n",
        "    if False:\n",
        "lost_calls::test_a_provider_that_cannot_tell_is_not_asked_and_recovery_waits",
    ),
    _code(
        "tasks/lost_calls.py",
        "a request is sent again only where it was sent to",
        "    if means is Means.RESEND and not _went_there(session, job, connection):\n",
        "    if False:\n",
        "lost_calls::test_a_provider_that_cannot_tell_is_not_asked_and_recovery_waits",
    ),
    _code(
        CALLING,
        "a late failure changes nothing that was found out",
        'if call.outcome == "succeeded" or call_store.resolution(session, call.id):',
        'if call.outcome == "succeeded":',
        "lost_calls::test_a_late_failure_does_not_change_what_was_found_out",
    ),
    _code(
        RECOVERY,
        "a provider is asked before it is given up",
        "<= now and job.republished > 0]",
        "<= now]",
        "lost_calls::test_however_late_recovery_is_it_asks_before_it_gives_up",
    ),
    _code(
        "workers/watchdog.py",
        "a worker that stops is left to finish",
        "or _is_stopping()",
        "or False",
        "watchdog::test_a_worker_that_was_told_to_stop_is_left_to_finish",
    ),
    _code(
        "tasks/providers/runware.py",
        "a refused look-up proves nothing of the task",
        "if answer.status_code == 200 else None",
        "",
        "unit/runware_adapter",
    ),
    _code(
        "tasks/providers/runware.py",
        "a copy of a task that was refused proves nothing of the first",
        '(r"conflictTaskUUID", Failure.UNREADABLE_ANSWER)',
        '(r"conflictTaskUUID", Failure.OVERLOADED)',
        "unit/runware_adapter",
    ),
    _code(
        TRANSPORT,
        "a broker that is full ends no worker",
        "connection_errors = (*Transport.connection_errors, OutOfMemoryError)",
        "connection_errors = Transport.connection_errors",
        "transport::test_a_full_broker_is_a_broken_connection",
    ),
    _code(
        TRANSPORT,
        "a message is held while nobody can note who has it",
        "retry=retry_if_exception_type(OutOfMemoryError)",
        "retry=retry_if_exception_type(ZeroDivisionError)",
        "transport::test_a_message_is_held_while_the_broker_has_no_room_to_note_who_has_it",
    ),
    _code(
        TRANSPORT,
        "a message for a closed channel is published over another",
        "        if self.closed:\n",
        "        if False:\n",
        "transport::test_publishing_on_a_channel_that_was_closed_meanwhile_is_a_lost_connection",
    ),
    _code(
        "workers/watchdog.py",
        "a deaf worker is noticed",
        "return now - self._well_at < self._stalled_after_s",
        "return True",
        "watchdog::test_messages_that_wait_a_minute_without_one_arriving_are_a_stall",
    ),
    _code(
        "workers/watchdog.py",
        "a busy worker is not taken for a deaf one",
        "or self._is_busy()",
        "or False",
        "watchdog::test_a_worker_without_room_is_not_stalled",
    ),
    _code(
        "tasks/generation.py",
        "a request waits in its queue while the database is away",
        "raise Reject(requeue=True) from None",
        "raise Reject(requeue=False) from None",
        "losses::test_a_request_goes_back_into_the_queue_while_the_database_is_away",
    ),
    _code(
        "tasks/losses.py",
        "of a batch that kills its worker, the innocent go on",
        "if len(jobs) > 1:",
        "if False:",
        "losses::test_a_batch_is_split_so_that_the_others_go_on",
    ),
]

REVENUE_STORE = "billing/store/revenue.py"
COUNTING = "billing/store/migrations/versions/0006_revenue.py"
CORRECTION = "revenue::test_a_correction_by_hand_is_counted"
RACE = "revenue::test_exposure_that_is_written_while_its_job_is_finished_is_counted_once"

OF_REVENUE = [
    *(
        _trigger(table, name, f"{what} counted", test)
        for table, name, what, test in [
            ("generation_jobs", "count_new", "a finished job that is inserted is", f"{CORRECTION}[27]"),
            ("generation_jobs", "count_changed", "a job that finishes is", "revenue::test_a_day_adds_up_to_its_jobs"),
            ("generation_jobs", "count_removed", "a finished job that is deleted is no longer", f"{CORRECTION}[23]"),
            ("credit_usage_logs", "count_new", "new usage is", "revenue::test_a_day_adds_up_to_its_jobs"),
            ("credit_usage_logs", "count_changed", "usage that is corrected is", f"{CORRECTION}[10]"),
            ("credit_usage_logs", "count_removed", "usage that is deleted is no longer", f"{CORRECTION}[17]"),
            ("provider_calls", "count_new", "the exposure of a late call is", f"{CORRECTION}[22]"),
            ("provider_calls", "count_changed", "exposure that is corrected is", f"{CORRECTION}[18]"),
            ("provider_calls", "count_removed", "the exposure of a deleted call is no longer", f"{CORRECTION}[21]"),
        ]
    ),
    _rule("revenue_rollups", "pk_revenue_rollups", "a day's revenue is rolled up in one row"),
    _code(
        "billing/revenue.py",
        "ticks wait for each other and for rebuilds",
        "    store.lock_rollups(session)\n    return store.take_changes",
        "    return store.take_changes",
        "revenue::test_ticks_at_once_take_each_change_once",
    ),
    _code(
        "billing/revenue.py",
        "a rebuild waits for the tick",
        "    store.lock_rollups(session)\n    return store.replace",
        "    return store.replace",
        "revenue::test_a_rebuild_waits_for_the_tick_and_counts_nothing_twice",
    ),
    _code(
        "billing/revenue.py",
        "a rebuild sees sources and queue at one moment",
        "    assert session.scalar",
        "    session.scalar",
        "revenue::test_a_rebuild_without_one_snapshot_is_refused",
    ),
    _code(
        REVENUE_STORE,
        "a rebuild takes what is queued for its days",
        'session.execute(text("DELETE FROM revenue_changes WHERE day BETWEEN :first AND :last"), days)',
        "pass",
        "revenue::test_a_rebuild_takes_the_place_of_whatever_is_there",
    ),
    _code(
        REVENUE_STORE,
        "a rebuild leaves what is queued for other days",
        "DELETE FROM revenue_changes WHERE day BETWEEN :first AND :last",
        "DELETE FROM revenue_changes",
        "revenue::test_a_rebuild_takes_the_place_of_whatever_is_there",
    ),
    _code(
        REVENUE_STORE,
        "a rebuild takes the place of the rows of its days",
        "DELETE FROM revenue_rollups WHERE day BETWEEN :first AND :last",
        "DELETE FROM revenue_rollups WHERE false AND day BETWEEN :first AND :last",
        "revenue::test_a_rebuild_takes_the_place_of_whatever_is_there",
    ),
    _code(
        REVENUE_STORE,
        "a change is taken once",
        "DELETE FROM revenue_changes WHERE id = ANY (ARRAY(SELECT id FROM revenue_changes ORDER BY id LIMIT :limit))\n"
        "        RETURNING {_KEY}, {_FIGURES}",
        "SELECT {_KEY}, {_FIGURES} FROM revenue_changes ORDER BY id LIMIT :limit",
        "revenue::test_rolling_up_twice_changes_nothing",
    ),
    _code(
        REVENUE_STORE,
        "what is new is added to what was rolled up",
        "{name} = r.{name} + EXCLUDED.{name}",
        "{name} = EXCLUDED.{name}",
        "revenue::test_a_tick_takes_the_oldest_changes_first_and_the_task_all_of_them",
        "revenue::test_ticks_at_once_take_each_change_once",
    ),
    _code(
        COUNTING,
        "a change of usage counts as new minus old",
        'VALUES ({LOG_KEY.format("OLD", "created_at")}, -1, {minus});',
        'SELECT {LOG_KEY.format("OLD", "created_at")}, -1, {minus} WHERE false;',
        f"{CORRECTION}[10]",
    ),
    _code(
        COUNTING,
        "a change of a job counts as new minus old",
        "-1, -OLD.cost_usd, -coalesce(sum(c.cost_usd), 0)",
        "0, 0, 0",
        f"{CORRECTION}[0]",
    ),
    _code(
        COUNTING,
        "a change of exposure counts as new minus old",
        "SELECT {A_JOB}, -OLD.cost_usd FROM",
        "SELECT {A_JOB}, 0 FROM",
        f"{CORRECTION}[18]",
    ),
    _code(
        COUNTING,
        "exposure moves with its job",
        "SELECT {NEW_JOB}, 1, NEW.cost_usd, coalesce(sum(c.cost_usd), 0)",
        "SELECT {NEW_JOB}, 1, NEW.cost_usd, 0 * coalesce(sum(c.cost_usd), 0)",
        f"{CORRECTION}[0]",
    ),
    _code(
        COUNTING,
        "exposure of a job that is not finished waits for it",
        "                WHERE j.id = NEW.job_id AND j.finished_at IS NOT NULL;",
        "                WHERE j.id = NEW.job_id;",
        f"{CORRECTION}[22]",
    ),
    _code(
        COUNTING,
        "a job that is not finished costs the queue nothing",
        '"WHEN ((OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL) "\n        f"AND',
        '"WHEN (("\n        f"',
        "revenue::test_an_unfinished_job_queues_nothing",
    ),
    _code(
        COUNTING,
        "a change without a figure costs the queue nothing (usage)",
        """f"WHEN ({LOG.format('OLD')} IS DISTINCT FROM {LOG.format('NEW')}) EXECUTE""",
        '"EXECUTE',
        "revenue::test_a_change_without_a_figure_queues_nothing",
    ),
    _code(
        COUNTING,
        "whoever changes exposure waits for whoever finishes the job",
        "PERFORM FROM SCHEMA.generation_jobs WHERE id IN (OLD.job_id, NEW.job_id) ORDER BY id FOR NO KEY UPDATE;",
        "",
        RACE,
    ),
    _code(
        COUNTING,
        "a job and its call that one statement changes are counted one after the other (call)",
        "CREATE TRIGGER count_changed BEFORE UPDATE ON provider_calls",
        "CREATE TRIGGER count_changed AFTER UPDATE ON provider_calls",
        f"{CORRECTION}[24]",
        f"{CORRECTION}[25]",
    ),
    _code(
        COUNTING,
        "a job and its call that one statement deletes are counted one after the other",
        "CREATE TRIGGER count_removed BEFORE DELETE ON provider_calls",
        "CREATE TRIGGER count_removed AFTER DELETE ON provider_calls",
        f"{CORRECTION}[26]",
    ),
    _code(
        COUNTING,
        "a temporary table catches no revenue",
        'body.replace("SCHEMA.", f"{schema}.")',
        'body.replace("SCHEMA.", "")',
        "revenue::test_a_temporary_table_of_the_same_name_catches_nothing",
    ),
    _code(
        COUNTING,
        "what was settled before the upgrade is counted",
        "    _count_exposure()\n    _compute_anew()\n",
        "    _count_exposure()\n",
        "revenue::test_what_was_settled_before_the_upgrade_is_counted_once",
    ),
]

GUARDS: tuple[Guard, ...] = (
    *OF_REVENUE,
    *OF_WIRES,
    *OF_STORE,
    *OF_CALLS,
    *OF_CHARGES,
    *OF_REQUESTS,
    *OF_RECOVERY,
    *OF_AUDIT,
    *OF_ONCE,
    *OF_MONEY,
    *OF_EVIDENCE,
)
