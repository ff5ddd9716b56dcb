"""Find uses of private names outside the module that defines them, and changes to libraries."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.project.code import OWN_PACKAGES

DOCUMENTED = frozenset(
    {
        "_asdict", "_fields", "_make", "_replace",  # namedtuple
        "_mapping",  # sqlalchemy.Row
        "_get_current_object",  # Flask's proxies
        "_exit",  # os
    }
)  # fmt: skip
"""Names with an underscore that their library documents for everyone's use."""
SETTABLE = frozenset({"g", "request"})
"""Flask documents that a program sets attributes of these."""
TAKE_A_NAME = frozenset({"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller"})
"""Functions and methods that take an attribute's name as a string."""


@dataclass(frozen=True)
class Finding:
    """A name, and the line that uses it."""

    line: int
    name: str


def is_private(name: str) -> bool:
    """Return whether a name starts with an underscore, and is neither special (`__init__`) nor documented."""
    return name.startswith("_") and name.strip("_") != "" and not name.endswith("_") and name not in DOCUMENTED


def foreign_private_names(nodes: Sequence[ast.AST]) -> Iterator[Finding]:
    """Yield the private names that a module uses but does not define."""
    own = set(_defined(nodes))
    for node in nodes:
        for name in _used(node):
            if name not in own:
                yield Finding(getattr(node, "lineno", 0), name)


def changed_libraries(nodes: Sequence[ast.AST]) -> Iterator[Finding]:
    """Yield assignments to attributes of what a module imports from a library."""
    imported = set(_imported_from_libraries(nodes)) - SETTABLE
    for node in nodes:
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in imported:
                yield Finding(node.lineno, ast.unparse(node))


def _defined(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Yield the names that a module binds: functions, classes, variables, parameters and attributes of `self`."""
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case _:
                pass


def _used(node: ast.AST) -> Iterator[str]:
    """Yield the private names that one node takes from an object or a module."""
    match node:
        case ast.Attribute(attr=name) if is_private(name):
            yield name
        case ast.ImportFrom(module=module, names=names):
            yield from (part for part in (module or "").split(".") if is_private(part))
            yield from (alias.name for alias in names if is_private(alias.name))
        case ast.Import(names=names):
            yield from (part for alias in names for part in alias.name.split(".") if is_private(part))
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=given) if called in TAKE_A_NAME:
            texts = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            yield from (part for text in texts for part in text.split(".") if is_private(part))
        case _:
            pass


def _imported_from_libraries(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        match node:
            case ast.Import(names=names):
                tops = ((alias.asname, alias.name.partition(".")[0]) for alias in names)
                yield from (alias or top for alias, top in tops if top not in OWN_PACKAGES)
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] not in OWN_PACKAGES:
                yield from (alias.asname or alias.name for alias in names)
            case _:
                pass
