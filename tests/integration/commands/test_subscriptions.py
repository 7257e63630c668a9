"""`creditmill plans subscribe`, `cancel`, `resume`, `past-due`, `paid` and `periods`: what they say, do and refuse."""

from __future__ import annotations

import json
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from billing.periods import add_months, starts_at
from billing.plans import plans, subscriptions
from config.database import transaction, utc_now
from tests.catalogue import everything, sql
from tests.factories import an_account, rows, the_account

# Where midnight is far away: commands go by the present, and a day must not end between a command and its test.
ZONE = ZoneInfo("UTC" if 2 <= utc_now().hour < 22 else "Asia/Tokyo")
TODAY = utc_now().astimezone(ZONE).date()
DAY = timedelta(days=1)
NEXT_MONTH = add_months(TODAY, 1)


@pytest.fixture
def account_id(db):
    """An account without a subscription, and three plans: starter, pro, and one that is switched off."""
    with transaction() as session:
        plans.set_plan(session, "starter", {"included_credits": "500", "images_basic": "5"})
        plans.set_plan(session, "pro", {"included_credits": "2000"})
        plans.set_plan(session, "off", {"is_active": "no"})
    return an_account(0, time_zone=ZONE.key)


def act(action, *given, on=TODAY, **named):
    """Something that an operator did at the noon of an earlier day."""
    with transaction() as session:
        return getattr(subscriptions, action)(session, *given, now=noon(on), **named)


def noon(day):
    return starts_at(day, ZONE) + timedelta(hours=12)


def facts_of(told):
    code, out, err = told
    assert (code, err) == (0, "")
    return json.loads(out)


def sentence_of(told):
    code, out, err = told
    assert (code, err) == (0, "")
    return out


def the_subscription():
    (found,) = rows(
        "SELECT s.status, p.slug, n.slug, current_period_start, current_period_end, cancel_at_period_end, grace_until "
        "FROM subscriptions s JOIN plans p ON p.id = s.plan_id LEFT JOIN plans n ON n.id = s.next_plan_id"
    )
    return found


def assert_refused(run, arguments, code):
    """One sentence with its code, exit code 2, and not a row of any table changed."""
    before = everything()
    exit_code, out, err = run(*arguments)

    assert (exit_code, out) == (2, "")
    assert err.startswith("creditmill: ")
    assert err.endswith(f" [{code}]\n")
    assert (err.count("\n"), len(err) < 200) == (1, True)
    assert everything() == before


def assert_misused(run, arguments, said):
    before = everything()
    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith("creditmill: ")
    assert err.count("\n") == 1
    assert said in err
    assert everything() == before


# --- subscribe ---


def test_a_subscription_begins_today_and_grants_at_once(run, account_id):
    told = sentence_of(run("plans", "subscribe", account_id, "starter"))

    assert told == (
        f"Account {account_id} is subscribed to starter; its period runs from {TODAY} up to {NEXT_MONTH}.\n"
    )
    assert the_subscription() == ("active", "starter", None, TODAY, NEXT_MONTH, False, None)
    assert the_account(account_id).balance == 500


def test_a_subscription_is_told_to_programs(run, account_id):
    facts = facts_of(run("plans", "subscribe", account_id, "starter", "--json"))

    assert facts == {
        "account_id": account_id,
        "plan": "starter",
        "next_plan": None,
        "status": "active",
        "anchor_date": f"{TODAY}",
        "current_period_start": f"{TODAY}",
        "current_period_end": f"{NEXT_MONTH}",
        "cancel_at_period_end": False,
        "grace_until": None,
        "renews_at": starts_at(NEXT_MONTH, ZONE).isoformat(),
    }


def test_periods_are_counted_from_the_day_given(run, account_id):
    facts = facts_of(run("plans", "subscribe", account_id, "starter", "--since", "2024-01-31", "--json"))

    start, end = (rows("SELECT current_period_start, current_period_end FROM subscriptions"))[0]
    boundaries = [add_months(TODAY.replace(year=2024, month=1, day=31), n) for n in range(2_000)]
    assert (facts["anchor_date"], facts["current_period_start"]) == ("2024-01-31", f"{start}")
    assert {start, end} <= set(boundaries)
    assert start <= TODAY < end


