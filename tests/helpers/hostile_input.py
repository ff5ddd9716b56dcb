"""Generate worst cases for each parser: bodies, query strings, forms, headers, tokens, statements."""

import base64
import json
import re
from collections.abc import Collection, Iterator

from gateway.api.http.bounded_json import MEMBERS_MAX, VALUES_MAX
from gateway.domain.reconciliation.statement_files import COLUMNS

HEADER_BYTES = 60_000


def repeated(unit: bytes, size: int, *, before: bytes = b"", after: bytes = b"", between: bytes = b"") -> bytes:
    """Return a text of at most `size` bytes that repeats `unit`."""
    number = (size - len(before) - len(after)) // len(unit + between)
    return before + between.join([unit] * number) + after


TEXTS = {
    "letters": b"x",
    "escapes": b"\\n",
    "quotes": b'\\"',
    "escaped letters": b"\\u00e9",
    "escaped pairs": b"\\ud83d\\ude00",
    "lone surrogates": b"\\ud800",
    "NUL": b"\\u0000",
    "letters of two bytes": "é".encode(),
    "emoji": "😀".encode(),
    "digits": b"4",
    "groups": b"4 ",
    "dots": b".0",
    "short groups": b"1 1 1 1 1 1 1 1 1 1 1 1a",
    "hex": b"1234567890123a",
    "UUIDs": b"0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10 ",
    "dates": b"2026-01-31 ",
    "one group": b"1             ",
    "invalid": b"4242424242424241 ",
    "digits of another script": "\u0661".encode(),
    "mixed": "\uff11-".encode(),
}
"""Units of string contents."""

VALUES = {
    "zeros": b"0",
    "long exponents": b"1e999",
    "empty strings": b'""',
    "escapes": b'"\\n"',
    "surrogates": b'"\\ud800"',
    "arrays": b"[]",
    "objects": b"{}",
    "literals": b"null",
    "numbers like cards": b'"4242424242424241"',
    "nested": b"[[[[[[[[[[]]]]]]]]]]",
    "deep": b"[" * 900 + b"]" * 900,
    "pairs": b'{"a":0}',
    "unclosed": b'"a',
    "unclosed escapes": b'\\"',
    "nothing": b"",
    "closed": b"]",
    "opened": b"[",
    "names": b'"a":0',
}
"""Units of array elements and other content."""

PLACES = (
    (b'{"description":', b"}"),
    (b'{"metadata":{"a":', b"}}"),
    (b'{"x":[', b"]}"),
    (b"[", b"]"),
    (b"[" * 980, b"]" * 980),
    (b'{"amount":1,"currency":"USD","metadata":{', b',"\\n":1}}'),
    (b"[" * 980 + b'"\\n",', b"]" * 980),
    (b'{"events":[', b"]}"),
    (b'{"scopes":[', b"]}"),
    (b'{"filter":{"queue":', b"}}"),
    (b"", b""),
)
"""The text before and after the repeated units."""
UNKNOWN_FIELD = "x"
_FIRST_FIELD = re.compile(rb'\{"(\w+)"')


