"""What is said to have reached the database did, from this process and from others, and nothing else is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DataError

from config.database import transaction
from tests.conftest import fresh_database
from tests.statements import Kind, Statement, recorded, work

ELSEWHERE = """
import sys
from sqlalchemy import text
from config import database
engine = database.make_engine(sys.argv[1], application="elsewhere")
for number in range(3):
    with engine.begin() as connection:
        connection.execute(text(f"SELECT 'elsewhere {number}'"))
"""


def say(*texts: str) -> None:
    with transaction() as session:
        for each in texts:
            session.execute(text(each))


def told(statements: list[Statement]) -> list[tuple[str, str]]:
    return [(statement.application, statement.text) for statement in statements]


def test_each_statement_of_this_process_is_recorded_in_order(db):
    with recorded(db) as seen:
        say("SELECT 'to connect'")
        before = len(seen())

        say("SELECT 'one'", "SELECT 'two'")

        assert [(statement.kind, statement.text) for statement in seen()[before:]] == [
            (Kind.TRANSACTION, "BEGIN"),
            (Kind.WORK, "SELECT 'one'"),
            (Kind.WORK, "SELECT 'two'"),
            (Kind.TRANSACTION, "COMMIT"),
        ]


def test_the_statements_of_other_processes_are_recorded_with_their_application(db):
    with recorded(db) as seen:
        say("SELECT 'here'")
        subprocess.run([sys.executable, "-c", ELSEWHERE, db], check=True, timeout=60)

        assert told(work(seen())) == [
            ("creditmill", "SELECT 'here'"),
            *(("elsewhere", f"SELECT 'elsewhere {number}'") for number in range(3)),
        ]


def test_a_session_that_was_open_before_is_recorded_too(db):
    say("SELECT 'before'")
    with recorded(db) as seen:
        say("SELECT 'after'")

        assert told(work(seen())) == [("creditmill", "SELECT 'after'")]


def test_a_statement_of_several_lines_is_one_and_in_one_line(db):
    with recorded(db) as seen:
        say("SELECT 'one',\n\t-- nothing\n\n   'LOG:  statement: SELECT 2'", "SELECT 'another'")

        assert [statement.text for statement in work(seen())] == [
            "SELECT 'one', -- nothing 'LOG: statement: SELECT 2'",
            "SELECT 'another'",
        ]


def test_a_statement_that_fails_is_recorded(db):
    with recorded(db) as seen:
        with pytest.raises(DataError):
            say("SELECT 1 / 0")

        assert [statement.text for statement in work(seen())] == ["SELECT 1 / 0"]


def test_what_reaches_other_databases_is_not_recorded(db, servers, template):
    with fresh_database(servers, template) as other, recorded(db) as seen:
        engine = create_engine(other)
        with engine.connect() as connection:
            connection.execute(text("SELECT 'elsewhere'"))
        engine.dispose()

        assert seen() == []


def test_after_the_block_nothing_more_is_recorded(db):
    with recorded(db) as seen:
        pass
    say("SELECT 'later'")

    assert seen() == []


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", Kind.TRANSACTION),
        ("ROLLBACK TO SAVEPOINT sa_savepoint_1", Kind.TRANSACTION),
        ("RELEASE SAVEPOINT sa_savepoint_1", Kind.TRANSACTION),
        ("SELECT 1", Kind.PING),
        ("", Kind.PING),
        ("show standard_conforming_strings", Kind.SESSION),
        ("SET lock_timeout = '1s'", Kind.SESSION),
        ("SELECT 1 FROM accounts", Kind.WORK),
        ("SELECT set_config('lock_timeout', '1s', true)", Kind.WORK),
        ("WITH committed AS (SELECT 1) SELECT * FROM committed", Kind.WORK),
    ],
)
def test_the_kind_of_a_statement_is_what_it_is_for(given, kind):
    assert Statement(at=0, application="", text=given).kind is kind