def test_the_oldest_day_of_all_may_be_given(run, account_id):
    assert sentence_of(run("plans", "subscribe", account_id, "starter", "--since", "0001-01-01")).startswith(
        f"Account {account_id} is subscribed"
    )
    assert the_subscription()[3] == TODAY.replace(day=1)


def test_a_trial_is_told_as_one_and_grants_nothing(run, account_id):
    told = sentence_of(run("plans", "subscribe", account_id, "starter", "--trial-days", 14))

    assert told.endswith(f"; its trial runs from {TODAY} up to {TODAY + 14 * DAY}.\n")
    assert the_subscription()[0] == "trialing"
    assert the_account(account_id).balance == 0


def test_a_move_at_once_keeps_the_period_and_says_so(run, account_id):
    act("subscribe", account_id, "starter")

    told = sentence_of(run("plans", "subscribe", account_id, "pro"))

    assert (
        told == f"Account {account_id} is subscribed to pro; its period still runs from {TODAY} up to {NEXT_MONTH}.\n"
    )
    assert the_subscription()[1:3] == ("pro", None)
    assert the_account(account_id).balance == 500


def test_a_move_at_the_end_of_the_period_names_the_day_and_both_plans(run, account_id):
    act("subscribe", account_id, "starter")

    assert sentence_of(run("plans", "subscribe", account_id, "pro", "--at-period-end")) == (
        f"Account {account_id} moves to pro on {NEXT_MONTH}.\n"
    )
    facts = facts_of(run("plans", "subscribe", account_id, "pro", "--at-period-end", "--json"))
    assert (facts["plan"], facts["next_plan"]) == ("starter", "pro")
    assert the_subscription()[1:3] == ("starter", "pro")


def test_a_command_acts_on_the_present_when_no_tick_came(run, account_id):
    began = TODAY - 70 * DAY
    act("subscribe", account_id, "starter", on=began)

    run("plans", "subscribe", account_id, "pro")

    passed = sum(add_months(began, n) <= TODAY for n in range(1, 12))
    assert the_account(account_id).balance == 500 * (1 + passed)
    assert the_subscription()[3] == add_months(began, passed)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["starter", "--trial-days", "0"],                "invalid_trial"),
        (["starter", "--trial-days", "-3"],               "invalid_trial"),
        (["starter", "--trial-days", "367"],              "invalid_trial"),
        (["starter", "--trial-days", "9" * 30],           "invalid_trial"),
        (["starter", "--since", f"{TODAY + DAY}"],        "invalid_anchor"),
        (["starter", "--since", "9999-12-31"],            "invalid_anchor"),
        (["starter", "--at-period-end"],                  "not_subscribed"),
        (["nowhere"],                                     "unknown_plan"),
        ([""],                                            "unknown_plan"),
        (["two\nlines"],                                  "unknown_plan"),
        (["x" * 5_000],                                   "unknown_plan"),
        (["off"],                                         "plan_inactive"),
    ],
)  # fmt: skip
def test_a_subscription_that_cannot_begin_is_refused(run, account_id, arguments, code):
    assert_refused(run, ["plans", "subscribe", account_id, *arguments], code)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["pro", "--trial-days", "5"],                    "no_trial"),
        (["pro", "--since", f"{TODAY - DAY}"],            "has_anchor"),
        (["off", "--at-period-end"],                      "plan_inactive"),
    ],
)  # fmt: skip
def test_a_move_that_cannot_be_is_refused_and_renews_nothing_either(run, account_id, arguments, code):
    act("subscribe", account_id, "starter", on=TODAY - 40 * DAY)

    assert_refused(run, ["plans", "subscribe", account_id, *arguments], code)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["starter", "--since", "2026-02-30"],            "'2026-02-30' does not match"),
        (["starter", "--since", "yesterday"],             "'yesterday' does not match"),
        (["starter", "--since", "10000-01-01"],           "'10000-01-01' does not match"),
        (["starter", "--trial-days", "two"],              "'two' is not a valid integer"),
        (["starter", "--trial-days", "1.5"],              "'1.5' is not a valid integer"),
        (["starter", "--trial-days", "5", "--since", "2026-01-01"], "Choose one of --since, --trial-days and"),
        (["starter", "--trial-days", "5", "--at-period-end"], "Choose one of --since, --trial-days and"),
        (["starter", "--since", "2026-01-01", "--at-period-end"], "Choose one of --since, --trial-days and"),
        (["starter", "--another-trial"],                  "--another-trial is for a trial"),
        (["starter", "--trial-days", "0", "--since", "2026-01-01"], "Choose one of --since, --trial-days and"),
        ([],                                              "Missing argument 'PLAN'"),
    ],
)  # fmt: skip
def test_wrong_usage_says_what_is_wrong(run, account_id, arguments, said):
    assert_misused(run, ["plans", "subscribe", account_id, *arguments], said)


