"""A client of the running gateway for merchants and operators: it uses only HTTP."""

from typing import Any

import requests

TIMEOUT_SECONDS = 15
FINAL = frozenset({"completed", "failed", "dead_lettered", "canceled"})


class Client:
    """Calls the API with an access token."""

    def __init__(self, api_url: str, token: str) -> None:
        self.api_url = api_url
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Send a request, with a timeout."""
        return self.session.request(method, f"{self.api_url}{path}", timeout=TIMEOUT_SECONDS, **kwargs)

    def get(self, path: str, **params: object) -> dict[str, Any]:
        """Return the JSON of a GET that must succeed."""
        response = self.call("GET", path, params=params)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def pay(self, token: str = "tok_approve", amount: int = 12_550, **fields: object) -> dict[str, Any]:
        """Create a payment, which must be accepted."""
        response = self.call(
            "POST", "/v1/transactions", json={"amount": amount, "currency": "USD", "payment_method": token, **fields}
        )
        assert response.status_code == 201, response.text
        body: dict[str, Any] = response.json()
        return body

    def transaction(self, id: str) -> dict[str, Any]:
        """Return a transaction as it is now."""
        return self.get(f"/v1/transactions/{id}")

    def all_transactions(self) -> list[dict[str, Any]]:
        """Return every transaction of this merchant."""
        return self.listed("/v1/transactions")

    def listed(self, path: str) -> list[dict[str, Any]]:
        """Return all objects of a list, page by page."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": 100}
        for _ in range(1_000):
            page = self.get(path, **params)
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]
        raise AssertionError("paging does not end")


def register(api_url: str, email: str) -> Client:
    """Register a merchant; return its owner's client."""
    body = {"email": email, "password": "a long test password", "business_name": "End to end"}
    response = requests.post(f"{api_url}/auth/register", json=body, timeout=TIMEOUT_SECONDS)
    assert response.status_code == 201, response.text
    return Client(api_url, response.json()["access_token"])


def log_in(api_url: str, email: str, password: str) -> Client:
    """Return the client of an existing user."""
    response = requests.post(
        f"{api_url}/auth/login", json={"email": email, "password": password}, timeout=TIMEOUT_SECONDS
    )
    assert response.status_code == 200, response.text
    return Client(api_url, response.json()["access_token"])
