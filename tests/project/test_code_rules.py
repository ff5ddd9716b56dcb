"""Check the rules of docs/architecture.md that no linter has: sizes, private names, changed libraries."""

import ast
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import pytest

import gateway
import tasks
from tests.project.code import OWN_PACKAGES, PRODUCT, TESTS, TOOLS, modules, nodes, parsed, place
from tests.project.private_names import changed_libraries, foreign_private_names, is_private

pytestmark = pytest.mark.unit

WORKAROUNDS = "tasks/workarounds.py"
"""The only module that may use a library's private names; its tests fail when an upstream fix makes one unnecessary."""
MODULE_MAX_LINES = 300
FUNCTION_MAX_LINES = 70
FOLDER_MAX_MODULES = 20


@pytest.mark.parametrize("tops", [PRODUCT, TOOLS, TESTS], ids=["product", "tools", "tests"])
def test_a_private_name_is_used_only_by_the_module_that_defines_it(tops: tuple[str, ...]) -> None:
    found = [
        f"{place(module, use.line)}: {use.name}"
        for module in modules(*tops)
        if place(module) != WORKAROUNDS
        for use in foreign_private_names(nodes(module))
    ]
    assert found == []


def test_no_module_changes_a_library() -> None:
    found = [
        f"{place(module, change.line)}: {change.name}"
        for module in modules(*PRODUCT, *TOOLS)
        if place(module) != WORKAROUNDS
        for change in changed_libraries(nodes(module))
    ]
    assert found == []


def test_no_module_replaces_a_method_of_an_object_but_wsgi_app() -> None:
    found = [
        f"{place(module, number)}: {line.strip()}"
        for module in modules(*PRODUCT, *TOOLS)
        if place(module) != WORKAROUNDS
        for number, line in enumerate(module.read_text().splitlines(), 1)
        if "method-assign" in line and ".wsgi_app = " not in line  # Flask documents wsgi_app for middleware
    ]
    assert found == []


def test_no_class_overrides_a_private_method_of_a_library() -> None:
    found = [
        f"{own.__module__}.{own.__qualname__}.{name} overrides that of {base.__module__}"
        for own in _own_classes()
        if own.__module__ != WORKAROUNDS.removesuffix(".py").replace("/", ".")
        for name, value in vars(own).items()
        if is_private(name) and inspect.isfunction(value) and value.__module__ == own.__module__
        for base in own.__mro__[1:]
        if base.__module__.partition(".")[0] not in OWN_PACKAGES and name in vars(base)
    ]
    assert found == []


def _own_classes() -> Iterator[type]:
    for module in _imported(gateway, tasks):
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                yield value


def _imported(*packages: ModuleType) -> Iterator[ModuleType]:
    for package in packages:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                yield importlib.import_module(module.name)


def test_no_module_is_longer_than_the_limit() -> None:
    lines = {place(module): len(module.read_text().splitlines()) for module in modules(*PRODUCT, *TOOLS, *TESTS)}
    written_once = "migrations/versions/"
    assert {
        name: number
        for name, number in lines.items()
        if number > MODULE_MAX_LINES and not name.startswith(written_once)
    } == {}


def test_no_function_is_longer_than_the_limit() -> None:
    found = [
        f"{place(module, node.lineno)}: {node.name}"
        for module in modules(*PRODUCT, *TOOLS, *TESTS)
        if "versions" not in module.parts
        for node in nodes(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_MAX_LINES
    ]
    assert found == []


def test_no_folder_has_more_modules_than_the_limit() -> None:
    found = modules(*PRODUCT, *TOOLS, *TESTS)
    numbers = Counter(place(module.parent) for module in found if module.name != "__init__.py")
    assert {folder: number for folder, number in numbers.items() if number > FOLDER_MAX_MODULES} == {}


@pytest.mark.parametrize(
    "line",
    [
        "library._private",
        "library.thing()._private = 1",
        "from library import _private",
        "from library._private import public",
        "import library._private",
        'getattr(thing, "_private", None)',
        'monkeypatch.setattr("library._private", None)',
        "class A(library.B):\n    def use(self): return self._private",
    ],
)
def test_the_check_finds_a_foreign_private_name(line: str) -> None:
    assert [use.name for use in foreign_private_names(parsed(line))] == ["_private"]


@pytest.mark.parametrize(
    "line",
    [
        "def _own(): ...\n_own()",
        "class A:\n    def __init__(self): self._own = 1\n    def same(self, other): return other._own",
        "row._mapping",
        "super().__init__()",
        "for _, value in pairs: ...",
    ],
)
def test_the_check_allows_own_and_documented_names(line: str) -> None:
    assert list(foreign_private_names(parsed(line))) == []


def test_the_check_finds_a_changed_library() -> None:
    source = "import library\nfrom library.part import Thing\nlibrary.part.value = 1\nThing.method = own\nown.x = 1"
    assert [change.name for change in changed_libraries(parsed(source))] == ["library.part.value", "Thing.method"]
