"""In somebody else's program, our modules speak by the standard `logging`, and configure nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import SECRET_KEY
from tests.factories import an_account
from tests.unit.test_architecture import ROOT

PROMPT, PASSWORD = "planted-prompt", "hunter2"
SUBMITS = """
    from billing.jobs.requests import Submission
    from tasks import pipeline
    from workers import bootstrap

    bootstrap.publisher("my-app")
    request = {"prompt": "planted-prompt", "max_output_tokens": 64}
    pipeline.submit_many([Submission(account_id=ACCOUNT, operation="clustering", params=request)])
"""


@pytest.fixture
def app(db, home):
    """Run a program that submits a request while the broker is away; returns what it printed."""
    account_id = an_account(1000)

    def run(program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program).replace("ACCOUNT", str(account_id))],
            cwd=home,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "DATABASE_URL": db,
                # Nobody answers there: the request is stored, and that it was not published is a warning.
                "BROKER_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
                "CREDITMILL_SECRET_KEY": SECRET_KEY,
            },
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )

    return run


def test_a_program_that_configures_no_logging_finds_nothing_of_ours_on_its_stdout(app):
    told = app(SUBMITS)

    assert told.stdout == ""
    # What the standard library does with a warning that nobody handles.
    assert "publish_failed" in told.stderr
    assert PROMPT not in told.stderr
    assert PASSWORD not in told.stderr


def test_a_program_that_configures_logging_gets_our_warning_as_a_record_of_its_own(app):
    told = app(
        f"""
    import json, logging

    class Kept(logging.Handler):
        def emit(self, record):
            print(json.dumps([record.name, record.levelname, record.getMessage(), getattr(record, "facts", {{}})]))

    kept = Kept()
    logging.getLogger().addHandler(kept)
    {SUBMITS}
    assert logging.getLogger().handlers == [kept], "it is the program's own"
    assert logging.getLogger().level == logging.WARNING
    """
    )

    (name, level, message, facts), *more = map(json.loads, told.stdout.splitlines())
    assert (name, level, facts["event"]) == ("tasks.pipeline", "WARNING", "publish_failed")
    assert message.startswith("publish_failed step='generation.check_balance' error='OperationalError'")
    assert (more, told.stderr) == ([], "")
    assert PROMPT not in told.stdout
    assert PASSWORD not in told.stdout


def test_a_programs_own_use_of_structlog_stays_as_it_is(app):
    told = app(f"""
    import structlog
    before = structlog.get_config()
    {SUBMITS}
    assert structlog.get_config() == before and not structlog.is_configured()
    """)

    assert told.stdout == ""
