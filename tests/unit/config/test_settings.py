"""The settings of a process and its secrets: what is wrong is named, and nothing secret is shown."""

from __future__ import annotations

import os
import traceback

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr, ValidationError

from config import secrets
from config.secrets import EncryptedText, decrypt, encrypt, new_secret_key, use_secret_keys
from config.settings import ConfigurationError, Settings, load_settings

GIVEN = {
    "DATABASE_URL": "postgresql://mill:hunter2@db.example/mill",
    "BROKER_URL": "redis://:hunter3@cache.example:6379/0",
    "CREDITMILL_SECRET_KEY": "hunter4-is-the-key",
    "CREDITMILL_FLOWER_BASIC_AUTH": "admin:hunter5",
}
REQUIRED = ["DATABASE_URL", "BROKER_URL", "CREDITMILL_SECRET_KEY"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("CREDITMILL_") or name.upper() in GIVEN:
            monkeypatch.delenv(name)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_box", None)


def wrong() -> str:
    """Why the environment is refused: one sentence, without a word of its values."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    told = str(caught.value)
    assert told.endswith(".")
    assert "\n" not in told
    assert len(told) < 200
    assert "hunter" not in told + "".join(traceback.format_exception(caught.value))
    return told


# --- Settings ---


def test_three_variables_are_enough(monkeypatch):
    monkeypatch.delenv("CREDITMILL_FLOWER_BASIC_AUTH")

    loaded = load_settings()

    assert loaded.database_url.get_secret_value() == GIVEN["DATABASE_URL"]
    assert loaded.broker_url.get_secret_value() == GIVEN["BROKER_URL"]
    assert loaded.secret_key.get_secret_value() == GIVEN["CREDITMILL_SECRET_KEY"]
    assert loaded.flower_basic_auth is None


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_variable_is_named_in_one_sentence(monkeypatch, name):
    monkeypatch.delenv(name)

    assert wrong() == (
        f"{name} is not set: set it, or use the folder of a running `creditmill up`, which starts servers of its own "
        "(here, or in CREDITMILL_FOLDER)."
    )


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("others", REQUIRED)
def test_of_two_missing_variables_one_is_named(monkeypatch, name, others):
    monkeypatch.delenv(name)
    monkeypatch.delenv(others, raising=False)

    assert wrong().split()[0] in {name, others}


@pytest.mark.parametrize("name", REQUIRED)
def test_an_empty_variable_is_a_missing_one(monkeypatch, name):
    monkeypatch.setenv(name, "")

    assert wrong().startswith(f"{name} is not set")


SECONDS = [
    "TEXT_CALL_S",
    "IMAGE_CALL_S",
    "CALL_WAIT_MAX_S",
    "CALL_TOTAL_S",
    "JOB_DEADLINE_S",
    "UNKNOWN_WAIT_S",
    "REPUBLISH_AFTER_S",
    "RECOVER_EVERY_S",
    "VISIBILITY_TIMEOUT_S",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in SECONDS for value in ("0", "-1", "86401", "nan", "inf", "hunter2", "1 minute")],
        *[("CALL_ATTEMPTS", value) for value in ("0", "21", "1.5", "hunter2")],
        *[("GENERATION_CONCURRENCY", value) for value in ("0", "2049", "2.5", "hunter2")],
        *[("BILLING_CONCURRENCY", value) for value in ("0", "65", "hunter2")],
        *[("FLOWER_PORT", value) for value in ("-1", "65536", "hunter2")],
        *[("LOG_FORMAT", value) for value in ("hunter2", "JSON", "json ")],
    ],
)
def test_a_bad_value_is_named_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(f"CREDITMILL_{name}", value)

    assert wrong().startswith(f"CREDITMILL_{name} is not valid: ")


@pytest.mark.parametrize("level", ["hunter2", "info", "TRACE"])
def test_a_bad_log_level_is_named_and_not_shown(monkeypatch, level):
    monkeypatch.setenv("CREDITMILL_LOG_LEVEL", level)

    assert wrong().startswith("CREDITMILL_LOG_LEVEL is not valid: ")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TEXT_CALL_S", "0.5", 0.5),
        ("TEXT_CALL_S", "86400", 86_400),
        ("CALL_ATTEMPTS", "1", 1),
        ("CALL_ATTEMPTS", "20", 20),
        ("GENERATION_CONCURRENCY", "2048", 2_048),
        ("FLOWER_PORT", "0", 0),
        ("FLOWER_PORT", "65535", 65_535),
        ("LOG_FORMAT", "json", "json"),
    ],
)
def test_a_good_value_is_taken_to_the_bounds(monkeypatch, name, value, expected):
    monkeypatch.setenv(f"CREDITMILL_{name}", value)

    assert expected == getattr(load_settings(), name.lower())


def test_variables_of_other_programs_are_not_read(monkeypatch):
    monkeypatch.setenv("TEXT_CALL_S", "1")
    monkeypatch.setenv("CREDITMILL_DATABASE_URL", "postgresql://elsewhere/")
    monkeypatch.setenv("CREDITMILL_NOT_A_SETTING", "1")

    loaded = load_settings()

    assert loaded.text_call_s == 180
    assert loaded.database_url.get_secret_value() == GIVEN["DATABASE_URL"]


@pytest.mark.parametrize("show", [repr, str, lambda s: repr(s.model_dump()), lambda s: s.model_dump_json()])
def test_no_secret_shows_in_the_settings(show):
    assert "hunter" not in show(load_settings())


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        load_settings().database_url = SecretStr("postgresql://elsewhere/")


@pytest.mark.parametrize(
    ("kind", "call_s", "lease_s"), [("text", 180, 210), ("image", 240, 270), ("embedding", 180, 210)]
)
def test_a_lease_outlasts_a_call_and_the_wait_after_it(kind, call_s, lease_s):
    loaded = load_settings()

    assert (call_s, lease_s) == (loaded.call_s(kind), loaded.lease_s(kind))


def test_times_outlast_what_they_wait_for():
    loaded = load_settings()
    longest_call = max(loaded.text_call_s, loaded.image_call_s)

    # The last call begins just before the total time is spent.
    assert loaded.visibility_timeout_s > loaded.call_total_s + longest_call
    assert loaded.job_deadline_s > loaded.call_total_s + longest_call + loaded.unknown_wait_s
    assert loaded.unknown_wait_s > longest_call


def test_every_default_is_itself_valid(monkeypatch):
    defaults = load_settings()
    for name in set(Settings.model_fields) - {"database_url", "broker_url", "secret_key", "flower_basic_auth"}:
        monkeypatch.setenv(f"CREDITMILL_{name.upper()}", str(getattr(defaults, name)))

    assert defaults == load_settings()


# --- Secrets at rest ---

PLACE = "some_table/1/api_key"


def test_a_secret_comes_back_and_does_not_show_while_it_is_stored():
    use_secret_keys(new_secret_key())

    stored = encrypt("sk-live-ключ", PLACE)

    assert decrypt(stored, PLACE) == "sk-live-ключ"
    assert "sk-live" not in stored
    assert encrypt("sk-live-ключ", PLACE) != stored  # equal secrets do not look equal


def test_a_secret_is_read_in_its_own_place_only():
    use_secret_keys(new_secret_key())
    stored = encrypt("sk-live-0123", PLACE)
    older = secrets.encrypt_unbound("sk-live-0123")

    for token, place in [(stored, "some_table/2/api_key"), (stored, "some_table/1/other_key"), (older, PLACE)]:
        with pytest.raises(ConfigurationError, match="was not encrypted for the place") as refused:
            decrypt(token, place)
        assert "sk-live" not in str(refused.value)


def test_what_a_message_says_first_makes_no_key_of_it():
    use_secret_keys(new_secret_key())
    smuggled = encrypt(f"{PLACE}\0sk-mine", "dead_messages/body_encrypted")

    with pytest.raises(ConfigurationError):
        decrypt(smuggled, PLACE)


@pytest.mark.parametrize(("key", "shown"), [("sk-live-0123456789", "6789"), ("x" * 16, "xxxx"), ("x" * 15, None)])
def test_a_key_is_recognised_by_its_end_if_it_is_not_short(key, shown):
    assert secrets.ending(key) == shown
    assert len(secrets.fingerprint(key)) == 12
    assert secrets.fingerprint(key) not in key


def test_each_new_key_is_another_and_fits():
    first, second = new_secret_key(), new_secret_key()

    assert first != second
    assert len(Fernet(first).encrypt(b"x")) > 1


def test_after_a_rotation_the_old_key_still_decrypts_and_the_new_one_encrypts():
    old, new = new_secret_key(), new_secret_key()
    use_secret_keys(old)
    before = encrypt("sk-before", PLACE)

    use_secret_keys(f"{new},{old}")
    after = encrypt("sk-after", PLACE)

    assert (decrypt(before, PLACE), decrypt(after, PLACE)) == ("sk-before", "sk-after")
    use_secret_keys(new)
    assert decrypt(after, PLACE) == "sk-after"
    with pytest.raises(ConfigurationError):
        decrypt(before, PLACE)


@pytest.mark.parametrize("spelled", ["{new}, {old}", " {new} ,{old} ", "{new},{old},", ",{new},,{old}"])
def test_spaces_and_empty_places_between_keys_do_not_matter(spelled):
    old, new = new_secret_key(), new_secret_key()
    use_secret_keys(old)
    before = encrypt("sk-before", PLACE)

    use_secret_keys(spelled.format(new=new, old=old))

    assert decrypt(before, PLACE) == "sk-before"
    assert Fernet(new).decrypt(encrypt("sk-after", PLACE)).endswith(b"sk-after")


def test_a_wrong_key_is_said_in_one_sentence():
    use_secret_keys(new_secret_key())
    stored = encrypt("hunter2", PLACE)
    use_secret_keys(new_secret_key())

    with pytest.raises(ConfigurationError) as caught:
        decrypt(stored, PLACE)

    assert str(caught.value) == (
        "A stored secret cannot be read with CREDITMILL_SECRET_KEY: add the key that encrypted it, or set it anew."
    )


@pytest.mark.parametrize("stored", ["", "plain text", "gAAAA", "ключ", "é" * 100])
def test_what_was_never_encrypted_is_not_decrypted(stored):
    use_secret_keys(new_secret_key())

    with pytest.raises(ConfigurationError, match="cannot be read"):
        decrypt(stored, PLACE)


# Made once and kept: tests that run side by side must be called the same.
A_KEY = "wL5VZgZD6-4XN20O4WiggbFJhMtaclqGgFn3w9eQ1Zc="


@pytest.mark.parametrize("keys", ["", " ", ",", "hunter2", "ключ", "A" * 44, A_KEY[:-4], A_KEY + ",hunter2"])
def test_a_bad_key_is_refused_and_not_shown(keys):
    with pytest.raises(ConfigurationError) as caught:
        use_secret_keys(keys)

    assert str(caught.value) == (
        "CREDITMILL_SECRET_KEY is not a list of Fernet keys: make one with `creditmill doctor --new-key`."
    )
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_bad_key_leaves_the_good_ones_in_use():
    use_secret_keys(new_secret_key())
    stored = encrypt("sk-live", PLACE)

    with pytest.raises(ConfigurationError):
        use_secret_keys("bad")

    assert decrypt(stored, PLACE) == "sk-live"


@pytest.mark.parametrize("use", [lambda: encrypt("a", PLACE), lambda: decrypt("a", PLACE)])
def test_without_keys_nothing_is_stored_or_read(use):
    with pytest.raises(ConfigurationError) as caught:
        use()

    assert str(caught.value) == "CREDITMILL_SECRET_KEY is not set."


def test_an_encrypted_column_holds_no_clear_text():
    use_secret_keys(new_secret_key())
    column, dialect = EncryptedText(PLACE), None

    stored = column.process_bind_param("sk-live-0123", dialect)

    assert stored is not None
    assert "sk-live" not in stored
    assert column.process_result_value(stored, dialect) == "sk-live-0123"
    assert column.process_bind_param(None, dialect) is None
    assert column.process_result_value(None, dialect) is None
