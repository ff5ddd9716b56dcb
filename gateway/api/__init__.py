"""The HTTP API: it parses requests, calls the domain, and formats responses. It contains no business rules."""