# --- cancel and resume ---


def test_a_cancellation_names_the_day_and_can_be_taken_back(run, account_id):
    act("subscribe", account_id, "starter")

    for _ in range(2):
        told = sentence_of(run("plans", "cancel", account_id))
        assert told == f"The subscription of account {account_id} ends on {NEXT_MONTH}.\n"
    assert (the_subscription()[0], the_subscription()[5]) == ("active", True)

    goes_on = f"The subscription of account {account_id} goes on with starter.\n"
    assert sentence_of(run("plans", "resume", account_id)) == goes_on
    assert the_subscription()[5] is False
    assert sentence_of(run("plans", "resume", account_id)) == f"There was nothing to take back. {goes_on}"


def test_a_move_that_waits_can_be_taken_back(run, account_id):
    act("subscribe", account_id, "starter")
    act("subscribe", account_id, "pro", at_period_end=True)

    facts = facts_of(run("plans", "resume", account_id, "--json"))

    assert (facts["plan"], facts["next_plan"], the_subscription()[2]) == ("starter", None, None)


def test_a_cancellation_at_once_ends_it_and_leaves_what_was_granted(run, account_id):
    act("subscribe", account_id, "starter")

    told = sentence_of(run("plans", "cancel", account_id, "--now"))

    assert told == f"The subscription of account {account_id} has ended.\n"
    assert (the_subscription()[0], the_account(account_id).balance) == ("cancelled", 500)


def test_a_cancellation_is_told_to_programs(run, account_id):
    act("subscribe", account_id, "starter")

    later = facts_of(run("plans", "cancel", account_id, "--json"))
    assert (later["status"], later["cancel_at_period_end"]) == ("active", True)
    assert later["renews_at"] == starts_at(NEXT_MONTH, ZONE).isoformat()
    ended = facts_of(run("plans", "cancel", account_id, "--now", "--json"))
    assert (ended["status"], ended["renews_at"]) == ("cancelled", None)


# --- past-due and paid ---


def test_a_failed_payment_names_the_day_on_which_the_grace_ends(run, account_id):
    act("subscribe", account_id, "starter")

    told = sentence_of(run("plans", "past-due", account_id))

    assert told == f"The subscription of account {account_id} ends on {TODAY + 7 * DAY} unless it pays.\n"
    assert (the_subscription()[0], the_subscription()[6]) == ("past_due", TODAY + 7 * DAY)
    again = facts_of(run("plans", "past-due", account_id, "--grace-days", 90, "--json"))
    assert again["grace_until"] == f"{TODAY + 7 * DAY}", "a grace that runs goes on"


@pytest.mark.parametrize("days", [1, 366])
def test_a_grace_may_be_short_or_long(run, account_id, days):
    act("subscribe", account_id, "starter")

    assert f"ends on {TODAY + days * DAY} unless" in run("plans", "past-due", account_id, "--grace-days", days)[1]


def test_the_platform_sets_the_usual_grace(run, account_id):
    act("subscribe", account_id, "starter")
    run("operations", "defaults", "past_due_grace_days=3")

    assert facts_of(run("plans", "past-due", account_id, "--json"))["grace_until"] == f"{TODAY + 3 * DAY}"


def test_without_a_grace_it_has_ended(run, account_id):
    act("subscribe", account_id, "starter")

    told = sentence_of(run("plans", "past-due", account_id, "--grace-days", 0))

    assert told == f"The subscription of account {account_id} has ended.\n"
    assert the_subscription()[0] == "cancelled"


