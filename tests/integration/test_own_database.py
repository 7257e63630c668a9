"""Whatever a test does to its database, the next one finds it as fresh as a copy that nobody has used."""

from __future__ import annotations

import psycopg2
import pytest
from sqlalchemy import Connection, create_engine, text

from config.database import transaction
from tests.conftest import fresh_database
from tests.factories import (
    a_generated_job,
    a_queued_job,
    a_subscription,
    an_account,
    rows,
)

TABLES = (
    "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
)
DEFINED = {
    "columns": "SELECT attrelid::regclass, attnum, attname, atttypid::regtype, attnotnull, attidentity, attgenerated, "
    "attisdropped FROM pg_attribute WHERE attrelid >= 16384",
    "defaults": "SELECT adrelid::regclass, adnum, pg_get_expr(adbin, adrelid) FROM pg_attrdef",
    "constraints": "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated, conenforced "
    "FROM pg_constraint WHERE oid >= 16384",
    "indexes": "SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index WHERE indexrelid >= 16384",
    "triggers": "SELECT tgrelid::regclass, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal",
    "switched off": "SELECT tgrelid::regclass, count(*) FROM pg_trigger WHERE tgenabled <> 'O' GROUP BY 1",
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE oid >= 16384",
    "sequences": "SELECT seqrelid::regclass, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle "
    "FROM pg_sequence",
    "relations": "SELECT oid::regclass, relkind, relpersistence, reloptions FROM pg_class WHERE oid >= 16384",
    "settings": "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase "
    "WHERE datname = current_database()",
    "limits": "SELECT datconnlimit, datallowconn, datistemplate FROM pg_database WHERE datname = current_database()",
    "statistics": "SELECT starelid::regclass, staattnum FROM pg_statistic WHERE starelid >= 16384",
}


def everything(url: str) -> dict[str, list[str]]:
    """Every row of every table, the next value of every sequence, and how all of it is defined."""

    def read(connection: Connection, query: str) -> list[str]:
        return sorted(map(str, connection.execute(text(query))))

    engine = create_engine(url)
    with engine.connect() as connection:
        tables = connection.scalars(
            text(f"{TABLES} AND table_schema NOT IN ('pg_catalog', 'information_schema')")
        ).all()
        sequences = connection.scalars(text("SELECT sequencename FROM pg_sequences")).all()
        found = {table: read(connection, f"SELECT t::text FROM {table} t") for table in tables}
        found |= {name: read(connection, f"SELECT last_value, is_called FROM {name}") for name in sequences}
        found |= {name: read(connection, query) for name, query in DEFINED.items()}
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def fresh(servers, template):
    """What a copy shows that nobody has used."""
    with fresh_database(servers, template) as url:
        found = everything(url)
    assert len(found) > 40
    assert sum(bool(found[name]) for name in found if name.startswith("public.")) > 5, "a copy has rows"
    return found


def sql(*statements: str) -> None:
    with transaction() as session:
        for statement in statements:
            session.execute(text(statement))


def work() -> None:
    """Every kind of job, some of it counted, with what triggers write about it."""
    account_id = an_account(100_000)
    a_subscription(account_id, {"text_generation_tokens": 1000})
    a_queued_job(account_id)
    a_generated_job(account_id)
    a_generated_job(account_id, "image_generation")


def change_what_was_seeded() -> None:
    sql(
        "UPDATE ai_model_config SET sort_order = sort_order + 1",
        "DELETE FROM image_prices WHERE id IN (SELECT min(id) FROM image_prices)",
        "UPDATE billing_configuration SET updated_at = now()",
        "DELETE FROM credit_cost_config",
        "DELETE FROM alembic_version",
    )


