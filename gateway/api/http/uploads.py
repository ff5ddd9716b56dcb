"""Request bodies that are files: each has its own media type and maximum size, and large ones are kept on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO

from flask import request

from gateway.errors import BodyTooLarge, UnsupportedMediaType

MEMORY_MAX_BYTES = 1024 * 1024
"""A larger file is stored in a temporary file while it is received."""
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """The media type and the maximum size of the file that an endpoint accepts instead of a JSON body."""

    media_type: str
    max_bytes: int

    @contextmanager
    def received(self) -> Iterator[IO[bytes]]:
        """Receive the file of the current request completely, and provide it, at its start, until the block ends.

        Raises:
            UnsupportedMediaType: the body has another media type, or a content encoding.
            BodyTooLarge: the body has more than `max_bytes`.
        """
        if request.mimetype != self.media_type or request.headers.get("Content-Encoding", "identity") != "identity":
            raise UnsupportedMediaType(f"Send the body as {self.media_type}.")
        request.max_content_length = self.max_bytes + 1  # one byte more shows that the file is too large
        with SpooledTemporaryFile(MEMORY_MAX_BYTES) as file:
            while chunk := request.stream.read(CHUNK_BYTES):
                file.write(chunk)
            if file.tell() > self.max_bytes:
                raise BodyTooLarge(f"The file may have at most {self.max_bytes} bytes.")
            file.seek(0)
            yield file
