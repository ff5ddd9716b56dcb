"""The parts of the HTTP API that all resources share: routes, validation, errors, paging, uploads, middleware."""
