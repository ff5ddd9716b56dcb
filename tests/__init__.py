"""The tests. Their folders have the names of the packages that they test; the others are:

- `shared`: the modules of `gateway` itself, such as `db` and `money`
- `end_to_end`: a running stack through its public interfaces; `end_to_end/faults` stops its servers and roles
- `pooler`: the gateway behind PgBouncer
- `integrations`: instrumentation and extensions of other projects
- `project`: code rules, documents, lock files, Docker Compose
- `helpers`: code that tests of several folders share
- `chaos`, `cluster`, `attacks`: programs, not tests (`make chaos`, `make cluster`)
"""
