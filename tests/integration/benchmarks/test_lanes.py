"""What ends a lane of the benchmark: books that do not balance, and programs that die; and that nothing is left."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from config import database
from tests.benchmarks.mill import NotAudited, audit_books
from tests.benchmarks.place import BenchError
from tests.benchmarks.running import Program, running
from tests.catalogue import sql
from tests.factories import an_account
from tests.system import wait_until

FOREVER = "import time; time.sleep(600)"
SLEEP = "SELECT pg_sleep(20)"


def program(name: str, source: str) -> Program:
    return Program(name, [sys.executable, "-c", source], Path.cwd(), {})


def audited() -> None:
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        audit_books(connection, "the lane")


@pytest.mark.usefixtures("db")
def test_books_that_do_not_balance_end_the_lane():
    account_id = an_account(1_000)
    audited()
    sql("UPDATE accounts SET balance = 900 WHERE id = :id", id=account_id)

    with pytest.raises(BenchError, match="do not balance: 1 findings, such as balance_is_sum_of_transactions"):
        audited()


@pytest.mark.usefixtures("db")
def test_an_audit_that_takes_too_long_is_told_apart(monkeypatch):
    monkeypatch.setattr("tests.benchmarks.mill.AUDIT_S", 0.05)
    monkeypatch.setattr("billing.reports.audit.audit", lambda session, now: session.connection().exec_driver_sql(SLEEP))

    with pytest.raises(NotAudited, match="takes more than"):
        audited()


def test_a_program_says_what_it_found(tmp_path):
    with running(tmp_path, []) as started:
        assert started.ask(program("teller", "print('{\"seconds\": 1.5}')")) == {"seconds": 1.5}


def test_a_program_that_fails_ends_the_lane_with_its_last_words(tmp_path):
    with running(tmp_path, []) as started, pytest.raises(BenchError, match=r"^teller failed: ValueError: no luck$"):
        started.ask(program("teller", "raise ValueError('no luck')"))


def test_a_worker_that_dies_ends_the_lane_at_once(tmp_path):
    dying = program("worker", "import sys, time; time.sleep(0.5); sys.exit('out of memory')")
    began = time.monotonic()

    with running(tmp_path, [dying]) as started:  # noqa: SIM117
        with pytest.raises(BenchError, match=r"^worker ended while teller ran: out of memory$"):
            started.ask(program("teller", FOREVER))
    assert time.monotonic() - began < 20


def test_nothing_is_left_of_a_program_not_even_what_it_started(tmp_path):
    pid_file = tmp_path / "pid"
    source = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        f"pathlib.Path({os.fspath(pid_file)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with running(tmp_path, [program("parent", source)]) as started:
        pid = int(wait_until(lambda: pid_file.exists() and pid_file.read_text()))
        pids = [*started.pids, pid]
        assert all(psutil.pid_exists(each) for each in pids)

    wait_until(lambda: not any(_runs(each) for each in pids), within_s=5)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
