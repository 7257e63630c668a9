"""Any JSON value, with every character that text can hold, half surrogates among them."""

from __future__ import annotations

from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None, exclude_categories=())), inner),
    max_leaves=10,
)
