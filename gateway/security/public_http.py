"""Call URLs that merchants choose, at public addresses only (protection against SSRF).

A URL is checked when it is set. When it is called, every address that its name resolves to must be public, and the
address of the socket is checked again, so a name that resolves differently in between (DNS rebinding) has no effect.

The data that one call may receive is limited in bytes and in reads. aiohttp reads informational responses (`100
Continue`), chunk extensions and unsolicited bytes without a limit, and all of them cost time in the shared event loop.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from requests.utils import DEFAULT_CA_BUNDLE_PATH

URL_MAX_LENGTH = 2_048
HTTP_PORT, HTTPS_PORT, FIRST_UNPRIVILEGED_PORT = 80, 443, 1_024
KEEP_ALIVE_SECONDS = 2.0
"""Shorter than the keep-alive time of most receivers, so that they rarely close a connection during a call."""
CONCURRENT_LOOKUPS_MAX = 300
RECEIVED_MAX_BYTES = 64 * 1024
"""Maximum bytes that one call may receive: TLS handshake, informational responses, head, and body."""
READ_MAX_BYTES = 8 * 1024
"""Maximum bytes of one read, so that other calls can proceed in the event loop."""
READ_COST_BYTES = 256
"""Minimum number of bytes that a read counts for, because each read costs an iteration of the event loop."""

_PRINTABLE = re.compile(
    r"[!-\[\]-~]+"
)  # ASCII without spaces, control characters and the backslash, which parsers treat differently
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_LOCAL_NAMES = re.compile(r"(.+\.)?(localhost|local|internal|home\.arpa)")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC = (
    ipaddress.ip_network("192.0.0.0/24"),  # IETF protocol assignments
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.ip_network("168.63.129.16/32"),  # a cloud's metadata service, on a public address
    ipaddress.ip_network("2001::/23"),  # Teredo and other IETF protocol assignments
    ipaddress.ip_network("2002::/16"),  # 6to4
    ipaddress.ip_network("3fff::/20"),  # documentation
)
"""Networks without receivers that `ipaddress` considers global in some versions of Python."""


class ForbiddenUrl(ValueError):
    """The gateway does not call this URL. The text gives merchants the reason."""


class ForbiddenAddress(OSError):
    """The gateway does not call the address of this host."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether a host on the internet can have `address`.

    Loopback, private, link-local, carrier-grade NAT, multicast, reserved and unspecified addresses are not public, nor
    are IPv6 addresses that embed an IPv4 address. Those of NAT64 are as public as the embedded address.
    """
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _IPV6_UNICAST:
            return False
    listed = any(address.version == network.version and address in network for network in _NOT_PUBLIC)
    return address.is_global and not (address.is_multicast or address.is_reserved or listed)


def check_address(text: str, *, allow_loopback: bool) -> None:
    """Check that an address may be called.

    Raises:
        ForbiddenAddress: it may not be called.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if not (is_public(address) or (allow_loopback and address.is_loopback)):
        raise ForbiddenAddress("the address is not public")


