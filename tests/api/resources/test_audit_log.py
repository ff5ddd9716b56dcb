"""List the audit log."""

from gateway.api.http.schemas import page_of
from gateway.api.resources.audit_log import AuditEntry
from gateway.db import begin
from gateway.domain.shared import audit
from gateway.ids import new_id, rfc3339
from tests.api.conftest import Caller
from tests.helpers.factories import database_time, execute


def entries(operator: Caller, query: str = "") -> list[str]:
    response = operator.get(f"/v1/audit-log{query}")
    assert response.status_code == 200, response.text
    page_of(AuditEntry).model_validate_json(response.data)
    return [entry["detail"]["name"] for entry in response.json["data"]]


def write(name: str, actor: str, action: str, subject: str) -> None:
    with begin() as connection:
        audit.record(connection, actor=actor, action=action, subject=subject, detail={"name": name})


def test_each_filter_finds_the_matching_entries(operator: Caller) -> None:
    execute("DELETE FROM audit_log")  # the entry of the operator's creation
    subject = str(new_id())
    write("a", "user:1", "dead_letter.replayed", subject)
    between = database_time()
    write("b", "cli:ops", "dead_letter.replayed", str(new_id()))
    write("c", "user:1", "dead_letter.discarded", subject)

    for query, found in (
        ("", "cba"),
        ("?actor=user:1", "ca"),
        ("?action=dead_letter.replayed", "ba"),
        (f"?subject={subject}", "ca"),
        (f"?subject={subject}&action=dead_letter.discarded", "c"),
        (f"?created_from={rfc3339(between)}", "cb"),
        (f"?created_to={rfc3339(between)}", "a"),
        ("?actor=nobody", ""),
    ):
        assert entries(operator, query) == list(found), query


def test_the_audit_log_is_listed_in_pages(operator: Caller) -> None:
    execute("DELETE FROM audit_log")
    for name in "abc":
        write(name, "user:1", "x", "y")

    first = operator.get("/v1/audit-log?limit=2&actor=user:1").json
    second = operator.get(f"/v1/audit-log?limit=2&actor=user:1&cursor={first['next_cursor']}").json

    assert [entry["detail"]["name"] for entry in first["data"] + second["data"]] == ["c", "b", "a"]
    assert second["next_cursor"] is None
