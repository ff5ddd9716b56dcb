"""docs/architecture.md agrees with the states, the tables and the import contracts."""

import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum

import pytest

from gateway.models import all_tables
from gateway.states import (
    REFUND_TRANSITIONS,
    TRANSACTION_TRANSITIONS,
    AttemptOutcome,
    DeadLetterStatus,
    DeliveryStatus,
    DiscrepancyStatus,
    EndpointStatus,
    JobStatus,
    RefundStatus,
    RunStatus,
    TransactionStatus,
)
from tests.project.code import ROOT

pytestmark = pytest.mark.unit

PAGE = (ROOT / "docs" / "architecture.md").read_text()
TRANSITION = re.compile(r"^    (\S+) --> ([^\s:]+)", re.MULTILINE)
RELATION = re.compile(r"^    (\w+) [|}o]{2}(--|\.\.)[|{o]{2} (\w+) :", re.MULTILINE)
ENTITY = re.compile(r"^    (\w+) \{\n((?:        .+\n)+)    \}", re.MULTILINE)


def transitions(title: str) -> set[tuple[str, str]]:
    """Return the transitions between two states in the diagram of a section."""
    section = PAGE.partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    diagram = section.partition("```mermaid\nstateDiagram-v2\n")[2].partition("```")[0]
    found = set(TRANSITION.findall(diagram))
    assert found, title
    return found


def between_states(title: str) -> set[tuple[str, str]]:
    """Return the transitions of a section without the beginnings and the ends."""
    return {(start, end) for start, end in transitions(title) if "[*]" not in {start, end}}


@pytest.mark.parametrize(("title", "moves"), [("Transaction", TRANSACTION_TRANSITIONS), ("Refund", REFUND_TRANSITIONS)])
def test_the_diagram_shows_exactly_the_allowed_transitions(title: str, moves: Mapping[str, frozenset[str]]) -> None:
    assert between_states(title) == {(str(start), str(end)) for start, ends in moves.items() for end in ends}


@pytest.mark.parametrize(
    ("title", "states"),
    [
        ("Transaction", TransactionStatus),
        ("Refund", RefundStatus),
        ("Attempt", AttemptOutcome),
        ("Dead letter", DeadLetterStatus),
        ("Bulk job on dead letters", JobStatus),
        ("Webhook endpoint", EndpointStatus),
        ("Webhook delivery", DeliveryStatus),
        ("Reconciliation run", RunStatus),
        ("Discrepancy", DiscrepancyStatus),
    ],
)
def test_the_diagram_shows_every_state(title: str, states: type[StrEnum]) -> None:
    shown = {state for transition in transitions(title) for state in transition} - {"[*]", "in_progress"}
    assert shown == {str(state) for state in states}


def test_the_diagrams_show_every_table() -> None:
    drawn = [name for name, _ in ENTITY.findall(PAGE)]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == set(all_tables().tables)


def test_the_diagrams_name_columns_that_exist_and_every_key() -> None:
    for name, lines in ENTITY.findall(PAGE):
        columns = all_tables().tables[name].columns
        shown = {line.split()[1]: line.split()[2:] for line in lines.splitlines()}
        assert set(shown) <= set(columns.keys()), name
        keys = {column.name for column in columns if column.primary_key}
        assert {column for column, marks in shown.items() if "PK" in marks} == keys, name
        foreign = {column.name for column in columns if column.foreign_keys} - keys
        assert {column for column, marks in shown.items() if "FK" in marks} == foreign, name


def test_solid_lines_are_the_foreign_keys() -> None:
    drawn = {(parent, child) for parent, line, child in RELATION.findall(PAGE) if line == "--"}
    tables = all_tables().tables.values()
    assert drawn == {(key.column.table.name, table.name) for table in tables for key in table.foreign_keys}


def layers_of(container: str) -> list[str]:
    """Return the layers of a package's import contract, without those that are optional."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == [container]]
    return [" | ".join(part for part in layer.split(" | ") if not part.startswith("(")) for layer in layers]


def test_the_page_shows_the_import_contracts() -> None:
    rules = PAGE.partition("\n## Import rules\n")[2].partition("\n## ")[0]
    assert rules.split("```")[1].strip().splitlines() == layers_of("gateway")
    for container in ("gateway.api", "gateway.domain"):
        item = rules.partition(f"- Inside `{container}`: ")[2].partition("\n- ")[0]
        assert re.findall(r"`([^`]+)`", item) == layers_of(container)
