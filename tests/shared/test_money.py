"""Minor units, currencies and fees."""

import pytest

from gateway.money import AMOUNT_MAX, fee_of, is_payable, minor_unit_exponents

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("currency", "exponent"),
    [("JPY", 0), ("KRW", 0), ("CLP", 0), ("USD", 2), ("EUR", 2), ("CHF", 2), ("KWD", 3), ("BHD", 3), ("TND", 3)],
)
def test_a_currency_has_the_minor_unit_of_iso_4217(currency: str, exponent: int) -> None:
    assert minor_unit_exponents()[currency] == exponent


@pytest.mark.parametrize(
    "code",
    ["XXX", "XTS", "XAU", "XAG", "XDR", "CHE", "CHW", "CLF", "BOV", "COU", "MXV", "USN", "UYI", "DEM", "usd", ""],
)
def test_other_codes_are_not_payable(code: str) -> None:
    assert not is_payable(code)


def test_every_payable_code_is_three_capital_letters_with_a_small_exponent() -> None:
    assert len(minor_unit_exponents()) > 140
    for code, exponent in minor_unit_exponents().items():
        assert code.isascii()
        assert code.isalpha()
        assert code.isupper()
        assert len(code) == 3
        assert 0 <= exponent <= 4


@pytest.mark.parametrize(
    ("amount", "basis_points", "fee"),
    [
        (12550, 290, 364),
        (1, 290, 0),
        (17, 290, 0),
        (18, 290, 1),
        (10_000, 290, 290),
        (50, 100, 1),
        (49, 100, 0),
        (1, 10_000, 1),
        (12550, 0, 0),
        (AMOUNT_MAX, 10_000, AMOUNT_MAX),
        (AMOUNT_MAX, 290, 29_000_000_000),
    ],
)
def test_a_fee_is_rounded_half_up_and_at_most_the_amount(amount: int, basis_points: int, fee: int) -> None:
    assert fee_of(amount, basis_points) == fee