def check_url(url: str, *, allow_loopback: bool) -> None:
    """Check that a URL may be called, without a DNS lookup.

    `allow_loopback` is for development: it allows `http` and this host.

    Raises:
        ForbiddenUrl: it may not be called.
    """
    if len(url) > URL_MAX_LENGTH or not _PRINTABLE.fullmatch(url):
        raise ForbiddenUrl(f"This should be at most {URL_MAX_LENGTH} printable ASCII characters without spaces.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ForbiddenUrl("This should be a URL such as https://example.com/webhooks.") from None
    if parts.scheme != "https" and not (allow_loopback and parts.scheme == "http"):
        raise ForbiddenUrl("This should be an https:// URL.")
    if "@" in parts.netloc or "#" in url or not host:
        raise ForbiddenUrl("This should have a host, and neither a user nor a fragment.")
    if port is not None and port not in {HTTP_PORT, HTTPS_PORT} and port < FIRST_UNPRIVILEGED_PORT:
        raise ForbiddenUrl(f"The port should be {HTTPS_PORT}, or {FIRST_UNPRIVILEGED_PORT} or higher.")
    _check_host(host, allow_loopback=allow_loopback)


def _check_host(host: str, *, allow_loopback: bool) -> None:
    try:
        check_address(host, allow_loopback=allow_loopback)
    except ForbiddenAddress as exc:
        raise ForbiddenUrl(f"This cannot be called: {exc}.") from None
    except ValueError:  # no address in the usual form; only the last label of a name begins with a letter
        if allow_loopback and host == "localhost":
            return
        if not _HOST_NAME.fullmatch(host) or _LOCAL_NAMES.fullmatch(host):
            raise ForbiddenUrl("The host should be a public name, such as example.com, or a public address.") from None


class PublicResolver(AbstractResolver):
    """The resolver of the operating system; a name that resolves to an address that is not public fails.

    It has separate threads, because some lookups take many seconds.
    """

    def __init__(self, *, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback
        self._threads = ThreadPoolExecutor(CONCURRENT_LOOKUPS_MAX, thread_name_prefix="dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name; called by aiohttp.

        Raises:
            OSError: the name does not resolve, or resolves to an address that may not be called.
        """
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host, port, family)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for family, address in found
        ]

    def _look_up(self, host: str, port: int, family: int) -> list[tuple[int, str]]:
        answers = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        found = [(int(answer[0]), str(answer[4][0])) for answer in answers]
        for _, address in found:
            check_address(address, allow_loopback=self._allow_loopback)
        return found

    async def close(self) -> None:
        """Close without waiting for pending lookups; called by aiohttp."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class ResponseTooLong(ConnectionAbortedError):
    """The peer sent more bytes or more segments than one call may receive."""

    def __init__(self) -> None:
        super().__init__(f"the response has more than {RECEIVED_MAX_BYTES} bytes, or arrives in too many segments")


_calls = count(1)
_call: ContextVar[int] = ContextVar("call", default=0)
"""The number of the call that this task sends."""


async def _begin_call(*_: Any) -> None:
    """Start a new call number; aiohttp calls it in the task of the call, once the call has a connection."""
    _call.set(next(_calls))


class BoundedSocket(socket.socket):
    """A socket that fails after receiving `RECEIVED_MAX_BYTES` within one call.

    The first bytes that a new call sends reset the count. Data that the peer causes the TLS layer to send belongs to no
    new call, so it does not reset the count.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._latest_call = 0
        self._left = RECEIVED_MAX_BYTES

    def send(self, *args: Any) -> int:
        """See `socket.socket.send`."""
        self._renew()
        return super().send(*args)

    def sendmsg(self, *args: Any) -> int:
        """See `socket.socket.sendmsg`."""
        self._renew()
        return super().sendmsg(*args)

    def recv(self, bufsize: int, *args: Any) -> bytes:
        """See `socket.socket.recv`.

        Raises:
            ResponseTooLong: the call has reached its limit.
        """
        self._check()
        received = super().recv(min(bufsize, READ_MAX_BYTES), *args)
        self._left -= max(len(received), READ_COST_BYTES)
        return received

    def recv_into(self, buffer: Any, nbytes: int = 0, *args: Any) -> int:
        """See `socket.socket.recv_into`.

        Raises:
            ResponseTooLong: the call has reached its limit.
        """
        self._check()
        received = super().recv_into(buffer, min(nbytes or len(buffer), READ_MAX_BYTES), *args)
        self._left -= max(received, READ_COST_BYTES)
        return received

    def _renew(self) -> None:
        call = _call.get()
        if call > self._latest_call:
            self._latest_call, self._left = call, RECEIVED_MAX_BYTES

    def _check(self) -> None:
        if self._left <= 0:
            raise ResponseTooLong


def session(*, allow_loopback: bool, user_agent: str, timeout_seconds: float) -> aiohttp.ClientSession:
    """Return a client for calls of URLs that merchants choose: without proxies and cookies.

    `timeout_seconds` limits the whole call: lookup, connection, TLS, request and response. If the response was too
    long, the cause of the error is `ResponseTooLong`. Create and close the session in the event loop that uses it.
    """

    def bounded_public_socket(addr_info: Any) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        check_address(address[0], allow_loopback=allow_loopback)
        return BoundedSocket(family, kind, protocol)

    tls = ssl.create_default_context()
    tls.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)  # slim container images have no certificates
    connector = aiohttp.TCPConnector(
        ssl=tls,
        limit=0,
        resolver=PublicResolver(allow_loopback=allow_loopback),
        socket_factory=bounded_public_socket,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
    )
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_begin_call)
    trace.on_connection_reuseconn.append(_begin_call)
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=[trace],
        timeout=aiohttp.ClientTimeout(total=timeout_seconds, ceil_threshold=float("inf")),
        headers={"User-Agent": user_agent},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )
