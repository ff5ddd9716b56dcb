"""Shared code of the commands: error handling, and the actor for the audit log."""

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
    """The command failed."""

    exit_code = 1


class TryLater(Failure):
    """The command failed temporarily and can be repeated (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command report errors in one line, without a traceback."""

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
    """Return the user who runs this command, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's uid without an account
        return "cli"
