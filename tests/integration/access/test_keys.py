"""Making, presenting, rotating and revoking API keys."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing.access import keys
from billing.access.keys import KeyRefused, ScopeMissing
from billing.errors import InvalidRequest, UnknownThing
from config.database import database_now, transaction
from config.integrations import set_simulated
from tests.catalogue import sql
from tests.factories import HOUR, a_user, an_account, rows

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)


def create(account_id, **given):
    with transaction() as session:
        return keys.create(session, account_id, actor="anna", now=database_now(session), **given)


def bearer(key):
    with transaction() as session:
        return keys.bearer(session, key)


def refusal(key):
    with pytest.raises(KeyRefused) as caught:
        bearer(key)
    assert key not in caught.value.message or not key
    return caught.value.message


def test_whoever_presents_a_key_is_who_it_was_made_for():
    account_id = an_account()
    user_id = a_user(account_id)

    made = create(account_id, user_id=user_id, scopes=["jobs:write"], name="website")

    found = bearer(made.key)
    assert (found.key_id, found.account_id, found.user_id) == (made.view.id, account_id, user_id)
    found.require("jobs:write")
    with pytest.raises(ScopeMissing, match="has not the scope balance:read"):
        found.require("balance:read")


def test_of_a_key_only_a_hash_and_its_ends_are_stored():
    made = create(an_account())

    stored = " ".join(str(value) for value in rows("SELECT to_jsonb(k) FROM api_keys k")[0])
    assert made.key[14:30] not in stored
    assert (made.view.begins_with, made.view.ends_with) == (made.key[:12], made.key[-4:])


def test_without_scopes_a_key_gets_all_that_it_can_have():
    assert create(an_account()).view.scopes == (
        "jobs:write", "jobs:read", "balance:read", "settings:read", "settings:write", "webhooks:write"
    )  # fmt: skip
    assert create(None).view.scopes == ("admin:read", "admin:write")
    assert create(None, scopes=["admin:*"]).view.scopes == ("admin:read", "admin:write")


def test_a_key_that_is_revoked_expired_mistyped_or_unknown_is_refused():
    account_id = an_account()
    revoked, expired, fine = create(account_id), create(account_id), create(account_id)
    sql("UPDATE api_keys SET expires_at = now() WHERE id = :id", id=expired.view.id)
    with transaction() as session:
        assert keys.revoke(session, revoked.view.id, now=database_now(session))
        assert not keys.revoke(session, revoked.view.id, now=database_now(session))
    sql("UPDATE api_keys SET key_hash = repeat('0', 64) WHERE id = :id", id=fine.view.id)

    assert refusal(revoked.key) == "This API key was revoked."
    assert refusal(expired.key) == "This API key has expired."
    assert refusal(fine.key) == "There is no such API key."
    assert refusal(fine.key[:-1]) == refusal("") == "That is no API key: check that it was copied whole."


def test_test_keys_are_for_the_simulator_and_live_keys_for_providers():
    live = create(an_account())
    with transaction() as session:
        set_simulated(session, True)
    test = create(an_account())

    assert "live key" in refusal(live.key)
    assert test.key.startswith("cm_test_")
    bearer(test.key)
    with transaction() as session:
        set_simulated(session, False)
    assert "test key" in refusal(test.key)
    bearer(live.key)


def test_when_a_key_was_used_is_noted_to_within_a_minute():
    made = create(an_account())
    used = "SELECT last_used_at FROM api_keys"
    assert rows(used) == [(None,)]

    bearer(made.key)
    (first,) = rows(used)
    bearer(made.key)
    assert rows(used) == [first]
    sql("UPDATE api_keys SET last_used_at = last_used_at - interval '2 minutes'")
    bearer(made.key)
    assert rows(used)[0][0] >= first[0]


def test_a_rotated_key_works_beside_the_new_one_for_a_while():
    old = create(an_account(), scopes=["jobs:read"], name="website")
    with transaction() as session:
        new = keys.rotate(session, old.view.id, overlap=HOUR, actor="bert", now=database_now(session))

    assert (new.view.scopes, new.view.name, new.view.created_by) == (("jobs:read",), "website", "bert")
    assert bearer(old.key).account_id == bearer(new.key).account_id
    sql("UPDATE api_keys SET expires_at = now() WHERE expires_at IS NOT NULL")
    assert refusal(old.key) == "This API key has expired."
    bearer(new.key)
    with transaction() as session, pytest.raises(InvalidRequest, match="is expired"):
        keys.rotate(session, old.view.id, overlap=HOUR, actor="bert", now=database_now(session))


def test_rotating_lets_no_key_live_longer():
    old = create(an_account())
    sql("UPDATE api_keys SET expires_at = now() + interval '1 minute'")
    with transaction() as session:
        keys.rotate(session, old.view.id, overlap=DAY, actor="bert", now=database_now(session))

    assert rows("SELECT expires_at < now() + interval '2 minutes' FROM api_keys ORDER BY id") == [(True,), (None,)]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"scopes": ["jobs:delete"]}, "unknown_scope"),
        ({"scopes": ["admin:read"]}, "unknown_scope"),
        ({"scopes": [""]}, "unknown_scope"),
        ({"name": "a\nb"}, "invalid_name"),
        ({"name": "a" * 101}, "invalid_name"),
        ({"credit_cap": 0}, "invalid_amount"),
        ({"credit_cap": 2**60}, "invalid_amount"),
        ({"user_id": 2**40}, "unknown_user"),
        ({"account_id": 2**40}, "unknown_account"),
        ({"account_id": None, "scopes": ["jobs:read"]}, "unknown_scope"),
        ({"account_id": None, "credit_cap": 5}, "invalid_key_options"),
        ({"account_id": None, "user_id": 1}, "invalid_key_options"),
    ],
)
def test_what_no_key_can_be_is_refused_and_nothing_is_made(given, code):
    account_id = an_account()

    with pytest.raises((InvalidRequest, UnknownThing)) as caught:
        create(**{"account_id": account_id, **given})

    assert caught.value.code == code
    assert rows("SELECT count(*) FROM api_keys") == [(0,)]


def test_an_expiry_in_the_past_is_refused():
    with transaction() as session:
        now = database_now(session)
        with pytest.raises(InvalidRequest, match="future"):
            keys.create(session, None, actor="anna", now=now, expires_at=now)


def test_a_key_that_does_not_exist_is_neither_rotated_nor_revoked():
    with transaction() as session:
        now = database_now(session)
        with pytest.raises(UnknownThing):
            keys.rotate(session, 7, overlap=HOUR, actor="anna", now=now)
        with pytest.raises(UnknownThing):
            keys.revoke(session, 7, now=now)
