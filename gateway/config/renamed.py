"""Old names of settings. They still work, and a warning in the log names the new one.

To rename a setting, add an entry to `RENAMED`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def _unchanged(value: str) -> str:
    return value


def _seconds(milliseconds: str) -> float:
    return float(milliseconds) / 1000


def _whole_seconds(milliseconds: str) -> int:
    return math.ceil(_seconds(milliseconds))


@dataclass(frozen=True, slots=True)
class Renamed:
    """An old and a new name. `convert` turns a value of the old setting into one of the new setting."""

    old: str
    new: str
    convert: Callable[[str], object] = _unchanged


RENAMED = (
    Renamed("CHUNK_MAX", "MESSAGE_MAX_IDS"),
    Renamed("OUTBOX_POLL_MS", "OUTBOX_POLL_SECONDS", _seconds),
    Renamed("MESSAGE_TTL_MS", "MESSAGE_TTL_SECONDS", _whole_seconds),
)


def in_use(environment: Mapping[str, str]) -> list[Renamed]:
    """Return the renamed settings whose old names have a value in `environment`."""
    return [renamed for renamed in RENAMED if _value(renamed, environment)]


def _value(renamed: Renamed, environment: Mapping[str, str]) -> str:
    """Return the value under the old name, which may be in lower case as the names of all settings."""
    return environment.get(renamed.old) or environment.get(renamed.old.lower()) or ""


def with_new_names(values: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Add to the `values` of fields those that `environment` has under old names.

    Raises:
        ValueError: an old name has a malformed value, or another value than the new name.
    """
    found = dict(values)
    for renamed in in_use(environment):
        try:
            converted = renamed.convert(_value(renamed, environment))
        except (ValueError, OverflowError):
            raise ValueError(f"{renamed.old}: must be a number; the setting is called {renamed.new} now") from None
        field = renamed.new.lower()
        if not _equal(found.setdefault(field, converted), converted):
            raise ValueError(
                f"{renamed.new} and its old name {renamed.old} have different values; remove {renamed.old}"
            )
    return found


def warnings(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each old name in `environment`, for the log."""
    return [
        f"The setting {renamed.old} is called {renamed.new} now. The old name still works and will be removed."
        for renamed in in_use(environment)
    ]


def _equal(first: object, second: object) -> bool:
    try:
        return float(str(first)) == float(str(second))
    except ValueError:
        return str(first) == str(second)
