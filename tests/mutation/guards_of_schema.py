"""The guards of the database, read off its tables and triggers: each is dropped, and a test must notice.

Most constraints have a direct test by their own name, which breaks each by hand. Listed here are only the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from unittest.mock import patch

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint

import billing.schema  # noqa: F401 - it defines the tables
from billing.migrations.first import triggers as first
from config.database import Base
from tests.mutation.guard import Guard

FORM_ONLY = {
    "ck_ai_model_config_api": "implied by api_fits_type, which lists the interfaces of each type",
    "ck_ai_model_config_model_type": "implied by api_fits_type, which lists the types",
    "ck_credit_cost_config_limit_unit": "implied by limit_unit_fits_type, which lists the units",
    "ck_billing_configuration_typical_output_percent": "only quotes show it",
    "ck_billing_configuration_min_margin_percent": "only reports of margins compare with it",
    "ck_billing_configuration_deprecation_notice_days": "only warnings depend on it",
    "ck_change_history_action": "the trigger that writes the column knows three words",
    "uq_users_id_account_id": "implied by the primary key: user_settings refers to it",
    "uq_users_email": "no job, price or account is looked up by it",
    "pk_billing_configuration": "its CHECK knows one number, and every reader fails on a second row",
    "pk_global_integration_settings": "its CHECK knows one number",
    "pk_catalog_version": "its CHECK knows one number, and every reader fails on a second row",
    "pk_plan_limit_types": "two rows of one name would be one name",
    "pk_worker_losses": "counted by a statement that needs it: without it, it fails",
}
"""Constraints that protect neither money nor exactly-once, each with the reason."""

DIRECT = "test_the_database_refuses_it_by_itself"
PRICE = "test_the_database_refuses_a_bad_price"
NOT_BILLED = "test_the_database_refuses_what_could_not_be_billed"

NOTICED_BY = {
    "ck_ai_model_config_rates": PRICE,
    "ck_image_prices_cost": PRICE,
    "ck_credit_cost_config_price_per_credit": PRICE,
    "ck_billing_configuration_price_per_credit": PRICE,
    "ck_image_prices_credits": NOT_BILLED,
    "ck_ai_model_config_text_has_rates_and_limits": NOT_BILLED,
    "ck_ai_model_config_token_images_have_rates": NOT_BILLED,
    "ck_ai_model_config_embedding_has_rate_and_limit": NOT_BILLED,
    "ck_billing_configuration_words_per_100_tokens": NOT_BILLED,
    "uq_image_prices_model_name_size_quality": NOT_BILLED,
    "ck_ai_model_config_default_is_active": "test_the_database_itself_keeps_a_default_active",
    "pk_generation_jobs": "test_a_job_id_of_another_request_is_a_conflict_even_across_accounts",
    "pk_generation_results": "test_the_database_itself_keeps_one_result_a_job",
    "uq_generation_jobs_account_id_idempotency_key": "test_the_same_key_and_body_is_the_same_job",
    "uq_dead_messages_message_id": "test_a_message_that_is_set_aside_once_more_can_be_worked_on_once_more",
}
"""The constraints that another test than the direct one notices."""

LATER = (
    *("0002_catalog_version", "0011_pricing_rules", "0012_tiers", "0015_audit_changes", "0017_api_keys"),
    "0018_webhooks",
)
"""The later migrations that make triggers."""
BY_HAND = "test_a_call_that_goes_and_a_job_that_comes_by_hand_are_queued_too"
CORRECTION = "test_a_correction_by_hand_is_counted"
TRIGGERS_NOTICED_BY = {
    "append_only": "test_what_is_only_added_to_is_neither_changed_nor_removed[{table}]",
    "keep_history": "test_no_change_escapes_the_history[{table}]",
    "no_truncate": "test_nothing_whose_history_is_kept_is_emptied_past_it[{table}]",
    "keep_previous_ratio": "test_the_previous_ratio_is_kept_whoever_changes_it",
    "audit_new": BY_HAND,
    "audit_changed": "test_a_charge_that_changed_is_looked_at_by_the_next_run",
    "audit_removed": BY_HAND,
    "count_of_key_new": "test_a_job_that_the_cap_does_not_cover_is_refused_and_nothing_is_written",
    "count_of_key_changed": "test_a_jobs_estimate_is_held_of_its_keys_cap_and_then_its_charge_is_used",
    "tell_of_job": "test_what_is_told_is_signed_and_thin",
    "tell_of_balance": "test_a_balance_is_told_of_once_a_crossing_and_again_after_it_rose",
    "tell_of_limit": "test_a_limit_and_a_period_are_told_of",
    "tell_of_period": "test_a_limit_and_a_period_are_told_of",
    "note_settings": "test_an_accounts_row_says_whether_there_are_settings[{table}]",
    "name_provider": "test_the_platforms_provider_is_that_of_the_default_model",
    "renew_version": "test_a_change_of_any_table_renews_the_version[{table}]",
    "count_new": CORRECTION,
    "count_changed": CORRECTION,
    "count_removed": CORRECTION,
}
"""The test that notices a trigger, by the trigger's name."""


def constraints() -> dict[str, str]:
    """Every constraint and unique index that says more than that a row has a number, with the SQL that drops it."""
    return dict(each for table in Base.metadata.sorted_tables for each in _of(table))


def triggers() -> list[tuple[str, str]]:
    """Every trigger that the migrations make, as (table, trigger)."""
    later = [import_module(f"billing.migrations.versions.{name}") for name in LATER]
    return [*_made_by(first, first.create), *(made for each in later for made in _made_by(each, each.upgrade))]


def _made_by(migration: ModuleType, make: Callable[[], None]) -> list[tuple[str, str]]:
    with patch.object(migration, "op") as op:
        make()
    made = (re.match(r"CREATE TRIGGER (\w+) .*? ON (\w+) ", call.args[0]) for call in op.execute.call_args_list)
    return [(each[2], each[1]) for each in made if each]


def _of(table: Table) -> Iterator[tuple[str, str]]:
    for rule in sorted(table.constraints, key=lambda rule: str(rule.name)):
        if (
            isinstance(rule, CheckConstraint | UniqueConstraint)
            or (isinstance(rule, PrimaryKeyConstraint) and not any(column.identity for column in rule.columns))
            # One of several columns says more than that a row exists.
            or (isinstance(rule, ForeignKeyConstraint) and len(rule.columns) > 1)
        ):
            yield str(rule.name), f"ALTER TABLE {table.name} DROP CONSTRAINT {rule.name} CASCADE"
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if index.unique:
            yield str(index.name), f"DROP INDEX {index.name}"


OF_SCHEMA = [
    *(
        Guard(f"the database keeps {name}", (NOTICED_BY.get(name, f"{DIRECT}[{name}]"),), sql=drop)
        for name, drop in constraints().items()
        if name not in FORM_ONLY
    ),
    *(
        Guard(
            f"the trigger {name} of {table}",
            (TRIGGERS_NOTICED_BY.get(name, f"no test is named for {name}").format(table=table),),
            sql=f"DROP TRIGGER {name} ON {table}",
        )
        for table, name in triggers()
    ),
]
