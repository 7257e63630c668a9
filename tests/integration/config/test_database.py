"""The database session, and the schema's history."""

from __future__ import annotations

import re
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from billing import migrating
from config import database
from config.database import Base, transaction
from config.settings import ConfigurationError
from tests.conftest import named
from tests.factories import a_queued_job, an_account, rows


def test_the_migrations_make_exactly_the_tables_of_the_code(db):
    with database.engine().connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


@pytest.fixture
def empty(servers):
    """A database without a single table."""
    administer = create_engine(servers.database_url, isolation_level="AUTOCOMMIT")
    with administer.connect() as connection:
        connection.execute(text("CREATE DATABASE empty"))
    engine = database.make_engine(named(servers.database_url, "empty"))
    yield engine
    engine.dispose()
    with administer.connect() as connection:
        connection.execute(text("DROP DATABASE empty WITH (FORCE)"))
    administer.dispose()


CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND conrelid::regclass::text <> 'alembic_version'
"""


def constraints(engine):
    """Every constraint as PostgreSQL writes it; the values of an IN may come in any order."""
    with engine.connect() as connection:
        found = connection.execute(text(CONSTRAINTS)).all()
    return {(table, name, tuple(sorted(re.findall(r"'[^']*'|[^', ]+", rule)))) for table, name, rule in found}


def test_the_migrations_make_exactly_the_constraints_of_the_code(db, empty):
    # Alembic compares columns, keys and indexes, but no CHECKs.
    Base.metadata.create_all(empty)

    assert constraints(database.engine()) == constraints(empty)


def test_migrating_applies_what_is_pending_and_a_second_time_nothing(empty):
    missing = migrating.pending(empty)

    assert missing[0] == "0001_schema"
    assert migrating.migrate(empty) == missing
    assert (migrating.pending(empty), migrating.migrate(empty)) == ([], [])


def test_migrating_at_the_same_time_migrates_once(empty):
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda _: migrating.migrate(empty), range(4)))

    assert sorted(bool(names) for names in applied) == [False, False, False, True]


def test_the_first_migration_is_not_taken_back(db):
    refused = pytest.raises(RuntimeError, match="drop the database")

    with refused, database.engine().begin() as connection:
        command.downgrade(migrating._config(connection), "base")
    assert migrating.pending(database.engine()) == []


def test_the_catalogue_of_the_specification_is_there(db):
    assert rows("SELECT model_name, is_default FROM ai_model_config ORDER BY model_type, sort_order") == [
        ("dall-e-3", True),
        ("runware:97@1", False),
        ("google:4@2", False),
        ("gpt-5.1", True),
        ("gpt-4o", False),
        ("gpt-4o-mini", False),
    ]
    assert len(rows("SELECT 1 FROM credit_cost_config WHERE is_active")) == 10


def test_what_an_installation_starts_with_is_no_change_that_somebody_made(db):
    assert rows("SELECT count(*) FROM change_history") == [(0,)]


def test_a_failed_block_leaves_nothing_behind(db):
    def fail_halfway():
        with transaction() as session:
            session.execute(text("INSERT INTO accounts (name) VALUES ('half')"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert rows("SELECT count(*) FROM accounts") == [(0,)]


def test_an_error_never_quotes_the_row_that_it_refused(db):
    job_id = a_queued_job(an_account(), params={"prompt": "the planted prompt"})

    with pytest.raises(IntegrityError) as caught, transaction() as session:
        session.execute(text("UPDATE generation_jobs SET state = 'paid' WHERE id = :id"), {"id": job_id})

    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.orig)
    assert "ck_generation_jobs_state" in told
    assert "planted" not in told
    assert str(job_id) not in told


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://localhost/x", "sqlite:///x"])
def test_an_address_that_is_not_postgresql_is_one_clear_sentence(url):
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        database.make_engine(url)
