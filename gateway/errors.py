"""The errors of the gateway, each with an HTTP status and a stable code.

After a `TransientError` the same call may succeed later; after a `PermanentError` it cannot succeed unchanged.
The first line of a class's docstring is its title in problem documents (RFC 9457); `remedy` says what the caller can
do. docs/errors.md is written from both (`make docs`).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict


class FieldError(TypedDict):
    """One invalid field: a JSON pointer (RFC 6901), a stable code, and the reason."""

    pointer: str
    code: str
    detail: str


class GatewayError(Exception):
    """The request could not be processed."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    remedy: ClassVar[str] = (
        "Send the same request again with the same Idempotency-Key. If the error persists, report the request id."
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
        """Return a short name of the problem, the same for every occurrence."""
        return (cls.__doc__ or cls.code).strip().splitlines()[0].rstrip(".")


class TransientError(GatewayError):
    """The gateway is temporarily unable to process the request."""

    status = 503
    code = "temporarily_unavailable"
    remedy = "Send the same request again after `Retry-After` seconds with the same Idempotency-Key."


class PermanentError(GatewayError):
    """The request cannot succeed unchanged."""

    status = 400
    code = "bad_request"
    remedy = "Compare the request with its description in /openapi.json."


class MalformedJson(PermanentError):
    """The body is not valid JSON."""

    code = "malformed_json"
    remedy = "Send one JSON text in UTF-8: at most ten levels deep, without duplicate names, NaN or trailing commas."


class MalformedRequest(PermanentError):
    """The request is ambiguous or malformed."""

    code = "malformed_request"
    remedy = (
        "Send at most one Host, Authorization, Content-Type and Idempotency-Key header, text in UTF-8, and a body of "
        "the length that Content-Length states."
    )


class InvalidCursor(PermanentError):
    """The cursor was not returned by this endpoint."""

    code = "invalid_cursor"
    remedy = "Send the `next_cursor` of the previous page of the same list unchanged; omit `cursor` for the first page."


class InvalidIdempotencyKey(PermanentError):
    """The Idempotency-Key header is not 1 to 255 printable ASCII characters."""

    code = "invalid_idempotency_key"
    remedy = "Send a key such as a UUID."


class AuthenticationRequired(PermanentError):
    """The request has no valid access token."""

    status = 401
    code = "authentication_required"
    remedy = "Get an access token from /oauth/token or /auth/login and send it as `Authorization: Bearer …`."


class InvalidToken(AuthenticationRequired):
    """The access token is malformed, expired, revoked or not intended for this API."""

    code = "invalid_token"
    remedy = "Get a new access token and send the request again with it."


class InvalidCredentials(AuthenticationRequired):
    """The email or the password is incorrect."""

    code = "invalid_credentials"
    remedy = "Check both. For security, the response does not say which one is incorrect."


class InsufficientScope(PermanentError):
    """The access token lacks a required scope."""

    status = 403
    code = "insufficient_scope"
    remedy = "Get a token with the scope that `WWW-Authenticate` names, from a client that has this scope."


class NotFound(PermanentError):
    """The resource does not exist."""

    status = 404
    code = "not_found"
    remedy = "Check the path and the id. Objects of other merchants are reported as nonexistent."


class MethodNotAllowed(PermanentError):
    """This resource does not support the method."""

    status = 405
    code = "method_not_allowed"
    remedy = "Use one of the methods that the `Allow` header lists."


class RequestTimeout(TransientError):
    """The request was not received in time."""

    status = 408
    code = "request_timeout"
    remedy = "It was not processed. Send it again with the same Idempotency-Key, and its body without pauses."


class Conflict(PermanentError):
    """The request conflicts with the current state."""

    status = 409
    code = "conflict"
    remedy = "Read the object again and check its state."


class EmailTaken(Conflict):
    """A user with this email already exists."""

    code = "email_taken"
    remedy = "Log in with this email, or register with another one."


