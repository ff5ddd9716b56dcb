"""Bounding time and length of a whole answer, for `requests`.

Its read timeout bounds each wait for some bytes, so an answer that drips in byte by byte, headers or body, can hold
a thread for hours. Here the read timeout is the time for all of the answer. And it reads informational answers
(`100 Continue`), headers and a body for as long as they come: here an answer has `ANSWER_MAX_BYTES` at most.
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

ANSWER_MAX_BYTES = 256 * 1024
"""Bytes of one answer: informational answers, head and body. What reads bodies has a lower bound for them."""


class _BoundedReader(io.RawIOBase):
    """Reads from a socket: as many bytes as an answer may have, in the time that the socket's timeout gave."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._socket, self._raw = sock, raw
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._left = ANSWER_MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the whole answer did not come in time")
            self._socket.settimeout(left)
        if self._left <= 0:
            raise ConnectionAbortedError(f"the answer has more than {ANSWER_MAX_BYTES} bytes")
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
    """A transport whose read timeout is the time for the whole answer, from the moment the request is sent.

    A longer answer than `ANSWER_MAX_BYTES` fails like one whose connection was lost.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by requests."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


def session() -> requests.Session:
    """A client of which each answer is bounded."""
    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, BoundedAdapter())
    return made
