"""The pages for people agree with the project: links, paths, names of tests, settings, metrics, commands and alerts."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import REGISTRY, generate_latest

import gateway.telemetry  # noqa: F401  # registers the metrics
from gateway.cli import commands
from gateway.config import Settings
from gateway.domain.invariants.checks import INVARIANTS
from gateway.models.reconciliation import DISCREPANCY_KINDS
from tests.project.code import PRODUCT, ROOT, TESTS, TOOLS, modules, nodes, place

pytestmark = pytest.mark.unit

README_MAX_LINES = 150
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "LICENSE"])
HISTORY = {ROOT / "CHANGELOG.md", *(DOCS / "decisions").glob("*.md")}
"""Pages that name things that no longer exist."""
TEXTS = [
    ".env.example",
    "Dockerfile",
    "Makefile",
    "Procfile",
    "alembic.ini",
    "docker-compose.yml",
    "pyproject.toml",
    "ops/*",
]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]*)(?:#([^)\s]*))?\)")
OWN_LINK = re.compile(r"\]\(#([^)\s]*)\)")
CODE = re.compile(r"`([^`\n]+)`")
FOLDERS = ("gateway", "tasks", "tests", "devstack", "bench", "ops", "migrations", "docs", ".ci")
NAMES_OF_OTHERS = {
    "DATABASE_OWNER_URL",
    "NOT_FOUND",
    "NO_ROUTE",
    "PRECONDITION_FAILED",
    "REQUESTS_CA_BUNDLE",
    "SCHED_BATCH",
    "SSL_CERT_FILE",
    "TCP_USER_TIMEOUT",
}


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_spans(page: Path) -> set[str]:
    """Return what a page writes in backticks, without its blocks of code."""
    return set(CODE.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_MAX_LINES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_exist(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        found = (page.parent / target).resolve()
        assert found.is_relative_to(ROOT), target
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"
    for anchor in OWN_LINK.findall(page.read_text()):
        assert anchor in anchors(page), anchor


@pytest.mark.parametrize(
    ("index", "folder"),
    [
        ("README.md", "docs"),
        ("docs/runbooks/README.md", "docs/runbooks"),
        ("docs/decisions/README.md", "docs/decisions"),
    ],
)
def test_an_index_links_every_page_of_its_folder(index: str, folder: str) -> None:
    page = ROOT / index
    linked = {(page.parent / target).resolve() for target, _ in LINK.findall(page.read_text())}
    assert set((ROOT / folder).glob("*.md")) - linked - {page} == set()


def paths_in(text: str) -> Iterator[str]:
    """Yield the paths of the repository's files that a text names in backticks; NAME stands for one to be chosen."""
    for span in CODE.findall(text):
        if re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})(/[\w.-]+)+/?", span) and "NAME" not in span:
            yield span


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY], ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    missing = [path for path in paths_in(page.read_text()) if not (ROOT / path).exists()]
    assert missing == []


def test_pages_that_code_names_exist() -> None:
    files = [
        *modules(*PRODUCT, *TESTS, *TOOLS),
        *(path for text in TEXTS for path in ROOT.glob(text)),
    ]
    missing = [
        f"{place(file)}: {page}"
        for file in files
        for page in re.findall(r"(?<![\w/.:-])(docs/[\w./-]+\.\w+)", file.read_text())
        if not (ROOT / page).exists()
    ]
    assert missing == []


def test_code_names_a_page_by_its_path() -> None:
    missing = [
        f"{place(file)}: {page}"
        for file in modules(*PRODUCT, *TESTS, *TOOLS)
        for page in re.findall(r"""(?<![\w./*"-])(?:[\w-]+/)*[\w-]+\.md\b""", file.read_text())
        if not (ROOT / page).exists()
    ]
    assert missing == []


