"""The SQL makes exactly the status changes that `gateway.states` allows."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import chain
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
    """Yield every statement of the modules of the domain."""
    for module in pkgutil.walk_packages(domain.__path__, f"{domain.__name__}."):
        values = vars(importlib.import_module(module.name)).values()
        tables = [list(value.values()) for value in values if isinstance(value, dict)]
        yield from {value.text for value in chain(values, *tables) if isinstance(value, TextClause)}


def quoted(text: str) -> set[str]:
    return set(re.findall(r"'(\w+)'", text))


def transitions_made(table: str, statuses: set[str]) -> set[tuple[str, str]]:
    """Return the status changes that the UPDATEs of `table` make."""
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
def test_the_updates_make_exactly_the_allowed_transitions(table: str, moves: Mapping[StrEnum, Any]) -> None:
    allowed = {(source.value, target.value) for source, targets in moves.items() for target in targets}
    assert transitions_made(table, {status.value for status in moves}) == allowed
