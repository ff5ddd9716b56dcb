"""Processes with a wrong clock, by means of libfaketime, installed or unpacked."""

import os
from pathlib import Path

import pytest

from devstack.servers import debian_packages
from devstack.settings import TEST_DIR, TEST_PORT_BASE, layout
from devstack.terminal import DevstackError

PACKAGE = debian_packages.Package(
    "libfaketime",
    wanted="libfaketime",
    size="100 kB",
    remedy="install it (apt-get install libfaketime)",
)
LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"


def environment_with_clock(offset: str) -> dict[str, str]:
    """Return variables that shift the wall clock of a process by `offset` (such as +1d), but not its monotonic clock.

    The calling test is skipped if libfaketime can be neither found nor downloaded.
    """
    library = next(Path("/").glob(LIBRARY), None) or _unpacked()
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _unpacked() -> Path:
    try:
        root = debian_packages.unpacked(layout(TEST_DIR, TEST_PORT_BASE).cache, dict(os.environ), PACKAGE)
    except DevstackError as exc:
        pytest.skip(f"no libfaketime: {exc}")
    return next(root.glob(LIBRARY))
