"""The project's imports read from its source: at module level, in functions, for type checkers, and by importlib."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.support import ROOT

PACKAGES = ("irae", "sharding", "infra", "pipeline")
BY_NAME = {"import_module": 0, "__import__": 0, "run_module": 0, "find_spec": 0}
"""Functions that import the module named by an argument, with that argument's position."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Import:
    """One imported module. `path`: the importing file, from the root; `lazy`: inside a function."""

    path: str
    line: int
    module: str
    lazy: bool = False
    type_checking: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.module}"


@dataclass(frozen=True)
class Source:
    """Python files of a project by path from its root, e.g. "irae/flow.py"."""

    files: dict[str, str]

    @classmethod
    def of_project(cls) -> Source:
        paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
        return cls({path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(paths)})

    @property
    def modules(self) -> dict[str, str]:
        """Module name -> path."""
        return {module_name(path): path for path in self.files}

    def imports(self) -> list[Import]:
        """Every import; `from package import module` counts as an import of the module."""
        modules = self.modules
        return [
            Import(path, line, longest_prefix(module, modules) or module, lazy, typing)
            for path, text in self.files.items()
            for line, module, lazy, typing in _imports(path, text)
        ]

    def own_imports(self) -> list[Import]:
        return [found for found in self.imports() if found.module in self.modules]

    def graph(self) -> dict[str, set[str]]:
        """Path -> imported paths, with the packages that are initialised on the way to a module of another package."""
        modules = self.modules
        result: dict[str, set[str]] = {path: set() for path in self.files}
        for found in self.own_imports():
            importer = module_name(found.path)
            needed = {found.module, *ancestors(found.module)} - {importer, *ancestors(importer)}
            result[found.path] |= {modules[name] for name in needed if name in modules}
            if found.module in ancestors(importer):  # a name taken from the package around it
                result[found.path].add(modules[found.module])
        return result


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def ancestors(module: str) -> list[str]:
    """Packages that contain the module, the outermost first."""
    parts = module.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def longest_prefix(module: str, names: dict[str, str] | set[str]) -> str | None:
    """The longest of the dotted names that is the module or a package around it."""
    return next((name for name in (module, *reversed(ancestors(module))) if name in names), None)


@cache
def _imports(path: str, text: str) -> list[tuple[int, str, bool, bool]]:
    return [
        (getattr(node, "lineno", 0), module, lazy, typing)
        for node, lazy, typing in _walk(ast.parse(text), False, False)
        for module in _modules_of(node, path)
    ]


def _walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[tuple[ast.AST, bool, bool]]:
    """Every node below, with whether it stands in a function and whether under `if TYPE_CHECKING`."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                # A function's decorators, defaults and annotations belong to the module.
                below = lazy or (isinstance(node, FUNCTIONS) and name == "body")
                checked = typing or (
                    isinstance(node, ast.If) and name == "body" and "TYPE_CHECKING" in ast.dump(node.test)
                )
                yield child, below, checked
                yield from _walk(child, below, checked)


def _modules_of(node: ast.AST, path: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = absolute(path, node.level, node.module)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if called in BY_NAME:
            return [_by_name(node, path)]
    if isinstance(node, ast.Call | ast.Subscript):
        return _from_sys_modules(node)
    return []


def absolute(path: str, level: int, module: str | None) -> str:
    """The absolute name of `from ..module import`."""
    if not level:
        return module or ""
    package = module_name(path).split(".")
    parts = package if path.endswith("__init__.py") else package[:-1]
    parts = parts[: len(parts) - (level - 1)]
    return ".".join([*parts, *([module] if module else [])])


def _by_name(call: ast.Call, path: str) -> str:
    """The module of an import by name; "?" for one that is computed."""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in ("name", "mod_name"))]
    match arguments:
        case [ast.Constant(value=str(name)), *_]:
            stripped = name.lstrip(".")
            return absolute(path, len(name) - len(stripped), stripped)
    return "?"


def _from_sys_modules(node: ast.Call | ast.Subscript) -> list[str]:
    """`sys.modules["torch"]` and `sys.modules.get("torch")` take a module as an import does."""
    if isinstance(node, ast.Subscript):
        table, key = node.value, node.slice
    elif isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        table, key = node.func.value, node.args[0]
    else:
        return []
    is_table = isinstance(table, ast.Attribute) and table.attr == "modules" and getattr(table.value, "id", "") == "sys"
    named = isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value != "__main__"
    return [key.value] if is_table and named else []  # type: ignore[attr-defined]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (strongly connected, more than one node)."""
    reached = {node: reachable(graph, node) for node in graph}
    groups = {tuple(sorted(other for other in reached[node] if node in reached[other])) for node in graph}
    return sorted(list(group) for group in groups if group)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Nodes that lie behind one or more arrows."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for node in graph[waiting.pop()] - found:
            found.add(node)
            waiting.append(node)
    return found


def private_names(text: str) -> list[tuple[str, str]]:
    """(name, function) for each name with one leading underscore that the file uses and does not itself define.

    `function`: the innermost one around it, if that has a docstring; else "".
    """
    tree = ast.parse(text)
    defined = {*_defined(tree), *NAMEDTUPLE_METHODS}
    return [
        (name, function)
        for node, function in _in_functions(tree, "")
        for name in _names_used(node)
        if any(part.startswith("_") and not part.startswith("__") and part not in defined for part in name.split("."))
    ]


def _in_functions(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        yield child, function
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = child.name if ast.get_docstring(child) else ""
        yield from _in_functions(child, inner)


NAMEDTUPLE_METHODS = {"_replace", "_asdict", "_fields", "_make"}
"""Public, in spite of their names."""


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name


def _names_used(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names):
            return [f"{module or ''}.{alias.name}" for alias in names]
        case ast.Attribute(value=ast.Name(id=base), attr=name) if base not in sys.stdlib_module_names:
            return [name]
        case ast.Attribute(value=value, attr=name) if not isinstance(value, ast.Name):
            return [name]
        case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]):
            return [name]
    return []
