"""Every rate, size, operation and limit is a row of the database: none of them stands in the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from billing.migrations.first import seeds
from tests.unit.test_architecture import ROOT, sources

SEEDING = ROOT / "billing" / "migrations"
# The simulated provider is a double for tests and demos: it knows what a provider knows.
DOUBLE = ROOT / "workers" / "simulator"
SIZE = re.compile(r"\b\d{2,5}x\d{2,5}\b")
# Bounds of what is plausible, and a rounding step: nothing is billed by them.
NO_PRICES = {"billing/catalog/price_rules.py", "billing/money.py"}

NAMES = {
    *(model["model_name"] for model in [*seeds.MODELS, *seeds.IMAGE_MODELS]),
    *(operation[0] for operation in seeds.OPERATIONS),
    *(name for name, _ in seeds.LIMIT_TYPES),
}
# Words of the language beside names of operations.
NAMES -= {"linking"}


def code() -> list[Path]:
    return [path for path in sources() if not path.is_relative_to(SEEDING) and not path.is_relative_to(DOUBLE)]


def constants(source: str) -> list[tuple[int, object]]:
    """Every constant of a module with its line, docstrings left out: they may show examples."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told
    ]


def findings(source: str, *, priced: bool = True) -> list[tuple[int, str]]:
    """What a module says that only the database may say; `priced` looks for amounts, too."""
    found = []
    for line, value in constants(source):
        if priced and isinstance(value, float) and value not in (0.0, 0.5, 1.0):
            found.append((line, f"the number {value}"))
        if not isinstance(value, str):
            continue
        named = NAMES & set(re.findall(r"[\w:@.-]+", value))
        found += [(line, f"the name {name}") for name in sorted(named)]
        found += [(line, f"the size {size}") for size in SIZE.findall(value)]
        if priced and re.fullmatch(r"\d*\.\d+", value):
            found.append((line, f"the amount {value}"))
    return found


@pytest.mark.parametrize("path", code(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_rate_size_operation_or_limit_stands_in_the_code(path):
    place = path.relative_to(ROOT).as_posix()

    # Beside the business, a number with decimals is a time in seconds.
    assert (
        findings(path.read_text(encoding="utf-8"), priced=place.startswith("billing/") and place not in NO_PRICES) == []
    )


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('RATES = {"gpt-4o": 1}', "the name gpt-4o"),
        ('SIZES = ("1024x1024",)', "the size 1024x1024"),
        ('rate = Decimal("0.04")', "the amount 0.04"),
        ("rate = 0.013", "the number 0.013"),
        ('if operation == "image_generation": pass', "the name image_generation"),
        ("LIMITS = {'content_words': 5}", "the name content_words"),
        ('statement = "amount_used FROM content_words"', "the name content_words"),
    ],
)
def test_the_search_finds_what_it_looks_for(source, what):
    assert [found for _, found in findings(source)] == [what]


def test_an_example_in_a_docstring_is_no_finding():
    assert findings('"""creditmill models set gpt-4o input_cost_per_1m=2.5"""') == []
