"""The errors of the gateway: each carries the HTTP status and the stable code that a caller sees.

`TransientError` says "the same call may succeed later"; `PermanentError` says "it never will as it is".
The first line of a class's docstring is its title in problem documents (RFC 9457).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict


class FieldError(TypedDict):
    """One invalid field: a JSON pointer (RFC 6901), a stable code, and what to do about it."""

    pointer: str
    code: str
    detail: str


class GatewayError(Exception):
    """The request could not be carried out."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, detail: str = "", *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail or self.title())
        self.detail = detail or self.title()
        self.errors = list(errors)
        self.headers = dict(headers or {})

    @classmethod
    def title(cls) -> str:
        """The problem type in a few words, the same for every occurrence."""
        return (cls.__doc__ or cls.code).strip().splitlines()[0].rstrip(".")


class TransientError(GatewayError):
    """The gateway cannot serve this right now."""

    status = 503
    code = "temporarily_unavailable"


class PermanentError(GatewayError):
    """The request can never succeed as it is."""

    status = 400
    code = "bad_request"


class MalformedJson(PermanentError):
    """The body is not valid JSON."""

    code = "malformed_json"


class InvalidCursor(PermanentError):
    """The cursor is not one that this endpoint returned."""

    code = "invalid_cursor"


class InvalidIdempotencyKey(PermanentError):
    """The Idempotency-Key header is not 1 to 255 printable ASCII characters."""

    code = "invalid_idempotency_key"


class AuthenticationRequired(PermanentError):
    """No valid access token came with the request."""

    status = 401
    code = "authentication_required"


class InvalidToken(AuthenticationRequired):
    """The access token is malformed, expired, revoked or not meant for this API."""

    code = "invalid_token"


class InvalidCredentials(AuthenticationRequired):
    """Email or password is wrong."""

    code = "invalid_credentials"


class InsufficientScope(PermanentError):
    """The access token lacks the scope that this call needs."""

    status = 403
    code = "insufficient_scope"


class NotFound(PermanentError):
    """There is nothing here."""

    status = 404
    code = "not_found"


class MethodNotAllowed(PermanentError):
    """This resource does not support the method."""

    status = 405
    code = "method_not_allowed"


class Conflict(PermanentError):
    """The request conflicts with the current state."""

    status = 409
    code = "conflict"


class EmailTaken(Conflict):
    """A user with this email exists already."""

    code = "email_taken"


class InvalidState(Conflict):
    """The object's status does not allow this."""

    code = "invalid_state"


class AlreadyResolved(Conflict):
    """The dead letter was replayed or discarded before."""

    code = "already_resolved"


class IdempotencyInProgress(Conflict):
    """A request with this Idempotency-Key is still being processed."""

    code = "idempotency_in_progress"


class BodyTooLarge(PermanentError):
    """The request body is larger than the limit."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(PermanentError):
    """The request body has a media type that this call does not take."""

    status = 415
    code = "unsupported_media_type"


class ValidationFailed(PermanentError):
    """The request is well-formed but its content is not valid."""

    status = 422
    code = "validation_failed"


class UnknownField(ValidationFailed):
    """The request has a field or parameter that this call does not know."""

    code = "unknown_field"


class CardNumberRejected(ValidationFailed):
    """The request holds what looks like a card number; send a provider's token instead."""

    code = "card_number_rejected"


class UnknownPaymentMethod(ValidationFailed):
    """No provider knows this payment method."""

    code = "unknown_payment_method"


class IdempotencyKeyReused(ValidationFailed):
    """This Idempotency-Key was used before with a different request."""

    code = "idempotency_key_reused"


class DatabaseUnavailable(TransientError):
    """The database cannot be reached."""

    code = "database_unavailable"


class MalformedMessage(PermanentError):
    """A task message has arguments that no publisher of ours would send."""

    code = "malformed_message"


class RetriesExhausted(PermanentError):
    """A payment used up its attempts; an operator decides about it."""

    code = "retries_exhausted"