@pytest.mark.parametrize(("grace_days", "end"), [(5, TODAY + 5 * DAY), (90, NEXT_MONTH)])
def test_one_that_is_cancelled_and_past_due_ends_on_the_earlier_day(run, account_id, grace_days, end):
    act("subscribe", account_id, "starter")
    unless = " unless it pays" if end != NEXT_MONTH else ""
    said = f"The subscription of account {account_id} ends on {end}{unless}.\n"

    run("plans", "cancel", account_id)
    assert sentence_of(run("plans", "past-due", account_id, "--grace-days", grace_days)) == said
    assert sentence_of(run("plans", "cancel", account_id)) == said


def test_a_payment_grants_what_was_withheld_and_says_how_much(run, account_id):
    act("subscribe", account_id, "starter", on=TODAY - 40 * DAY)
    act("past_due", account_id, on=TODAY - 39 * DAY, grace_days=60)
    assert the_account(account_id).balance == 500

    told = sentence_of(run("plans", "paid", account_id))

    assert told == f"The subscription of account {account_id} is paid; 500 credits that were withheld are granted.\n"
    assert (the_subscription()[0], the_account(account_id).balance) == ("active", 1000)
    assert sentence_of(run("plans", "paid", account_id)) == f"Account {account_id} was not past due.\n"
    assert the_account(account_id).balance == 1000


def test_a_payment_is_told_to_programs(run, account_id):
    act("subscribe", account_id, "starter", on=TODAY - 40 * DAY)
    act("past_due", account_id, on=TODAY - 39 * DAY, grace_days=60)

    paid, again = (facts_of(run("plans", "paid", account_id, "--json")) for _ in range(2))

    assert (paid["status"], paid["grace_until"], paid["credits_granted"]) == ("active", None, 500)
    assert again == paid | {"credits_granted": 0}


def test_a_payment_within_the_period_grants_nothing_new(run, account_id):
    act("subscribe", account_id, "starter")
    act("past_due", account_id)

    assert sentence_of(run("plans", "paid", account_id)) == f"The subscription of account {account_id} is paid.\n"
    assert the_account(account_id).balance == 500


@pytest.mark.parametrize("days", ["-1", "367", "9" * 30])
def test_a_grace_of_impossible_length_is_refused(run, account_id, days):
    act("subscribe", account_id, "starter")

    assert_refused(run, ["plans", "past-due", account_id, "--grace-days", days], "invalid_grace")


def test_a_trial_cannot_fail_to_be_paid(run, account_id):
    act("subscribe", account_id, "starter", trial_days=5)

    assert_refused(run, ["plans", "past-due", account_id], "is_trial")
    assert sentence_of(run("plans", "paid", account_id)) == f"Account {account_id} was not past due.\n"


# --- periods ---


def periods_of(run, account_id):
    code, out, err = run("plans", "periods", account_id, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)["periods"]


def test_periods_are_listed_with_the_credits_of_each(run, account_id):
    act("subscribe", account_id, "starter", on=TODAY - 40 * DAY)
    act("past_due", account_id, on=TODAY - 39 * DAY, grace_days=60)
    run("plans", "resume", account_id)

    start, middle = TODAY - 40 * DAY, add_months(TODAY - 40 * DAY, 1)
    assert periods_of(run, account_id) == [
        {"period_start": f"{middle}", "period_end": f"{add_months(start, 2)}", "plan": "starter", "status": "past_due",
         "included_credits": 500, "credits": 0, "credits_withheld": 500, "granted": False},
        {"period_start": f"{start}", "period_end": f"{middle}", "plan": "starter", "status": "active",
         "included_credits": 500, "credits": 500, "credits_withheld": 0, "granted": True},
    ]  # fmt: skip
    out = sentence_of(run("plans", "periods", account_id))
    assert out.index(f"│ {middle} │") < out.index("│ past due │") < out.index(f"│ {start} │")
    assert max(map(len, out.splitlines())) <= 140


