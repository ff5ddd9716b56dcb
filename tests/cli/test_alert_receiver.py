"""The receiver of alerts for development."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.alert_receiver import BODY_MAX_BYTES, KEPT_MAX, Received, create_receiver, print_alert

pytestmark = pytest.mark.unit

ALERT: dict[str, Any] = {
    "service": "payment-gateway",
    "severity": "error",
    "message": "Something broke",
    "details": {"count": 2, "ids": ["a"]},
    "timestamp": "2026-03-02T01:02:03.000004Z",
}


def test_alerts_are_accepted_at_any_path_and_listed_newest_first() -> None:
    client = create_receiver().test_client()
    assert client.post("/", json=ALERT).status_code == 204
    assert client.post("/hooks/alerts?x=1", json=ALERT | {"message": "later"}).status_code == 204
    listed = client.get("/alerts.json").get_json()
    assert [received["alert"]["message"] for received in listed] == ["later", "Something broke"]
    assert listed[1]["alert"] == ALERT


def test_the_content_of_an_alert_is_escaped_on_the_page() -> None:
    client = create_receiver().test_client()
    hostile = "<script>alert(1)</script>\"'>"
    client.post("/", json=dict.fromkeys(ALERT, hostile) | {"details": {hostile: hostile, "n": [hostile]}})
    page = client.get("/").get_data(as_text=True)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_only_the_latest_alerts_are_kept_until_they_are_deleted() -> None:
    client = create_receiver().test_client()
    for number in range(KEPT_MAX + 3):
        client.post("/", json=ALERT | {"message": number})
    listed = client.get("/alerts.json").get_json()
    assert len(listed) == KEPT_MAX
    assert listed[0]["alert"]["message"] == KEPT_MAX + 2
    assert client.delete("/").status_code == 204
    assert client.get("/alerts.json").get_json() == []


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("{", "application/json", 400),
        ("[]", "application/json", 422),
        (json.dumps(ALERT), "text/plain", 415),
        ('"' + "x" * BODY_MAX_BYTES + '"', "application/json", 413),
    ],
    ids=["broken", "list", "media type", "too large"],
)
def test_a_body_that_is_no_alert_is_rejected(body: str, content_type: str, status: int) -> None:
    client = create_receiver().test_client()
    assert client.post("/", data=body, content_type=content_type).status_code == status
    assert client.get("/alerts.json").get_json() == []


def test_a_receiver_configured_to_fail_still_lists_the_alert() -> None:
    client = create_receiver(fail_with=503).test_client()
    assert client.post("/", json=ALERT).status_code == 503
    assert len(client.get("/alerts.json").get_json()) == 1


def test_each_alert_is_appended_to_the_file_as_one_line(tmp_path: Path) -> None:
    file = tmp_path / "alerts.jsonl"
    client = create_receiver(file=file).test_client()
    client.post("/", json=ALERT)
    client.post("/", json=ALERT | {"message": "two\nlines"})
    lines = [json.loads(line)["alert"]["message"] for line in file.read_text().splitlines()]
    assert lines == ["Something broke", "two\nlines"]


def test_control_characters_of_an_alert_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    alert = ALERT | {"message": "\x1b[2Jgone\nFAKE LINE", "details": {"why": "\x1b]0;title\x07"}}
    print_alert(Received(received_at="now", alert=alert))
    printed = capsys.readouterr().out
    assert "ERROR" in printed
    assert "payment-gateway" in printed
    assert "\x1b" not in printed
    assert "\nFAKE" not in printed
