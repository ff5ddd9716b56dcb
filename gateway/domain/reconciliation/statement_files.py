"""CSV files of settlement statements, which are validated line by line without loading them into memory.

The file has a header and these columns in this order, like `GET /statement` of the sandbox acquirer:

    charge_id        the provider's id of the charge, or of the charge that a refund belongs to
    idempotency_key  the gateway's key: the id of the transaction or of the refund
    type             charge or refund
    amount, fee      in the currency's minor unit; amount 1 to 999 999 999 999, fee 0 or more
    currency         ISO 4217, upper case
    time             the time at the provider: RFC 3339 with an offset
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from tempfile import SpooledTemporaryFile
from typing import IO

from gateway.errors import FieldError, ValidationFailed
from gateway.ids import parse_id
from gateway.money import AMOUNT_MAX, AMOUNT_MIN, is_payable
from gateway.security.card_numbers import contains_card_number

COLUMNS = ("charge_id", "idempotency_key", "type", "amount", "fee", "currency", "time")
ERRORS_MAX = 100
"""Maximum number of listed errors. The file is not read any further."""
LINE_MAX_LENGTH = 4_096
"""Maximum characters of a line. Valid lines have less than a quarter of it. Reading stops at a longer line."""
MEMORY_MAX_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024

_TEXT = re.compile(r"[ -~]{1,255}")
_DIGITS = re.compile(r"[0-9]{1,12}")
_TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class InvalidStatement(ValidationFailed):
    """The statement has invalid lines; nothing of it was stored."""

    code = "invalid_statement"
    remedy = (
        "`errors` names line and column of each, as `/17/amount`. Correct the file, or ask the provider for it again."
    )


@dataclass(slots=True)
class Totals:
    """The sums of the lines of one currency, in minor units."""

    charges: int = 0
    charged: int = 0
    refunds: int = 0
    refunded: int = 0
    fees: int = 0


@dataclass(slots=True)
class StatementFile:
    """A valid file: its digest, its sums, and its lines as rows for COPY."""

    content_hash: bytes
    rows: IO[bytes]
    lines: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    totals: dict[str, Totals] = field(default_factory=dict)

    def chunks(self) -> Iterator[bytes]:
        """Yield the rows in chunks."""
        self.rows.seek(0)
        while chunk := self.rows.read(CHUNK_BYTES):
            yield chunk

    def add(self, kind: str, amount: int, fee: int, currency: str, at: datetime) -> None:
        """Add one line to the sums."""
        self.lines += 1
        self.first_at = min(self.first_at or at, at)
        self.last_at = max(self.last_at or at, at)
        sums = self.totals.setdefault(currency, Totals())
        sums.fees += fee
        if kind == "charge":
            sums.charges, sums.charged = sums.charges + 1, sums.charged + amount
        else:
            sums.refunds, sums.refunded = sums.refunds + 1, sums.refunded + amount


@contextmanager
def read(
    file: IO[bytes], prefix: Sequence[object], *, since: datetime | None, until: datetime | None
) -> Iterator[StatementFile]:
    """Validate `file`; yield its contents, which are deleted when the block ends.

    Args:
        file: positioned at its beginning.
        prefix: the first values of each row for COPY.
        since: the earliest valid time of a line.
        until: the end of the valid times, exclusive.

    Raises:
        InvalidStatement: lines are invalid; the first `ERRORS_MAX` errors are listed.
    """
    with SpooledTemporaryFile(MEMORY_MAX_BYTES) as rows:
        found, errors = StatementFile(_digest(file), rows), list[FieldError]()
        text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        out = io.TextIOWrapper(rows, "ascii", newline="")
        try:
            writer = csv.writer(out, lineterminator="\n")
            for number, cells in _records(text):
                if isinstance(cells, str):
                    errors.append(_error(number, "", "invalid_row", cells))
                elif wrong := _errors_of(cells, since, until):
                    errors.extend(_error(number, column, code, detail) for column, code, detail in wrong)
                elif not errors:
                    charge_id, key, kind, amount, fee, currency, time = cells
                    found.add(kind, int(amount), int(fee), currency, datetime.fromisoformat(time))
                    writer.writerow((*prefix, number, kind, charge_id, key, parse_id(key), amount, fee, currency, time))
                if len(errors) >= ERRORS_MAX:
                    break
        finally:
            text.detach()  # neither wrapper may close the underlying file
            out.detach()
        if errors:
            raise invalid(errors)
        yield found


def invalid(errors: Sequence[FieldError]) -> InvalidStatement:
    """Return the exception that lists `errors`."""
    listed = list(errors[:ERRORS_MAX])
    more = " There may be more." if len(errors) >= ERRORS_MAX else ""
    return InvalidStatement(f"{len(listed)} errors were found; nothing was stored.{more}", errors=listed)


def duplicate(number: int, first: int) -> FieldError:
    """Return the error of a line that repeats another one."""
    return _error(number, "", "duplicate", f"Line {number} is the same charge or refund as line {first}.")


def _digest(file: IO[bytes]) -> bytes:
    digest = sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    return digest.digest()


def _error(number: int, column: str, code: str, detail: str) -> FieldError:
    return FieldError(pointer=f"/{number}/{column}" if column else f"/{number}", code=code, detail=detail)


def _records(text: io.TextIOWrapper) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of each line after the header with its cells, or with an error. Blank lines are skipped.

    Each line is parsed separately, because valid cells contain no line breaks: an unclosed quote cannot consume the
    rest of the file.
    """
    if _cells_of(text.readline(LINE_MAX_LENGTH)) != list(COLUMNS):
        raise invalid([_error(1, "", "invalid_header", f"The first line should be {','.join(COLUMNS)}")])
    for number in count(2):
        line = text.readline(LINE_MAX_LENGTH + 1)
        if not line:
            break
        if len(line) > LINE_MAX_LENGTH:
            yield number, f"A line may have {LINE_MAX_LENGTH} characters at most."
            break
        if line.strip("\r\n"):
            yield number, _cells_of(line) or "This line is not valid CSV (RFC 4180)."


