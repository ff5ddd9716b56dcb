"""Declare the endpoints of the API. One declaration validates the requests and generates /openapi.json.

`Routes.get` and its siblings read the signature of the view: `body` and `query` are pydantic models, `upload` is a
file, `context` is a `RequestContext`, and every other parameter is an id in the path. A view gets only the arguments
that its signature has.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_type_hints
from uuid import UUID

from flask import Flask, Request, Response, request
from pydantic import BaseModel

from gateway.api.access import rate_limits, sign_in, tokens
from gateway.api.access.tokens import Caller
from gateway.api.http import middleware
from gateway.api.http.request_content import JSON, body_of_type, parameters_of, reject_parameters
from gateway.api.http.uploads import Upload
from gateway.api.http.validation import NoBody, NoQuery, parse_json, parse_parameters, reject_card_number
from gateway.domain.shared.idempotency import KEY_MAX_LENGTH, IdempotencyKey
from gateway.errors import GatewayError, InsufficientScope, NotFound
from gateway.ids import parse_id

IDEMPOTENCY_HEADER = "Idempotency-Key"

_NOT_IDS = frozenset({"context", "body", "query", "upload"})
"""The parameters of a view that are not ids."""
_PATH_PARAMETER = re.compile(r"<(\w+)>")


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """The response of a view: a JSON document, text or bytes, or an iterator that is sent piece by piece."""

    body: Mapping[str, Any] | str | bytes | Iterator[bytes] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The request that a view processes, and its authenticated caller; requests to public endpoints have none."""

    request: Request
    authenticated: Caller | None

    @property
    def caller(self) -> Caller:
        """Return the caller."""
        assert self.authenticated is not None, "requests to a public endpoint have no caller"
        return self.authenticated

    @property
    def merchant_id(self) -> UUID:
        """Return the merchant of the caller.

        Raises:
            InsufficientScope: the caller is an operator, who has no merchant.
        """
        if self.caller.merchant_id is None:
            raise InsufficientScope("This endpoint is for merchants.")
        return self.caller.merchant_id

    @property
    def actor(self) -> str:
        """Return the caller's name in the audit log."""
        return self.caller.actor

    @property
    def request_id(self) -> str:
        """Return the id of the request in responses, logs and tasks."""
        return middleware.request_id(self.request)

    def idempotency_key(self) -> IdempotencyKey | None:
        """Return the Idempotency-Key of the request, or None.

        Raises:
            InvalidIdempotencyKey: it is not 1 to 255 printable ASCII characters.
            CardNumberRejected: it contains a card number.
        """
        key = self.request.headers.get(IDEMPOTENCY_HEADER)
        if key is None:
            return None
        if len(key) <= KEY_MAX_LENGTH:  # a longer one is rejected below without the regular expression
            reject_card_number(key, (IDEMPOTENCY_HEADER,), issued_only=True)
        return IdempotencyKey.of(key, self.request.method, self.request.path, self.request.get_data())


