"""The tenants' role on a server where the schema's user is no superuser: created where it may be, else asked for."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import make_url, text

from billing import migrating
from billing.ledger import accounts
from config import database, tenants
from config.database import transaction
from config.secrets import use_secret_keys
from config.settings import ConfigurationError
from tests.conftest import SECRET_KEY
from workers.local.embedded.postgres import Postgres


@pytest.fixture
def server():
    with TemporaryDirectory(prefix="creditmill-role-") as folder:
        postgres = Postgres(Path(folder))
        postgres.start()
        yield postgres
        postgres.stop()


def as_owner(server, rights):
    """An engine of a user with these rights, who owns an empty database."""
    url = server.create_database("modest")
    administer = database.make_engine(url)
    with administer.begin() as connection:
        connection.execute(text(f"CREATE ROLE modest LOGIN PASSWORD 'modest' {rights}"))
        connection.execute(text("ALTER DATABASE modest OWNER TO modest"))
        connection.execute(text("ALTER SCHEMA public OWNER TO modest"))
    owner = make_url(url).set(username="modest", password="modest")
    return administer, database.make_engine(owner.render_as_string(hide_password=False))


def test_the_role_is_created_where_it_may_be_and_else_asked_for(server):
    use_secret_keys(SECRET_KEY)
    administer, engine = as_owner(server, "NOCREATEROLE")

    with pytest.raises(ConfigurationError, match=r"CREATE ROLE creditmill_tenant NOLOGIN; GRANT .* TO modest") as told:
        migrating.migrate(engine)
    assert "\n" not in str(told.value)
    assert "0016_tenants" in migrating.pending(engine)

    with administer.begin() as connection:
        connection.execute(text("ALTER ROLE modest CREATEROLE"))
    administer.dispose()
    migrating.migrate(engine)

    database.connect(engine)
    with transaction() as session:
        account_id = accounts.create(session, "Corner Bakery").id
        assert tenants.problems(session) == []
    with tenants.reading_as(account_id) as session:
        assert session.scalar(text("SELECT count(*) FROM accounts")) == 1
    with tenants.reading_as(account_id + 1) as session:
        assert session.scalar(text("SELECT count(*) FROM accounts")) == 0
    database.disconnect()
