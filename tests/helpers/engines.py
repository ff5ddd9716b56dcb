"""Database engines for other servers than the one of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway import db
from gateway.config import settings


@contextmanager
def engine_on(url: str, direct_url: str = "") -> Iterator[None]:
    """Use separate database engines with these URLs."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DATABASE_URL", url)
    patch.setenv("DATABASE_DIRECT_URL", direct_url)
    _forget_engines()
    try:
        yield
    finally:
        patch.undo()
        _forget_engines()


def _forget_engines() -> None:
    for engine in (db.engine, db.direct_engine):
        if engine.cache_info().currsize:
            engine().dispose()
            engine.cache_clear()
    settings.cache_clear()
