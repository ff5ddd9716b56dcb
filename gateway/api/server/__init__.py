"""The adapter between the HTTP server (ASGI) and the Flask application (WSGI)."""
