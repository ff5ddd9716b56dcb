"""The adapter between the HTTP server and the application."""
