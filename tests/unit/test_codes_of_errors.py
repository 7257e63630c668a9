"""Every code that the API may answer with is explained to whoever meets it."""

from __future__ import annotations

import re
from pathlib import Path

from workers.web import explanations, problems

ROOT = Path(__file__).parents[2]
SAID = re.compile(r'code(?:: str)? ?= ?"([a-z_]+)"|SettingRefused\(\s*"([a-z_]+)"|validated\([^)]*"([a-z_]+)"\)')
NAMED_BY_ADDRESS = {"unknown_job", "unknown_account", "unknown_plan", "unknown_endpoint", "unknown_message"}
OF_COMMANDS = {
    # What is done by commands only: no address of the API says it.
    *("billing_error", "retries_exhausted", "implausible_amount", "invalid_name", "invalid_email"),
    *("user_exists", "unknown_scope", "trial_used", "plan_inactive", "periods_overlap", "other_interval", "no_trial"),
    *("operation_exists", "model_exists", "nothing_to_resolve", "not_available", "no_evidence", "no_delivery"),
    *("key_not_active", "is_trial", "invalid_trial", "invalid_time_zone", "invalid_months", "invalid_key_options"),
    *("invalid_grace", "invalid_expiry", "invalid_anchor", "has_anchor", "not_subscribed", "invalid_usage"),
}


def said():
    sources = [source for room in ("billing", "config/tiers", "workers/web") for source in (ROOT / room).rglob("*.py")]
    matches = [match for source in sources for match in SAID.finditer(source.read_text())]
    return {code for match in matches for code in match.groups() if code}


def test_every_code_is_explained_or_one_of_commands():
    assert len(said()) > 60
    assert said() - OF_COMMANDS - set(explanations.CODES) == set()
    assert OF_COMMANDS & set(explanations.CODES) == set()
    assert said() >= OF_COMMANDS


def test_every_status_is_the_one_that_is_answered():
    for code, (status, told) in explanations.CODES.items():
        usual = problems.STATUSES.get(code, 404 if code in NAMED_BY_ADDRESS else 400)
        assert status == usual, code
        assert told.endswith(".")
