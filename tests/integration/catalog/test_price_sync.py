"""Published prices beside the catalogue's: what is proposed, what is left out and why, and what is taken over."""

from __future__ import annotations

from decimal import Decimal
from importlib.metadata import version
from typing import NamedTuple

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import TieredPrices

from billing.catalog import history, price_sync
from billing.catalog.price_rules import ImplausiblePrice
from billing.catalog.tables import AIModelConfig
from config.database import transaction
from tests.catalogue import EMBEDDING, TOKEN_IMAGE, change, everything, sql
from tests.factories import NOON, rows

pytestmark = pytest.mark.usefixtures("db")
PUBLISHED = {
    "input_cost_per_1m": "input_mtok",
    "cached_input_cost_per_1m": "cache_read_mtok",
    "output_cost_per_1m": "output_mtok",
}
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
        ("gpt-image-1", "image_input_cost_per_1m"): (None, Decimal(10)),
        ("text-embedding-3-small", "input_cost_per_1m"): (Decimal("0.03"), Decimal("0.02")),
    }
    take_over(compare().changes)
    assert compare().changes == []


@pytest.mark.parametrize(
    ("name", "provider", "reason"),
    [
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


# --- Each kind of rate by its own ---


def stored(name, *fields):
    (found,) = rows(f"SELECT {', '.join(fields)} FROM ai_model_config WHERE model_name = :name", name=name)
    return found


def test_a_rate_of_text_never_takes_the_place_of_a_rate_of_images():
    change("add_model", "gpt-image-1.5", **TOKEN_IMAGE | {"input_cost_per_1m": "5", "output_cost_per_1m": "32"})

    take_over(compare().changes, force=True)

    assert stored("gpt-image-1.5", "input_cost_per_1m", "output_cost_per_1m", "image_output_cost_per_1m") == (
        5,
        32,
        None,
    )
    assert compare().changes == []


def test_with_a_rate_of_its_own_for_images_the_text_of_an_image_model_is_compared_too():
    given = {"input_cost_per_1m": "5", "output_cost_per_1m": "8", "image_output_cost_per_1m": "30"}
    change("add_model", "gpt-image-1.5", **TOKEN_IMAGE | given)

    take_over(compare().changes)

    assert stored("gpt-image-1.5", "output_cost_per_1m", "image_output_cost_per_1m") == (10, 32)
    assert stored("gpt-image-1.5", "image_input_cost_per_1m", "cached_input_cost_per_1m") == (8, Decimal("1.25"))


@pytest.mark.parametrize(
    ("name", "provider", "above", "long", "writes"),
    [
        ("gemini-2.5-pro",    "google",    200_000, ("2.5", "0.25", "15"),   (None, None)),
        ("claude-sonnet-4-5", "anthropic", 200_000, ("6", "0.6", "22.5"),    ("3.75", "6")),
    ],
)  # fmt: skip
def test_long_requests_and_cache_writes_get_the_rates_that_are_published(name, provider, above, long, writes):
    change("add_model", name, provider=provider, **TEXT)

    take_over(compare().changes, force=True)

    assert name in compare().agreeing
    fields = [f"long_context_{each}_cost_per_1m" for each in ("input", "cached_input", "output")]
    assert stored(name, "long_context_above", *fields) == (above, *map(Decimal, long))
    assert stored(name, "cache_write_cost_per_1m", "cache_write_1h_cost_per_1m") == tuple(
        each and Decimal(each) for each in writes
    )


def test_what_is_not_published_stays_as_it_is():
    change("set_model", "gpt-4o", reasoning_cost_per_1m="20", long_context_above="100000",
           long_context_input_cost_per_1m="5", long_context_output_cost_per_1m="20")  # fmt: skip

    assert compare().changes == []


class Tier(NamedTuple):
    start: int
    price: Decimal


class Steps(NamedTuple):
    base: Decimal
    tiers: tuple[Tier, ...]


def steps(base, *tiers):
    return Steps(Decimal(base), tuple(Tier(start, Decimal(price)) for start, price in tiers))


# Published prices, by the names of the source; the row that they are for; what our fields should have.
SOURCES = [
    ("text", {},
     {"input_mtok": 2, "output_mtok": 8, "input_audio_mtok": 40, "input_image_mtok": 9, "web_searches_kcount": 10},
     {"input_cost_per_1m": 2, "output_cost_per_1m": 8},                       "only what the model uses"),
    ("text", {"audio_input_cost_per_1m": Decimal(30)},
     {"input_mtok": 2, "output_mtok": 8, "input_audio_mtok": 40},
     {"input_cost_per_1m": 2, "output_cost_per_1m": 8, "audio_input_cost_per_1m": 40}, "a rate that the row has"),
    ("text", {},
     {"input_mtok": 2, "output_mtok": 8, "cache_write_mtok": 3, "cache_write_5m_mtok": 4, "cache_write_1h_mtok": 5},
     {"input_cost_per_1m": 2, "output_cost_per_1m": 8, "cache_write_cost_per_1m": 4, "cache_write_1h_cost_per_1m": 5},
                                                                              "five minutes before any"),
    ("text", {},
     {"input_mtok": steps(2, (9, 3)), "output_mtok": steps(8, (9, 9)), "cache_write_mtok": steps(3, (9, 4))},
     {"input_cost_per_1m": 2, "output_cost_per_1m": 8, "cache_write_cost_per_1m": 3, "long_context_above": 9,
      "long_context_input_cost_per_1m": 3, "long_context_output_cost_per_1m": 9}, "a second step"),
    ("text", {}, {"input_mtok": steps(2, (9, 3), (99, 4)), "output_mtok": 8},
     "has prices in more than two steps",                                     "a third step"),
    ("text", {}, {"input_mtok": steps(2, (9, 3)), "output_mtok": steps(8, (99, 9))},
     "has prices whose steps begin at different lengths",                     "steps apart"),
    ("text", {}, {"audio_hours": 1, "input_audio_mtok": 3}, "is published without rates by the token", "none of ours"),
    ("image", {}, {"input_mtok": 5, "output_mtok": 10, "output_image_mtok": 32, "input_image_mtok": 8},
     {"input_cost_per_1m": 5, "output_cost_per_1m": 32, "image_input_cost_per_1m": 8}, "images by the plain rate"),
    ("image", {"image_output_cost_per_1m": Decimal(1)}, {"input_mtok": 5, "output_mtok": 10, "output_image_mtok": 32},
     {"input_cost_per_1m": 5, "output_cost_per_1m": 10, "image_output_cost_per_1m": 32}, "images by their own rate"),
    ("image", {}, {"input_mtok": 5, "output_mtok": 40},
     {"input_cost_per_1m": 5, "output_cost_per_1m": 40},                      "one rate of output"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "prices", "rates", "rule"), SOURCES, ids=[each[-1] for each in SOURCES])
def test_published_prices_belong_into_our_fields(kind, row, prices, rates, rule):
    model = AIModelConfig(model_type=kind, **row)

    found = price_sync.rates_of(model, prices)

    assert found == rates, rule
