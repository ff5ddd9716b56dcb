"""Limits of unfinished requests and responses, in time, number and size. Each limit applies to one API process.

The limits of the server itself (size and time of a request's headers, connections) are in the Procfile.
docs/decisions/http-server.md explains how they were chosen.
"""

UPLOAD_SECONDS = 120.0
"""Maximum time between the head of a request and the end of its file; REQUEST_BODY_SECONDS is for other bodies."""

CONNECTIONS_SHARE_OF_ADDRESS = 4
"""One address may have this fraction of API_CONNECTIONS: a quarter."""
RECEIVING_MAX = 1024
"""Maximum number of bodies received at the same time, 64 MiB in total. Beyond it, the oldest one is ended."""
RECEIVING_PER_ADDRESS_MAX = 64
"""The same limit for one address. An address cannot lock itself out, since its oldest body is ended."""
PARTS_FREE = 256
PART_MIN_BYTES = 64
"""Minimum average size of a part in a body of more than `PARTS_FREE` parts: a part costs as much as a request."""
UPLOADS_MAX = 8
"""Maximum number of files received at the same time; those above `UPLOAD_MEMORY_BYTES` are temporary files."""
UPLOADS_PER_ADDRESS_MAX = 4
UPLOAD_MEMORY_BYTES = 1024 * 1024

THREAD_WAIT_SECONDS = 5.0
"""Maximum time that a complete request waits for a thread."""
WAITING_MAX = 1024
"""Maximum number of complete requests that wait for a thread."""

WHOLE_RESPONSE_BYTES = 64 * 1024
"""A longer response is sent in pieces."""
PIECE_BYTES = 16 * 1024
"""The server buffers up to four pieces of a response that the client does not read."""
PIECE_SECONDS = 30.0
"""Maximum time in which a client must accept a piece."""
SENDING_MAX = 64
"""Maximum number of responses sent in pieces at the same time. Beyond it, the oldest one is ended."""
SENDING_PER_ADDRESS_MAX = 16
