"""Read the parameters and the body of a request, with limits that are checked before parsing."""

from collections.abc import Iterable
from urllib.parse import parse_qsl

from flask import Request
from flask import request as current_request

from gateway.api.http.validation import NoQuery, parse_parameters, reject_too_many_parameters
from gateway.errors import BodyTooLarge, UnsupportedMediaType

BODY_MAX_BYTES = 64 * 1024
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def reject_parameters(request: Request) -> None:
    """Reject the query string of a request to an endpoint that has no parameters."""
    if request.query_string:
        parse_parameters(NoQuery, parameters_of(request))


def parameters_of(request: Request) -> Iterable[tuple[str, str]]:
    """Return the parameters of the query string, in order.

    Raises:
        ValidationFailed: there are too many.
    """
    reject_too_many_parameters(request.query_string)
    return request.args.items(multi=True)


def body_of_type(request: Request, media_type: str) -> bytes:
    """Return the body, which must have this media type.

    Raises:
        UnsupportedMediaType: it has another media type, or a content encoding.
        BodyTooLarge: it has more than `BODY_MAX_BYTES`.
    """
    has_type = request.environ.get("CONTENT_TYPE") == media_type or request.mimetype == media_type
    if not has_type or request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType(f"Send the body as {media_type}.")
    body = request.get_data()
    if len(body) > BODY_MAX_BYTES:
        raise BodyTooLarge(f"A body may have at most {BODY_MAX_BYTES} bytes.")
    return body


def form_parameters() -> list[tuple[str, str]]:
    """Return the fields of a form body, in order.

    Raises:
        UnsupportedMediaType: the body is not a form.
        UnicodeDecodeError: it is not UTF-8.
        ValidationFailed: it has too many fields.
    """
    body = body_of_type(current_request, FORM)
    reject_too_many_parameters(body)
    return parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