def empty_every_table() -> None:
    work()
    tables = [name for (name,) in rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    sql("SET LOCAL session_replication_role = replica", *[f"DELETE FROM {name}" for name in tables])


def take_numbers() -> None:
    for (name,) in rows("SELECT sequencename FROM pg_sequences"):
        sql(f"SELECT nextval('{name}'), nextval('{name}')")


def count_back() -> None:
    sql("SELECT setval('accounts_id_seq', 1, false)", "SELECT setval('ai_model_config_id_seq', 1)")


def rewrite() -> None:
    sql("SET LOCAL session_replication_role = replica", "TRUNCATE image_prices RESTART IDENTITY")


def define() -> None:
    sql(
        "ALTER TABLE credit_transactions DISABLE TRIGGER append_only",
        "ALTER TABLE generation_jobs DROP CONSTRAINT ck_generation_jobs_charge_within_reservation",
        "ALTER TABLE accounts ALTER COLUMN name SET DEFAULT 'nobody'",
        "DROP INDEX uq_credit_transactions_one_deduction_a_job",
        "CREATE TABLE mine (id bigint GENERATED ALWAYS AS IDENTITY)",
        "CREATE SCHEMA elsewhere CREATE TABLE mine (id int)",
    )


def switch_off_one_trigger() -> None:
    sql("ALTER TABLE change_history DISABLE TRIGGER append_only")


def replace_a_function() -> None:
    sql(
        "CREATE OR REPLACE FUNCTION keep_history() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    )


def drop_an_index() -> None:
    sql("DROP INDEX uq_credit_transactions_one_deduction_a_job")


def change_a_setting() -> None:
    (name,) = rows("SELECT current_database()")[0]
    sql(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")


def gather_statistics() -> None:
    sql("ANALYZE ai_model_config")


def lock_everything_out() -> None:
    (name,) = rows("SELECT current_database()")[0]
    sql(f"ALTER DATABASE {name} CONNECTION LIMIT 3")


ROWS = (work, change_what_was_seeded, empty_every_table, take_numbers, count_back)
"""What can be put back."""
DEFINITIONS = (
    *(rewrite, define, switch_off_one_trigger, replace_a_function, drop_an_index, change_a_setting, gather_statistics),
    lock_everything_out,
)
"""What needs another copy."""


@pytest.mark.parametrize("mess", [*ROWS, *DEFINITIONS], ids=lambda mess: mess.__name__)
def test_a_database_that_was_put_back_equals_a_fresh_one(own_database, db, fresh, mess):
    copies = own_database.copies
    mess()
    assert everything(db) != fresh, "there is something to put back"

    own_database.put_back()

    assert everything(own_database.url) == fresh
    assert own_database.copies - copies == (mess in DEFINITIONS)


def test_one_mess_after_the_other_is_put_back(own_database, db, fresh):
    for mess in ROWS * 2:
        mess()
        own_database.put_back()

    assert everything(own_database.url) == fresh


def test_what_was_put_back_works_as_before(own_database, db):
    def told():
        account_id = an_account(1000)
        a_generated_job(account_id)
        return rows("SELECT id, balance, reserved FROM accounts"), rows("SELECT count(*) FROM change_history")

    first = told()
    own_database.put_back()

    assert told() == first


def test_a_transaction_that_was_left_open_is_ended(own_database, db, fresh):
    left = psycopg2.connect(db.replace("+psycopg2", ""))
    with left.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE mine (id int)")
        cursor.execute("UPDATE ai_model_config SET sort_order = 7")
        cursor.execute("SELECT pg_advisory_lock(1)")
        cursor.execute("INSERT INTO accounts (name) VALUES ('Left')")

    own_database.put_back()

    with pytest.raises(psycopg2.Error):
        left.cursor().execute("SELECT 1")
    left.close()
    assert everything(own_database.url) == fresh
    with transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


def test_a_database_that_has_grown_is_thrown_away(own_database, db, fresh):
    copies = own_database.copies
    sql("INSERT INTO accounts (name) SELECT repeat(md5(n::text), 10) FROM generate_series(1, 60000) n")

    own_database.put_back()

    assert own_database.copies == copies + 1
    assert everything(own_database.url) == fresh
