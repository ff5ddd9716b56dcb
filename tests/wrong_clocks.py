"""Processes whose clock is wrong: libfaketime, installed or unpacked as RabbitMQ is, tells them another time."""

import os
from pathlib import Path

import pytest

from devstack import unpack
from devstack.console import DevstackError
from devstack.settings import TEST_DIR, TEST_PORT_BASE, layout

PACKAGE = unpack.Package(
    "libfaketime",
    wanted="libfaketime",
    size="100 kB",
    remedy="install it (apt-get install libfaketime)",
)
LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"


def environment_with_clock(offset: str) -> dict[str, str]:
    """The variables by which a process believes that it is `offset` (such as +1d) later; its monotonic clock is right.

    The calling test is skipped where libfaketime can be neither found nor fetched.
    """
    library = next(Path("/").glob(LIBRARY), None) or _unpacked()
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _unpacked() -> Path:
    try:
        root = unpack.unpacked(layout(TEST_DIR, TEST_PORT_BASE).cache, dict(os.environ), PACKAGE)
    except DevstackError as exc:
        pytest.skip(f"no libfaketime: {exc}")
    return next(root.glob(LIBRARY))