def bodies(size: int, fields: Collection[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield hostile bodies with their names, for a model with these fields, or for all models.

    A field that a model does not have costs what any other unknown field costs, so only one of these is tried.
    """
    for before, after in PLACES:
        field = _FIRST_FIELD.match(before)
        if fields is not None and field is not None and field[1].decode() not in {UNKNOWN_FIELD, *fields}:
            continue
        for name, unit in TEXTS.items():
            yield f"{name} in {before[:20]!r}", repeated(unit, size, before=before + b'"', after=b'"' + after)
        for name, unit in VALUES.items():
            yield f"{name} in {before[:20]!r}", repeated(unit, size, before=before, after=after, between=b",")
            if unit:
                yield f"{name} together in {before[:20]!r}", repeated(unit, size, before=before, after=after)
    numbered = [b'"%d":0' % number for number in range(size // 9)]
    yield "unknown fields", b"{" + b",".join(numbered) + b"}"
    yield "metadata", b'{"amount":1,"currency":"USD","metadata":{' + b",".join(numbered)[: size - 60] + b'0,"\\n":""}}'
    yield "one number", b'{"amount":' + b"9" * (size - 20) + b"}"
    yield "one fraction", b'{"amount":0.' + b"9" * (size - 20) + b"}"
    yield "spaces", b"{" + b" " * (size - 2) + b"}"
    yield "members at the limit", json.dumps({str(number): "\n" for number in range(MEMBERS_MAX)}).encode()
    yield "values at the limit", b"[" + b",".join([b'"\\n"'] * (VALUES_MAX - 1)) + b"]"


QUERIES = {
    "names": b"&".join(b"%d=1" % number for number in range(9_000)),
    "empty": b"&" * HEADER_BYTES,
    "one value": b"reference=" + b"a" * HEADER_BYTES,
    "escapes": b"reference=" + b"%20" * (HEADER_BYTES // 3),
    "broken escapes": b"reference=" + b"%" * HEADER_BYTES,
    "no text": b"reference=" + b"%ff" * (HEADER_BYTES // 3),
    "groups": b"reference=" + b"%34+" * (HEADER_BYTES // 4),
    "a name": b"a" * HEADER_BYTES,
    "many equals": b"=" * HEADER_BYTES,
    "cursor": b"cursor=" + b"A" * HEADER_BYTES,
    "time": b"created_from=" + b"2026-01-31T12:00:00" + b"0" * HEADER_BYTES,
    "number": b"limit=" + b"9" * HEADER_BYTES,
}


def encoded(text: bytes) -> str:
    """Return a text in unpadded base64url."""
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def token(header: bytes, claims: bytes) -> str:
    """Return an Authorization header with an unsigned token."""
    return f"Bearer {encoded(header)}.{encoded(claims)}.{encoded(b'x' * 256)}"


DEEP = b"[" * 20_000 + b"]" * 20_000
WIDE = b"{" + b",".join(b'"%d":0' % number for number in range(4_500)) + b"}"
HEADERS = {
    "deep token": ("Authorization", token(DEEP, b"{}")),
    "wide token": ("Authorization", token(WIDE, b"{}")),
    "wide claims": ("Authorization", token(b'{"alg":"RS256","kid":"a"}', WIDE)),
    "deep claims": ("Authorization", token(b'{"alg":"RS256","kid":"a"}', DEEP)),
    "short deep token": ("Authorization", token(b"[" * 1_400 + b"]" * 1_400, b"{}")),
    "dots": ("Authorization", "Bearer " + "." * HEADER_BYTES),
    "spaces": ("Authorization", "Bearer" + " " * HEADER_BYTES),
    "Idempotency-Key": ("Idempotency-Key", "4 " * (HEADER_BYTES // 2)),
    "key of dots": ("Idempotency-Key", ".0" * 30_000),
    "X-Request-Id": ("X-Request-Id", "4-" * (HEADER_BYTES // 2)),
    "short id": ("X-Request-Id", "4-" * 64),
    "Content-Type": ("Content-Type", "application/json" + ";a=b" * (HEADER_BYTES // 4)),
    "quoted type": ("Content-Type", 'a/b;a="' + "\\" * HEADER_BYTES),
    "semicolons": ("Content-Type", ";" * HEADER_BYTES),
    "X-Forwarded-For": ("X-Forwarded-For", "1," * (HEADER_BYTES // 2)),
    "Cookie": ("Cookie", "a=b;" * (HEADER_BYTES // 4)),
}


CSV_HEADER = ",".join(COLUMNS).encode() + b"\n"
GOOD = b"ch_1,0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10,charge,100,3,USD,2026-01-31T12:00:00Z\n"
CSV = {
    "broken lines": b'"a"b\n',
    "one line": b"a",
    "commas": b",",
    "blank lines": b"\n",
    "returns": b"\r",
    "quotes": b'"',
    "open quotes": b'"a\n',
    "cells over lines": b'"\n",',
    "NUL": b"\0\n",
    "no UTF-8": b"\xff\n",
    "good": GOOD,
    "groups": b"1 " * 120 + b",a,charge,1,1,USD,2026-01-31T12:00:00Z\n",
    "wide": b"a," * 2_000 + b"\n",
    "bad cells": b",,,,,,\n",
    "emoji": "😀\n".encode(),
}
