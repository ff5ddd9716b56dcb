"""The API's side of its HTTP server."""
