"""Integer minor units and ISO 4217 currencies. No float ever holds money."""

from functools import cache

from iso4217 import Currency, raw_xml

AMOUNT_MIN = 1
AMOUNT_MAX = 999_999_999_999
BASIS_POINTS = 10_000

_TEST_CODES = frozenset({"XXX", "XTS"})


@cache
def minor_unit_exponents() -> dict[str, int]:
    """Return each payable ISO 4217 code with the number of digits of its minor unit (JPY 0, USD 2, KWD 3).

    Funds codes, test codes and codes without a minor unit (gold, SDR) are not payable.
    """
    funds = {
        entry.findtext("Ccy") for entry in raw_xml.iter("CcyNtry") if entry.find("CcyNm[@IsFund='true']") is not None
    }
    return {
        currency.code: currency.exponent
        for currency in Currency
        if currency.exponent is not None and currency.code not in funds | _TEST_CODES
    }


def is_payable(currency: str) -> bool:
    """Return whether payments can be made in `currency`, a code in upper case."""
    return currency in minor_unit_exponents()


def fee_of(amount: int, basis_points: int) -> int:
    """Return the fee on `amount` in minor units, rounded half up and at most the amount.

    >>> fee_of(12550, 290)
    364
    """
    return min(amount, (amount * basis_points + BASIS_POINTS // 2) // BASIS_POINTS)
