"""The codes in `errors` of a 422, each with what to do about it; docs/errors.md is made from them (`make docs`)."""

from gateway.errors import CardNumberRejected, UnknownField, UnknownPaymentMethod

NOT_VALID = "not_valid"
"""What is wrong in a way that has no code of its own."""

REMEDIES = {
    "required": "Add it.",
    UnknownField.code: UnknownField.remedy,
    "invalid_type": 'Send the JSON type of the schema. An amount is an integer: neither `"12"` nor `12.0`.',
    "invalid_length": "Make it longer or shorter: /openapi.json has the limits. Blank text does not count.",
    "out_of_range": "Stay between the limits in /openapi.json.",
    "invalid_choice": "Take one of the values in /openapi.json, in lower case.",
    "invalid_format": "Follow the pattern in /openapi.json.",
    "invalid_time": "Send an RFC 3339 time with its offset, such as `2026-01-31T12:00:00Z`.",
    "invalid_id": "Send an id as you got it: a UUID in lower case with hyphens.",
    "invalid_email": "Send an address such as `ada@example.com`.",
    "invalid_url": "Send an https URL that everybody can reach: no private, loopback or metadata address.",
    "invalid_characters": "Remove NUL characters and lone surrogates.",
    "duplicate": "Give it once.",
    "unsupported_currency": "Use an ISO 4217 currency that payments are made in; funds and test codes are refused.",
    UnknownPaymentMethod.code: UnknownPaymentMethod.remedy,
    CardNumberRejected.code: CardNumberRejected.remedy,
    NOT_VALID: "Read `detail`.",
}
