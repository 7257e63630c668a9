"""How a guard of the code is taken away: a small change of one definition, told by names and never by its text.

Each operator finds exactly one place in the definition, or refuses. A place is told by what it mentions: a name, the
last part of a dotted one, or more of it (`posting.lock`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutation.definitions import ROOT, find, named, parsed

Edits = dict[ast.AST, ast.AST]
"""Nodes of a tree, each with what takes its place."""
CHAINS = ("where", "and_", "or_")
"""The calls whose arguments are clauses."""


@dataclass(frozen=True)
class Mutation:
    """A change of the definition of this name: what it does, and how it finds its place."""

    of: str
    what: str
    change: Callable[[ast.AST], Edits] = field(repr=False, compare=False)

    def apply(self, root: Path = ROOT) -> tuple[Path, str]:
        """The file below the root that is changed, and its new text; raises ValueError when it is not one place."""
        definition = find(self.of, root)
        tree = parsed(root / definition.path)
        node = dict(named(tree, definition.path))[definition.name]
        try:
            edits = self.change(node)
        except ValueError as error:
            raise ValueError(f"{self.of} {self.what}: {error}") from None
        before = ast.unparse(tree)
        text = ast.unparse(ast.fix_missing_locations(_Exchange(edits).visit(tree)))
        if text == before:
            raise ValueError(f"{self.of} {self.what}: nothing changes")
        compile(text, str(definition.path), "exec")
        return definition.path, text


def drops(of: str, name: str) -> Mutation:
    """Without the statement that calls NAME, or that writes to an attribute or an element called so."""

    def change(tree: ast.AST) -> Edits:
        return {_one(node for node in ast.walk(tree) if _does(node, name)): ast.Pass()}

    return Mutation(of, f"without what {name} does", change)


def always(of: str, name: str) -> Mutation:
    """As if the condition that mentions NAME were always true: of `if`, `while`, a comprehension, or an assertion."""
    return Mutation(of, f"as if {name} were always as asked", lambda tree: _decided(tree, name, True))


def never(of: str, name: str) -> Mutation:
    """As if the condition that mentions NAME were never true."""
    return Mutation(of, f"as if {name} were never as asked", lambda tree: _decided(tree, name, False))


def drops_clause(of: str, name: str) -> Mutation:
    """Without the one clause that mentions NAME, of an `and`, an `or`, a `.where(...)`, an `and_` or an `or_`."""

    def change(tree: ast.AST) -> Edits:
        chain, clause = _one(_innermost(_clauses(tree), name))
        return {chain: _without(chain, clause)}

    return Mutation(of, f"without its clause about {name}", change)


def drops_call(of: str, method: str) -> Mutation:
    """Without one link of a chain of calls: `.with_for_update()`, `.order_by(...)`, `.on_conflict_do_nothing()`."""

    def change(tree: ast.AST) -> Edits:
        call = _one(node for node in ast.walk(tree) if isinstance(node, ast.Call) and _method(node) == method)
        return {call: call.func.value}

    return Mutation(of, f"without .{method}()", change)


def drops_value(of: str, name: str) -> Mutation:
    """Without the keyword argument, or the entry of a dictionary, that is called NAME."""

    def change(tree: ast.AST) -> Edits:
        holder, place, _ = _one(_given(tree, name))
        less = deepcopy(holder)
        if isinstance(less, ast.Call):
            del less.keywords[place]
        else:
            del less.keys[place], less.values[place]
        return {holder: less}

    return Mutation(of, f"without {name}", change)


def gives(of: str, name: str, value: str) -> Mutation:
    """With another value, an expression of `was`, for the keyword argument or the dictionary's entry called NAME."""

    def change(tree: ast.AST) -> Edits:
        _, _, old = _one(_given(tree, name))
        return {old: _expression(value, old)}

    return Mutation(of, f"with {name}={value}", change)


def assigns(of: str, name: str, value: str) -> Mutation:
    """With another value, an expression, for the variable NAME that is assigned to once."""

    def change(tree: ast.AST) -> Edits:
        old = _one(node.value for node in ast.walk(tree) if name in _names_assigned(node))
        return {old: _expression(value, old)}

    return Mutation(of, f"with {name} = {value}", change)


def returns(of: str, value: str, *, instead_of: str = "") -> Mutation:
    """With another value, an expression, in the only `return`, or in the one that mentions a name."""

    def change(tree: ast.AST) -> Edits:
        found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
        old = _one(node for node in found if not instead_of or _mentions(node, instead_of))
        return {old: _expression(value, old)}

    return Mutation(of, f"returning {value}", change)


