"""Call a merchant's receiver once, with bounds on the response."""

from asyncio import IncompleteReadError, timeout
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from loguru import logger
from yarl import URL

from gateway import USER_AGENT
from gateway.config import settings
from gateway.domain.webhooks.deliveries import DeliveryClaim, DeliveryResult
from gateway.ids import utc_now
from gateway.reasons import reason_of
from gateway.security import encryption, public_http, webhook_signatures
from gateway.security.encryption import UnreadableSecret
from gateway.security.public_http import ResponseTooLong

CALL_SECONDS = 15.0
"""Maximum time from the DNS lookup to the status of the response."""
RESPONSE_SECONDS = 1.0
RESPONSE_MAX_BYTES = 16_384
"""Limits within which the body of a response is read so that the connection can be reused. The body is discarded."""
ERROR_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class FinishedCall:
    """A finished call. `is_excessive`: the receiver exceeded the limit of received bytes before it sent a status."""

    result: DeliveryResult
    is_excessive: bool = False


def session() -> aiohttp.ClientSession:
    """Return the HTTP client for `call`; see `public_http.session`."""
    return public_http.session(
        allow_loopback=settings().webhook_allow_loopback, user_agent=USER_AGENT, timeout_seconds=CALL_SECONDS
    )


async def call(session: aiohttp.ClientSession, claim: DeliveryClaim) -> FinishedCall:
    """POST one event. The status is the result; the body is read only so that the connection can be reused."""
    status = None
    is_excessive = False
    try:
        status = await _post(session, claim)
        error = None if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES else f"HTTP {status}"
    except TimeoutError:
        error = f"no response within {CALL_SECONDS:g} s"
    except UnreadableSecret as exc:
        logger.error("the secret of endpoint {} cannot be read: {}", claim.endpoint_id, reason_of(exc))
        error = exc.title()
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        error = describe(exc)
        is_excessive = isinstance(_root_of(exc), ResponseTooLong)
    except Exception as exc:  # noqa: BLE001  # this delivery failed; the others continue
        logger.exception("delivery {} failed", claim.id)
        error = type(exc).__name__
    return FinishedCall(DeliveryResult(claim, status, error), is_excessive)


async def _post(session: aiohttp.ClientSession, claim: DeliveryClaim) -> int:
    """Return the status of the response."""
    now = int(utc_now().timestamp())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": str(claim.event_id),
        "webhook-timestamp": str(now),
        "webhook-signature": webhook_signatures.sign(
            [encryption.decrypt(secret) for secret in claim.secrets], str(claim.event_id), now, claim.body
        ),
    }
    url = URL(claim.url, encoded=True)
    async with session.post(url, data=claim.body, headers=headers, allow_redirects=False) as response:
        with suppress(TimeoutError, aiohttp.ClientError, ResponseTooLong, IncompleteReadError):
            async with timeout(RESPONSE_SECONDS):
                await response.content.readexactly(RESPONSE_MAX_BYTES)  # shorter bodies raise IncompleteReadError
    return response.status


def describe(exc: BaseException) -> str:
    """Describe a failed call by the root cause, because the outer exceptions repeat the URL.

    The receiver may control parts of the text, so it is truncated and made storable in PostgreSQL.
    """
    root = _root_of(exc)
    text = f"{type(exc).__name__}: {root}" if root is not exc and str(root) else type(exc).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:ERROR_MAX_LENGTH])


def _root_of(exc: BaseException) -> BaseException:
    root = exc
    while (earlier := root.__cause__ or root.__context__) is not None:
        root = earlier
    return root
