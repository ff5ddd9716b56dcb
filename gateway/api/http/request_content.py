"""The parameters and the body of a request, with bounds that are checked before parsing."""

from collections.abc import Iterable
from urllib.parse import parse_qsl

from flask import Request, request

from gateway.api.http.validation import NoQuery, parse_parameters, refuse_many_parameters
from gateway.errors import BodyTooLarge, UnsupportedMediaType

BODY_MAX_BYTES = 64 * 1024
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def refuse_parameters(asked: Request) -> None:
    """Reject a query string where the call takes no parameters."""
    if asked.query_string:
        parse_parameters(NoQuery, parameters_of(asked))


def parameters_of(asked: Request) -> Iterable[tuple[str, str]]:
    """Return the parameters of the query string, in order.

    Raises:
        ValidationFailed: there are too many.
    """
    refuse_many_parameters(asked.query_string)
    return asked.args.items(multi=True)


def body_of_type(asked: Request, media_type: str) -> bytes:
    """Return the body, which must be of this media type.

    Raises:
        UnsupportedMediaType: it has another media type, or a content encoding.
        BodyTooLarge: it has more than `BODY_MAX_BYTES`.
    """
    has_type = asked.environ.get("CONTENT_TYPE") == media_type or asked.mimetype == media_type
    if not has_type or asked.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType(f"Send the body as {media_type}.")
    body = asked.get_data()
    if len(body) > BODY_MAX_BYTES:
        raise BodyTooLarge(f"A body may have {BODY_MAX_BYTES} bytes at most.")
    return body


def form_parameters() -> list[tuple[str, str]]:
    """Return the fields of a form body, in order.

    Raises:
        UnsupportedMediaType: the body is not a form.
        UnicodeDecodeError: it is not UTF-8.
        ValidationFailed: it has too many fields.
    """
    body = body_of_type(request, FORM)
    refuse_many_parameters(body)
    return parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
