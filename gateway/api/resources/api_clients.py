"""API clients over HTTP: a merchant's programs, their secrets and scopes.

Nobody gets more than they hold: a caller grants only scopes of its own, and sees a new secret only of a client whose
scopes it holds.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.access import revocations, tokens
from gateway.api.http.paging import Page, list_page
from gateway.api.http.parameters import NotBlank
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
from gateway.api.http.validation import RequestModel
from gateway.domain.merchants import api_clients
from gateway.domain.merchants.accounts import MERCHANT_SCOPES
from gateway.errors import TooManyApiClients

NAME_MAX_LENGTH = 100
SCOPE = "clients:manage"

routes = Routes("API clients")

Scope = Literal[MERCHANT_SCOPES]  # type: ignore[valid-type]  # the names of the tuple


def _each_once(scopes: list[Any]) -> list[Any]:
    if len(set(scopes)) < len(scopes):
        raise PydanticCustomError("duplicate", "This should name each scope once.")
    return scopes


class ApiClientRequest(RequestModel):
    """A program that is to act for the merchant."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_MAX_LENGTH, examples=["Web shop"]), NotBlank]
    scopes: Annotated[
        list[Scope],
        Field(
            min_length=1,
            max_length=len(MERCHANT_SCOPES),
            description="What its tokens may do; each of them the caller's own",
            examples=[["transactions:read", "transactions:write"]],
            json_schema_extra={"uniqueItems": True},
        ),
        AfterValidator(_each_once),
    ]


class ApiClient(AnswerModel):
    """A program that acts for the merchant."""

    id: Id
    object: Literal["api_client"]
    client_id: str
    name: Annotated[str, Field(examples=["Web shop"])]
    scopes: list[Scope]
    previous_secret_expires_at: Annotated[
        Time | None, Field(description="Until then the secret before the last rotation works too")
    ]
    created_at: Time


class ApiClientWithSecret(ApiClient):
    """A program that acts for the merchant, with its new secret, which is shown this once."""

    client_secret: str


class ApiClientPage(AnswerModel):
    """API clients, newest first."""

    data: list[ApiClient]
    next_cursor: str | None


@routes.post("/v1/api-clients", scope=SCOPE, answers={201: ApiClientWithSecret}, errors=(TooManyApiClients,))
def create_api_client(call: Call, body: ApiClientRequest) -> Reply:
    """Make an API client. Its secret is in this answer only; its scopes are among the caller's."""
    tokens.require_scopes(call.caller, *body.scopes)
    with db.begin() as connection:
        made = api_clients.create(connection, call.merchant_id, name=body.name, scopes=body.scopes, actor=call.actor)
    return Reply(made, 201, {"Location": f"/v1/api-clients/{made['id']}"})


@routes.get("/v1/api-clients", scope=SCOPE, answers={200: ApiClientPage})
def list_api_clients(call: Call, query: Page) -> Reply:
    """List API clients, newest first."""
    with db.autocommit() as connection:
        page = list_page(
            "api_client",
            query,
            lambda before, limit: api_clients.list_newest(connection, call.merchant_id, before, limit),
        )
    return Reply(page)


@routes.get("/v1/api-clients/<id>", scope=SCOPE, answers={200: ApiClient})
def get_api_client(call: Call, id: Any) -> Reply:
    """Read an API client."""
    with db.autocommit() as connection:
        return Reply(api_clients.find(connection, call.merchant_id, id))


@routes.post("/v1/api-clients/<id>/rotate", scope=SCOPE, answers={200: ApiClientWithSecret})
def rotate_api_client(call: Call, id: Any) -> Reply:
    """Give an API client a new secret.

    The one before works for 24 hours more, an older one no longer. The caller holds all scopes of the client.
    """
    with db.begin() as connection:
        tokens.require_scopes(call.caller, *api_clients.find(connection, call.merchant_id, id)["scopes"])
        return Reply(api_clients.rotate(connection, call.merchant_id, id, call.actor))


@routes.delete("/v1/api-clients/<id>", scope=SCOPE, answers={204: None})
def delete_api_client(call: Call, id: Any) -> Reply:
    """Revoke an API client with its secrets and tokens."""
    with db.begin() as connection:
        api_clients.revoke(connection, call.merchant_id, id, call.actor)
    revocations.known().announce()
    return Reply(status=204)
