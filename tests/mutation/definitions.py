"""Where things are defined: functions, classes and constants of the product by their names, tests by theirs.

A name is as much of the dotted path's end as makes it unique: `settle`, or `job_queries.lock` where several are called
`lock`. So what moves to another module is found there.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).parents[2]
_one_at_a_time = Lock()
PRODUCT = ("billing", "tasks", "config", "workers", "celeryconfig.py")


@dataclass(frozen=True)
class Definition:
    """Something that the product defines: its whole dotted name, its file below the root, and its own syntax tree."""

    name: str
    path: Path
    node: ast.AST


def find(name: str, root: Path = ROOT) -> Definition:
    """The one definition of this name; raises ValueError when there is none, or several."""
    found = _product(root).get(name, [])
    if len(found) != 1:
        raise ValueError(f"{name} is defined {len(found)} times: {', '.join(each.name for each in found) or 'nowhere'}")
    return found[0]


def ids_of(name: str, root: Path = ROOT) -> list[str]:
    """The ids of the tests of this name, in every module that has them; raises ValueError when none has.

    `test_x[case]` is looked for where that case is written down.
    """
    function, _, case = name.rstrip("]").partition("[")
    paths = [path for path in _tests(root).get(function, []) if not case or _says(root / path, case)]
    if not paths:
        raise ValueError(f"there is no test {name}")
    return [f"{path}::{name}" for path in paths]


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, for the caller alone."""
    # CPython 3.11 keeps one depth for the trees of all threads, and raises SystemError when two are made at a time.
    with _one_at_a_time:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))


def named(module: ast.Module, path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The module of this path below the root, and everything that it defines, each with its dotted name."""
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    yield name, module
    yield from _inside(module, name)


def _inside(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield f"{name}.{node.name}", node
            yield from _inside(node, f"{name}.{node.name}")
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(tree, ast.Module | ast.ClassDef):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield f"{name}.{target.id}", node
        elif isinstance(node, ast.If | ast.For | ast.With | ast.Try):
            yield from _inside(node, name)


@cache
def _product(root: Path) -> dict[str, list[Definition]]:
    """Every definition under each of the ends of its name."""
    by_end: dict[str, list[Definition]] = defaultdict(list)
    for start in PRODUCT:
        for path in sorted((root / start).rglob("*.py")) if (root / start).is_dir() else [root / start]:
            below = path.relative_to(root)
            for name, node in named(parsed(path), below):
                parts = name.split(".")
                for first in range(len(parts)):
                    by_end[".".join(parts[first:])].append(Definition(name, below, node))
    return by_end


@cache
def _tests(root: Path) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in sorted((root / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            by_name[name].append(path.relative_to(root).as_posix())
    return by_name


@cache
def _says(path: Path, case: str) -> bool:
    cases = [node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)]
    return case in cases