def _cells_of(line: str) -> list[str] | None:
    try:
        return next(csv.reader((line,), strict=True), None)
    except csv.Error:
        return None


def _errors_of(cells: list[str], since: datetime | None, until: datetime | None) -> list[tuple[str, str, str]]:
    """Return column, code and detail of each error of a line."""
    if len(cells) != len(COLUMNS):
        return [("", "invalid_row", f"A line should have {len(COLUMNS)} cells; this has {len(cells)}.")]
    charge_id, key, kind, amount, fee, currency, time = cells
    wrong = [
        *_errors_of_text("charge_id", charge_id),
        *_errors_of_text("idempotency_key", key),
    ]
    if kind not in {"charge", "refund"}:
        wrong.append(("type", "invalid_choice", "This should be charge or refund."))
    if not _DIGITS.fullmatch(amount) or not AMOUNT_MIN <= int(amount) <= AMOUNT_MAX:
        wrong.append(("amount", "out_of_range", f"This should be {AMOUNT_MIN} to {AMOUNT_MAX} in minor units."))
    if not _DIGITS.fullmatch(fee):
        wrong.append(("fee", "out_of_range", f"This should be 0 to {AMOUNT_MAX} in minor units."))
    if not is_payable(currency):
        wrong.append(("currency", "unsupported_currency", "This should be an ISO 4217 currency such as USD."))
    at = _parsed_time(time)
    if at is None:
        wrong.append(("time", "invalid_time", "This should be a time such as 2026-01-31T12:00:00Z."))
    elif (since is not None and at < since) or (until is not None and at >= until):
        wrong.append(("time", "out_of_period", "This is not within the statement's period, from and to."))
    return wrong


def _errors_of_text(column: str, text: str) -> Iterator[tuple[str, str, str]]:
    if not _TEXT.fullmatch(text):
        yield column, "invalid_format", "This should be 1 to 255 printable ASCII characters."
    elif contains_card_number(text, issued_only=True):
        yield column, "card_number_rejected", "This looks like a card number."


def _parsed_time(text: str) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
