"""Merchants, users, clients and revocations."""

from datetime import timedelta

import pytest

from gateway.db import autocommit, begin
from gateway.domain.merchants import accounts
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES, Registration
from gateway.errors import EmailTaken
from gateway.ids import utc_now
from tests.helpers.factories import count, execute

pytestmark = pytest.mark.usefixtures("database")

HOUR = timedelta(hours=1)


def register(email: str = "ada@example.com") -> Registration:
    with begin() as connection:
        return accounts.register(
            connection, email=email, password_hash="hash", business_name="Ada's", fee_basis_points=150
        )


def test_a_registration_has_its_own_fee_and_an_owner_with_every_scope() -> None:
    made = register()

    assert made.owner.scopes == MERCHANT_SCOPES
    assert str(made.owner.merchant_id) == made.merchant["id"]
    assert count("merchants", "fee_basis_points = 150") == 1


def test_a_registration_with_a_taken_email_stores_nothing() -> None:
    register()

    with pytest.raises(EmailTaken):
        register()
    assert (count("merchants"), count("users"), count("api_clients")) == (1, 1, 1)


def test_an_operators_email_is_taken_for_merchants_too() -> None:
    with begin() as connection:
        accounts.create_operator(connection, email="ada@example.com", password_hash="hash", actor="test")

    with pytest.raises(EmailTaken):
        register()


def test_an_operator_has_no_merchant_and_the_scopes_of_operators() -> None:
    with begin() as connection:
        accounts.create_operator(connection, email="op@example.com", password_hash="hash", actor="test")
        found = accounts.find_user(connection, "op@example.com")

    assert found is not None
    assert found.identity.merchant_id is None
    assert found.identity.scopes == OPERATOR_SCOPES
    assert count("audit_log", "action = 'operator.created' AND actor = 'test'") == 1


def test_two_registrations_never_share_a_credential() -> None:
    made = [register(f"{n}@example.com") for n in range(5)]

    assert len({one.client.client_id for one in made}) == len({one.client.client_secret for one in made}) == 5
    assert all(len(one.client.client_secret) >= 43 for one in made)


def test_no_user_is_found_by_an_unknown_email() -> None:
    with autocommit() as connection:
        assert accounts.find_user(connection, "nobody@example.com") is None
        assert accounts.role_of(connection, "nobody@example.com") is None


def test_a_client_has_the_scopes_of_its_row() -> None:
    made = register()
    execute("UPDATE api_clients SET scopes = ARRAY['transactions:read']")

    with autocommit() as connection:
        client = accounts.authenticate_client(connection, made.client.client_id, made.client.client_secret)

    assert client is not None
    assert client.scopes == ("transactions:read",)


def test_revocations_of_the_last_minute_leave_out_older_ones() -> None:
    made = register()
    with begin() as connection:
        accounts.revoke_token(connection, "old", utc_now() + HOUR)
    execute("UPDATE revoked_tokens SET revoked_at = now() - interval '61 seconds'")
    execute("UPDATE api_clients SET revoked_at = now() - interval '61 seconds'")
    with begin() as connection:
        accounts.revoke_token(connection, "new", utc_now() + HOUR)

        recent = accounts.revocations(connection, timedelta(minutes=1))
        assert recent == accounts.Revocations(frozenset({"new"}), frozenset())
        assert recent | accounts.revocations(connection, HOUR) == accounts.Revocations(
            frozenset({"old", "new"}), frozenset({made.client.client_id})
        )


def test_revocations_include_only_tokens_that_may_not_have_expired() -> None:
    made = register()
    with begin() as connection:
        accounts.revoke_token(connection, "live", utc_now() + HOUR)
        accounts.revoke_token(connection, "live", utc_now() + HOUR)
        accounts.revoke_token(connection, "expired", utc_now() - HOUR)
        assert accounts.revocations(connection, HOUR) == accounts.Revocations(frozenset({"live"}), frozenset())

    execute("UPDATE api_clients SET revoked_at = now() - interval '59 minutes'")
    with autocommit() as connection:
        assert accounts.revocations(connection, HOUR).client_ids == {made.client.client_id}

    execute("UPDATE api_clients SET revoked_at = now() - interval '61 minutes'")
    with autocommit() as connection:
        assert accounts.revocations(connection, HOUR).client_ids == set()
