"""API clients: the credentials of a merchant's programs.

A caller cannot extend its own permissions: it grants only scopes that it has, and rotates only the secret of a client
whose scopes it has.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.access import revocations, tokens
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import NotBlank
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.validation import RequestModel
from gateway.domain.merchants import api_clients
from gateway.domain.merchants.accounts import MERCHANT_SCOPES
from gateway.errors import TooManyApiClients

NAME_MAX_LENGTH = 100
SCOPE = "clients:manage"

routes = Routes("API clients")

Scope = Literal[MERCHANT_SCOPES]  # type: ignore[valid-type]  # the values of the tuple


def _without_duplicates(scopes: list[Any]) -> list[Any]:
    if len(set(scopes)) < len(scopes):
        raise PydanticCustomError("duplicate", "This must contain each scope at most once.")
    return scopes


class ApiClientRequest(RequestModel):
    """The name and the scopes of an API client."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=NAME_MAX_LENGTH, description="A name of your choice", examples=["Web shop"]),
        NotBlank,
    ]
    scopes: Annotated[
        list[Scope],
        Field(
            min_length=1,
            max_length=len(MERCHANT_SCOPES),
            description="What the client's access tokens may do; you need each of these scopes yourself",
            examples=[["transactions:read", "transactions:write"]],
            json_schema_extra={"uniqueItems": True},
        ),
        AfterValidator(_without_duplicates),
    ]


class ApiClient(ResponseModel):
    """The credentials of a program that acts for a merchant."""

    id: Id
    object: Literal["api_client"]
    client_id: str
    name: Annotated[str, Field(description="The name that the merchant chose", examples=["Web shop"])]
    scopes: Annotated[list[Scope], Field(description="What the client's access tokens may do")]
    previous_secret_expires_at: Annotated[
        Timestamp | None,
        Field(description="Until then the secret before the last rotation is valid too; null if there is none"),
    ]
    created_at: Timestamp


class ApiClientWithSecret(ApiClient):
    """An API client with its new secret, which is shown only in this response."""

    client_secret: str


@routes.post("/v1/api-clients", scope=SCOPE, responses={201: ApiClientWithSecret}, errors=(TooManyApiClients,))
def create_api_client(context: RequestContext, body: ApiClientRequest) -> ApiResponse:
    """Create an API client.

    The response contains its secret, which is not shown again. You can grant only scopes that your own token has.
    """
    tokens.require_scopes(context.caller, *body.scopes)
    with db.begin() as connection:
        created = api_clients.create(
            connection, context.merchant_id, name=body.name, scopes=body.scopes, actor=context.actor
        )
    return ApiResponse(created, 201, {"Location": f"/v1/api-clients/{created['id']}"})


@routes.get("/v1/api-clients", scope=SCOPE, responses={200: page_of(ApiClient)})
def list_api_clients(context: RequestContext, query: ListQuery) -> ApiResponse:
    """List API clients, newest first."""
    return list_response("api_client", query, api_clients.list_newest, context.merchant_id)


@routes.get("/v1/api-clients/<id>", scope=SCOPE, responses={200: ApiClient})
def get_api_client(context: RequestContext, id: UUID) -> ApiResponse:
    """Retrieve an API client."""
    with db.autocommit() as connection:
        return ApiResponse(api_clients.find(connection, context.merchant_id, id))


@routes.post("/v1/api-clients/<id>/rotate", scope=SCOPE, responses={200: ApiClientWithSecret})
def rotate_api_client(context: RequestContext, id: UUID) -> ApiResponse:
    """Rotate the secret of an API client.

    The response contains the new secret, which is not shown again. The previous secret stays valid for 24 hours; older
    ones become invalid. Your own token needs all scopes of the client.
    """
    with db.begin() as connection:
        tokens.require_scopes(context.caller, *api_clients.find(connection, context.merchant_id, id)["scopes"])
        return ApiResponse(api_clients.rotate(connection, context.merchant_id, id, context.actor))


@routes.delete("/v1/api-clients/<id>", scope=SCOPE, responses={204: None})
def delete_api_client(context: RequestContext, id: UUID) -> ApiResponse:
    """Delete an API client. Its secrets and access tokens become invalid immediately."""
    with db.begin() as connection:
        api_clients.revoke(connection, context.merchant_id, id, context.actor)
    revocations.known().announce()
    return ApiResponse(status=204)
