"""Revocations in the memory of each API process, so that no request needs a query for them.

A process reads the revocations again after `KNOWN_SECONDS`, and immediately when a process of its host has announced
one by a mark in a file of `KEYS_DIR`, which each request reads. So a revocation is effective on its host before its
response is sent, and on other hosts a second later.
"""

import os
import threading
import time
from datetime import timedelta
from functools import cache
from pathlib import Path

from loguru import logger

from gateway import db
from gateway.config.groups import ACCESS_TOKEN_SECONDS_MAX
from gateway.domain.merchants import accounts
from gateway.domain.merchants.accounts import Revocations
from gateway.errors import DatabaseUnavailable
from gateway.security import key_files, signing_keys

KNOWN_SECONDS = 1.0
"""Maximum time until a revocation of another host is known here."""
ALL_SECONDS = 30.0
"""Interval at which all of them are read. In between only those of `RECENT` are, so frequent log-outs cost little."""
RECENT = timedelta(seconds=60)
"""Longer than `ALL_SECONDS` plus the time that the commit of a revocation may take."""
LONGEST_TRUST = timedelta(seconds=ACCESS_TOKEN_SECONDS_MAX + signing_keys.CLOCK_TOLERANCE_SECONDS)
"""How long a revocation is needed: until the last token that it may concern has expired by any host's clock."""

_MARK_FILE = "revocations.mark"
_MARK_BYTES = 16


class Mark:
    """Random bytes in a file that change with each revocation, so that all processes of a host notice it immediately.

    If the file cannot be opened, as in a folder that is mounted read-only, only this process notices it.
    """

    def __init__(self, path: Path) -> None:
        self._own = b""
        self._file: int | None = None
        try:
            if not path.exists():
                key_files.publish(path, bytes(_MARK_BYTES))
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            logger.warning("KEYS_DIR: without {}, a revocation takes a second to reach every process: {}", path, exc)

    def read(self) -> bytes:
        """Return the bytes; they are the same as before unless something was revoked."""
        try:
            return self._own if self._file is None else self._own + os.pread(self._file, _MARK_BYTES, 0)
        except OSError:  # such as ESTALE of a network folder
            return self._own

    def change(self) -> None:
        """Change the bytes."""
        self._own = os.urandom(_MARK_BYTES)
        try:
            if self._file is not None:
                os.pwrite(self._file, self._own, 0)
        except OSError as exc:
            logger.warning("KEYS_DIR: {} cannot be written, so a revocation takes a second: {}", _MARK_FILE, exc)


class KnownRevocations:
    """The revocations that are still needed, read again when there may be more."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._seen = b""
        self._lock = threading.Lock()
        self._read_at = self._failed_at = -KNOWN_SECONDS
        self._all_read_at = -ALL_SECONDS
        self._stored = Revocations(frozenset(), frozenset())

    def include(self, token_id: str, client_id: str) -> bool:
        """Return whether the token or the client was revoked.

        Raises:
            gateway.db.UNAVAILABLE, DatabaseUnavailable: the revocations cannot be read, so nobody may be admitted.
        """
        if not self._are_current():
            self._refresh()
        return token_id in self._stored.token_ids or client_id in self._stored.client_ids

    def announce(self) -> None:
        """Make all API processes of this host read the revocations again before their next request."""
        self._mark.change()

    def _are_current(self) -> bool:
        return time.monotonic() - self._read_at < KNOWN_SECONDS and self._mark.read() == self._seen

    def _refresh(self) -> None:
        with self._lock:  # one thread reads for all
            if self._are_current():
                return
            now = time.monotonic()
            if now - self._failed_at < KNOWN_SECONDS:
                raise DatabaseUnavailable  # a thread that waited for the lock does not wait for a second failure
            seen = self._mark.read()  # before the revocations: a later announcement is noticed the next time
            read_all = now - self._all_read_at >= ALL_SECONDS
            try:
                with db.autocommit() as connection:
                    found = accounts.revocations(connection, LONGEST_TRUST if read_all else RECENT)
            except db.UNAVAILABLE:
                self._failed_at = time.monotonic()
                raise
            self._stored = found if read_all else self._stored | found
            self._all_read_at = now if read_all else self._all_read_at
            self._read_at, self._seen = now, seen


@cache
def known() -> KnownRevocations:
    """Return the revocations that this process knows.

    Raises:
        ConfigError: the folder of the keys cannot be read or created.
    """
    return KnownRevocations(Mark(signing_keys.prepared_folder() / _MARK_FILE))
