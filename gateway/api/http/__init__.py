"""The machinery of the HTTP API: routes, schemas, problems, validation, paging, uploads, middleware."""
