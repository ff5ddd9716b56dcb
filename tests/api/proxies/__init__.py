"""The API behind a real nginx and a real HAProxy, with the files of ops/."""
