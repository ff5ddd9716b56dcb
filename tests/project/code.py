"""The project's Python modules."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("gateway", "tasks", "celeryconfig.py")
TOOLS = ("devstack", "bench", "migrations")
TESTS = ("tests",)
OWN_PACKAGES = frozenset(name.removesuffix(".py") for name in (*PRODUCT, *TOOLS, *TESTS))


def modules(*tops: str) -> list[Path]:
    """Return the modules of these packages, in order."""
    paths = (ROOT / top for top in tops)
    return sorted(module for path in paths for module in (path.rglob("*.py") if path.is_dir() else [path]))


@cache
def nodes(module: Path) -> list[ast.AST]:
    """Return all nodes of a module's syntax tree."""
    return parsed(module.read_text())


def parsed(source: str) -> list[ast.AST]:
    """Return all nodes of the syntax tree of a source text."""
    return list(ast.walk(ast.parse(source)))


def place(module: Path, line: int = 0) -> str:
    """Return a module's path in the repository, with a line if one is given."""
    name = str(module.relative_to(ROOT))
    return f"{name}:{line}" if line else name
