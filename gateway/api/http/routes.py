"""One declaration per call: what it takes, who may make it, what it answers.

`Routes.get` and its siblings read the parameters of the view: `body` and `query` are pydantic models, `upload` is a
file, `context` is a `RequestContext`, and every other parameter is an id in the path. The same declaration validates
requests and generates /openapi.json.
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

_GIVEN = frozenset({"context", "body", "query", "upload"})
"""The parameters of a view that are not ids."""
_PATH_PARAMETER = re.compile(r"<(\w+)>")


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """An answer: a JSON document, or text that is sent as it is; a long one piece by piece, after the view is over."""

    body: Mapping[str, Any] | str | bytes | Iterator[bytes] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The request being answered. `caller` is whom it speaks for; public calls have none."""

    request: Request
    verified: Caller | None

    @property
    def caller(self) -> Caller:
        """Whom the request speaks for."""
        assert self.verified is not None, "a public call has no caller"
        return self.verified

    @property
    def merchant_id(self) -> UUID:
        """The merchant that the request speaks for.

        Raises:
            InsufficientScope: it speaks for an operator, who has no merchant.
        """
        if self.caller.merchant_id is None:
            raise InsufficientScope("This call is for merchants.")
        return self.caller.merchant_id

    @property
    def actor(self) -> str:
        """Who does this, for the audit log."""
        return self.caller.actor

    @property
    def request_id(self) -> str:
        """The id that this request is known by everywhere."""
        return middleware.request_id(self.request)

    def idempotency_key(self) -> IdempotencyKey | None:
        """The key of this request, if it has one.

        Raises:
            InvalidIdempotencyKey: it is not 1 to 255 printable ASCII characters.
            CardNumberRejected: it holds a card number.
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
    """One call of the API, declared. `scope` None with `public` False: any valid token will do."""

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
        """A name that no other call has."""
        return self.view.__name__

    @cached_property
    def needs_body(self) -> bool:
        """Whether the call cannot be made without a body."""
        models = [model for model in (self.body, self.form) if model is not None]
        return any(field.is_required() for model in models for field in model.model_fields.values())

    @cached_property
    def signs_in(self) -> bool:
        """Whether this is where credentials are tried, so that the limit is the address's."""
        return self.path.startswith(("/auth/", "/oauth/"))

    def serve(self, **path: str) -> Response:
        """Return the response to the current request: Flask's view function."""
        if self.signs_in:
            sign_in.admit(request)
        caller = None if self.public else tokens.authenticate(request.headers.get("Authorization", ""))
        if caller is not None and not self.signs_in:
            rate_limits.admit_caller(caller.subject, caller.merchant_id)
        if caller is not None and self.scope is not None:
            tokens.require_scopes(caller, self.scope)
        arguments: dict[str, Any] = {name: _id_of(text) for name, text in path.items()}
        if self.query is NoQuery:
            reject_parameters(request)
        elif self.query is not None:
            arguments["query"] = parse_parameters(self.query, parameters_of(request))
        if self.body is not None:
            absent = not self.needs_body and not request.get_data()
            body = self.body() if absent else parse_json(self.body, body_of_type(request, JSON))
            arguments |= {} if self.body is NoBody else {"body": body}
        if self.takes_context:
            arguments["context"] = RequestContext(request, caller)
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
    """The calls of one part of the API."""

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
        """Declare the decorated view as the answer to `method` `path`.

        `responses` maps each status to the model of its body; `errors` are those that the machinery does not raise by
        itself; `form` documents a form body that the view reads; `upload` is a file that it takes as a parameter;
        `idempotent` calls take an Idempotency-Key.
        """

        def declare(view: View) -> View:
            hints = get_type_hints(view)
            models = {name: hint for name, hint in hints.items() if name in {"body", "query"}}
            takes_none = None if public and "body" not in models else NoQuery
            bodiless = None if method != "POST" or form or upload else NoBody
            endpoint = Endpoint(
                method=method,
                path=path,
                view=view,
                tag=self.tag,
                public=public,
                scope=scope,
                body=models.get("body", bodiless),
                form=form,
                upload=upload,
                query=models.get("query", takes_none),
                ids=tuple(_PATH_PARAMETER.findall(path)),
                responses=responses,
                errors=tuple(errors),
                media_type=media_type,
                idempotent=idempotent,
                documented=documented,
                takes_context="context" in hints,
            )
            ids = {name for name in inspect.signature(view).parameters if name not in _GIVEN}
            assert ids == set(endpoint.ids), f"{view.__name__} does not take the ids of {path}"
            assert all(hints[name] is UUID for name in ids), f"{view.__name__} does not take the ids as UUID"
            self.endpoints.append(endpoint)
            return view

        return declare

    def install(self, app: Flask) -> None:
        """Serve these calls from `app`."""
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
    """Serve all `parts` from `app`."""
    app.url_map.merge_slashes = False
    app.extensions["endpoints"] = [endpoint for part in parts for endpoint in part.endpoints]
    for part in parts:
        part.install(app)
