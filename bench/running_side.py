"""A running side: send it payments, wait until they settle, pause its workers."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from celery import Celery

from bench import sides
from bench.client import LoadPlan, Responses
from bench.sides import Servers, Side
from bench.usage import Meter
from devstack.bootstrap import ROOT
from devstack.terminal import DevstackError, info
from devstack.waiting import pause

POLL_SECONDS = 0.5
CONTROL_SECONDS = 5.0
STALL_SECONDS = 60.0
"""If no payment settles for this time, the unsettled ones count as lost."""
TAIL_SECONDS = 0.5
"""Time after the last settlement, in which its message is acknowledged and logged; this work is measured too."""

_UNSETTLED = "SELECT count(*) FROM transactions WHERE status IN ('pending', 'processing')"
_LOST = """
    SELECT wanted.id::text FROM unnest(%s::uuid[]) AS wanted (id)
    LEFT JOIN transactions t ON t.id = wanted.id LEFT JOIN settlements s ON s.transaction_id = wanted.id
    WHERE t.status IS DISTINCT FROM 'completed' OR s.id IS NULL
"""


class PaymentsLost(Exception):
    """Some accepted payments did not settle; the message lists them."""


@dataclass(frozen=True)
class Running:
    """A side whose roles are running."""

    side: Side
    servers: Servers
    token: str
    meter: Meter
    database: psycopg.Connection[Any]
    control: Celery
    round: str

    def post(self, name: str, **wanted: Any) -> Responses:
        """Send payments and return the responses.

        Raises:
            DevstackError: the load generator failed, or a response was not 201.
        """
        order = LoadPlan(self.servers.layout.ports.api, self.token, f"{self.round}-{name}-", **wanted)
        file = sides.work_folder(self.servers.layout) / f"{self.side.name}-{name}.plan"
        file.write_text(json.dumps(asdict(order)))
        client = subprocess.Popen([sys.executable, "-m", "bench.client", str(file)], cwd=ROOT, env=self.servers.caller)
        try:
            while client.poll() is None:
                pause()
        finally:
            client.kill()
            client.wait()
        if client.returncode:
            raise DevstackError(f"the load generator failed with status {client.returncode}")
        responses = Responses(**json.loads(file.with_suffix(".responses").read_text()))
        if responses.refused:
            raise DevstackError(f"{self.side.name} did not return 201 for each payment: {responses.refused}")
        return responses

    def value(self, query: str, *values: Any) -> Any:
        """Return the only value of a query's result."""
        row = self.database.execute(query.encode(), values).fetchone()
        return row[0] if row else None

    def column(self, query: str, *values: Any) -> list[Any]:
        """Return the only column of a query's result."""
        return [row[0] for row in self.database.execute(query.encode(), values)]

    def settle_all(self, responses: Responses) -> None:
        """Wait until everything is settled; then check each accepted payment.

        Raises:
            PaymentsLost: some did not settle.
        """
        left, moved = -1, time.monotonic()
        while now := self.value(_UNSETTLED):
            if now != left:
                left, moved = now, time.monotonic()
            if time.monotonic() - moved > STALL_SECONDS:
                break
            if int(time.monotonic() / POLL_SECONDS) % 10 == 0:
                info(f"{self.side.name}: {now} payments to settle")
            pause(POLL_SECONDS)
        pause(TAIL_SECONDS)
        lost = self.column(_LOST, responses.ids)
        if lost:
            raise PaymentsLost(f"{self.side.name} lost {len(lost)} of {len(responses.ids)} accepted payments: {lost}")

    def wait_until_published(self) -> None:
        """Wait until the outbox is empty; the plain pipeline has none, as it publishes before it responds."""
        while self.side.name != sides.BASELINE and self.value("SELECT count(*) FROM outbox"):
            pause(POLL_SECONDS)

    @contextmanager
    def workers_paused(self) -> Iterator[None]:
        """Stop the workers from consuming payments within the block; afterwards all start at the same time."""
        inspect = self.control.control.inspect(timeout=CONTROL_SECONDS / 2)
        active = inspect.active_queues() or {}
        consumed = [
            (node, queue["name"])
            for node, queues in active.items()
            for queue in queues
            if queue["name"] in self.side.queues
        ]
        if not {queue for _, queue in consumed} == set(self.side.queues):
            raise DevstackError(f"{self.side.name}: workers consume {consumed}, not {self.side.queues}")
        for node, queue in consumed:
            self.control.control.cancel_consumer(queue, destination=[node], reply=True, timeout=CONTROL_SECONDS)
        yield
        for node, queue in consumed:
            self.control.control.add_consumer(queue, destination=[node])


@contextmanager
def running(side: Side, servers: Servers, round_name: str) -> Iterator[Running]:
    """Start a side, yield it, and stop it."""
    info(f"{side.name}: starting")
    with sides.roles_running(side, servers.layout) as units, psycopg.connect(side.database, autocommit=True) as session:
        leaders: Mapping[str, int] = {unit.name: unit.managed.pid for unit in [*units, *servers.units]}
        token = sides.token(side, servers.layout)
        with Celery("bench", broker=side.broker_url, set_as_current=False) as control:
            meter = Meter(leaders, frozenset({session.info.backend_pid}))
            yield Running(side, servers, token, meter, session, control, round_name)
