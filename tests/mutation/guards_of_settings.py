"""The guards of settings and secrets, of credits changed by hand, of computed charges, and of what an account sees."""

from __future__ import annotations

import importlib

from tests.mutation.guard import Guard, guard
from tests.mutation.operators import always, assigns, drops, gives, never, returns, says

OF_TIERS = [
    guard(
        "an empty value never hides the tier below",
        never("merging.merge", "EMPTY"),
        "test_no_empty_value_holds_and_none_is_invented",
        "test_the_tier_nearest_to_the_user_holds",
    ),
    guard(
        "one statement submits for no account with settings of its own",
        says("_add_at_once", r" AND NOT has_settings"),
        "test_one_statement_submits_only_for_an_account_without_settings_of_its_own",
    ),
    guard(
        "what was not read is not taken for nothing",
        always("OwnSettings.over", "read_of"),
        "test_an_account_whose_settings_were_not_read_is_no_account_without_any",
    ),
    guard(
        "a user is of the account whose settings are set",
        drops("saving._check_owner", "check_user"),
        "test_who_is_unknown_has_no_settings",
    ),
    guard(
        "no user sets what binds users",
        never("schemas.check_name", "settable"),
        "test_a_user_does_not_raise_the_bound_that_binds_users",
        "test_a_name_that_no_setting_has_is_refused",
    ),
    guard(
        "a setting names a model that can be used",
        drops("saving._save", "_check_model"),
        "test_what_cannot_be_saved_is_refused_and_changes_nothing",
    ),
    guard(
        "an account's choice holds only where its model can be used",
        returns("choosing.is_offered", "True"),
        "test_an_accounts_choice_of_provider_is_honoured_if_its_model_can_be_used",
        "test_an_account_without_a_priced_model_of_its_choice_takes_the_platforms",
    ),
]

OF_SECRETS = [
    guard(
        "a ciphertext that was copied elsewhere does not decrypt",
        never("secrets.decrypt", "compare_digest"),
        "test_a_ciphertext_that_was_copied_to_another_field_does_not_decrypt",
    ),
    guard(
        "what is named like a key is stripped",
        returns("is_named_like_a_key", "False"),
        "test_a_smuggled_key_is_stripped_and_what_stands_beside_it_is_kept",
    ),
    guard(
        "what is shaped like a key is stripped, whatever it is called",
        returns("is_shaped_like_a_key", "False", instead_of="_SHAPED"),
        "test_a_smuggled_key_is_stripped_and_what_stands_beside_it_is_kept",
    ),
    guard(
        "the end of a short key is not shown",
        returns("secrets.ending", "clear[-4:]"),
        "test_the_end_of_a_short_key_is_not_shown",
    ),
]

BY_HAND = [
    guard(
        "an amount far out of the usual asks for --force",
        never("by_hand._check_usual", "usual"),
        "test_what_is_far_out_of_the_usual_asks_for_force",
    ),
]

OF_CHARGES = [
    guard(
        "a charge that does not follow is found",
        never("audit.charges", "credits_charged"),
        "test_a_charge_that_does_not_follow_from_price_and_usage_is_named",
    ),
    guard(
        "a charge that does not follow stays on the queue",
        drops("audit.audit_changed", "queue"),
        "test_a_charge_that_changed_is_looked_at_by_the_next_run",
        "test_the_periodic_audit_freezes_the_account_whose_charge_does_not_follow",
    ),
    guard(
        "a charge that does not follow freezes its account",
        assigns("audit.freeze", "serious", "{rule.name for rule in RULES if rule.freezes}"),
        "test_the_periodic_audit_freezes_the_account_whose_charge_does_not_follow",
    ),
    guard(
        "a customer's receipt shows none of our costs",
        gives("receipts._sentence", "of_costs", "True"),
        "test_a_customers_receipt_of_a_charge_by_cost_tells_no_cost",
    ),
]

OF_TENANTS = [
    guard(
        "an account's transaction writes nothing",
        gives("tenants.reading_as", "read_only", "False"),
        "test_a_transaction_of_an_account_writes_nothing_whoever_it_acts_as",
    ),
    guard(
        "an account's transaction acts as the tenants' role",
        says("tenants._ACT", r", set_config\('role', '"),
        "test_no_statement_shows_an_account_a_row_of_another",
    ),
    guard(
        "a role that is a superuser is refused",
        never("tenants.problems", "rolsuper"),
        "test_a_role_that_sees_or_does_more_is_refused",
    ),
    guard(
        "a role that bypasses row-level security is refused",
        never("tenants.problems", "rolbypassrls"),
        "test_a_role_that_sees_or_does_more_is_refused",
    ),
    guard(
        "a role that belongs to the owner is refused",
        says("tenants._TABLES", r"pg_has_role\(:role, c\.relowner, 'MEMBER'\)", "false"),
        "test_a_role_that_sees_or_does_more_is_refused",
    ),
]
OF_SETTINGS = (*OF_TIERS, *OF_SECRETS, *BY_HAND, *OF_CHARGES, *OF_TENANTS)

_ROWS = {
    **importlib.import_module("billing.migrations.versions.0016_tenants").ROWS,
    **importlib.import_module("billing.migrations.versions.0017_api_keys").ROWS,
    **importlib.import_module("billing.migrations.versions.0018_webhooks").ROWS,
}
OF_ROWS = tuple(
    Guard(
        f"row-level security hides {table}",
        ("test_no_statement_shows_an_account_a_row_of_another",),
        sql=f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    )
    for table in _ROWS
)
