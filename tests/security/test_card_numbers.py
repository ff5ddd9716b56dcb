"""Detection of card numbers (docs/api.md)."""

import base64
import random
import re
import time
import uuid
from datetime import UTC, datetime

import pytest

from gateway.security.card_numbers import MASK, contains_card_number, mask_card_numbers, passes_luhn

pytestmark = pytest.mark.unit


SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
CARDS = [
    "4242424242424242", "4111111111111111", "4000056655665556", "4222222222222", "5555555555554444", "2223003122003222",
    "378282246310005", "371449635398431", "6011111111111117", "3056930009020004", "36227206271667", "3566002020360505",
    "6200000000000005", "6304000000000000", "6759649826438453",
]  # fmt: skip


@pytest.mark.parametrize("number", CARDS)
@pytest.mark.parametrize(
    "write",
    [
        str,
        lambda number: f"card {number}, thanks",
        lambda number: f"x{number}x",
        lambda number: " ".join(number[start : start + 4] for start in range(0, len(number), 4)),
        lambda number: "-".join(number[start : start + 4] for start in range(0, len(number), 4)),
        ".".join,
        lambda number: " - ".join(number[start : start + 5] for start in range(0, len(number), 5)),
        lambda number: "\u00a0".join(number[start : start + 4] for start in range(0, len(number), 4)),
        lambda number: "".join(chr(0xFF10 + int(digit)) for digit in number),  # fullwidth
        lambda number: "".join(chr(0x0660 + int(digit)) for digit in number),  # Arabic-Indic
        lambda number: "".join(chr(0x0966 + int(digit)) for digit in number),  # Devanagari
        lambda number: "".join(chr(0x1D7CE + int(digit)) for digit in number),  # mathematical bold
        lambda number: "".join(SUPERSCRIPTS[int(digit)] for digit in number),
        "\u200b".join,  # zero-width space
        "\ufe0f\u20e3".join,  # keycaps
        "\u2014".join,
        "\u00b7".join,
        "_".join,
        lambda number: "     ".join(number[start : start + 4] for start in range(0, len(number), 4)),
        lambda number: "\r\n".join(number[start : start + 4] for start in range(0, len(number), 4)),
        lambda number: f"ab{number}cd",
        lambda number: f"pay_{number}",
        lambda number: f"{uuid.uuid4()} {number}",
        lambda number: f"2026-01-31 {number} 31.01.2026",
        lambda number: f"order 7 {number[:4]} {number[4:8]} {number[8:12]} {number[12:]} 12 27 123",
    ],
)
def test_a_card_number_is_found_in_every_notation(number: str, write: "type[str]") -> None:
    assert contains_card_number(write(number))


