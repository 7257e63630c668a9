"""The list of the mutation check is whole: no guard of the database is left out, and each of the code is found."""

from __future__ import annotations

import ast

import pytest

from billing.schema import TABLES
from config.database import Base
from tests.mutation import definitions, operators
from tests.mutation.check import COMPARISON
from tests.mutation.guards import GUARDS, OF_CODE
from tests.mutation.guards_of_schema import FORM_ONLY, NOTICED_BY, OF_SCHEMA, constraints, triggers

NAMES = sorted({test for guard in GUARDS for test in guard.tests})


def test_all_tables_are_looked_at():
    mapped = {mapper.class_.__module__ for mapper in Base.registry.mappers}

    assert mapped == {module.__name__ for module in TABLES}


def test_every_constraint_is_a_guard_or_has_its_reason():
    rules = constraints()

    assert len(rules) > 90
    assert {drop for name, drop in rules.items() if name not in FORM_ONLY} <= {guard.sql for guard in OF_SCHEMA}
    assert set(FORM_ONLY) | set(NOTICED_BY) <= set(rules)
    assert set(FORM_ONLY) & set(NOTICED_BY) == set()
    assert all(FORM_ONLY.values())


def test_every_trigger_of_the_migrations_is_a_guard():
    made = {f"DROP TRIGGER {name} ON {table}" for table, name in triggers()}

    assert len(made) > 20
    assert made <= {guard.sql for guard in OF_SCHEMA}


@pytest.mark.parametrize("guard", OF_CODE, ids=[guard.promise for guard in OF_CODE])
def test_a_guard_of_the_code_is_found_exactly_once(guard):
    path, text = guard.mutation.apply()

    # What takes its place is still a program: a mutant that cannot start would show nothing.
    assert ast.dump(ast.parse(text)) != ast.dump(definitions.parsed(definitions.ROOT / path))


def test_no_two_guards_promise_or_remove_the_same():
    assert len({guard.promise for guard in GUARDS}) == len(GUARDS)
    assert len({guard.how() for guard in GUARDS}) == len(GUARDS)


def test_every_guard_is_taken_away_in_one_way_and_has_its_tests():
    assert [guard.promise for guard in GUARDS if bool(guard.sql) == bool(guard.mutation) or not guard.tests] == []


@pytest.mark.parametrize("test", NAMES)
def test_every_test_that_should_notice_exists(test):
    assert definitions.ids_of(test)
    # It notices whatever is dropped.
    assert test != COMPARISON


# --- An operator finds one place, or refuses ---

CODE = """
def take(session, ids, now):
    lock(session, ids)
    rows = select(Job).where(Job.id.in_(ids), Job.due <= now).order_by(Job.id).with_for_update()
    if not rows or rows.late:
        return None
    with transaction() as other:
        write(other, text("UPDATE jobs SET paid = true WHERE due"), key=1)
    publish(ids)
    return rows
"""


def changed(mutation):
    (function,) = ast.parse(CODE).body
    exchanged = operators._Exchange(mutation.change(function)).visit(function)
    return ast.unparse(ast.fix_missing_locations(exchanged))


@pytest.mark.parametrize(
    ("mutation", "gone", "come"),
    [
        (operators.drops("take", "lock"),                        "lock(session, ids)", "pass"),
        (operators.never("take", "late"),                        "if not rows or rows.late", "if False"),
        (operators.always("take", "late"),                       "if not rows or rows.late", "if True"),
        (operators.drops_clause("take", "late"),                 "or rows.late", "if not rows:"),
        (operators.drops_clause("take", "due"),                  ", Job.due <= now", ".where(Job.id.in_(ids))"),
        (operators.drops_call("take", "with_for_update"),        ".with_for_update()", ".order_by(Job.id)"),
        (operators.drops_value("take", "key"),                   ", key=1", "WHERE due'))"),
        (operators.gives("take", "key", "was + 1"),              "key=1)", "key=1 + 1)"),
        (operators.assigns("take", "rows", "[]"),                "select(Job)", "rows = []"),
        (operators.returns("take", "[was]", instead_of="rows"),  "return rows", "return [rows]"),
        (operators.calls("take", "print", instead_of="lock"),    "lock(session", "print(session"),
        (operators.says("take", " WHERE due"),                   "WHERE due", "paid = true')"),
        (operators.too_early("take", "publish"),                 "\n    publish(ids)", "\n        publish(ids)"),
    ],
    ids=lambda each: each.what if isinstance(each, operators.Mutation) else None,
)  # fmt: skip
def test_an_operator_changes_its_place_alone(mutation, gone, come):
    now = changed(mutation)

    assert gone in ast.unparse(ast.parse(CODE))
    assert gone not in now
    assert come in now


@pytest.mark.parametrize(
    "mutation",
    [
        operators.drops("take", "settle"),
        operators.never("take", "early"),
        operators.drops_clause("take", "Job"),
        operators.drops_call("take", "limit"),
        operators.drops_value("take", "keys"),
        operators.assigns("take", "now", "None"),
        operators.returns("take", "None"),
        operators.says("take", "e"),
        operators.too_early("take", "lock"),
    ],
    ids=lambda each: each.what,
)
def test_an_operator_refuses_what_is_not_one_place(mutation):
    with pytest.raises(ValueError, match=r"found \d times|no `with` comes"):
        changed(mutation)


@pytest.mark.parametrize(("name", "problem"), [("lock", "defined [0-9]+ times"), ("no_such", "nowhere")])
def test_a_name_that_is_not_one_definition_is_refused(name, problem):
    with pytest.raises(ValueError, match=problem):
        definitions.find(name)


def test_a_test_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no test"):
        definitions.ids_of("test_nothing_at_all")
