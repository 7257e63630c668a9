"""When the models that an installation starts with are taken away, and what the simulator makes of it."""

from __future__ import annotations

from datetime import date

import pytest
from alembic import command
from sqlalchemy import create_engine, text

from billing import migrating
from billing.catalog import current
from billing.errors import InvalidRequest
from config import database
from config.database import transaction
from config.integrations import set_simulated
from tests.catalogue import sql
from tests.conftest import named

OWN = """
    INSERT INTO ai_model_config (model_name, display_name, model_type, provider, api, input_cost_per_1m,
        output_cost_per_1m, context_window, max_output_tokens)
    VALUES ('our-own', 'our-own', 'text', 'openai', 'responses', 1, 2, 1000, 100);
    UPDATE ai_model_config SET deprecation_date = '2030-01-01' WHERE model_name = 'gpt-4o-mini'
"""
GONE = date(2027, 4, 1)


@pytest.fixture
def older(servers):
    """A database as it was before the dates were known, with a model and a date of its own."""
    administer = create_engine(servers.database_url, isolation_level="AUTOCOMMIT")
    with administer.connect() as connection:
        connection.execute(text("CREATE DATABASE older_removals"))
    engine = database.make_engine(named(servers.database_url, "older_removals"))
    with engine.begin() as connection:
        command.upgrade(migrating._config(connection), "0009_overrun")
        connection.execute(text(OWN))
    yield engine
    engine.dispose()
    with administer.connect() as connection:
        connection.execute(text("DROP DATABASE older_removals WITH (FORCE)"))
    administer.dispose()


def test_dates_that_are_known_are_set_and_dates_that_were_set_stay(older):
    migrating.migrate(older)

    with older.connect() as connection:
        found = connection.execute(
            text("SELECT model_name, deprecation_date FROM ai_model_config WHERE model_type = 'text'")
        )
        dates = dict(tuple(row) for row in found)

    assert dates == {
        "gpt-4o": date(2027, 1, 14), "gpt-4o-mini": date(2030, 1, 1), "gpt-5.1": GONE, "our-own": None,
    }  # fmt: skip


@pytest.mark.usefixtures("db")
def test_the_simulator_takes_no_model_away():
    sql("UPDATE ai_model_config SET deprecation_date = :day WHERE model_name = 'gpt-5.1'", day=GONE)

    def offered(today):
        with transaction() as session:
            catalog = current.read(session)
        return catalog.model_for(catalog.operation_named("clustering"), None, today=today).model_name

    with pytest.raises(InvalidRequest, match=r"has taken gpt-5\.1 away on 2027-04-01"):
        offered(GONE)
    with transaction() as session:
        set_simulated(session, True)

    assert offered(GONE) == "gpt-5.1"
    with transaction() as session:
        catalog = current.read(session)
        assert catalog.deprecation_warning(catalog.models["gpt-5.1"], today=GONE) is None
        set_simulated(session, False)

    with pytest.raises(InvalidRequest):
        offered(GONE)
