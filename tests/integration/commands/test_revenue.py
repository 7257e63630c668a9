"""`creditmill revenue`: reports as a table, JSON, CSV or a chart, and roll-ups that are computed anew."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from decimal import Decimal

import pytest
from PIL import Image

from billing.catalog.usage import Usage
from billing.ledger import by_hand
from billing.reports import revenue_reports
from billing.reports.figures import By, Figures
from config.database import transaction, utc_now
from tests.catalogue import a_settled_job, sql
from tests.factories import NOON, an_account, rows
from tests.revenue_books import queued, roll_up, rolled, source

DAY = timedelta(days=1)
NOVEMBER = ["--from", "2026-11-01", "--to", "2026-11-30"]
HOSTILE = "=HYPERLINK(1)\x1b[31m\r\n$x_1$ 烘焙"


def lines(told):
    return [json.loads(line) for line in told.splitlines()]


def table_of(told):
    return list(csv.reader(io.StringIO(told)))


def a_settled_image(account_id, **given):
    image = {"params": {"prompt": "a fox"}, "usage": Usage(images=1)}
    return a_settled_job(account_id, "image_generation", **image, **given)


@pytest.fixture
def account_id(db):
    """An account with an image on one day, and two texts on the next, of which the second is still queued."""
    account_id = an_account(1000)
    a_settled_image(account_id)
    a_settled_job(account_id, usage=Usage(100, 10, 400, 30), now=NOON + DAY)
    roll_up()
    a_settled_job(account_id, usage=Usage(1000, 0, 100, 0), now=NOON + DAY)
    return account_id


# --- The report ---


def test_overrun_is_summed_and_told(run, account_id):
    a_settled_job(account_id, usage=Usage(output_tokens=5000), now=NOON + DAY)

    found = lines(run("revenue", "report", *NOVEMBER, "--json")[1])

    # 5,000 tokens are 50 credits, and 11 were held.
    assert [line["credits_overrun"] for line in found] == [0, 39, 39]
    told = run("revenue", "report", *NOVEMBER)[1]
    assert "Overrun: 39 credits were used beyond what was held, and not charged." in told


def test_without_overrun_nothing_is_told_of_it(run, account_id):
    assert "Overrun" not in run("revenue", "report", *NOVEMBER)[1]


def test_an_image_earns_what_the_specification_says(run, account_id):
    """The example of the specification: cost $0.040, charge $0.10, margin $0.06, 60 % of the charge, markup 150 %."""
    code, out, err = run("revenue", "report", *NOVEMBER, "--by", "model", "--json")

    assert (code, err) == (0, "")
    (image,) = [line for line in lines(out) if line.get("model") == "dall-e-3"]
    assert {name: Decimal(image[name]) for name in image if name.endswith(("_usd", "_percent"))} == {
        "cost_usd": Decimal("0.04"),
        "revenue_usd": Decimal("0.1"),
        "exposure_usd": 0,
        "margin_usd": Decimal("0.06"),
        "margin_percent": 60,
        "markup_percent": 150,
    }


def test_a_report_is_exact_before_the_tick(run, account_id):
    assert queued() == 2
    found = lines(run("revenue", "report", *NOVEMBER, "--json")[1])

    assert [line.get("day") for line in found] == ["2026-11-20", "2026-11-21", None]
    total = found[-1]
    assert (total["total"], total["from"], total["to"], total["by"]) == (True, "2026-11-01", "2026-11-30", "day")
    assert (total["jobs"], total["jobs_settled"], total["images"]) == (3, 3, 1)
    names = ("tokens_input", "tokens_input_cached", "tokens_output", "tokens_reasoning")
    assert [total[name] for name in names] == [1100, 10, 500, 30]
    for name in ("revenue_usd", "cost_usd", "margin_usd"):
        assert sum(Decimal(line[name]) for line in found[:-1]) == Decimal(total[name])
    (sums,) = rows("SELECT sum(revenue_usd), sum(cost_usd) FROM credit_usage_logs")
    assert (Decimal(total["revenue_usd"]), Decimal(total["cost_usd"])) == sums
    roll_up()
    assert lines(run("revenue", "report", *NOVEMBER, "--json")[1]) == found


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("day", ["2026-11-20", "2026-11-21"]),
        ("operation", ["clustering", "image_generation"]),
        ("model", ["gpt-5.1", "dall-e-3"]),
    ],
)
def test_rows_stand_for_what_was_asked_for(run, account_id, by, keys):
    found = lines(run("revenue", "report", *NOVEMBER, "--by", by, "--json")[1])

    assert [line[by] for line in found[:-1]] == keys


def test_accounts_are_told_by_id_and_name_the_largest_first(run, account_id):
    other = an_account(1000, name="Trailhead Outdoor")
    for _ in range(3):
        a_settled_image(other)

    found = lines(run("revenue", "report", *NOVEMBER, "--by", "account", "--json")[1])
    out = run("revenue", "report", *NOVEMBER, "--by", "account")[1]

    assert [(line["account_id"], line["account"]) for line in found[:-1]] == [
        (other, "Trailhead Outdoor"), (account_id, "Corner Bakery"),
    ]  # fmt: skip
    assert out.index("Trailhead Outdoor") < out.index("Corner Bakery") < out.index("total")


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [("2026-11-20", "2026-11-20", 1), ("2026-11-21", "2026-11-21", 1), ("2026-11-20", "2026-11-21", 2)],
)
def test_both_ends_of_the_span_are_part_of_it(run, account_id, first, last, days):
    assert len(lines(run("revenue", "report", "--from", first, "--to", last, "--json")[1])) == days + 1


def test_without_a_span_it_is_this_month_so_far(run, db):
    today = utc_now()
    a_settled_job(an_account(), now=today)
    a_settled_job(an_account(), now=today.replace(day=1) - DAY)

    (_, total) = lines(run("revenue", "report", "--json")[1])
    before = lines(run("revenue", "report", "--to", (today.replace(day=1) - DAY).date(), "--json")[1])[-1]

    assert (total["from"], total["to"], total["jobs"]) == (f"{today:%Y-%m}-01", f"{today:%Y-%m-%d}", 1)
    assert before["from"] == f"{before['to'][:7]}-01"


def test_shares_of_nothing_are_nothing():
    assert (Figures().margin_percent, Figures().markup_percent) == (None, None)
    lost = Figures(cost_usd=Decimal(3))
    assert (lost.margin_percent, lost.markup_percent) == (None, -100)
    assert Figures(revenue_usd=Decimal(3), cost_usd=Decimal(2)).margin_percent == Decimal("33.3")


def test_unspent_credits_are_deferred_until_the_end_of_the_last_day(run, account_id):
    with transaction() as session:
        by_hand.top_up(session, account_id, 500, idempotency_key="late", description="", now=NOON.replace(hour=0) + DAY)

    def deferred(last):
        found = lines(run("revenue", "report", "--from", "2026-11-20", "--to", last, "--json")[1])[-1]
        return found["deferred_credits"], Decimal(found["deferred_usd"])

    charged = sum(credits for (credits,) in rows("SELECT credits_used FROM credit_usage_logs"))
    assert deferred("2026-11-20") == (995, Decimal("9.95"))
    assert deferred("2026-11-21") == (1500 - charged, (1500 - charged) * Decimal("0.01"))
    assert [(1500 - charged,)] == rows("SELECT sum(balance) FROM accounts")
    sql("UPDATE billing_configuration SET default_credit_price_usd = 0.02")
    assert deferred("2026-11-20") == (995, Decimal("19.90"))


def test_people_read_a_table_with_a_total(run, account_id):
    code, out, err = run("revenue", "report", *NOVEMBER, "--by", "model")

    assert (code, err) == (0, "")
    assert "Revenue by model from 2026-11-01 to 2026-11-30" in out
    assert "60.0 %" in out
    assert "150.0 %" in out
    assert "Tokens: 1,100 input, 10 cached input, 500 output, 30 reasoning. Images: 1." in out
    assert "Deferred at the end of 2026-11-30: 97" in out
    assert max(len(line) for line in out.splitlines()) <= 140


def test_an_empty_span_says_so(run, account_id):
    given = ["--from", "2020-02-01", "--to", "2020-02-29"]

    said = "No job finished from 2020-02-01 to 2020-02-29. Deferred at the end of 2020-02-29: 0 unspent credits"
    assert run("revenue", "report", *given)[1].startswith(said)
    assert [line["jobs"] for line in lines(run("revenue", "report", *given, "--json")[1])] == [0]
    assert [row[0] for row in table_of(run("revenue", "report", *given, "--csv")[1])] == ["day"]


def test_csv_has_every_decimal_and_its_header(run, account_id):
    header, *found = table_of(run("revenue", "report", *NOVEMBER, "--csv")[1])
    total = lines(run("revenue", "report", *NOVEMBER, "--json")[1])[-1]

    assert header[:6] == ["day", "jobs", "jobs_settled", "credits", "credits_overrun", "revenue_usd"]
    assert [row[0] for row in found] == ["2026-11-20", "2026-11-21"]
    assert found[0][header.index("cost_usd")] == "0.0400000000"
    for name in ("revenue_usd", "cost_usd", "exposure_usd", "margin_usd"):
        place = header.index(name)
        assert sum(Decimal(row[place]) for row in found) == Decimal(total[name])


def test_a_report_is_of_one_account_where_that_is_asked(run, account_id):
    other = an_account(10)
    report = ("revenue", "report", *NOVEMBER, "--json")

    assert run(*report, "--account", str(account_id)) == run(*report)
    assert [line["jobs"] for line in lines(run(*report, "--account", str(other))[1])] == [0]
    code, _, err = run("revenue", "report", "--account", "999")
    assert (code, err) == (2, "creditmill: There is no account '999'. [unknown_account]\n")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\t=1", "＝1"])
def test_csv_runs_no_formula_of_a_customer(run, account_id, name):
    sql("UPDATE accounts SET name = :name", name=name)

    (row,) = table_of(run("revenue", "report", *NOVEMBER, "--by", "account", "--csv")[1])[1:]

    assert row[1].startswith("'") or not row[1].lstrip().startswith(tuple("=+-@＝＋－＠"))
    assert not any(cell.startswith("'") for cell in row[2:])


@pytest.mark.parametrize("how", [[], ["--csv"], ["--json"]])
def test_a_name_steers_no_terminal(run, account_id, how):
    sql("UPDATE accounts SET name = :name", name=f"{HOSTILE}\x9b\u202e")

    out = run("revenue", "report", *NOVEMBER, "--by", "account", *how)[1]

    assert "\x1b" not in out
    assert "\r" not in out
    assert not {"\x9b", "\u202e"} & set(out)
    assert "HYPERLINK" in out


# --- The chart ---


@pytest.mark.parametrize("by", list(By))
def test_a_chart_is_a_picture(run, account_id, tmp_path, by):
    sql("UPDATE accounts SET name = :name", name=HOSTILE)
    file = tmp_path / "revenue.png"

    code, out, err = run("revenue", "report", *NOVEMBER, "--by", by, "--chart", file)

    assert (code, out) == (0, "")
    assert err == f"The chart of revenue by {by} is in {file}.\n"
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_a_chart_of_nothing_is_not_drawn(run, db, tmp_path):
    code, out, _ = run("revenue", "report", *NOVEMBER, "--chart", tmp_path / "revenue.png")

    assert (code, list(tmp_path.glob("*.png"))) == (0, [])
    assert out.startswith("No job finished")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--from", "2026-11-30", "--to", "2026-11-01"],
            "The span ends on 2026-11-01, before it begins on 2026-11-30.",
        ),
        (["--from", "yesterday"], "'yesterday' does not match the format"),
        (["--by", "user"], "'user' is not one of"),
        (["--chart", "revenue.pdf"], "let its name end in .png"),
        (["--chart", "/nowhere/revenue.png", *NOVEMBER], "/nowhere/revenue.png cannot be written: No such file"),
        (["--json", "--csv"], "Choose one of --json, --csv and --chart."),
        (["--csv", "--chart", "a.png"], "Choose one of --json, --csv and --chart."),
    ],
)
def test_bad_input_is_one_sentence(run, account_id, given, said):
    code, out, err = run("revenue", "report", *given)

    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


# --- The roll-ups, computed anew ---


def test_a_rebuild_of_all_days_mends_whatever_is_wrong(run, account_id):
    a_settled_job(account_id, now=NOON + 70 * DAY)
    sql("UPDATE revenue_rollups SET revenue_usd = 99, day = day - 400")

    code, out, err = run("revenue", "rebuild")

    assert (code, err) == (0, "")
    assert out == "3 roll-ups were computed anew, of the days from 2025-10-16 to 2027-01-29.\n"
    assert (rolled(), queued()) == (source(), 0)


def test_a_rebuild_of_some_days_leaves_the_others(run, account_id):
    roll_up()
    sql("UPDATE revenue_rollups SET revenue_usd = 99")

    told = json.loads(run("revenue", "rebuild", "--from", "2026-11-21", "--to", "2026-11-21", "--json")[1])

    assert told == {"from": "2026-11-21", "to": "2026-11-21", "rollups": 1}
    assert [(revenue == 99) for (revenue,) in rows("SELECT revenue_usd FROM revenue_rollups ORDER BY day")] == [
        True,
        False,
    ]


def test_a_rebuild_of_nothing_says_so(run, db):
    assert run("revenue", "rebuild")[:2] == (0, "There is nothing to compute: no job has finished.\n")
    assert json.loads(run("revenue", "rebuild", "--json")[1]) == {"from": None, "to": None, "rollups": 0}


def test_a_rebuild_of_a_reversed_span_is_refused(run, account_id):
    code, _, err = run("revenue", "rebuild", "--from", "2026-11-30", "--to", "2026-11-01")

    assert code == 2
    assert "The span ends on 2026-11-01, before it begins on 2026-11-30. [invalid_span]" in err


@pytest.mark.parametrize("command", ["report", "rebuild"])
def test_a_span_to_the_end_of_all_days_is_refused(run, account_id, command):
    code, _, err = run("revenue", command, "--from", "9998-12-01", "--to", "9999-12-31")

    assert code == 2
    assert "The last day is 9998-12-31 at most. [invalid_span]" in err


def test_a_report_can_be_of_some_accounts(account_id):
    other = an_account()
    a_settled_job(other)
    with transaction() as session:
        found = revenue_reports.report(session, NOON.date(), NOON.date(), by=By.ACCOUNT, account_ids=[other])

    assert [row.key for row in found.rows] == [other]
    assert found.total.jobs == 1


def test_a_report_may_have_two_dimensions_and_be_ordered_by_margin(run):
    account_id = an_account(10_000)
    a_settled_job(account_id)
    a_settled_job(account_id, model="gpt-4o")
    a_settled_job(account_id, "idea_generation")
    span = ("--from", f"{NOON.date()}", "--to", f"{NOON.date()}")

    found = lines(
        run("revenue", "report", *span, "--by", "operation", "--by", "model", "--sort", "margin", "--json")[1]
    )
    table = run("revenue", "report", *span, "--by", "account", "--by", "model")[1]
    told = run("revenue", "report", *span, "--by", "operation", "--by", "model", "--csv")[1].splitlines()

    rows = found[:-1]
    assert {(row["operation"], row["model"]) for row in rows} == {
        ("clustering", "gpt-5.1"), ("clustering", "gpt-4o"), ("idea_generation", "gpt-5.1")
    }  # fmt: skip
    margins = [Decimal(row["margin_usd"]) for row in rows]
    assert margins == sorted(margins, reverse=True)
    assert found[-1]["by"] == ["operation", "model"]
    assert told[0].startswith("operation,model,jobs,")
    assert len(told) == 4
    assert "Corner Bakery" in table
    assert "gpt-4o" in table


@pytest.mark.parametrize(
    "dimensions", [["day", "day"], ["day", "model", "account"], ["day", "--chart", "x.png", "--by", "model"]]
)
def test_three_dimensions_or_one_twice_are_refused(run, dimensions):
    given = [word for each in dimensions for word in (["--by", each] if not each.startswith(("--", "x.")) else [each])]
    given = ["--by", "day", "--chart", "x.png", "--by", "model"] if "--chart" in dimensions else given

    assert run("revenue", "report", *given)[0] == 2
