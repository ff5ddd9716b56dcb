"""A database connection beside the pool's that one piece of code keeps, for hundreds of statements a second.

To take one from the pool and to give it back takes a fifth of such a statement's time in this process.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DisconnectionError

from gateway import db


class KeptConnection:
    """Opened on first use, and tested and replaced as the pool's are."""

    def __init__(self) -> None:
        self._in_use = threading.Lock()
        self._connection: Connection | None = None
        self._opened_by = 0
        self._rests_since = 0.0

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """As `db.autocommit`, which it is while another thread has this connection."""
        if not self._in_use.acquire(blocking=False):
            with db.autocommit() as connection:
                yield connection
            return
        try:
            yield self._usable()
        finally:
            self._rests_since = time.monotonic()
            self._in_use.release()

    def close(self) -> None:
        """Close it; the next use opens another one."""
        kept, self._connection = self._connection, None
        if kept is not None and self._opened_by == os.getpid() and not kept.invalidated:  # else it is the parent's
            driver: Any = kept.connection.dbapi_connection
            driver.close()  # SQLAlchemy leaves open what it has given out of its pool

    def _usable(self) -> Connection:
        kept = self._connection
        if kept is not None and self._is_good(kept):
            return kept
        self.close()
        fresh = db.engine().connect()
        fresh.detach()
        self._connection, self._opened_by = fresh, os.getpid()
        return fresh

    def _is_good(self, kept: Connection) -> bool:
        if kept.engine is not db.engine() or kept.invalidated:  # after a fork the engine is another one too
            return False
        try:
            db.check_after_rest(kept.connection.dbapi_connection, self._rests_since)
        except DisconnectionError:
            return False
        return True
