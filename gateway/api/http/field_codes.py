"""The codes of the entries in `errors` of a 422 response, with their remedies; source of docs/errors.md."""

from gateway.errors import CardNumberRejected, UnknownField, UnknownPaymentMethod

NOT_VALID = "not_valid"
"""The code of every error without a more specific one."""

REMEDIES = {
    "required": "Add the field.",
    UnknownField.code: UnknownField.remedy,
    "invalid_type": 'Send the JSON type of the schema. An amount is an integer: neither `"12"` nor `12.0`.',
    "invalid_length": "Make the value longer or shorter: /openapi.json has the limits. A value must not be blank.",
    "out_of_range": "Stay within the limits in /openapi.json.",
    "invalid_choice": "Send one of the values in /openapi.json, in lower case.",
    "invalid_format": "Match the pattern in /openapi.json.",
    "invalid_time": "Send an RFC 3339 time with its offset, such as `2026-01-31T12:00:00Z`.",
    "invalid_id": "Send the id as you received it: a UUID in lower case with hyphens.",
    "invalid_email": "Send an address such as `ada@example.com`.",
    "invalid_url": "Send an https URL with a public address: no private, loopback or metadata address.",
    "invalid_characters": "Remove NUL characters and lone surrogates.",
    "duplicate": "Send the value once.",
    "unsupported_currency": "Use an ISO 4217 currency in which payments are made; funds and test codes are rejected.",
    UnknownPaymentMethod.code: UnknownPaymentMethod.remedy,
    CardNumberRejected.code: CardNumberRejected.remedy,
    NOT_VALID: "Read `detail`.",
}
