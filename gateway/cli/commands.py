"""The commands of `flask --app gateway.app …`, for operators.

An error is one line on standard error. Exit statuses: 1 if the command failed, 2 if it was called incorrectly, 75
(EX_TEMPFAIL) if it failed temporarily, such as without the database, and can be repeated. Commands that check
something exit with 1 if they found a problem.
"""

from flask import Flask

from gateway.cli import alert_receiver, balances, database, dead_letters, invariants, keys, reconciliation, users

COMMANDS = (
    users.command,
    dead_letters.command,
    reconciliation.command,
    invariants.command,
    balances.command,
    keys.command,
    database.command,
    alert_receiver.command,
)


def register(app: Flask) -> None:
    """Add the commands to `app`."""
    for command in COMMANDS:
        app.cli.add_command(command)
