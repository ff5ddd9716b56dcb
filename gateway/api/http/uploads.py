"""Bodies that are files: a media type and a size of their own, and never all of one in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO

from flask import request

from gateway.errors import BodyTooLarge, UnsupportedMediaType

MEMORY_MAX_BYTES = 1024 * 1024
"""A larger file goes to disk while it arrives."""
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """What a call takes instead of a JSON body, and how much of it."""

    media_type: str
    max_bytes: int

    @contextmanager
    def received(self) -> Iterator[IO[bytes]]:
        """The file of the current request, at its beginning, until the block ends.

        It is here as a whole before anything else happens: a slow sender holds up nothing but its own request.

        Raises:
            UnsupportedMediaType: it is of another type, or compressed.
            BodyTooLarge: it has more than `max_bytes`.
        """
        if request.mimetype != self.media_type or request.headers.get("Content-Encoding", "identity") != "identity":
            raise UnsupportedMediaType(f"Send the body as {self.media_type}.")
        request.max_content_length = self.max_bytes + 1  # one more tells that there is a rest; see http.install
        with SpooledTemporaryFile(MEMORY_MAX_BYTES) as file:
            while chunk := request.stream.read(CHUNK_BYTES):
                file.write(chunk)
            if file.tell() > self.max_bytes:
                raise BodyTooLarge(f"The file may have {self.max_bytes} bytes at most.")
            file.seek(0)
            yield file