def calls(of: str, other: str, *, instead_of: str) -> Mutation:
    """With a call of another function, by an expression, instead of the one of this name; the arguments stay."""

    def change(tree: ast.AST) -> Edits:
        called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        old = _one(node for node in called if _is(node, instead_of))
        return {old: _expression(other, old)}

    return Mutation(of, f"calling {other} instead of {instead_of}", change)


def says(of: str, pattern: str, becomes: str = "") -> Mutation:
    """With other SQL: what the regular expression finds, once in all of the strings, is removed or replaced."""

    def change(tree: ast.AST) -> Edits:
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        old = _one(node for node in texts for _ in re.finditer(pattern, node.value))
        return {old: ast.Constant(re.sub(pattern, lambda _: becomes, old.value))}

    return Mutation(of, f"with {becomes!r} for {pattern!r}", change)


def too_early(of: str, name: str) -> Mutation:
    """With the statement that calls NAME inside the `with` block that it follows, instead of after it."""

    def change(tree: ast.AST) -> Edits:
        bodies = [part for node in ast.walk(tree) for part in _bodies(node)]
        body, place = _one((body, n) for body in bodies for n, each in enumerate(body) if _does(each, name))
        block = next((n for n in range(place - 1, -1, -1) if isinstance(body[n], ast.With)), None)
        if block is None:
            raise ValueError("no `with` comes before it")
        longer = ast.With(body[block].items, [*body[block].body, body[place]])
        return {body[block]: longer, body[place]: ast.Pass()}

    return Mutation(of, f"with {name} before the end of the transaction", change)


class _Exchange(ast.NodeTransformer):
    def __init__(self, edits: Edits) -> None:
        self._edits = edits

    def visit(self, node: ast.AST) -> ast.AST:
        return self._edits[node] if node in self._edits else self.generic_visit(node)


def _one(found):
    """The only one of these; raises ValueError for none and for several."""
    found = list(found)
    if len(found) != 1:
        raise ValueError(f"found {len(found)} times")
    return found[0]


def _is(node: ast.AST, name: str) -> bool:
    """Whether this node is the name: as a variable, an attribute, or a text."""
    if isinstance(node, ast.Constant):
        return node.value == name
    if isinstance(node, ast.Name | ast.Attribute):
        return f".{ast.unparse(node)}".endswith(f".{name}")
    return False


def _mentions(node: ast.AST, name: str) -> bool:
    return any(_is(each, name) for each in ast.walk(node))


def _does(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return _is(node.value.func, name)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return any(isinstance(each, ast.Attribute | ast.Subscript) and _mentions(each, name) for each in targets)


def _decided(tree: ast.AST, name: str, outcome: bool) -> Edits:
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert)]
    tests += [test for node in ast.walk(tree) if isinstance(node, ast.comprehension) for test in node.ifs]
    return {_one(test for test in tests if _mentions(test, name)): ast.Constant(outcome)}


def _clauses(tree: ast.AST) -> Iterable[tuple[ast.AST, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp):
            yield from ((node, clause) for clause in node.values)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in CHAINS:
            yield from ((node, clause) for clause in node.args)


def _innermost(clauses: Iterable[tuple[ast.AST, ast.AST]], name: str) -> list[tuple[ast.AST, ast.AST]]:
    found = [(chain, clause) for chain, clause in clauses if _mentions(clause, name)]
    return [
        (chain, clause)
        for chain, clause in found
        if not any(other is not clause and any(other is each for each in ast.walk(clause)) for _, other in found)
    ]


def _without(chain: ast.AST, clause: ast.AST) -> ast.AST:
    if isinstance(chain, ast.BoolOp):
        rest = [each for each in chain.values if each is not clause]
        return ast.BoolOp(chain.op, rest) if len(rest) > 1 else rest[0]
    rest = [each for each in chain.args if each is not clause]
    if not rest and isinstance(chain.func, ast.Attribute):
        return chain.func.value
    return ast.Call(chain.func, rest, chain.keywords)


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _given(tree: ast.AST, name: str) -> Iterable[tuple[ast.AST, int, ast.AST]]:
    """Every call with this keyword argument and every dictionary with this entry: it, its place, the value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from ((node, n, each.value) for n, each in enumerate(node.keywords) if each.arg == name)
        elif isinstance(node, ast.Dict):
            for n, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
                if key is not None and _is(key, name):
                    yield node, n, value


def _names_assigned(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _expression(text: str, was: ast.AST) -> ast.AST:
    class Was(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return deepcopy(was) if node.id == "was" else node

    return Was().visit(ast.parse(text, mode="eval").body)


def _bodies(node: ast.AST) -> Iterable[list[ast.stmt]]:
    lists = (part for _, part in ast.iter_fields(node) if isinstance(part, list))
    return [part for part in lists if part and isinstance(part[0], ast.stmt)]
