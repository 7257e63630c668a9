"""`creditmill quote`: what requests and usages cost, without submitting them."""

from __future__ import annotations

import json

from tests.factories import a_reserved_job, an_account, rows
from tests.integration.commands.told import a_line, lines


def test_a_request_is_quoted_at_its_worst_case(run):
    account_id = an_account(3)
    a_reserved_job(account_id, params={"prompt": "x", "max_output_tokens": 16})
    image = json.dumps({"operation": "image_generation", "params": {"prompt": "x", "n": 2}})

    code, out, _ = run("quote", "--account", account_id, stdin=f"{a_line()}\n{image}\n")

    text, two_images = lines(out)
    assert code == 1
    assert (text["accepted"], two_images["accepted"]) == (True, False)
    assert (text["credits"], text["affordable"], text["available"]) == (2, True, 2)
    assert (two_images["credits"], two_images["short"], two_images["held"]) == (10, 8, 1)
    assert two_images["error"] == "insufficient_credits"
    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


def test_a_quote_without_a_refusal_exits_with_0_and_a_line_without_a_quote_counts_more_than_a_refusal(run):
    rich, poor = an_account(1000), an_account(0)

    assert run("quote", "--account", rich, stdin=f"{a_line()}\n{a_line()}\n")[0] == 0
    assert run("quote", "--account", poor, stdin=f"{a_line()}\n{a_line()}\n")[0] == 1
    assert run("quote", "--account", poor, stdin=f"{a_line()}\n{a_line('juggling')}\n")[0] == 2


def test_a_usage_is_quoted_with_cost_and_margin(run):
    usage = {
        "operation": "clustering",
        "model": "gpt-4o-mini",
        "input_tokens": 1000,
        "cached_input_tokens": 1000,
        "output_tokens": 500,
    }
    image = {
        "operation": "image_generation",
        "model": "dall-e-3",
        "images": 1,
        "size": "1024x1024",
        "quality": "standard",
    }
    wrong = {"operation": "clustering", "input_tokens": -1}

    code, out, _ = run("quote", "--account", an_account(), stdin="\n".join(map(json.dumps, [usage, image, wrong])))

    text, picture, refused = lines(out)
    assert code == 2
    assert text == {
        "line": 1,
        "credits": 25,
        "cost_usd": "0.0005250000",
        "revenue_usd": "0.2500000000",
        "margin_usd": "0.2494750000",
    }
    assert (picture["credits"], picture["margin_usd"]) == (5, "0.0600000000")
    assert refused["error"] == "invalid_usage"
