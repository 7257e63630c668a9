"""Published prices beside the catalogue's: what is proposed, what is left out and why, and what is taken over."""

from __future__ import annotations

from decimal import Decimal
from importlib.metadata import version

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import TieredPrices

from billing.catalog import history, price_sync
from billing.catalog.price_rules import ImplausiblePrice
from billing.catalog.price_sync import PUBLISHED
from config.database import transaction
from tests.catalogue import EMBEDDING, TOKEN_IMAGE, change, everything, sql
from tests.factories import NOON, rows

pytestmark = pytest.mark.usefixtures("db")
SEEDED = ["gpt-5.1", "gpt-4o", "gpt-4o-mini"]
BY_THE_IMAGE = dict.fromkeys(["dall-e-3", "runware:97@1", "google:4@2"], "is billed by the image")
TEXT = {
    "model_type": "text",
    "input_cost_per_1m": "2",
    "output_cost_per_1m": "8",
    "context_window": "100000",
    "max_output_tokens": "10000",
}


def compare():
    with transaction() as session:
        return price_sync.compare(session, now=NOON)


def proposed():
    return {(each.model, each.field): (each.current, each.published) for each in compare().changes}


def take_over(changes, **given):
    with transaction() as session:
        history.act_as(session, "ada")
        price_sync.apply(session, changes, **given)


def rates(name):
    (found,) = rows(f"SELECT {', '.join(PUBLISHED)} FROM ai_model_config WHERE model_name = :name", name=name)
    return dict(zip(PUBLISHED, found, strict=True))


def published(name, provider="openai"):
    """What the package says, asked in another way: our rates that it has, and None for one by the request's length."""
    (company,) = [each for each in get_snapshot().providers if each.id == provider]
    (model,) = [each for each in company.models if each.id == name]
    found = {ours: getattr(model.get_prices(NOON), theirs) for ours, theirs in PUBLISHED.items()}
    return {ours: None if isinstance(rate, TieredPrices) else rate for ours, rate in found.items() if rate is not None}


def test_the_seeded_models_agree_or_differ_exactly_as_the_package_says():
    expected = {
        (name, field): (rates(name)[field], rate)
        for name in SEEDED
        for field, rate in published(name).items()
        if rates(name)[field] != rate
    }

    compared = compare()

    assert proposed() == expected
    assert list(compared.agreeing) == [name for name in SEEDED if name not in {model for model, _ in expected}]
    assert compared.left_out == BY_THE_IMAGE
    assert compared.source == f"genai-prices {version('genai-prices')}"


def test_the_seeded_rates_are_those_that_are_published():
    for name in SEEDED:
        assert rates(name) == published(name)


@pytest.mark.parametrize("field", PUBLISHED)
def test_a_rate_that_was_changed_is_proposed_back(field):
    right = rates("gpt-4o")[field]
    change("set_model", "gpt-4o", **{field: str(right * Decimal("1.1"))}, force=True)

    (found,) = compare().changes

    assert (found.model, found.field, found.published) == ("gpt-4o", field, right)
    assert (found.current, found.objection) == (right * Decimal("1.1"), None)
    assert compare().agreeing == ["gpt-5.1", "gpt-4o-mini"]


def test_a_rate_that_is_missing_is_proposed():
    change("set_model", "gpt-4o", cached_input_cost_per_1m="none")

    assert proposed() == {("gpt-4o", "cached_input_cost_per_1m"): (None, Decimal("1.25"))}


def test_comparing_writes_nothing():
    change("set_model", "gpt-4o", output_cost_per_1m="9")
    before = everything()

    compare()

    assert everything() == before


