"""Write files atomically to `KEYS_DIR`, which other processes and hosts read at the same time."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def publish(path: Path, content: bytes) -> bool:
    """Create a key file atomically; return False if another process created a file of this name first.

    Raises:
        OSError: the folder is not writable.
    """
    with _complete_file(path.parent, content) as temporary, contextlib.suppress(FileExistsError):
        os.link(temporary, path)
        return True
    return False


def replace(path: Path, content: bytes) -> None:
    """Replace a key file atomically.

    Raises:
        OSError: the folder is not writable.
    """
    with _complete_file(path.parent, content) as temporary:
        os.replace(temporary, path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder within the block. The lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _complete_file(folder: Path, content: bytes) -> Iterator[str]:
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if os.geteuid() == 0:  # an administrator creates keys for the processes that own the folder
            owner = folder.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
