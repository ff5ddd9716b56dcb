"""Attack with slow, silent and unfinished clients at once, and measure the service for other clients.

    python -m tests.attacks.slow_clients http://127.0.0.1:15870

It registers a merchant, opens the connections, calls /health/live and posts payments for some time, and once more after
the connections are closed. The exit status is 1 if a response took longer than the limits below. Use it only against
your own gateway.
"""

import argparse
import sys
import time
from urllib.parse import urlsplit

import requests

from tests.attacks.connections import SILENT, SLOW_HEAD, UNFINISHED_BODY, crowd, http2_streams

LIVE_SECONDS = 1.0
POST_SECONDS = 2.0
HOLD_SECONDS = 6.0
TIMEOUT_SECONDS = 30
HTTP2_CONNECTIONS = 2
HTTP2_STREAMS = 20


def merchant_token(url: str) -> str:
    """Register a merchant; return its access token."""
    email = f"attacked-{time.time_ns() % 10**6}@example.com"
    body = {"email": email, "password": "correct horse battery staple", "business_name": "Attacked"}
    response = requests.post(f"{url}/auth/register", json=body, timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    token: str = response.json()["access_token"]
    return token


def seconds_of_live(url: str) -> float:
    """Return the duration of /health/live on a new connection."""
    began = time.monotonic()
    requests.get(f"{url}/health/live", timeout=TIMEOUT_SECONDS).raise_for_status()
    return time.monotonic() - began


def seconds_of_payment(url: str, token: str) -> float:
    """Return the duration of a payment on a new connection."""
    began = time.monotonic()
    body = {"amount": 1000, "currency": "USD"}
    headers = {"Authorization": f"Bearer {token}"}
    response = requests.post(f"{url}/v1/transactions", json=body, headers=headers, timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    return time.monotonic() - began


def slowest(url: str, token: str, for_seconds: float) -> tuple[float, float]:
    """Call /health/live and create payments in turn for `for_seconds`; return the slowest of each."""
    until = time.monotonic() + for_seconds
    lives: list[float] = []
    payments: list[float] = []
    while not lives or time.monotonic() < until:
        lives.append(seconds_of_live(url))
        payments.append(seconds_of_payment(url, token))
        time.sleep(0.05)
    return max(lives), max(payments)


def main() -> int:
    """Attack, measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--bodies", type=int, default=500)
    parser.add_argument("--heads", type=int, default=2000)
    parser.add_argument("--silent", type=int, default=2000)
    options = parser.parse_args()
    where = urlsplit(options.url)
    token = merchant_token(options.url)
    seen = {"before": slowest(options.url, token, 1)}
    with crowd(where.hostname or "127.0.0.1", where.port or 80) as slow:
        for _ in range(HTTP2_CONNECTIONS):
            slow.open(1, http2_streams(HTTP2_STREAMS))[0].close()
        slow.open(options.silent, SILENT)
        slow.open(options.heads, SLOW_HEAD)
        slow.open(options.bodies, UNFINISHED_BODY)
        seen["during"] = slowest(options.url, token, HOLD_SECONDS)
    seen["after"] = slowest(options.url, token, 1)
    for moment, (live, payment) in seen.items():
        sys.stdout.write(f"{moment}: slowest /health/live {live:.3f} s, slowest payment {payment:.3f} s\n")
    within = all(live <= LIVE_SECONDS and payment <= POST_SECONDS for live, payment in seen.values())
    sys.stdout.write("all responses were within the limits\n" if within else "a response exceeded its limit\n")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