View = Callable[..., ApiResponse]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The declaration of an endpoint. With `scope` None and `public` False, any valid access token is sufficient."""

    method: str
    path: str
    view: View
    tag: str
    public: bool
    scope: str | None
    body: type[BaseModel] | None
    form: type[BaseModel] | None
    upload: Upload | None
    query: type[BaseModel] | None
    ids: tuple[str, ...]
    responses: Mapping[int, type[BaseModel] | None]
    errors: tuple[type[GatewayError], ...]
    media_type: str
    idempotent: bool
    documented: bool
    takes_context: bool

    @property
    def name(self) -> str:
        """Return the unique name of the endpoint."""
        return self.view.__name__

    @cached_property
    def needs_body(self) -> bool:
        """Return whether requests need a body."""
        models = [model for model in (self.body, self.form) if model is not None]
        return any(field.is_required() for model in models for field in model.model_fields.values())

    @cached_property
    def has_credentials(self) -> bool:
        """Return whether requests have credentials, so that they are limited by address."""
        return self.path.startswith(("/auth/", "/oauth/"))

    def serve(self, **path: str) -> Response:
        """Process the current request; this is the view function for Flask."""
        current: Request = request._get_current_object()  # type: ignore[attr-defined]  # each use of the proxy looks it up
        if self.has_credentials:
            sign_in.admit(current)
        caller = None if self.public else tokens.authenticate(current.headers.get("Authorization", ""))
        if caller is not None and not self.has_credentials:
            rate_limits.admit_caller(caller.subject, caller.merchant_id)
        if caller is not None and self.scope is not None:
            tokens.require_scopes(caller, self.scope)
        arguments: dict[str, Any] = {name: _id_of(text) for name, text in path.items()}
        if self.query is NoQuery:
            reject_parameters(current)
        elif self.query is not None:
            arguments["query"] = parse_parameters(self.query, parameters_of(current))
        if self.body is not None:
            absent = not self.needs_body and not current.get_data()
            body = self.body() if absent else parse_json(self.body, body_of_type(current, JSON))
            arguments |= {} if self.body is NoBody else {"body": body}
        if self.takes_context:
            arguments["context"] = RequestContext(current, caller)
        if self.upload is None:
            return self._respond(self.view(**arguments))
        with self.upload.received() as file:
            return self._respond(self.view(upload=file, **arguments))

    def _respond(self, result: ApiResponse) -> Response:
        headers = list(result.headers.items())
        if not self.public:
            headers.append(("Cache-Control", "no-store"))
        if result.body is None:
            response = Response(status=result.status, headers=headers)
            del response.headers["Content-Type"]  # Flask's default
            return response
        body = json.dumps(result.body) if isinstance(result.body, Mapping) else result.body
        return Response(body, result.status, headers, content_type=self.media_type)


class Routes:
    """The endpoints of one part of the API."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.endpoints: list[Endpoint] = []

    def get(self, path: str, **declaration: Any) -> Callable[[View], View]:
        """Declare a GET; see `_declare`."""
        return self._declare("GET", path, **declaration)

    def post(self, path: str, **declaration: Any) -> Callable[[View], View]:
        """Declare a POST; see `_declare`."""
        return self._declare("POST", path, **declaration)

    def patch(self, path: str, **declaration: Any) -> Callable[[View], View]:
        """Declare a PATCH; see `_declare`."""
        return self._declare("PATCH", path, **declaration)

    def delete(self, path: str, **declaration: Any) -> Callable[[View], View]:
        """Declare a DELETE; see `_declare`."""
        return self._declare("DELETE", path, **declaration)

    def _declare(
        self,
        method: str,
        path: str,
        *,
        responses: Mapping[int, type[BaseModel] | None],
        scope: str | None = None,
        public: bool = False,
        form: type[BaseModel] | None = None,
        upload: Upload | None = None,
        errors: Iterable[type[GatewayError]] = (),
        media_type: str = JSON,
        idempotent: bool = False,
        documented: bool = True,
    ) -> Callable[[View], View]:
        """Declare the decorated view as an endpoint.

        `responses` maps each status to the model of its body. `errors` are those that only this view raises. `form`
        documents a form body that the view reads. `upload` is a file that the view gets as a parameter. `idempotent`
        endpoints accept an Idempotency-Key.
        """

        def declare(view: View) -> View:
            hints = get_type_hints(view)
            models = {name: hint for name, hint in hints.items() if name in {"body", "query"}}
            default_query = None if public and "body" not in models else NoQuery
            default_body = None if method != "POST" or form or upload else NoBody
            endpoint = Endpoint(
                method=method,
                path=path,
                view=view,
                tag=self.tag,
                public=public,
                scope=scope,
                body=models.get("body", default_body),
                form=form,
                upload=upload,
                query=models.get("query", default_query),
                ids=tuple(_PATH_PARAMETER.findall(path)),
                responses=responses,
                errors=tuple(errors),
                media_type=media_type,
                idempotent=idempotent,
                documented=documented,
                takes_context="context" in hints,
            )
            ids = {name for name in inspect.signature(view).parameters if name not in _NOT_IDS}
            assert ids == set(endpoint.ids), f"{view.__name__} must have the ids of {path} as parameters"
            assert all(hints[name] is UUID for name in ids), f"the ids of {view.__name__} must be UUIDs"
            self.endpoints.append(endpoint)
            return view

        return declare

    def install(self, app: Flask) -> None:
        """Register these endpoints with `app`."""
        for endpoint in self.endpoints:
            app.add_url_rule(
                endpoint.path,
                endpoint.name,
                endpoint.serve,
                methods=[endpoint.method],
                provide_automatic_options=False,
            )


def _id_of(text: str) -> UUID:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound
    return parsed


def install(app: Flask, parts: Iterable[Routes]) -> None:
    """Register the endpoints of all `parts` with `app`."""
    app.url_map.merge_slashes = False
    app.extensions["endpoints"] = [endpoint for part in parts for endpoint in part.endpoints]
    for part in parts:
        part.install(app)