class TooManyApiClients(Conflict):
    """The merchant has the maximum number of API clients."""

    code = "too_many_api_clients"
    remedy = "Delete an unused client, or share one among several programs."


class InvalidState(Conflict):
    """The object's status does not allow this."""

    code = "invalid_state"
    remedy = "Read the object again. Its `status` determines what is possible."


class TooManyEndpoints(Conflict):
    """The merchant has the maximum number of webhook endpoints."""

    code = "too_many_endpoints"
    remedy = "Delete an unused endpoint, or subscribe one endpoint to more types of events."


class TooManyJobs(Conflict):
    """Too many jobs of this kind are unfinished."""

    code = "too_many_jobs"
    remedy = "Wait until one of them has finished, or cancel one."


class AlreadyResolved(Conflict):
    """The object is already resolved."""

    code = "already_resolved"
    remedy = "Nothing remains to be done; `resolved_by` names the user who resolved it."


class IdempotencyInProgress(Conflict):
    """A request with this Idempotency-Key is still being processed."""

    code = "idempotency_in_progress"
    remedy = "Send the same request again after `Retry-After` seconds; it gets the response of the first one."


class BodyTooLarge(PermanentError):
    """The request body is larger than the limit."""

    status = 413
    code = "body_too_large"
    remedy = "Send at most 64 KiB."


class UnsupportedMediaType(PermanentError):
    """The request body has an unsupported media type."""

    status = 415
    code = "unsupported_media_type"
    remedy = "Send a body that the call accepts, usually `application/json`, uncompressed and with its Content-Type."


class ValidationFailed(PermanentError):
    """The request is well-formed, but its content is invalid."""

    status = 422
    code = "validation_failed"
    remedy = "Correct the fields that `errors` lists; each entry has a JSON pointer, a code and a description."


class UnknownField(ValidationFailed):
    """The request has an unknown field or parameter."""

    code = "unknown_field"
    remedy = "Remove the field or parameter, or correct its name."


class CardNumberRejected(ValidationFailed):
    """The request contains a card number; send a provider's token instead."""

    code = "card_number_rejected"
    remedy = "Nothing was stored. Get a token for the card with the provider's form or library, and send the token."


class UnknownPaymentMethod(ValidationFailed):
    """No provider accepts this payment method."""

    code = "unknown_payment_method"
    remedy = "Send a token of a provider that this gateway uses; docs/testing.md lists the test tokens."


class AmountExceedsRefundable(ValidationFailed):
    """The amount exceeds the refundable amount of the transaction."""

    code = "amount_exceeds_refundable"
    remedy = "Read the transaction: `amount` minus `amount_refunded` minus pending refunds is refundable."


class IdempotencyKeyReused(ValidationFailed):
    """The Idempotency-Key was already used with a different request."""

    code = "idempotency_key_reused"
    remedy = "Use a new key for a new request. To repeat the first request, send exactly the same body."


class RateLimited(TransientError):
    """The caller sent too many requests in a short time."""

    status = 429
    code = "rate_limited"
    remedy = (
        "Send the same request again after `Retry-After` seconds, and send fewer requests. Wrong passwords from other "
        "devices do not limit a device that has logged in before, if it sends its `X-Device-Token`."
    )


class Overloaded(TransientError):
    """The server has more requests than it can process."""

    code = "overloaded"
    remedy = "It was not processed. Send it again after `Retry-After` seconds with the same Idempotency-Key."


class DatabaseUnavailable(TransientError):
    """The database is unavailable."""

    code = "database_unavailable"
    remedy = "Send the same request again after `Retry-After` seconds with the same Idempotency-Key."


class MalformedMessage(PermanentError):
    """A task message has malformed arguments."""

    code = "malformed_message"
    remedy = "Identify the publisher by the headers of the dead letter, then discard the dead letter."


class RetriesExhausted(PermanentError):
    """A payment has used up its attempts and waits for an operator."""

    code = "retries_exhausted"
    remedy = "Inspect it with `flask dead-letters show ID`, then replay or discard it."
