"""Single guards of the catalogue, one test each: what the database refuses, and what an operator finds who waited."""

from __future__ import annotations

import pytest

from billing.plans import plans
from config.database import transaction
from tests.factories import rows
from tests.guarding import assert_refused

pytestmark = pytest.mark.usefixtures("db")

OVERRIDE = (
    "INSERT INTO credit_cost_overrides (operation_type, model_name, priced_by, tokens_per_credit, min_credits, "
    "output_weight, markup_percent) VALUES ('clustering', 'gpt-4o',"
)
REFUSED = [
    ("UPDATE billing_configuration SET past_due_grace_days = -1",   "ck_billing_configuration_past_due_grace_days"),
    ("UPDATE ai_model_config SET model_name = 'gpt-4o' WHERE model_name = 'gpt-4o-mini'",
                                                                         "uq_ai_model_config_model_name"),
    ("UPDATE ai_model_config SET is_default = true WHERE model_name = 'gpt-4o'",
                                                                         "uq_ai_model_config_one_default_a_type"),
    ("UPDATE ai_model_config SET max_images = 0 WHERE model_type = 'image'", "ck_ai_model_config_limits"),
    ("UPDATE ai_model_config SET images_per_call = 0",                       "ck_ai_model_config_images_per_call"),
    ("UPDATE ai_model_config SET unknown_style = 'draw'",                    "ck_ai_model_config_unknown_style"),
    ("UPDATE ai_model_config SET api = 'images' WHERE model_type = 'text'",  "ck_ai_model_config_api_fits_type"),
    ("UPDATE ai_model_config SET cache_write_cost_per_1m = 'NaN'",       "ck_ai_model_config_further_rates"),
    ("UPDATE ai_model_config SET long_context_output_cost_per_1m = 0",   "ck_ai_model_config_further_rates"),
    ("UPDATE ai_model_config SET long_context_above = 1000",         "ck_ai_model_config_long_context_is_whole"),
    ("UPDATE ai_model_config SET long_context_cached_input_cost_per_1m = 1",
                                                                     "ck_ai_model_config_long_context_is_whole"),
    ("UPDATE ai_model_config SET service_tier_factors = '[2]'",      "ck_ai_model_config_service_tier_factors"),
    ("UPDATE ai_model_config SET provider = 'nobody'",                   "ck_ai_model_config_provider"),
    ("UPDATE ai_model_config SET response_format = 'png' WHERE model_type = 'image'", "ck_ai_model_config_formats"),
    ("UPDATE ai_model_config SET encoding_format = 'float' WHERE model_type = 'text'",
                                                                         "ck_ai_model_config_parameters_fit_type"),
    ("UPDATE credit_cost_config SET operation_type = 'clustering'",      "uq_credit_cost_config_operation_type"),
    ("UPDATE credit_cost_config SET tokens_per_credit = 0",              "ck_credit_cost_config_tokens_per_credit"),
    ("UPDATE credit_cost_config SET min_credits = -1",                   "ck_credit_cost_config_min_credits"),
    ("UPDATE credit_cost_config SET model_type = 'video', limit_unit = 'requests'", "ck_credit_cost_config_model_type"),
    ("UPDATE credit_cost_config SET limit_unit = 'images' WHERE model_type = 'text'",
                                                                         "ck_credit_cost_config_limit_unit_fits_type"),
    ("UPDATE credit_cost_config SET priced_by = 'words'",                "ck_credit_cost_config_priced_by"),
    ("UPDATE credit_cost_config SET priced_by = 'cost'",                 "ck_credit_cost_config_cost_has_markup"),
    ("UPDATE credit_cost_config SET output_weight = 0",                  "ck_credit_cost_config_output_weight"),
    ("UPDATE credit_cost_config SET output_weight = 'NaN'",              "ck_credit_cost_config_output_weight"),
    ("UPDATE credit_cost_config SET markup_percent = -1",                "ck_credit_cost_config_markup_percent"),
    ("UPDATE credit_cost_config SET markup_percent = 'NaN'",             "ck_credit_cost_config_markup_percent"),
    (f"{OVERRIDE} 'words', 1, 1, 1, NULL)",                              "ck_credit_cost_overrides_priced_by"),
    (f"{OVERRIDE} 'cost', 1, 1, 1, NULL)",                               "ck_credit_cost_overrides_cost_has_markup"),
    (f"{OVERRIDE} 'tokens', 1, 1, 1001, NULL)",                          "ck_credit_cost_overrides_output_weight"),
    (f"{OVERRIDE} 'cost', 1, 1, 1, 100001)",                             "ck_credit_cost_overrides_markup_percent"),
    (f"{OVERRIDE} 'tokens', 0, 1, 1, NULL)",                             "ck_credit_cost_overrides_tokens_per_credit"),
    (f"{OVERRIDE} 'tokens', 1, -1, 1, NULL)",                            "ck_credit_cost_overrides_min_credits"),
    (f"{OVERRIDE} 'tokens', 1, 1, 1, NULL), ('clustering', 'gpt-4o', 'tokens', 1, 1, 1, NULL)",
                                                                         "pk_credit_cost_overrides"),
    ("UPDATE billing_configuration SET wanted_markup_percent = -1", "ck_billing_configuration_wanted_markup_percent"),
    ("UPDATE billing_configuration SET default_tokens_per_credit = 0",   "ck_billing_configuration_tokens_per_credit"),
    ("UPDATE billing_configuration SET credit_rounding_mode = 'bankers'", "ck_billing_configuration_rounding"),
    ("UPDATE billing_configuration SET max_open_jobs = 0",               "ck_billing_configuration_max_open_jobs"),
    ("UPDATE billing_configuration SET max_open_jobs_per_account = 0",
                                                              "ck_billing_configuration_max_open_jobs_per_account"),
    ("INSERT INTO billing_configuration (id) VALUES (2)",                "ck_billing_configuration_singleton"),
    ("INSERT INTO catalog_version (id) VALUES (2)",                      "ck_catalog_version_singleton"),
    ("INSERT INTO global_integration_settings (id) VALUES (2)",          "ck_global_integration_settings_singleton"),
]  # fmt: skip


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    assert_refused(REFUSED, rule)


def test_whoever_waited_to_change_the_catalogue_reads_it_anew():
    with transaction() as session:
        plans.set_plan(session, "starter", {"content_ideas": "1"})

    with transaction() as session:
        seen = plans.named(session, "starter")
        with transaction() as other:
            plans.set_plan(other, "starter", {"image_prompts": "2"})
        plans.set_plan(session, "starter", {"content_ideas": "3"})

    assert seen.limits == {"content_ideas": 3, "image_prompts": 2}
    assert rows("SELECT limits FROM plans WHERE slug = 'starter'") == [(seen.limits,)]
