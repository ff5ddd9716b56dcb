"""What one client may leave unfinished, in time, number and size; each of them for one process of the API.

The server's own limits (size and time of a request's head, connections) are in the Procfile.
docs/decisions/http-server.md says how they were chosen.
"""

UPLOAD_SECONDS = 120.0
"""The longest time between the head of a request and the end of its file; REQUEST_BODY_SECONDS is for other bodies."""

RECEIVING_MAX = 1024
"""Bodies that are received at the same time: 64 MiB at most. One more ends the oldest."""
RECEIVING_PER_ADDRESS_MAX = 64
"""Those of one address. One more ends that address' oldest, so that it never locks itself out."""
PARTS_FREE = 256
PART_MIN_BYTES = 64
"""A body of more than `PARTS_FREE` parts has this many bytes in each on average: a part costs as much as a request."""
UPLOADS_MAX = 8
"""Files that are received at the same time, in memory up to `UPLOAD_MEMORY_BYTES`, the rest in temporary files."""
UPLOADS_PER_ADDRESS_MAX = 4
UPLOAD_MEMORY_BYTES = 1024 * 1024

THREAD_WAIT_SECONDS = 5.0
"""The longest that a complete request waits for a thread."""
WAITING_MAX = 1024
"""Complete requests that wait for a thread."""

WHOLE_ANSWER_BYTES = 64 * 1024
"""A longer answer is sent piece by piece."""
PIECE_BYTES = 16 * 1024
"""The server keeps up to four pieces of an answer that is not read."""
PIECE_SECONDS = 30.0
"""The longest that a client takes to accept a piece."""
SENDING_MAX = 64
"""Answers that are sent piece by piece at the same time. One more ends the oldest."""
SENDING_PER_ADDRESS_MAX = 16
