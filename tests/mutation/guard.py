"""What a guard is, and short ways to write one down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A change of one file: `old` stands in it exactly once."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Guard:
    """One guard: its promise, the tests that should notice its removal, and either SQL or an edit that removes it."""

    name: str
    tests: tuple[str, ...]
    edit: Edit | None = None
    sql: str = ""
    constraint: str = ""


def located(short: tuple[str, ...]) -> tuple[str, ...]:
    """`charging::test_x` is a test of tests/integration/jobs/test_charging.py, `unit/policy` a module of tests/unit."""
    whole = []
    for each in short:
        module, _, test = each.partition("::")
        folder, _, name = module.rpartition("/")
        whole.append(f"tests/{folder or 'integration'}/test_{name}.py" + (f"::{test}" if test else ""))
    return tuple(whole)


def rule(table: str, constraint: str, promise: str, *tests: str) -> Guard:
    drop = f"ALTER TABLE {table} DROP CONSTRAINT {constraint} CASCADE"
    return Guard(f"{promise} ({constraint})", located(tests or (direct(constraint),)), sql=drop, constraint=constraint)


def direct(constraint: str) -> str:
    return f"guards::test_the_database_refuses_it_by_itself[{constraint}]"


def checks(table: str, **promises: str) -> list[Guard]:
    """The CHECKs of one table, which have a direct test each."""
    return [rule(table, f"ck_{table}_{name}", promise) for name, promise in promises.items()]


def trigger(table: str, name: str, promise: str, *tests: str) -> Guard:
    return Guard(f"{promise} (trigger {name} of {table})", located(tests), sql=f"DROP TRIGGER {name} ON {table}")


def code(path: str, promise: str, old: str, new: str, *tests: str) -> Guard:
    return Guard(promise, located(tests), edit=Edit(path, old, new))