def test_a_trial_has_nothing_to_grant(run, account_id):
    act("subscribe", account_id, "starter", trial_days=14)

    (row,) = [line for line in sentence_of(run("plans", "periods", account_id)).splitlines() if "│ trialing │" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][3:] == ["trialing", "500", "0", "0", "–"]
    assert [each["granted"] for each in periods_of(run, account_id)] == [False]


@pytest.mark.parametrize(
    ("acts", "said"),
    [
        ([],                                                        f"on starter: active, renews on {NEXT_MONTH}"),
        ([("subscribe", "pro", {"at_period_end": True})], f"on starter: active, moves to pro on {NEXT_MONTH}"),
        ([("cancel", {})],                                          f"on starter: active, ends on {NEXT_MONTH}"),
        ([("cancel", {"at_once": True})],                           "on starter: cancelled"),
        ([("past_due", {"grace_days": 5})],  f"on starter: past due, ends on {TODAY + 5 * DAY} unless it pays"),
        (
            [("past_due", {"grace_days": 90})],
            f"on starter: past due, ends on {TODAY + 90 * DAY} unless it pays, renews on {NEXT_MONTH}",
        ),
    ],
)  # fmt: skip
def test_the_periods_stand_under_how_the_subscription_stands(run, account_id, acts, said):
    act("subscribe", account_id, "starter")
    for action, *given, named in acts:
        act(action, account_id, *given, **named)

    assert sentence_of(run("plans", "periods", account_id)).splitlines()[0] == f"Account {account_id} {said}."


def test_the_periods_sentence_tells_the_present_before_a_tick_has_come(run, account_id):
    act("subscribe", account_id, "starter", on=TODAY - 40 * DAY)
    act("subscribe", account_id, "pro", on=TODAY - 39 * DAY, at_period_end=True)
    before = everything()

    told = sentence_of(run("plans", "periods", account_id)).splitlines()[0]

    renews = add_months(TODAY - 40 * DAY, 2)
    assert told == f"Account {account_id} on pro: active, renews on {renews}."
    assert everything() == before


# --- who it is about ---

ALL = [["subscribe", "starter"], ["cancel"], ["cancel", "--now"], ["resume"], ["past-due"], ["paid"], ["periods"]]


@pytest.mark.parametrize("command", ALL, ids=" ".join)
@pytest.mark.parametrize("unknown", ["77", "0", "-1", str(2**63), str(10**40)])
def test_an_account_that_does_not_exist_is_refused(run, account_id, command, unknown):
    name, *more = command

    assert_refused(run, ["plans", name, *(each for each in more if each[0] == "-"), "--", unknown,
                         *(each for each in more if each[0] != "-")], "unknown_account")  # fmt: skip


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_an_account_has_a_whole_number(run, account_id, command):
    name, *more = command

    assert_misused(run, ["plans", name, "one", *more], "'one' is not a valid integer")


@pytest.mark.parametrize("command", ALL[1:], ids=" ".join)
def test_an_account_that_was_never_subscribed_is_refused(run, account_id, command):
    name, *more = command

    assert_refused(run, ["plans", name, account_id, *more], "not_subscribed")


@pytest.mark.parametrize("command", ALL[1:-1], ids=" ".join)
def test_a_subscription_that_has_ended_is_refused(run, account_id, command):
    act("subscribe", account_id, "starter")
    act("cancel", account_id, at_once=True)
    name, *more = command

    assert_refused(run, ["plans", name, account_id, *more], "not_subscribed")


@pytest.mark.parametrize("command", ALL[1:-1], ids=" ".join)
def test_one_whose_end_no_tick_has_written_yet_has_ended_all_the_same(run, account_id, command):
    act("subscribe", account_id, "starter", on=TODAY - 40 * DAY)
    act("cancel", account_id, on=TODAY - 39 * DAY)
    name, *more = command

    assert_refused(run, ["plans", name, account_id, *more], "not_subscribed")


def test_a_frozen_account_keeps_its_subscription(run, account_id):
    sql("UPDATE accounts SET frozen_reason = 'chargeback' WHERE id = :id", id=account_id)

    assert facts_of(run("plans", "subscribe", account_id, "starter", "--json"))["status"] == "active"
    assert the_account(account_id).balance == 500
