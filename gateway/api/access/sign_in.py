"""Log-ins with a password: device recognition, limits, and the device token of the response.

A request of a known device is limited by device, any other request by address. For wrong
passwords, see gateway/domain/merchants/login_limits.py and docs/authentication.md.
"""

import math
from collections.abc import Mapping

from flask import Request

from gateway import db
from gateway.api.access import rate_limits
from gateway.domain.merchants import accounts, login_limits
from gateway.domain.merchants.accounts import StoredUser
from gateway.domain.merchants.login_limits import RefusedAttempt
from gateway.errors import InvalidCredentials, RateLimited
from gateway.security import device_tokens, passwords
from gateway.security.device_tokens import DEVICE_TOKEN_SECONDS, Device
from gateway.telemetry import LOGIN_FAILURES

DEVICE_HEADER = "X-Device-Token"
DEVICE_COOKIE = "device_token"
LOGIN_PATH = "/auth/login"
"""The path that accepts a device token."""
ISSUING_PATHS = frozenset({LOGIN_PATH, "/auth/register"})
"""The paths whose responses contain a device token."""


def admit(request: Request) -> None:
    """Admit a request with credentials, by its device if that is known, or else by its address.

    Raises:
        RateLimited: the device or the address sends too many.
    """
    device = _device_of(request) if request.path == LOGIN_PATH else None
    if device is not None:
        try:
            return rate_limits.admit_device(device.id)
        except RateLimited:
            pass  # the token may be stolen: treat the device as an unknown one
    return rate_limits.admit_address(request.remote_addr)


def check_password(request: Request, email: str, password: str) -> tuple[StoredUser, Device | None]:
    """Return the user with this email in lower case and this password, and the device if the user knows it.

    An unknown email has the same response as a wrong password, after the same work and within the same limits.

    Raises:
        InvalidCredentials: email or password is wrong.
        RateLimited: too many wrong passwords came from this address, or for this account from unknown devices.
        TooManyLogins: too many passwords are being checked.
    """
    found = _device_of(request)
    device = found if found is not None and found.belongs_to(email) else None
    lanes = [passwords.KNOWN_DEVICES] if device is not None else []
    try:
        with passwords.verification(*lanes, passwords.UNKNOWN_DEVICES) as verify:
            with db.autocommit() as connection:
                user = accounts.find_user(connection, email)
            if device is not None and (user is None or not device.knows(user.password_hash)):
                device = None
            if found is not None and device is None:
                rate_limits.admit_address(request.remote_addr)  # not known to this account after all
            with db.autocommit() as connection:
                taken = login_limits.take(connection, email, request.remote_addr, device.id if device else None)
            if isinstance(taken, RefusedAttempt):
                raise _refusal(taken)
            if not verify(password, user.password_hash if user else None) or user is None:
                LOGIN_FAILURES.labels("invalid_credentials").inc()
                raise InvalidCredentials
    except passwords.TooManyLogins:
        LOGIN_FAILURES.labels("busy").inc()
        raise
    with db.autocommit() as connection:
        login_limits.give_back(connection, taken)
    return user, device


def device_headers(email: str, password_hash: str, known: Device | None = None) -> Mapping[str, str]:
    """Return the response headers with a new device token, after a log-in with this email in lower case."""
    token = device_tokens.issue(email, password_hash, known)
    attributes = f"Max-Age={DEVICE_TOKEN_SECONDS}; Path={LOGIN_PATH}; HttpOnly; Secure; SameSite=Strict"
    return {DEVICE_HEADER: token, "Set-Cookie": f"{DEVICE_COOKIE}={token}; {attributes}"}


def _device_of(request: Request) -> Device | None:
    sent = (request.headers.get(DEVICE_HEADER), request.cookies.get(DEVICE_COOKIE))
    return next((device for token in sent if token and (device := device_tokens.read(token))), None)


def _refusal(refused: RefusedAttempt) -> RateLimited:
    LOGIN_FAILURES.labels(f"{refused.by}_limited").inc()
    return RateLimited(
        "Too many wrong passwords came from this address, or for this account from unknown devices. Try again after "
        f"`Retry-After` seconds, or from a device that has logged in before, with its {DEVICE_HEADER}.",
        headers={"Retry-After": str(math.ceil(refused.wait_seconds))},
    )
