"""The catalogue that a process keeps: always the one that holds, whoever changed it and by what means."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import event, text

from billing.catalog import catalog_queries, changing, current
from billing.catalog.rates import TokenRates
from billing.jobs import reserving
from config import database
from config.database import transaction
from config.integrations import connections, set_connection
from tests.catalogue import change, sql
from tests.factories import MINUTE, NOON, a_queued_job, an_account, rows, the_job

pytestmark = pytest.mark.usefixtures("db")

CHANGES = {
    "ai_model_config": "UPDATE ai_model_config SET sort_order = sort_order + 1 WHERE model_name = 'gpt-4o'",
    "image_prices": "DELETE FROM image_prices WHERE model_name = 'dall-e-3' AND size <> '*'",
    "credit_cost_config": "UPDATE credit_cost_config SET min_credits = 3 WHERE operation_type = 'clustering'",
    "credit_cost_overrides": "INSERT INTO credit_cost_overrides (operation_type, model_name, priced_by, "
    "tokens_per_credit, min_credits, output_weight) VALUES ('clustering', 'gpt-4o', 'tokens', 9, 1, 1)",
    "billing_configuration": "UPDATE billing_configuration SET words_per_100_tokens = 80",
    "plan_limit_types": "INSERT INTO plan_limit_types VALUES ('sites', 'Sites')",
    "global_integration_settings": "UPDATE global_integration_settings SET openai_max_tokens = 4096",
}


def read():
    with transaction() as session:
        return current.read(session)


def version():
    return rows("SELECT version FROM catalog_version")[0][0]


@pytest.fixture
def statements(db):
    """The statements that this process sends, in order."""
    sent = []

    def note(connection, cursor, statement, *_):
        sent.append(statement)

    event.listen(database.engine(), "before_cursor_execute", note)
    yield sent
    event.remove(database.engine(), "before_cursor_execute", note)


@pytest.mark.parametrize("table", CHANGES)
def test_a_change_of_any_table_renews_the_version(table):
    before, kept = version(), read()

    sql(CHANGES[table])

    assert version() != before
    assert read() != kept


def test_a_kept_catalogue_costs_one_statement_and_tells_the_time(statements):
    first = read()
    statements.clear()

    with transaction() as session:
        at = current.moment(session)

    assert (at.catalog is first, len(statements)) == (True, 1)
    assert abs((at.now - rows("SELECT clock_timestamp()")[0][0]).total_seconds()) < 60


def test_a_new_version_is_read_whole_by_one_statement_more(statements):
    read()
    change("set_model", "gpt-4o", output_cost_per_1m="12")
    statements.clear()

    read()

    assert len(statements) == 2


def test_prices_are_read_exactly_as_the_database_has_them():
    sql("UPDATE ai_model_config SET input_cost_per_1m = 0.300001 WHERE model_name = 'gpt-4o'")

    model = read().models["gpt-4o"]

    assert model.rates == rates_by_the_table("gpt-4o")
    assert model.rates.input == Decimal("0.300001")


def rates_by_the_table(name: str) -> TokenRates:
    with transaction() as session:
        return catalog_queries.model(session, name).rates


def test_a_price_changed_a_moment_ago_is_what_the_next_reservation_uses():
    read()
    job_id = a_queued_job(an_account(1000))
    sql("UPDATE credit_cost_config SET min_credits = 77 WHERE operation_type = 'clustering'")

    with transaction() as session:
        reserving.reserve(session, [job_id], at=replace(current.moment(session), now=NOON), publish_by=MINUTE)

    assert the_job(job_id).credits_reserved == 77


def test_a_transaction_sees_its_own_change_and_nobody_else_does():
    kept = read()

    with transaction() as session:
        changing.set_defaults(session, {"words_per_100_tokens": "80"})
        own = current.moment(session)
        other = read()

    assert own.catalog.defaults.words_per_100_tokens == 80
    assert own.version is None
    assert other is kept
    assert read().defaults.words_per_100_tokens == 80


def test_a_change_that_is_taken_back_leaves_the_catalogue_as_it_was():
    kept = read()

    with transaction() as session:
        with session.begin_nested() as savepoint:
            changing.set_defaults(session, {"words_per_100_tokens": "80"})
            assert current.read(session).defaults.words_per_100_tokens == 80
            savepoint.rollback()
        assert current.read(session) is kept

    assert read() is kept


def test_a_change_in_an_earlier_transaction_of_a_connection_is_no_change_of_the_next_one():
    with transaction() as session:
        session.execute(text(CHANGES["billing_configuration"]))

    with transaction() as session:
        assert current.moment(session).version == str(version())


def test_connections_are_read_again_when_a_key_or_an_address_changes(statements):
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-first", base_url=None)
    first = connected()
    statements.clear()
    assert connected() is first
    assert len(statements) == 1

    with transaction() as session:
        set_connection(session, "openai", api_key="sk-second", base_url="http://127.0.0.1:9/v1")

    assert connected().of("openai", "text").api_key == "sk-second"
    assert "sk-second" not in repr(connected())


def connected():
    with transaction() as session:
        return connections(session, version=current.moment(session).version)
