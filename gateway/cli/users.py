"""`flask users`: create operators, and reset the counts of wrong passwords."""

import sys

import click

from gateway import db
from gateway.cli.support import CommandFailed, actor, reports_errors
from gateway.domain.merchants import accounts, login_limits
from gateway.domain.merchants.emails import normalize_email
from gateway.errors import EmailTaken
from gateway.security.passwords import PASSWORD_MAX_LENGTH, PASSWORD_MIN_LENGTH, hash_password


@click.group("users")
def command() -> None:
    """Manage operators, and reset the counts of wrong passwords."""


@command.command("create-operator")
@click.option("--email", required=True, help="Email address of the operator.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it.")
@click.option("--if-missing", is_flag=True, help="Succeed without a change if this operator already exists.")
@reports_errors
def create_operator(*, email: str, password_stdin: bool, if_missing: bool) -> None:
    """Create an operator.

    Operators can show, replay and discard dead letters. The operator logs in at POST /auth/login. The password has 12
    to 128 characters.
    """
    address = _address(email, "--email")
    with db.begin() as connection:
        role = accounts.role_of(connection, address)
    if role == "operator" and if_missing:
        click.echo(f"{address} is already an operator.")
        return
    if role is not None:
        raise CommandFailed(f"{address} is taken by {'an operator' if role == 'operator' else 'a user of a merchant'}.")
    password_hash = hash_password(_password(from_stdin=password_stdin))
    try:
        with db.begin() as connection:
            accounts.create_operator(connection, email=address, password_hash=password_hash, actor=actor())
    except EmailTaken:
        if not if_missing:  # else: another process created it in the meantime
            raise
    click.echo(f"{address} is now an operator.")


@command.command("unlock")
@click.argument("email")
@reports_errors
def unlock(*, email: str) -> None:
    """Reset the count of wrong passwords of the user with this EMAIL.

    Log-ins from unknown devices then work again until further wrong passwords reach a limit. Wrong passwords from
    other devices never limit known devices. An address that sent wrong passwords for many accounts stays limited.
    """
    address = _address(email, "EMAIL")
    with db.begin() as connection:
        user = accounts.find_user(connection, address)
        if user is None:
            raise CommandFailed(f"There is no user with the email {address}.")
        login_limits.unlock(connection, email=address, user_id=user.identity.subject, actor=actor())
    click.echo(f"The count of wrong passwords for {address} was reset.")


def _address(email: str, parameter: str) -> str:
    try:
        return normalize_email(email)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint=parameter) from exc


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if not PASSWORD_MIN_LENGTH <= len(password) <= PASSWORD_MAX_LENGTH:
        raise CommandFailed(f"A password has {PASSWORD_MIN_LENGTH} to {PASSWORD_MAX_LENGTH} characters.")
    return password
