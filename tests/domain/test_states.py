"""The moves that the SQL makes are those that `gateway.states` allows, no more and no fewer."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import pytest
from sqlalchemy import TextClause

from gateway import domain
from gateway.states import REFUND_TRANSITIONS, TRANSACTION_TRANSITIONS

UPDATE = re.compile(
    r"UPDATE (?P<table>\w+)( \w+)?\s+SET (?P<assignments>.*?)\bWHERE (?P<condition>.*?)(RETURNING|\n    \)|\Z)",
    re.DOTALL,
)
ASSIGNED = re.compile(r"(?<!\w)status = (CASE .*? END|'\w+')", re.DOTALL)
EXPECTED = re.compile(r"\bstatus (= '\w+'|= \w\.open_status|IN \([^)]*\))")
OPEN_STATUS = re.compile(r"'\w+' AS open_status")


def sql() -> Iterator[str]:
    """Every statement that a module of the domain has ready."""
    for module in pkgutil.walk_packages(domain.__path__, f"{domain.__name__}."):
        values = vars(importlib.import_module(module.name)).values()
        yield from {value.text for value in values if isinstance(value, TextClause)}


def quoted(text: str) -> set[str]:
    return set(re.findall(r"'(\w+)'", text))


def moves_made(table: str, statuses: set[str]) -> set[tuple[str, str]]:
    """From which status to which other one the UPDATEs of `table` move a row."""
    made: set[tuple[str, str]] = set()
    for statement in sql():
        for found in UPDATE.finditer(statement):
            assigned = ASSIGNED.search(found["assignments"])
            if found["table"] != table or assigned is None:
                continue
            expected = EXPECTED.search(found["condition"])
            assert expected, f"expects no status: {found[0]}"
            targets = quoted(assigned[1]) & statuses
            sources = OPEN_STATUS.search(statement) if "open_status" in expected[1] else expected
            assert sources, f"says nowhere what open_status is: {statement}"
            made |= {(source, target) for source in quoted(sources[0]) for target in targets if source != target}
    return made


@pytest.mark.parametrize(
    ("table", "moves"), [("transactions", TRANSACTION_TRANSITIONS), ("refunds", REFUND_TRANSITIONS)]
)
def test_the_updates_make_the_moves_that_are_allowed(table: str, moves: Mapping[StrEnum, Any]) -> None:
    allowed = {(source.value, target.value) for source, targets in moves.items() for target in targets}
    assert moves_made(table, {status.value for status in moves}) == allowed
