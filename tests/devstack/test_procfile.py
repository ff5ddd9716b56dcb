"""The roles of the Procfile, and the order in which they stop."""

import pytest

import celeryconfig
from devstack import procfile

pytestmark = pytest.mark.unit


def test_every_role_of_the_gateway_is_in_the_procfile() -> None:
    assert list(procfile.roles()) == [
        "api",
        "relay",
        "worker-route",
        "worker-settle",
        "worker-refunds",
        "worker-webhooks",
        "worker-operations",
        "beat",
        "flower",
    ]


def test_each_queue_has_exactly_one_worker_role() -> None:
    consumed = [queue for command in procfile.roles().values() for queue in procfile.queues(command)]
    assert sorted(consumed) == sorted(set(consumed))
    assert set(consumed) == set(celeryconfig.WORK_QUEUE_NAMES)


def test_the_api_stops_first_and_the_workers_last() -> None:
    assert procfile.stop_order(procfile.roles()) == [
        ["api"],
        ["beat", "relay", "flower"],
        ["worker-route", "worker-settle", "worker-refunds", "worker-webhooks", "worker-operations"],
    ]
