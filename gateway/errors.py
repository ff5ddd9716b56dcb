"""The errors of the gateway: each carries the HTTP status and the stable code that a caller sees.

`TransientError` says "the same call may succeed later"; `PermanentError` says "it never will as it is".
The first line of a class's docstring is its title in problem documents (RFC 9457); `remedy` says what whoever gets it
can do about it. docs/errors.md is made from both (`make docs`).
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
    remedy: ClassVar[str] = (
        "Send the same request again, with the same Idempotency-Key. If it stays, tell us the request id."
    )

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
    remedy = "Send the same request again after `Retry-After` seconds, with the same Idempotency-Key."


class PermanentError(GatewayError):
    """The request can never succeed as it is."""

    status = 400
    code = "bad_request"
    remedy = "Compare the request with its description in /openapi.json; it cannot succeed as it is."


class MalformedJson(PermanentError):
    """The body is not valid JSON."""

    code = "malformed_json"
    remedy = (
        "Send one JSON text in UTF-8: at most ten levels deep, no name twice in an object, no NaN, no trailing comma."
    )


class MalformedRequest(PermanentError):
    """The request is ambiguous or malformed."""

    code = "malformed_request"
    remedy = (
        "Send at most one Host, Authorization, Content-Type and Idempotency-Key header, only UTF-8, and as many bytes "
        "of the body as Content-Length says."
    )


class InvalidCursor(PermanentError):
    """The cursor is not one that this endpoint returned."""

    code = "invalid_cursor"
    remedy = "Pass on `next_cursor` of the page before as it is, to the same list; leave `cursor` out to begin anew."


class InvalidIdempotencyKey(PermanentError):
    """The Idempotency-Key header is not 1 to 255 printable ASCII characters."""

    code = "invalid_idempotency_key"
    remedy = "Send a key such as a UUID."


class AuthenticationRequired(PermanentError):
    """No valid access token came with the request."""

    status = 401
    code = "authentication_required"
    remedy = "Get an access token from /oauth/token or /auth/login, and send `Authorization: Bearer …`."


class InvalidToken(AuthenticationRequired):
    """The access token is malformed, expired, revoked or not meant for this API."""

    code = "invalid_token"
    remedy = "Get a new access token, and repeat the request with it."


class InvalidCredentials(AuthenticationRequired):
    """Email or password is wrong."""

    code = "invalid_credentials"
    remedy = "Check both. Which of them is wrong is not told."


class InsufficientScope(PermanentError):
    """The access token lacks the scope that this call needs."""

    status = 403
    code = "insufficient_scope"
    remedy = (
        "Ask /oauth/token for a token with the scope that `WWW-Authenticate` names, from a client that may have it."
    )


class NotFound(PermanentError):
    """There is nothing here."""

    status = 404
    code = "not_found"
    remedy = "Check path and id. What belongs to another merchant is not there for you."


class MethodNotAllowed(PermanentError):
    """This resource does not support the method."""

    status = 405
    code = "method_not_allowed"
    remedy = "Use one of the methods that the `Allow` header lists."


class RequestTimeout(TransientError):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"
    remedy = "Repeat the request with the same Idempotency-Key, and send its body without pauses: it was not processed."


class Conflict(PermanentError):
    """The request conflicts with the current state."""

    status = 409
    code = "conflict"
    remedy = "Read the object again, and decide anew."


class EmailTaken(Conflict):
    """A user with this email exists already."""

    code = "email_taken"
    remedy = "Log in with it, or register another one."


class TooManyApiClients(Conflict):
    """The merchant has as many API clients as it may have."""

    code = "too_many_api_clients"
    remedy = "Delete a client that is not used any more, or let several programs share one."


class InvalidState(Conflict):
    """The object's status does not allow this."""

    code = "invalid_state"
    remedy = "Read the object again: its `status` tells what is possible now."


class TooManyEndpoints(Conflict):
    """The merchant has as many webhook endpoints as there may be."""

    code = "too_many_endpoints"
    remedy = "Delete an endpoint that is not used any more, or let one receiver take more types of events."


class TooManyJobs(Conflict):
    """Too many jobs of this kind are unfinished."""

    code = "too_many_jobs"
    remedy = "Wait until one of them has ended, or cancel one."


class AlreadyResolved(Conflict):
    """Somebody has resolved this before."""

    code = "already_resolved"
    remedy = "Nothing is left to do; `resolved_by` tells who did it."


class IdempotencyInProgress(Conflict):
    """A request with this Idempotency-Key is still being processed."""

    code = "idempotency_in_progress"
    remedy = "Send the same request again after `Retry-After` seconds; it gets the first one's answer."


class BodyTooLarge(PermanentError):
    """The request body is larger than the limit."""

    status = 413
    code = "body_too_large"
    remedy = "Send at most 64 KiB."


class UnsupportedMediaType(PermanentError):
    """The request body has a media type that this call does not take."""

    status = 415
    code = "unsupported_media_type"
    remedy = "Send what the call takes (mostly `application/json`), with that Content-Type and uncompressed."


class ValidationFailed(PermanentError):
    """The request is well-formed but its content is not valid."""

    status = 422
    code = "validation_failed"
    remedy = "Correct what `errors` lists; each entry has a JSON pointer, a code and a text."


class UnknownField(ValidationFailed):
    """The request has a field or parameter that this call does not know."""

    code = "unknown_field"
    remedy = "Remove it, or correct its name."


class CardNumberRejected(ValidationFailed):
    """The request holds what looks like a card number; send a provider's token instead."""

    code = "card_number_rejected"
    remedy = "Have the provider's form or library turn the card into a token, and send that. Nothing was stored."


class UnknownPaymentMethod(ValidationFailed):
    """No provider knows this payment method."""

    code = "unknown_payment_method"
    remedy = "Send a token of a provider that this gateway uses; docs/testing.md lists those of the sandbox."


class AmountExceedsRefundable(ValidationFailed):
    """More than is left of the transaction cannot be refunded."""

    code = "amount_exceeds_refundable"
    remedy = "Read the transaction: `amount` less `amount_refunded` is left, less refunds that are under way."


class IdempotencyKeyReused(ValidationFailed):
    """This Idempotency-Key was used before with a different request."""

    code = "idempotency_key_reused"
    remedy = "Use a new key for another request. To repeat the first one, send exactly its body."


class RateLimited(TransientError):
    """Too many requests came in too short a time."""

    status = 429
    code = "rate_limited"
    remedy = (
        "Send the same request again after `Retry-After` seconds; send fewer requests. Wrong passwords from other "
        "devices do not limit a device that has logged in before, if it sends its `X-Device-Token`."
    )


class Overloaded(TransientError):
    """The server has more requests than it can process."""

    code = "overloaded"
    remedy = "Repeat the request after `Retry-After` seconds, with the same Idempotency-Key: it was not processed."


class DatabaseUnavailable(TransientError):
    """The database cannot be reached."""

    code = "database_unavailable"
    remedy = "Send the same request again after `Retry-After` seconds, with the same Idempotency-Key."


class MalformedMessage(PermanentError):
    """A task message has arguments that no publisher of ours would send."""

    code = "malformed_message"
    remedy = "Find the publisher by the dead letter's headers; a discard removes it from the open ones."


class RetriesExhausted(PermanentError):
    """A payment used up its attempts; an operator decides about it."""

    code = "retries_exhausted"
    remedy = "`flask dead-letters show ID`, then replay or discard it."
