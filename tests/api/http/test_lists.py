"""Paging and filters of the lists (api.md, Conventions)."""

import base64
from urllib.parse import urlencode
from uuid import UUID

import pytest

from gateway.api.http.schemas import page_of
from gateway.api.resources.transactions import Transaction
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import execute


def ids_of(caller: Caller, path: str = "/v1/transactions", **parameters: object) -> list[str]:
    """The ids of all pages, in order."""
    found: list[str] = []
    cursor: dict[str, object] = {}
    while True:
        page = caller.get(f"{path}?{urlencode(parameters | cursor)}")
        assert page.status_code == 200, page.text
        found += [item["id"] for item in page.json["data"]]
        if page.json["next_cursor"] is None:
            return found
        cursor = {"cursor": page.json["next_cursor"]}


def test_an_empty_list_is_an_empty_page(merchant: Caller) -> None:
    assert merchant.get("/v1/transactions").json == {"data": [], "next_cursor": None}


def test_a_list_shows_what_reading_each_shows(merchant: Caller) -> None:
    made = merchant.pay(metadata={"a": "b"}).json

    answer = merchant.get("/v1/transactions")

    page_of(Transaction).model_validate_json(answer.data)
    assert answer.json["data"] == [made]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
def test_the_pages_hold_everything_once_newest_first(merchant: Caller, limit: int) -> None:
    made = [merchant.pay().json["id"] for _ in range(6)]

    assert ids_of(merchant, limit=limit) == made[::-1]


def test_a_page_holds_twenty_unless_told_otherwise(merchant: Caller) -> None:
    for _ in range(21):
        merchant.pay()

    page = merchant.get("/v1/transactions").json

    assert len(page["data"]) == 20
    assert page["next_cursor"]


def test_what_is_made_between_two_pages_moves_nothing(merchant: Caller) -> None:
    made = [merchant.pay().json["id"] for _ in range(4)]
    first = merchant.get("/v1/transactions?limit=2").json
    merchant.pay()

    second = merchant.get(f"/v1/transactions?limit=2&cursor={first['next_cursor']}").json

    assert [item["id"] for item in first["data"] + second["data"]] == made[::-1]


def test_a_merchant_sees_only_its_own(merchant: Caller, other_merchant: Caller) -> None:
    made = merchant.pay().json["id"]
    other_merchant.pay()

    assert ids_of(merchant) == [made]


def test_each_filter_finds_what_it_says(merchant: Caller) -> None:
    small = merchant.pay(amount=100, currency="JPY", reference="a", customer_id="c1").json
    large = merchant.pay(amount=900, currency="USD", reference="b&=", customer_id="c2").json
    execute("UPDATE transactions SET status = 'canceled' WHERE id = CAST(:id AS uuid)", id=large["id"])

    for parameters, found in (
        ({"status": "pending"}, [small]),
        ({"status": "canceled"}, [large]),
        ({"currency": "jpy"}, [small]),
        ({"currency": "USD"}, [large]),
        ({"reference": "a"}, [small]),
        ({"reference": "b&="}, [large]),
        ({"reference": ""}, []),
        ({"customer_id": "c2"}, [large]),
        ({"amount_min": 101}, [large]),
        ({"amount_min": 100}, [large, small]),
        ({"amount_max": 100}, [small]),
        ({"amount_max": 0}, []),
        ({"created_from": large["created_at"]}, [large]),
        ({"created_to": large["created_at"]}, [small]),
        ({"created_from": "2000-01-01T00:00:00+02:00"}, [large, small]),
        ({"created_from": "2999-01-01T00:00:00Z"}, []),
        ({"status": "pending", "currency": "USD"}, []),
        ({"limit": 1, "amount_min": 1}, [large, small]),
    ):
        assert ids_of(merchant, **parameters) == [item["id"] for item in found], parameters


def test_a_plus_that_was_not_encoded_is_understood(merchant: Caller) -> None:
    made = merchant.pay().json["id"]

    answer = merchant.get("/v1/transactions?created_from=2000-01-01T00:00:00+02:00")

    assert [item["id"] for item in answer.json["data"]] == [made]


