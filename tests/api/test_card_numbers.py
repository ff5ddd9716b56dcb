"""What counts as a card number (api.md, Conventions)."""

import random
import time
import uuid

import pytest

from gateway.api.card_numbers import holds_card_number, passes_luhn

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
        lambda number: "".join(chr(0xFF10 + int(digit)) for digit in number),
        lambda number: f"order 7 {number[:4]} {number[4:8]} {number[8:12]} {number[12:]} 12 27 123",
    ],
)
def test_a_card_number_is_found_however_it_is_written(number: str, write: "type[str]") -> None:
    assert holds_card_number(write(number))


@pytest.mark.parametrize("number", CARDS)
def test_a_number_with_a_wrong_digit_is_no_card_number(number: str) -> None:
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)

    assert not passes_luhn(wrong)
    assert not holds_card_number(wrong)


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
def test_ordinary_text_is_let_through(text: str) -> None:
    assert not holds_card_number(text)


def test_no_uuid_is_taken_for_a_card_number() -> None:
    generator = random.Random(1)  # noqa: S311
    for _ in range(20_000):
        made = uuid.UUID(int=generator.getrandbits(128))
        assert not holds_card_number(str(made))
        assert not holds_card_number(f"order {made}, again")
        assert not holds_card_number(made.hex) or made.hex.isdigit()


def test_no_random_hexadecimal_id_is_taken_for_a_card_number() -> None:
    generator = random.Random(2)  # noqa: S311
    for size in (16, 20, 24, 32, 40, 64):
        for _ in range(10_000):
            made = f"{generator.getrandbits(size * 4):0{size}x}"
            assert not holds_card_number(made) or made.isdigit()


@pytest.mark.parametrize("number", CARDS)
def test_a_number_that_could_have_been_issued_is_found_among_ids_too(number: str) -> None:
    assert holds_card_number(number, issued_only=True)
    assert holds_card_number(f"pay-{number}", issued_only=True)


@pytest.mark.parametrize("number", ["1234567812345670", "1700000000004", "0000000000000000", "9999999999999995"])
def test_a_number_that_nobody_issued_counts_in_text_but_not_in_an_id(number: str) -> None:
    assert passes_luhn(number)
    assert holds_card_number(number)
    assert not holds_card_number(number, issued_only=True)


@pytest.mark.parametrize(
    "text", ["0 " * 32_000, "4 " * 32_000, "1" * 64_000, "4444444444444444 " * 3_800, "4-" * 32_000]
)
def test_the_longest_text_costs_little(text: str) -> None:
    started = time.process_time()
    holds_card_number(text)

    assert time.process_time() - started < 0.5
