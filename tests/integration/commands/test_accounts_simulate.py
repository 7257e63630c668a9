"""`creditmill accounts simulate`: what it prints, what it refuses in one sentence, and that it writes nothing."""

from __future__ import annotations

import json

import pytest

from config.database import utc_now
from tests.catalogue import everything
from tests.factories import a_reserved_job, an_account
from tests.integration.reports.forecasts import a_full_account, simulate
from tests.subscribers import a_plan, a_subscriber, act

pytestmark = pytest.mark.usefixtures("db")


@pytest.mark.parametrize("options", [[], ["--json"], ["--months", 1_200], ["--months", 0]])
def test_the_command_writes_nothing(run, options):
    account_id = a_full_account()
    before = everything()

    run("accounts", "simulate", account_id, *options)

    assert everything() == before


def test_the_command_prints_a_line_for_each_event(run):
    a_plan()
    now = utc_now()
    account_id = a_subscriber(now=now)

    code, out, err = run("accounts", "simulate", account_id, "--months", 2, "--json")

    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            **vars(each),
            "at": each.at.isoformat(),
            "day": f"{each.day}",
            "period_end": f"{each.period_end}",
        }
        for each in simulate(account_id, months=2, now=now)
    ]
    assert out.count("\n") == 2


def test_the_command_looks_fourteen_months_ahead(run):
    a_plan()
    account_id = a_subscriber(now=utc_now())

    assert run("accounts", "simulate", account_id, "--json")[1].count("\n") == 14


def test_people_read_a_table_that_shows_only_amounts_that_there_are(run):
    a_plan()
    now = utc_now()
    account_id = a_subscriber(now=now)

    def columns():
        code, out, err = run("accounts", "simulate", account_id, "--months", 3)
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 140
        (header,) = [line for line in out.splitlines() if line.startswith("┃")]
        return [cell.strip() for cell in header.strip("┃").split("┃")][5:], out

    names, told = columns()
    assert names == ["granted", "balance if unused"]
    assert f"What account {account_id} can expect" in told
    assert "content_ideas 5" in told
    assert "1,000" in told

    act("past_due", account_id, now=now, grace_days=90)
    assert columns()[0] == ["withheld", "balance if unused"]
    act("cancel", account_id, now=now, at_once=True)
    a_reserved_job(account_id, now=now)
    names, told = columns()
    assert names == ["released", "balance if unused"]
    assert "expiry" in told


def test_people_read_that_nothing_would_happen(run):
    account_id = an_account()

    told = [run("accounts", "simulate", account_id, "--months", months) for months in (1, 1_200)]

    assert told == [
        (0, f"Nothing would happen to account {account_id} within a month.\n", ""),
        (0, f"Nothing would happen to account {account_id} within 1,200 months.\n", ""),
    ]


def test_people_read_that_an_account_is_frozen(run):
    a_plan()
    account_id = a_subscriber(now=utc_now())
    run("accounts", "freeze", account_id, "--reason", "chargeback [/b]")

    code, out, _ = run("accounts", "simulate", account_id)

    said = f"Account {account_id} is frozen (chargeback [/b]): it starts no jobs and renews all the same."
    assert (code, out.splitlines()[0]) == (0, said)
    assert "renewal" in out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["77"],                          "There is no account '77'."),
        (["--", "-1"],                    "There is no account '-1'."),
        ([str(2**70)],                    f"There is no account '{2**70}'."),
        (["one"],                         "'one' is not a valid integer."),
        (["1", "--months", "0"],          "0 is not in the range 1<=x<=1200."),
        (["1", "--months", "1201"],       "1201 is not in the range 1<=x<=1200."),
        (["1", "--months", "-1"],         "-1 is not in the range 1<=x<=1200."),
        (["1", "--months", "9" * 40],     "is not in the range 1<=x<=1200."),
        (["1", "--months", "1.5"],        "'1.5' is not a valid integer range."),
        ([],                              "Missing argument 'ACCOUNT_ID'."),
    ],
)  # fmt: skip
def test_the_command_refuses_bad_input_in_one_sentence(run, given, said):
    an_account()

    code, out, err = run("accounts", "simulate", *given)

    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("creditmill: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
