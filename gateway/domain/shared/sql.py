"""Parts of SQL statements that several modules use."""

ASYNC_COMMIT = "SELECT set_config('synchronous_commit', 'off', true)"
"""In a statement whose commit need not survive a crash of PostgreSQL, because its work would be repeated.

A commit that waits for the disk also writes the commits before it, so at most the last 0.6 s are lost
(https://www.postgresql.org/docs/15/wal-async-commit.html). Nothing that was reported to a merchant or sent to a
provider may depend on such a commit.
"""

ONE_EXPECTED = "id BETWEEN '00000000-0000-0000-0000-000000000000' AND 'ffffffff-ffff-ffff-ffff-ffffffffffff'"
"""A condition that is true for every id, but makes PostgreSQL expect one row, whatever the length of the list.

PostgreSQL then looks each row up in an index, in tables of any size, and keeps one plan for all lists. Otherwise it
would plan for each list, which takes longer than the rest, or keep a plan for the small tables of a new gateway.
"""

LISTED = f"""listed AS MATERIALIZED (
    SELECT DISTINCT id FROM unnest(CAST(:ids AS uuid[])) AS l (id) WHERE {ONE_EXPECTED} ORDER BY id
)"""  # noqa: S608  # a constant
"""A CTE of the distinct `:ids`, in order."""
