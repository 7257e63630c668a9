"""The list of the mutation check is whole: no guard of the database is left out, and each of the code is found."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import CheckConstraint, UniqueConstraint

from billing.schema import TABLES
from config.database import Base
from tests.mutation.check import ROOT, SCHEMA_COMPARISON
from tests.mutation.guards import FORM_ONLY, GUARDS

OF_CODE = [guard for guard in GUARDS if guard.edit]
TESTS = sorted({test for guard in GUARDS for test in guard.tests})


def constraints_of_the_code() -> set[str]:
    defined = Base.metadata.tables.values()
    assert len(defined) > 15
    rules = {
        str(rule.name)
        for table in defined
        for rule in table.constraints
        if isinstance(rule, CheckConstraint | UniqueConstraint)
    }
    return rules | {str(index.name) for table in defined for index in table.indexes if index.unique}


def test_all_tables_are_looked_at():
    mapped = {mapper.class_.__module__ for mapper in Base.registry.mappers}

    assert mapped == {module.__name__ for module in TABLES}


def test_every_check_and_unique_constraint_is_a_guard_or_has_its_reason():
    listed = {guard.constraint for guard in GUARDS if guard.constraint}

    assert constraints_of_the_code() - listed == set(FORM_ONLY)
    assert all(FORM_ONLY.values())


def test_every_trigger_of_the_migrations_is_a_guard():
    made = "".join(path.read_text() for path in (ROOT / "billing/migrations/versions").glob("*.py"))
    names = set(re.findall(r"CREATE TRIGGER (\w+)", made))

    dropped = {re.match(r"DROP TRIGGER (\w+) ON", guard.sql)[1] for guard in GUARDS if "TRIGGER" in guard.sql}

    assert names == dropped


@pytest.mark.parametrize("guard", OF_CODE, ids=[guard.name for guard in OF_CODE])
def test_a_guard_of_the_code_stands_there_exactly_once(guard):
    source = (ROOT / guard.edit.path).read_text(encoding="utf-8")

    assert source.count(guard.edit.old) == 1
    # What takes its place is still a program: a mutant that cannot start would show nothing.
    if guard.edit.path.endswith(".py"):
        compile(source.replace(guard.edit.old, guard.edit.new), guard.edit.path, "exec")


def test_no_two_guards_have_one_name():
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


def test_every_guard_is_taken_away_in_one_way_and_has_its_tests():
    assert [guard.name for guard in GUARDS if bool(guard.sql) == bool(guard.edit) or not guard.tests] == []


@pytest.mark.parametrize("test", TESTS)
def test_every_test_that_should_notice_exists(test):
    path, _, name = test.partition("::")
    source = (ROOT / path).read_text(encoding="utf-8")

    assert not name or re.search(rf"^def {re.escape(name.partition('[')[0])}\(", source, re.MULTILINE)
    # A module as a whole must not bring in the comparison of schemas, which notices whatever is dropped.
    assert SCHEMA_COMPARISON.partition("::")[0] != test
