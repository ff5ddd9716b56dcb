"""Check that every page that is named exists: in links of Markdown pages, and in the code's comments and texts."""

import re
from pathlib import Path

import pytest

from tests.project.code import PRODUCT, ROOT, TESTS, TOOLS, modules, place

pytestmark = pytest.mark.unit

LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#([\w-]+))?\)")
PAGE = re.compile(r"(?<![\w./-])(?:[\w-]+/)*[\w-]+\.md\b")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PAGES = sorted(page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "ops").rglob("*.md")))
OTHER_FILES = ("Makefile", ".ci/run", "Procfile", "Dockerfile", "docker-compose.yml", ".env.example", "pyproject.toml")


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    titles = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        file = page.parent / target
        assert file.exists(), f"{target} does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{target} has no heading #{anchor}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=place)
def test_the_readme_links_to_every_page(page: Path) -> None:
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()


def test_every_page_that_the_code_names_exists() -> None:
    files = [*modules(*PRODUCT, *TOOLS, *TESTS), *(ROOT / name for name in OTHER_FILES)]
    found = [
        f"{place(file)}: {name}"
        for file in files
        if file != Path(__file__)
        for name in PAGE.findall(file.read_text())
        if not (ROOT / name).exists()
    ]
    assert found == []
