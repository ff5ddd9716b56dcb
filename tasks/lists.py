"""What tasks on lists of ids share: one id's failure changes nothing for its neighbours (pipeline.md)."""

from collections.abc import Callable
from uuid import UUID

from gateway import db
from gateway.errors import RetriesExhausted
from gateway.flows.provider_calls import Handled
from gateway.reasons import reason_of
from gateway.telemetry import RETRIES, log_context
from tasks.base import TRANSIENT, GatewayTask, parse_ids, retry_delay


def work_through(task: GatewayTask, ids: object, work: Callable[[list[UUID]], list[UUID]]) -> list[str] | None:
    """Run `work` on the ids of a message; its answer goes to the next task of the chain.

    An error that is not transient takes a list apart. For a single id it is the end: no attempt is left, and the
    rejected message becomes its dead letter.
    """
    parsed = parse_ids(ids)
    subject = {task.subject: str(parsed[0])} if len(parsed) == 1 else {}
    with log_context(task_id=task.request.id, **subject):
        try:
            done = work(parsed)
        except (*TRANSIENT, RetriesExhausted):
            raise
        except Exception as exc:
            error = reason_of(exc)
            if len(parsed) > 1:
                task.take_apart(parsed, error)
                task.end_chain()
                return None
            with db.begin() as connection:
                task.give_up(connection, parsed, error)
            raise
    if not done:
        task.end_chain()
        return None
    return [str(id) for id in done]


def send_on(task: GatewayTask, ids: list[UUID], result: Handled) -> None:
    """Have those of `ids` that are not done travel on: later, alone, or to the dead letters."""
    retries = task.request.retries
    if result.retry:
        RETRIES.labels(task.name).inc(len(result.retry))
        task.send_on(result.retry, retries=retries + 1, countdown=retry_delay(retries))
    if result.busy:
        task.send_on(result.busy, retries=retries, countdown=max(1, result.busy_seconds))
    if result.alone:
        task.take_apart(result.alone, "the worker of its last attempt died")
    reject_dead(task, ids, result.dead)


def reject_dead(task: GatewayTask, ids: list[UUID], dead: list[UUID]) -> None:
    """Let the broker dead-letter `dead`: this message when it holds nothing else, or else one of their own."""
    if not dead:
        return
    if len(dead) == len(ids):
        raise RetriesExhausted(f"no attempt is left for {', '.join(map(str, dead))}")
    task.send_on(dead, retries=task.max_retries)