def test_what_is_taken_over_is_kept_in_the_history():
    change("set_model", "gpt-4o", input_cost_per_1m="2", output_cost_per_1m="8")
    change("set_model", "gpt-5.1", output_cost_per_1m="8")

    take_over(compare().changes)

    assert compare().changes == []
    assert rates("gpt-4o") == published("gpt-4o")
    with transaction() as session:
        newest = [
            (each.actor, each.field, each.old, each.new)
            for name in ("gpt-4o", "gpt-5.1")
            for each in history.changes(session, history.MODEL, name, limit=1).rows
        ]
    assert sorted(newest) == [
        ("ada", "input_cost_per_1m", 2, 2.5),
        ("ada", "output_cost_per_1m", 8, 10),
        ("ada", "output_cost_per_1m", 8, 10),
    ]


def test_only_the_chosen_changes_are_taken_over():
    change("set_model", "gpt-4o", input_cost_per_1m="2", output_cost_per_1m="8")

    take_over([each for each in compare().changes if each.field == "output_cost_per_1m"])

    assert [each.field for each in compare().changes] == ["input_cost_per_1m"]


def test_an_implausible_change_is_objected_to_and_needs_force():
    change("set_model", "gpt-4o", output_cost_per_1m="0.9", force=True)
    change("set_model", "gpt-5.1", output_cost_per_1m="9")
    changes = compare().changes
    before = everything()

    assert {each.model: each.objection is None for each in changes} == {"gpt-5.1": True, "gpt-4o": False}
    with pytest.raises(ImplausiblePrice, match="a change of 10 times or more"):
        take_over(changes)
    assert everything() == before

    take_over(changes, force=True)
    assert compare().changes == []


def test_the_objection_is_the_sentence_of_the_refusal():
    change("set_model", "gpt-4o", output_cost_per_1m="0.9", force=True)
    (found,) = compare().changes

    with pytest.raises(ImplausiblePrice) as refused:
        take_over([found])

    assert found.objection == refused.value.message


def test_rates_that_belong_together_are_judged_together():
    # Taken alone, the published cached rate of 1.25 would be dearer than this fresh input.
    change("set_model", "gpt-4o", input_cost_per_1m="1", cached_input_cost_per_1m="0.5")
    changes = compare().changes

    assert [(each.field, each.objection) for each in changes] == [
        ("input_cost_per_1m", None),
        ("cached_input_cost_per_1m", None),
    ]
    take_over(changes)
    assert rates("gpt-4o") == published("gpt-4o")


def test_images_that_are_billed_by_tokens_and_embeddings_are_compared_too():
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)
    change("add_model", "text-embedding-3-small", **EMBEDDING | {"input_cost_per_1m": "0.03"})

    assert proposed() == {
        ("gpt-image-1", "cached_input_cost_per_1m"): (None, Decimal("1.25")),
        ("text-embedding-3-small", "input_cost_per_1m"): (Decimal("0.03"), Decimal("0.02")),
    }
    take_over(compare().changes)
    assert compare().changes == []


@pytest.mark.parametrize(
    ("name", "provider", "reason"),
    [
        ("gemini-2.5-pro",    "google",    "has prices that depend on the length of the request"),
        ("claude-sonnet-4-5", "anthropic", "has prices that depend on the length of the request"),
        ("our-own-model",     "openai",    "is not published"),
        ("gpt-4o",            "runware",   "is not published"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_left_out_with_its_reason(name, provider, reason):
    if name == "gpt-4o":
        sql("DELETE FROM ai_model_config WHERE model_name = 'gpt-4o'")
    change("add_model", name, provider=provider, **TEXT)

    compared = compare()

    assert name not in compared.agreeing
    assert [each for each in compared.changes if each.model == name] == []
    assert compared.left_out == BY_THE_IMAGE | {name: reason}


def test_a_model_that_is_published_without_any_of_our_rates_does_not_agree():
    change("add_model", "whisper-1", provider="openai", **TEXT)
    assert published("whisper-1") == {}

    compared = compare()

    assert "whisper-1" not in compared.agreeing
    assert "whisper-1" in compared.left_out


@pytest.mark.parametrize(("name", "provider"), [("gemini-2.5-pro", "google"), ("claude-sonnet-4-5", "anthropic")])
def test_the_package_still_has_the_lengthy_prices_that_these_tests_need(name, provider):
    assert None in published(name, provider).values()
