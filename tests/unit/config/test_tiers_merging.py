"""Merging three tiers of settings, against a reference of three lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.tiers.merging import EMPTY, OwnSettings, Setting, Tier, merge

NAMES = ["a", "b", "c", "d"]
VALUES = st.one_of(
    st.none(), st.just(""), st.just([]), st.just({}), st.integers(-2, 2), st.booleans(), st.text(max_size=3)
)
TIERS = st.tuples(
    *(
        st.dictionaries(st.sampled_from(NAMES), VALUES.map(lambda value, tier=tier: Setting(value, tier)))
        for tier in Tier
    )
)


def reference(tiers):
    said = [{name: each for name, each in tier.items() if each.value not in EMPTY} for tier in tiers]
    names = {name for tier in said for name in tier}
    return {name: next(tier[name] for tier in reversed(said) if name in tier) for name in names}


@given(TIERS)
def test_the_tier_nearest_to_the_user_holds(tiers):
    assert merge(tiers) == reference(tiers)


@given(TIERS)
def test_merging_what_is_merged_changes_nothing(tiers):
    assert merge([merge(tiers)]) == merge(tiers) == merge([merge(tiers[:2]), tiers[2]])


@given(TIERS)
def test_no_empty_value_holds_and_none_is_invented(tiers):
    for name, setting in merge(tiers).items():
        assert setting.value not in EMPTY
        assert setting in [tier.get(name) for tier in tiers]


@pytest.mark.parametrize("value", [0, False, 0.0])
def test_nought_is_a_value(value):
    assert merge([{"a": Setting(1)}, {"a": Setting(value, Tier.ACCOUNT)}])["a"].value == value


def test_a_user_is_over_the_account_and_both_over_the_platform():
    platform = {"a": Setting(1), "b": Setting(1), "c": Setting(1)}
    own = OwnSettings(
        frozenset({7}),
        {
            (7, None): {"b": Setting(2, Tier.ACCOUNT), "c": Setting(2, Tier.ACCOUNT)},
            (7, 3): {"c": Setting(3, Tier.USER)},
        },
    )

    assert [own.over(platform, 7, user)["c"].value for user in (None, 3, 4)] == [2, 3, 2]
    assert {name: each.tier for name, each in own.over(platform, 7, 3).items()} == {
        "a": Tier.PLATFORM,
        "b": Tier.ACCOUNT,
        "c": Tier.USER,
    }


def test_an_account_whose_settings_were_not_read_is_no_account_without_any():
    with pytest.raises(AssertionError, match="were not read"):
        OwnSettings(frozenset({7})).over({}, 8, None)
