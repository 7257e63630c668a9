"""The command line in this process, for the tests of its commands; and books with something of everything in them."""

from __future__ import annotations

import io
import sys

import pytest

from billing.reports import revenue
from config.database import transaction
from tests.catalogue import a_settled_job, sql
from tests.conftest import SECRET_KEY
from tests.factories import NOON, a_queued_job, a_reserved_job, a_subscription, an_account
from tests.system import forget_broker
from workers import cli


@pytest.fixture
def env(database_url, broker_url, home, monkeypatch):
    """The environment of a command, in a folder without an instance."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("BROKER_URL", broker_url)
    monkeypatch.setenv("CREDITMILL_SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("CREDITMILL_FOLDER", str(home))
    forget_broker()
    return monkeypatch


@pytest.fixture
def run(env, db, capsys, monkeypatch):
    """Run a command in this process; returns its exit code, stdout and stderr."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["creditmill", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogateescape"))))
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def books(db):
    """An account with a plan, and a job in each state that a statement needs; the settled one is the only one called.

    So a statement breaks the one rule that it is meant to break, wherever else it fits.
    """
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 10})
    a_settled_job(account_id, "idea_generation")
    a_queued_job(account_id)
    a_reserved_job(account_id)
    sql("UPDATE subscriptions SET current_period_end = current_period_start + 30")
    with transaction() as session:
        revenue.roll_up(session, now=NOON)
