"""The Procfile and the order in which its roles stop."""

from devstack import procfile


def test_every_role_of_the_gateway_is_in_the_procfile() -> None:
    assert list(procfile.roles()) == [
        "api",
        "relay",
        "worker-route",
        "worker-settle",
        "worker-operations",
        "beat",
        "flower",
    ]


def test_each_queue_has_exactly_one_kind_of_worker() -> None:
    consumed = [queue for command in procfile.roles().values() for queue in procfile.queues(command)]
    assert sorted(consumed) == sorted(set(consumed))
    assert {"transaction.created", "settlement.requested", "settlement.completed", "operations"} <= set(consumed)


def test_the_api_stops_first_and_the_workers_last() -> None:
    assert procfile.stop_order(procfile.roles()) == [
        ["api"],
        ["beat", "relay", "flower"],
        ["worker-route", "worker-settle", "worker-operations"],
    ]
