"""What a line of code can read off its room: who speaks SQL, who reads whose queries, and by which name a module goes.

The order of the rooms, and what tasks and workers may see, are contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_architecture import PACKAGES, ROOT, module_of, sources

SPEAKS_SQL = ("queries.py", "tables.py", "migrating.py", "billing/sql.py")
"""Queries say what is read and written, tables what their columns default to; migrating takes a lock; sql joins."""
WORDS = {"select", "text", "insert", "update", "delete", "func", "exists", "case", "literal", "bindparam"}
SENDS = {"execute", "scalar", "scalars", "get", "get_one", "query"}
"""What sends a statement, when a session is asked for it."""
PURE = (
    *("errors", "money", "paging", "periods", "pricing", "price_rules", "lifecycle", "units", "states", "policy"),
    "decisions",
)


def billing() -> list[Path]:
    return [path for path in sources() if "billing" in path.parts and "migrations" not in path.parts]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[tuple[str, str, str | None]]:
    """Each name that this module imports from one of our packages: the module, the name, and what it calls it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            yield from ((node.module, alias.name, alias.asname) for alias in node.names)


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def sql_in(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sqlalchemy"):
            found |= {alias.name for alias in node.names} & WORDS
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SENDS:
            asked = node.func.value
            if isinstance(asked, ast.Name) and asked.id == "session":
                found.add(f"session.{node.func.attr}")
    return found


@pytest.mark.parametrize("path", billing(), ids=place)
def test_only_queries_speak_sql(path):
    assert place(path).endswith(SPEAKS_SQL) or sql_in(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("from sqlalchemy import select", "select"),
        ("from sqlalchemy.dialects.postgresql import insert", "insert"),
        ("session.execute(statement)", "session.execute"),
        ("row = session.get_one(Job, 1)", "session.get_one"),
    ],
)
def test_what_speaks_sql_is_noticed(source, word):
    assert sql_in(source) == {word}


@pytest.mark.parametrize("path", billing(), ids=place)
def test_the_queries_of_a_noun_are_read_by_its_own_services(path):
    room = ".".join(path.parent.relative_to(ROOT).parts)
    read = {f"{module}.{name}" for module, name, _ in imported(path)}
    others = {each for each in read if "queries" in each and not each.startswith(f"{room}.")}

    assert others == set()


def test_every_table_and_every_query_is_out_of_sight_of_tasks_and_workers():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (forbidden,) = (each["forbidden_modules"] for each in contracts if each["name"].startswith("Tasks and workers see"))
    queries = {module_of(path) for path in billing() if path.name.endswith("queries.py")}

    assert set(forbidden) == queries | {"billing.*.tables"}


def test_every_pure_module_is_in_the_contract_of_pure_modules():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (pure,) = (each["source_modules"] for each in contracts if each["name"].startswith("Pure modules"))

    assert {module_of(path) for path in billing() if path.stem in PURE} <= set(pure)


@pytest.mark.parametrize("path", [path for path in sources() if path.name == "__init__.py"], ids=place)
def test_a_package_has_no_code_of_its_own(path):
    assert [node for node in tree(path).body if not isinstance(node, ast.Expr)] == []


@pytest.mark.parametrize("path", sources(), ids=place)
def test_no_module_is_called_by_another_name(path):
    assert [(module, name, other) for module, name, other in imported(path) if other is not None] == []


def test_only_the_ledger_has_the_statement_that_changes_a_balance():
    writes = re.compile(r"UPDATE accounts\b|update\(Account\)")
    found = {place(path) for path in sources() if writes.search(path.read_text(encoding="utf-8"))}

    assert found == {"billing/ledger/account_queries.py"}


LOGGERS = re.compile(r"structlog\.(?:\w+\.)?get_logger|logging\.getLogger")


def test_every_logger_is_made_by_our_own_function():
    # One of structlog's own prints to the stdout of a program that imports us; the simulator is a program by itself.
    found = {place(path) for path in sources() if LOGGERS.search(path.read_text(encoding="utf-8"))}

    assert found == {"config/logging.py", "workers/simulator/server.py"}
