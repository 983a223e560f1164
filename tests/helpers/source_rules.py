# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The rules of the package's source, checked on its syntax trees: nothing is imported.

A rule is a function that takes a :class:`SourceTree` and returns its violations, one line of text each.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from pathlib import Path

MAX_POSITIONAL = 3
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """An import statement of one name.

    Args:
        module: full name of the module of the package that is imported or imported from.
        name: the name imported from it; None where the module itself is imported.
        bound: the name that it has in the importing file.
        line: line number of the statement.
    """

    module: str
    name: str | None
    bound: str
    line: int


class SourceTree:
    """The parsed files of a package.

    Args:
        root: folder of the package; its name is the package's.
    """

    def __init__(self, root: Path) -> None:
        self.package = root.name
        self.trees: dict[str, ast.Module] = {}
        self._packages: set[str] = set()
        for path in sorted(root.rglob("*.py")):
            parts = [self.package, *path.relative_to(root).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
                self._packages.add(".".join(parts))
            self.trees[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"), str(path))

    def room(self, module: str) -> str:
        """The part of the package that a module belongs to: the first name below the root, "" for the root itself."""
        parts = module.split(".")
        return parts[1] if len(parts) > 1 else ""

    def imports(self, module: str) -> list[Import]:
        """All imports of the package's own modules in a file, also those inside functions."""
        own = []
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                own += [Import(a.name, None, a.asname or a.name, node.lineno) for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                own += self._imports_from(module, node)
        return [entry for entry in own if entry.module in self.trees]

    def _imports_from(self, module: str, node: ast.ImportFrom) -> Iterator[Import]:
        source = node.module or ""
        if node.level:
            base = module.split(".") if module in self._packages else module.split(".")[:-1]
            base = base[: len(base) - (node.level - 1)]
            source = ".".join([*base, *source.split(".")]).rstrip(".")
        for alias in node.names:
            bound = alias.asname or alias.name
            if f"{source}.{alias.name}" in self.trees:
                yield Import(f"{source}.{alias.name}", None, bound, node.lineno)
            else:
                yield Import(source, alias.name, bound, node.lineno)


def upward_imports(tree: SourceTree, order: list[set[str]]) -> list[str]:
    """Imports of a room that stands higher than the importing one.

    Args:
        tree: the package.
        order: the rooms from low to high; those of one set may import each other.
    """
    rank = {room: i for i, rooms in enumerate(order) for room in rooms}
    violations = []
    for module in tree.trees:
        room = tree.room(module)
        if room not in rank:
            violations.append(f"{module}: the room '{room}' has no place in the order")
            continue
        for entry in tree.imports(module):
            target = tree.room(entry.module)
            if target in rank and rank[target] > rank[room]:
                violations.append(f"{module}: imports {entry.module}")
    return sorted(set(violations))


def circles(tree: SourceTree) -> list[str]:
    """Circles of imports between files."""
    graph = {module: {entry.module for entry in tree.imports(module)} - {module} for module in tree.trees}
    violations = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]
            violations.append(" > ".join(circle))
            graph[circle[1]] = graph[circle[1]] - {circle[0]}  # in the sorter's words circle[0] comes before circle[1]
        else:
            return sorted(violations)


def foreign_private_names(tree: SourceTree) -> list[str]:
    """Private names (``_name``) that a file uses and another file defines.

    A private module is shared with the package that it lies in. A private attribute counts as the file's own where the
    file defines or assigns it anywhere; one that no file of the package defines belongs to a library.
    """
    names = {module: set(_defined_names(source)) for module, source in tree.trees.items()}
    all_names = set().union(*names.values())
    violations = []
    for module, source in tree.trees.items():
        for entry in tree.imports(module):
            if entry.name is not None and _is_private(entry.name):
                violations.append(f"{module}: imports {entry.name} from {entry.module}")
            folder, _, file = entry.module.rpartition(".")
            if _is_private(file) and not f"{module}.".startswith(f"{folder}."):
                violations.append(f"{module}: imports the private module {entry.module}")
        for node in ast.walk(source):
            if not isinstance(node, ast.Attribute) or not _is_private(node.attr):
                continue
            if node.attr in all_names and node.attr not in names[module]:
                violations.append(f"{module}: uses .{node.attr} of another file")
    return sorted(set(violations))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined_names(source: ast.Module) -> Iterator[str]:
    for node in ast.walk(source):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def similar_module_names(tree: SourceTree) -> list[str]:
    """Modules with the same name, or with names that differ by one letter."""
    modules = defaultdict(list)
    for module in tree.trees:
        name = module.rpartition(".")[2]
        if module != tree.package and name != "__main__":
            modules[name].append(module)
    violations = []
    for same in modules.values():
        violations += [f"{one} and {other} have the same name" for one, other in combinations(same, 2)]
    for one, other in combinations(sorted(modules), 2):
        if _differ_by_one_letter(one, other):
            violations.append(f"{modules[one][0]} and {modules[other][0]} differ by one letter")
    return sorted(violations)


def _differ_by_one_letter(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(short) == len(long):
        return sum(a != b for a, b in zip(short, long)) == 1
    if len(short) + 1 < len(long):
        return False
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def wide_signatures(tree: SourceTree) -> list[str]:
    """Constructors, and functions and methods without a leading underscore, that take too many positional arguments.

    The fields of a public dataclass count as the arguments of its constructor.
    """
    violations = []
    for module, source in tree.trees.items():
        for name, number in _signatures(source, ""):
            if number > MAX_POSITIONAL:
                violations.append(f"{module}: {name} takes {number} positional arguments")
    return sorted(violations)


def _signatures(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, int]]:
    """Name and number of positional arguments of each function, constructor and method."""
    for node in parent.body:
        if isinstance(node, ast.ClassDef):
            yield from _signatures(node, f"{prefix}{node.name}.")
            fields = _constructor_fields(node)
            if fields is not None and not node.name.startswith("_"):
                yield f"{prefix}{node.name}", fields
        elif isinstance(node, Function) and (node.name == "__init__" or not node.name.startswith("_")):
            number = len(node.args.posonlyargs) + len(node.args.args)
            is_bound = isinstance(parent, ast.ClassDef) and "staticmethod" not in map(ast.unparse, node.decorator_list)
            yield f"{prefix}{node.name}", number - is_bound


def _constructor_fields(node: ast.ClassDef) -> int | None:
    """Number of fields that a dataclass takes by position; None for other classes."""
    decorators = [decorator for decorator in map(ast.unparse, node.decorator_list) if "dataclass" in decorator]
    if not decorators or "kw_only=True" in decorators[0]:
        return None
    number = 0
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or "ClassVar" in ast.unparse(statement.annotation):
            continue
        if "KW_ONLY" in ast.unparse(statement.annotation):
            break
        default = ast.unparse(statement.value) if statement.value else ""
        if "init=False" not in default and "kw_only=True" not in default:
            number += 1
    return number
