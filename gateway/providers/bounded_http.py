"""Limit the time and the length of a whole response, for `requests`.

The read timeout of `requests` limits each wait for some bytes, so a response that arrives byte by byte can occupy a
thread for hours. Here the read timeout limits the whole response. `requests` also reads informational responses (`100
Continue`), headers and a body without a limit; here a response has at most `RESPONSE_MAX_BYTES`.
"""

import http.client
import io
import socket
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from gateway import USER_AGENT

RESPONSE_MAX_BYTES = 256 * 1024
"""Maximum bytes of one response with its informational responses. Code that reads bodies has lower limits."""


class _BoundedReader(io.RawIOBase):
    """Reads at most the bytes of one response from a socket, within the timeout of the socket in total."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._socket, self._raw = sock, raw
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._left = RESPONSE_MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the whole response did not arrive in time")
            self._socket.settimeout(left)
        if self._left <= 0:
            raise ConnectionAbortedError(f"the response has more than {RESPONSE_MAX_BYTES} bytes")
        received = self._raw.readinto(memoryview(buffer)[: self._left])
        self._left -= received or 0
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()  # the socket's own reader, which counts as a user of the socket
        self.fp = io.BufferedReader(_BoundedReader(sock, raw))


class _Connection(HTTPConnection):
    response_class = _BoundedResponse


class _SecureConnection(HTTPSConnection):
    response_class = _BoundedResponse


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class BoundedAdapter(HTTPAdapter):
    """A transport whose read timeout limits the whole response, from the time at which the request is sent.

    A response of more than `RESPONSE_MAX_BYTES` fails like a lost connection.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use connections with bounded responses; called by requests."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


def session() -> requests.Session:
    """Return an HTTP client with bounded responses."""
    client = requests.Session()
    client.headers["User-Agent"] = USER_AGENT
    for scheme in ("http://", "https://"):
        client.mount(scheme, BoundedAdapter())
    return client