@pytest.mark.parametrize("number", CARDS)
def test_a_number_with_an_incorrect_check_digit_is_no_card_number(number: str) -> None:
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)

    assert not passes_luhn(wrong)
    assert not contains_card_number(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order-1001",
        "424242424242",  # twelve digits
        "42424242424242424242",  # twenty digits
        "2026-01-31 - 2026-02-28",
        "31.01.2026 - 28.02.2026",
        "2026-01-31T12:00:00.123456Z",
        "+41 44 668 18 00",
        "1234567890123",
        "d41d8cd98f00b204e9800998ecf8427e",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_ordinary_text_contains_no_card_number(text: str) -> None:
    assert not contains_card_number(text)


def test_a_uuid_is_no_card_number() -> None:
    generator = random.Random(1)  # noqa: S311
    for _ in range(20_000):
        made = uuid.UUID(int=generator.getrandbits(128))
        assert not contains_card_number(str(made))
        assert not contains_card_number(f"order {made}, again")
        assert not contains_card_number(made.hex) or made.hex.isdigit()


def test_a_random_hexadecimal_id_is_no_card_number() -> None:
    generator = random.Random(2)  # noqa: S311
    for size in (16, 20, 24, 32, 40, 64):
        for _ in range(10_000):
            made = f"{generator.getrandbits(size * 4):0{size}x}"
            assert not contains_card_number(made) or re.fullmatch("[a-f]*[0-9]{13,19}[a-f]*", made), made


@pytest.mark.parametrize("around", ["{}", "order_{}", "txn{}", "req-{}-1", "urn:uuid:{}", "{}/{}", "{},{}", "{}_{}"])
def test_a_uuid_of_any_version_is_no_card_number_in_any_context(around: str) -> None:
    generator = random.Random(3)  # noqa: S311
    for _ in range(5_000):
        number = generator.getrandbits(128)
        digits = f"{number:032x}"
        sequential = uuid.UUID(f"0199{digits[4:12]}7{digits[13:]}")
        # a UUID of decimal digits only: the worst case
        decimal = uuid.UUID("".join(str(int(digit, 16) % 10) for digit in digits))
        for made in (uuid.UUID(int=number, version=4), sequential, decimal):
            text = around.replace("{}", str(made))
            assert not contains_card_number(text), text
            assert mask_card_numbers(text) == text


def test_a_token_a_timestamp_or_an_amount_is_no_card_number() -> None:
    generator = random.Random(4)  # noqa: S311
    for _ in range(5_000):
        moment = datetime.fromtimestamp(generator.randrange(2_000_000_000), UTC)
        made = (
            base64.urlsafe_b64encode(generator.randbytes(32)).decode(),
            base64.b64encode(generator.randbytes(16)).decode(),
            moment.isoformat(),
            moment.isoformat(sep=" ", timespec="milliseconds"),
            moment.strftime("%Y%m%d"),
            f"{generator.randrange(10**12)}",
            f"EUR {generator.randrange(10**9)}.{generator.randrange(100):02}",
            f"+41 44 {generator.randrange(100, 1000)} {generator.randrange(10, 100)} {generator.randrange(10, 100)}",
            f"order-{generator.randrange(10**12)}",
        )
        assert not any(map(contains_card_number, made)), made


def test_an_order_number_counts_as_a_card_number_only_if_it_passes_the_luhn_check() -> None:
    generator = random.Random(5)  # noqa: S311
    for _ in range(20_000):
        size = generator.randrange(13, 20)
        number = f"{generator.randrange(10 ** (size - 1), 10**size)}"
        assert contains_card_number(f"order {number}") == passes_luhn(number)
        assert contains_card_number(f"#{number}, 3 pieces") == passes_luhn(number)


def test_a_number_in_one_group_is_found_beside_other_groups() -> None:
    assert contains_card_number("12345 1234567812345670 12345")


def test_only_the_number_is_masked_in_a_log_line() -> None:
    made = uuid.uuid4()

    assert mask_card_numbers(f"card 4242 4242 4242 4242 of {made}, 20 ms") == f"card {MASK} of {made}, 20 ms"
    assert mask_card_numbers("٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢ and 378282246310005") == f"{MASK} and {MASK}"
    assert mask_card_numbers("Task done in 0.1234567890123456s") == "Task done in 0.1234567890123456s"


@pytest.mark.parametrize("number", CARDS)
def test_a_number_that_could_have_been_issued_is_found_in_ids_too(number: str) -> None:
    assert contains_card_number(number, issued_only=True)
    assert contains_card_number(f"pay-{number}", issued_only=True)


@pytest.mark.parametrize("number", ["1234567812345670", "1700000000004", "0000000000000000", "9999999999999995"])
def test_a_number_that_no_scheme_issues_counts_in_text_but_not_in_an_id(number: str) -> None:
    assert passes_luhn(number)
    assert contains_card_number(number)
    assert not contains_card_number(number, issued_only=True)


LONG_TEXTS = [
    "0 " * 32_000, "4 " * 32_000, "1" * 64_000, "4444444444444444 " * 3_800, "4-" * 32_000,
    "a1" * 32_000, "1" + " " * 64_000, "\u0664 " * 32_000, "1-a" * 21_000,
]  # fmt: skip


@pytest.mark.parametrize("text", LONG_TEXTS)
def test_long_texts_take_little_time(text: str) -> None:
    started = time.process_time()
    contains_card_number(text)

    assert time.process_time() - started < 0.5