def test_tests_that_a_page_names_exist() -> None:
    defined = {node.name for module in modules(*TESTS) for node in nodes(module) if isinstance(node, ast.FunctionDef)}
    named = {(name_of(page), span) for page in PAGES for span in code_spans(page) if span.startswith("test_")}
    assert named
    assert {(page, test) for page, test in named if test not in defined and not test.endswith(".py")} == set()


def test_settings_that_a_page_names_exist() -> None:
    known = {name.upper() for name in Settings.model_fields} | NAMES_OF_OTHERS
    for file in ("Procfile", "Makefile", "docker-compose.yml", ".env.example"):
        known |= set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", (ROOT / file).read_text()))
    unknown = {
        (name_of(page), match[1])
        for page in PAGES
        if page not in HISTORY
        for span in code_spans(page)
        if (match := re.fullmatch(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=\S*)?", span)) and match[1] not in known
    }
    assert unknown == set()


def test_targets_of_make_that_a_page_names_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (name_of(page), match[1])
        for page in PAGES
        if page not in HISTORY
        for span in code_spans(page)
        if (match := re.search(r"(?:^|\s)make ([a-z]+)", span))
    }
    assert named
    assert {(page, target) for page, target in named if target not in targets} == set()


def test_commands_that_a_page_names_exist() -> None:
    app = Flask(__name__)
    commands.register(app)
    own = set(app.cli.commands)
    named = {
        (name_of(page), name) for page in PAGES for name in re.findall(r"\bflask ([a-z][a-z-]+)", page.read_text())
    }
    assert named
    assert {(page, name) for page, name in named if name not in own} == set()


def test_the_page_for_operators_lists_exactly_the_metrics_that_exist() -> None:
    exposed = set(re.findall(r"^# TYPE (\w+)", generate_latest(REGISTRY).decode(), re.MULTILINE))
    counted = {name for name in exposed if not re.search("^(python|process)_|_created$", name)}
    gauges = set(re.findall(r'\(\s*"([a-z_]+)",\s*"', (ROOT / "gateway/api/service/gauges.py").read_text()))
    table = (DOCS / "operations.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in first_cells for name in CODE.findall(cell)} == counted | gauges


def kinds_of_alerts() -> Iterator[str]:
    """Yield the kinds of the alerts that the code raises."""
    yield from ("queue_accepts_nothing", "queue_delivers_nothing", "clock_off", "clock_far_off")  # passed as arguments
    for module in modules("gateway/domain", "gateway/flows"):
        for node in nodes(module):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "kind" and isinstance(value, ast.Constant):
                        yield str(value.value)


def test_every_kind_of_alert_has_a_runbook() -> None:
    index = (DOCS / "runbooks" / "README.md").read_text()
    rows = [line for line in index.splitlines() if line.startswith("| `") and "| --- |" not in line]
    pages = {kind: LINK.search(line) for line in rows for kind in CODE.findall(line.split("|")[1])}
    assert pages.keys() - {"kind"} == set(kinds_of_alerts())
    assert [kind for kind, page in pages.items() if page is None and kind != "kind"] == []


def test_messages_that_a_page_for_operators_quotes_exist() -> None:
    source = "\n".join(module.read_text() for module in modules(*PRODUCT))
    missing = [
        (name_of(page), quoted)
        for page in [*DOCS.glob("operations.md"), *DOCS.glob("deployment*.md"), *(DOCS / "runbooks").glob("*.md")]
        for quoted in re.findall(
            r'"([^"\n]{12,})"', re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
        )
        if any(part.strip(" .;,") not in source for part in re.split(r"…|\d+", quoted))
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("broken-invariant.md", {invariant.name for invariant in INVARIANTS}),
        ("discrepancies.md", set(DISCREPANCY_KINDS)),
    ],
)
def test_a_runbook_says_what_to_do_about_each_kind(page: str, names: set[str]) -> None:
    rows = [line for line in (DOCS / "runbooks" / page).read_text().splitlines() if line.startswith("| `")]
    assert {name for line in rows for name in CODE.findall(line.split("|")[1])} - {"kind"} == names