@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        ("limit=0", "/limit", "out_of_range"),
        ("limit=101", "/limit", "out_of_range"),
        ("limit=-1", "/limit", "invalid_type"),
        ("limit=1.0", "/limit", "invalid_type"),
        ("limit=1_0", "/limit", "invalid_type"),
        ("limit=%201", "/limit", "invalid_type"),
        ("limit=", "/limit", "invalid_type"),
        ("limit=%D9%A1", "/limit", "invalid_type"),
        ("limit=" + "9" * 5000, "/limit", "invalid_type"),
        ("limit=1&limit=2", "/limit", "duplicate"),
        ("status=paid", "/status", "invalid_choice"),
        ("status=PENDING", "/status", "invalid_choice"),
        ("currency=XXX", "/currency", "unsupported_currency"),
        ("currency=", "/currency", "invalid_format"),
        ("created_from=yesterday", "/created_from", "invalid_time"),
        ("created_from=2026-01-01", "/created_from", "invalid_time"),
        ("created_from=2026-01-01T00:00:00", "/created_from", "invalid_time"),
        ("created_from=1767225600", "/created_from", "invalid_time"),
        ("created_from=2026-02-30T00:00:00Z", "/created_from", "invalid_time"),
        ("created_from=2026-01-01T25:00:00Z", "/created_from", "invalid_time"),
        ("created_from=0001-01-01T00:00:00%2B14:00", "/created_from", "invalid_time"),
        ("created_to=2026-01-01T00:00:00%2B99:00", "/created_to", "invalid_time"),
        ("amount_min=" + "9" * 19, "/amount_min", "invalid_type"),
        ("amount_max=1e3", "/amount_max", "invalid_type"),
        ("reference=" + "r" * 256, "/reference", "invalid_length"),
        ("reference=%00", "/reference", "invalid_characters"),
    ],
)
def test_a_parameter_that_is_not_valid_is_named(merchant: Caller, query: str, pointer: str, code: str) -> None:
    answer = merchant.get(f"/v1/transactions?{query}")

    expect_problem(answer, 422, "validation_failed")
    assert field_errors(answer) == {pointer: code}


@pytest.mark.parametrize("path", ["/v1/transactions", "/v1/settlements"])
def test_an_unknown_parameter_is_refused(merchant: Caller, path: str) -> None:
    answer = merchant.get(f"{path}?stats=pending")

    expect_problem(answer, 422, "unknown_field")
    assert field_errors(answer) == {"/stats": "unknown_field"}


def tampered(cursor: str) -> list[str]:
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    settlement = base64.urlsafe_b64encode(raw.replace(b"transaction", b"settlement")).rstrip(b"=").decode()
    return ["", "x", "!!", "ä", cursor + "=", cursor[:-1], cursor + "A", cursor[1:], settlement, "a" * 5000, "%00"]


def test_a_cursor_that_this_list_did_not_give_is_invalid(merchant: Caller) -> None:
    merchant.pay()
    merchant.pay()
    cursor = merchant.get("/v1/transactions?limit=1").json["next_cursor"]

    for bad in tampered(cursor):
        answer = merchant.get(f"/v1/transactions?{urlencode({'cursor': bad})}")
        expect_problem(answer, 400, "invalid_cursor")
    expect_problem(merchant.get(f"/v1/settlements?cursor={cursor}"), 400, "invalid_cursor")


def test_a_cursor_of_another_merchant_shows_nothing_foreign(merchant: Caller, other_merchant: Caller) -> None:
    made = merchant.pay().json["id"]
    for _ in range(2):
        other_merchant.pay()
    cursor = other_merchant.get("/v1/transactions?limit=1").json["next_cursor"]

    page = merchant.get(f"/v1/transactions?cursor={cursor}").json

    assert {item["id"] for item in page["data"]} <= {made}


def test_a_time_filter_goes_by_the_time_shown_even_where_ids_were_made_a_little_earlier_or_later(
    merchant: Caller,
) -> None:
    noon = "019c13ec-9e00"  # how an id of 2026-01-31T12:00:00.000Z begins
    shown = ["2026-01-31T11:59:59.200000Z", "2026-01-31T12:00:00.000500Z", "2026-01-31T12:00:00.900000Z"]
    for at in shown:
        made = merchant.pay(reference=at).json["id"]
        move = "UPDATE transactions SET id = CAST(:new AS uuid), created_at = CAST(:at AS timestamptz) WHERE id = :id"
        execute(move, id=UUID(made), new=noon + made[13:], at=at)

    def found(**parameters: object) -> set[str]:
        page = merchant.get(f"/v1/transactions?{urlencode(parameters)}").json
        return {item["created_at"] for item in page["data"]}

    assert found() == set(shown)
    assert found(created_from=shown[1]) == set(shown[1:])
    assert found(created_to=shown[1]) == {shown[0]}
    assert found(created_from=shown[0], created_to=shown[2]) == set(shown[:2])
    assert found(created_from="2026-01-31T12:00:00.000501Z", created_to=shown[2]) == set()
