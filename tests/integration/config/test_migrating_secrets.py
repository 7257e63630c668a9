"""What becomes of the secrets of an installation from before they were bound to their place."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import create_engine, text

from billing import migrating
from config import database
from config.secrets import decrypt, encrypt_unbound, new_secret_key, use_secret_keys
from config.settings import ConfigurationError
from tests.conftest import SECRET_KEY, named

PLACE = "global_integration_settings/1/openai_api_key"


@pytest.fixture
def older(servers):
    """A database whose secrets are not bound yet."""
    use_secret_keys(SECRET_KEY)
    administer = create_engine(servers.database_url, isolation_level="AUTOCOMMIT")
    with administer.connect() as connection:
        connection.execute(text("CREATE DATABASE older_secrets"))
    engine = database.make_engine(named(servers.database_url, "older_secrets"))
    with engine.begin() as connection:
        command.upgrade(migrating._config(connection), "0012_tiers")
        store = "UPDATE global_integration_settings SET openai_api_key = :key, dalle_api_key = 'unreadable'"
        connection.execute(text(store), {"key": encrypt_unbound("sk-planted")})
        body = "INSERT INTO dead_messages (code, reason, body_encrypted) VALUES ('x', 'x', :body)"
        connection.execute(text(body), {"body": encrypt_unbound("[1]")})
    yield engine
    engine.dispose()
    with administer.connect() as connection:
        connection.execute(text("DROP DATABASE older_secrets WITH (FORCE)"))
    administer.dispose()


def stored(engine):
    with engine.connect() as connection:
        keys = connection.execute(text("SELECT openai_api_key, dalle_api_key FROM global_integration_settings")).one()
        return (*keys, connection.scalar(text("SELECT body_encrypted FROM dead_messages")))


def test_what_can_be_read_is_bound_and_what_cannot_stays_as_it_is(older):
    migrating.migrate(older)

    openai, dalle, body = stored(older)
    assert decrypt(openai, PLACE) == "sk-planted"
    assert dalle == "unreadable"
    assert decrypt(body, "dead_messages/body_encrypted") == "[1]"


def test_with_another_secret_key_everything_stays_as_it_is(older):
    before = stored(older)
    use_secret_keys(new_secret_key())

    migrating.migrate(older)

    assert stored(older) == before


def test_without_secret_keys_nothing_is_migrated(older, monkeypatch):
    before = stored(older)
    monkeypatch.setattr("config.secrets._box", None)

    with pytest.raises(ConfigurationError, match="CREDITMILL_SECRET_KEY is not set"):
        migrating.migrate(older)

    assert stored(older) == before
