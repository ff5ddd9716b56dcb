"""What the commands of several modules share: how errors end a command, and who runs it."""

import functools
import getpass
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from gateway import db
from gateway.errors import GatewayError, TransientError
from gateway.reasons import reason_of

P = ParamSpec("P")
R = TypeVar("R")


class Failure(click.ClickException):
    """The command could not be carried out."""

    exit_code = 1


class TryLater(Failure):
    """The command could not be carried out now, but may be later (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Have a command end with a line that says what went wrong, never with a traceback."""

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TransientError as exc:
            raise TryLater(exc.detail) from exc
        except GatewayError as exc:
            raise Failure(exc.detail) from exc
        except db.UNAVAILABLE as exc:
            raise TryLater(f"The database cannot be reached: {reason_of(exc)}") from exc

    return reporting


def actor() -> str:
    """Who runs this command, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"
